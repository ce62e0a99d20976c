import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Endpoint, IpAddress, NamespaceId, PortNumber } from '../agent/protocol/scalars.ts';
import type { Explanation, PacketState, Trace, TraceStep } from '../agent/protocol/trace.ts';
import { formatEndpoint, formatExplanation } from './explanationText.ts';
import { PLAIN_STYLE } from './text/style.ts';

const namespace = '4026532281' as NamespaceId;
const endpoint = (address: string, port: number): Endpoint => ({ address: address as IpAddress, port: port as PortNumber });
const server = endpoint('10.77.0.12', 8080);
const before: PacketState = {
  source: endpoint('10.77.0.11', 40_000),
  destination: server,
  inInterface: null,
  outInterface: 'eth0',
  mark: 0,
  connection: 'NEW',
};

const steps: readonly TraceStep[] = [
  {
    index: 0,
    leg: 0,
    phase: 'packet',
    place: { kind: 'rule', namespace, hook: 'OUTPUT', table: 'nat', chain: 'ISTIO_OUTPUT', rule: 1, text: '-A ISTIO_OUTPUT -s 127.0.0.6/32 -o lo -j RETURN', line: 9 },
    before,
    after: before,
    conditions: [{ what: 'source address', wanted: '127.0.0.6/32', actual: '10.77.0.11', result: 'failed' }],
    decision: { kind: 'continue' },
    reason: 'The source address is not 127.0.0.6.',
  },
  {
    index: 1,
    leg: 0,
    phase: 'packet',
    place: { kind: 'rule', namespace, hook: 'OUTPUT', table: 'nat', chain: 'ISTIO_REDIRECT', rule: 1, text: '-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001 -m comment --comment "\u001b[31mred"', line: 12 },
    before,
    after: { ...before, destination: endpoint('127.0.0.1', 15_001), mark: 2 },
    conditions: [{ what: 'protocol', wanted: 'tcp', actual: 'tcp', result: 'matched' }],
    decision: { kind: 'rewrite', target: 'REDIRECT' },
    reason: 'All TCP goes to the sidecar.',
  },
];

const trace: Trace = {
  origin: 'predicted',
  path: 'iptables',
  flow: {
    protocol: 'tcp',
    source: { kind: 'process', namespace, cgroup: null, uid: 1000, gid: 1000, address: '10.77.0.11' as IpAddress, port: null },
    destination: server,
  },
  legs: [
    {
      index: 0,
      title: 'application → sidecar',
      client: { namespace, description: 'app in pod-a', uid: 1000, address: before.source },
      server: { namespace, description: 'sidecar of pod-a', uid: 1337, address: endpoint('127.0.0.1', 15_001) },
      requested: server,
      originalDestination: server,
      peerSeenByClient: server,
      data: 'tcp',
    },
  ],
  steps,
  outcome: { result: 'delivered', summary: 'It reaches the server.' },
  cost: { tcpConnections: 3, tablesVisited: 12, rulesCompared: 40, conntrackEntries: 4, bpfInstructions: 0, hooksPerMessage: 14, stackTraversalsPerMessage: 3 },
  assumptions: ['The sidecar connects on.'],
};

const explanation: Explanation = {
  flow: trace.flow,
  iptables: trace,
  sockops: {
    ...trace,
    path: 'sockops',
    legs: [],
    steps: [],
    outcome: { result: 'depends', summary: 'It cannot be said.', dependsOn: ['the peer'] },
    cost: { ...trace.cost, rulesCompared: 0 },
  },
  current: 'iptables',
  differences: ['The applications see the same addresses.'],
};

test('an explanation of both paths for a pipe', () => {
  const lines = formatExplanation(explanation, { paths: ['iptables', 'sockops'], details: false, width: Infinity, style: PLAIN_STYLE });
  assert.equal(
    lines.join('\n'),
    `From app in pod-a (uid 1000, gid 1000) to 10.77.0.12:8080
In force now: the iptables path.

The iptables path (predicted): delivered. It reaches the server.

  Connection 1: application → sidecar
    app in pod-a (uid 1000) 10.77.0.11:40000 → sidecar of pod-a (uid 1337) 127.0.0.1:15001
    client asked for 10.77.0.12:8080, sees its peer as 10.77.0.12:8080; server is told the original destination
    10.77.0.12:8080; messages go through TCP
    0  packet  nat OUTPUT ISTIO_OUTPUT rule 1: -A ISTIO_OUTPUT -s 127.0.0.6/32 -o lo -j RETURN  → next
                 The source address is not 127.0.0.6.
    1  packet  nat OUTPUT ISTIO_REDIRECT rule 1: -A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001 -m comment
               --comment "\\x1b[31mred"  → rewrite: REDIRECT
                 All TCP goes to the sidecar.
                 destination 10.77.0.12:8080 becomes 127.0.0.1:15001; mark 0x0 becomes 0x2

The sockops path (predicted): depends on the peer. It cannot be said.

Cost                                      iptables  sockops
TCP connections                                  3        3
tables asked, all connections                   12       12
rules compared, all connections                 40        0
conntrack entries                                4        4
BPF instructions, all connections                0        0
netfilter hooks a message                       14       14
trips through the TCP/IP stack a message         3        3

What differs:
  - The applications see the same addresses.

Taken to be so without having been seen:
  - The sidecar connects on.`,
  );
});

test('rules of one chain that do not match are one line, and each its own in detail', () => {
  const [first] = steps;
  assert.ok(first?.place.kind === 'rule');
  const { place } = first;
  const many = [1, 2, 3].map((rule): TraceStep => ({ ...first, index: rule - 1, place: { ...place, rule } }));
  const text = (details: boolean): string =>
    formatExplanation({ ...explanation, iptables: { ...trace, steps: many } }, { paths: ['iptables'], details, width: Infinity, style: PLAIN_STYLE }).join('\n');
  assert.match(text(false), /^ {4}0-2 {2}packet {2}nat OUTPUT ISTIO_OUTPUT rules 1 to 3 {2}→ none matches$/m);
  assert.equal(text(true).match(/ rule \d: /g)?.length, 3);
});

test('one path in detail, narrow', () => {
  const lines = formatExplanation(explanation, { paths: ['iptables'], details: true, width: 60, style: PLAIN_STYLE });
  const text = lines.join('\n');
  assert.deepEqual(lines.filter((line) => line.length > 60 && /^ {15}/.test(line)), []);
  assert.ok(!text.includes('sockops path'));
  assert.ok(!text.includes('What differs'));
  assert.match(text.replaceAll(/\s+/g, ' '), /source address: wanted 127\.0\.0\.6\/32, is 10\.77\.0\.11: did not match/);
});

test('an IPv6 endpoint stands in brackets', () => {
  assert.equal(formatEndpoint(endpoint('fd00::1', 80)), '[fd00::1]:80');
});
