import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Endpoint, IpAddress, NamespaceId, PortNumber } from '../../../agent/protocol/scalars.ts';
import type { Explanation, Hook, PacketState, Trace, TraceStep } from '../../../agent/protocol/trace.ts';
import { drawPaths } from './pathDiagram.ts';
import { changesOf, isEffective } from './traceText.ts';

const a = 'a' as NamespaceId;
const b = 'b' as NamespaceId;
const host = 'h' as NamespaceId;

function endpoint(address: string, port: number): Endpoint {
  return { address: address as IpAddress, port: port as PortNumber };
}

function packet(destination: Endpoint): PacketState {
  return { source: endpoint('10.0.0.1', 40_000), destination, inInterface: null, outInterface: null, mark: 0, connection: 'NEW' };
}

const asked = endpoint('10.0.0.2', 80);
const answered = endpoint('10.0.0.2', 15_006);

function rule(namespace: NamespaceId, hook: Hook, rewritten = false): TraceStep {
  return {
    index: 0,
    leg: 0,
    phase: 'packet',
    place: { kind: 'rule', namespace, hook, table: 'nat', chain: hook, rule: 1, text: '', line: null },
    before: packet(asked),
    after: packet(rewritten ? answered : asked),
    conditions: [],
    decision: rewritten ? { kind: 'rewrite', target: 'REDIRECT' } : { kind: 'continue' },
    reason: '',
  };
}

function trace(path: Trace['path'], steps: readonly TraceStep[], data: 'tcp' | 'socket-to-socket', served = true): Trace {
  const client = { namespace: a, description: 'app', uid: 1, address: endpoint('10.0.0.1', 40_000) };
  const server = served ? { namespace: b, description: 'sidecar', uid: 2, address: answered } : null;
  return {
    origin: 'predicted',
    path,
    flow: { protocol: 'tcp', source: { kind: 'process', namespace: a, cgroup: null, uid: 1, gid: 1, address: null, port: null }, destination: asked },
    legs: [{ index: 0, title: '', client, server, requested: asked, originalDestination: null, peerSeenByClient: null, data: served ? data : 'none' }],
    steps,
    outcome: { result: 'delivered', summary: '' },
    cost: { tcpConnections: 1, tablesVisited: 0, rulesCompared: 0, conntrackEntries: 0, bpfInstructions: 0, hooksPerMessage: 0, stackTraversalsPerMessage: 0 },
    assumptions: [],
  };
}

function explanation(steps: readonly TraceStep[], served = true): Explanation {
  const iptables = trace('iptables', steps, 'tcp', served);
  return { flow: iptables.flow, iptables, sockops: trace('sockops', [], 'socket-to-socket', served), current: 'iptables', differences: [] };
}

test('hooks go down from the client, across the host, and up to the server, one way only', () => {
  const { actors, iptables, sockops } = drawPaths(
    explanation([rule(a, 'OUTPUT'), rule(a, 'OUTPUT'), rule(a, 'POSTROUTING'), rule(host, 'PREROUTING'), rule(host, 'FORWARD'), rule(host, 'POSTROUTING'), rule(b, 'PREROUTING', true), rule(b, 'INPUT'), rule(b, 'OUTPUT')]),
  );
  const leg = iptables[0];
  assert.deepEqual(
    {
      actors: actors.map((actor) => actor.description),
      down: leg?.down.map((station) => `${station.hook} ${station.rules}`),
      transit: leg?.transit.map((station) => station.hook),
      up: leg?.up.map((station) => `${station.hook} ${station.rewrite ?? '-'}`),
      jump: [sockops[0]?.from, sockops[0]?.to, sockops[0]?.data],
    },
    {
      actors: ['app', 'sidecar'],
      down: ['OUTPUT 2', 'POSTROUTING 1'],
      transit: ['PREROUTING', 'FORWARD', 'POSTROUTING'],
      up: ['PREROUTING 10.0.0.2:15006', 'INPUT -'],
      jump: [0, 1, 'socket-to-socket'],
    },
  );
});

test('a leg that nobody accepts ends on its way', () => {
  const { actors, iptables } = drawPaths(explanation([rule(a, 'OUTPUT')], false));
  assert.deepEqual([actors.length, iptables[0]?.to, iptables[0]?.down.length, iptables[0]?.up.length], [1, null, 1, 0]);
});

test('what changed is named, and only such steps are effective', () => {
  const change = rule(b, 'PREROUTING', true);
  assert.deepEqual(changesOf(change.before, change.after), [{ what: 'destination', before: '10.0.0.2:80', after: '10.0.0.2:15006' }]);
  assert.deepEqual([isEffective(change), isEffective(rule(a, 'OUTPUT'))], [true, false]);
});
