import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Snapshot } from '../../agent/protocol/snapshot.ts';
import type { Trace } from '../../agent/protocol/trace.ts';
import { createDemoSnapshot } from '../mesh/demoWorld.ts';
import { writeEndpoint } from '../world/tuple.ts';
import { buildWorld } from '../world/world.ts';
import { parseFlowText } from './flowText.ts';
import { explainIptables } from './iptablesPath.ts';

function follow(text: string, change: (snapshot: Snapshot) => Snapshot = (snapshot) => snapshot): Trace {
  const snapshot = change(createDemoSnapshot());
  return explainIptables(buildWorld(snapshot), parseFlowText(snapshot, text));
}

/** The places that a trace passes, one line each: readable, and complete enough to notice any change. */
function outline(trace: Trace): readonly string[] {
  return trace.steps.map(({ leg, place, decision }) => {
    const where = place.kind === 'rule' ? `${place.hook} ${place.table} ${place.chain}:${place.rule ?? 'policy'}` : place.kind === 'conntrack' ? `${place.hook} conntrack` : place.kind === 'device' ? `device ${place.device}` : place.kind;
    return `${leg} ${where} ${decision.kind}`;
  });
}

function withRules(pod: string, text: string): (snapshot: Snapshot) => Snapshot {
  return (snapshot) => ({
    ...snapshot,
    namespaces: snapshot.namespaces.map((namespace) => (namespace.names.includes(pod) ? { ...namespace, ruleSets: [...namespace.ruleSets, { family: 'ipv4', backend: 'nft', text }] } : namespace)),
  });
}

test('an application reaches the other pod over three connections and both sidecars', () => {
  const trace = follow('pod-a -> pod-b:8080');
  assert.deepEqual(
    trace.legs.map((leg) => [leg.title, leg.client.description, writeEndpoint(leg.client.address), leg.server?.description, leg.server === null ? null : writeEndpoint(leg.server.address)]),
    [
      ['application → sidecar', 'shop in pod-a', '10.244.1.2:40000', 'envoy in pod-a', '127.0.0.1:15001'],
      ['sidecar → sidecar', 'envoy in pod-a', '10.244.1.2:40001', 'envoy in pod-b', '10.244.1.3:15006'],
      ['sidecar → application', 'envoy in pod-b', '127.0.0.6:40000', 'web in pod-b', '10.244.1.3:8080'],
    ],
  );
  assert.ok(trace.legs.every((leg) => leg.originalDestination !== null && writeEndpoint(leg.originalDestination) === '10.244.1.3:8080'));
  assert.deepEqual(trace.cost, { tcpConnections: 3, tablesVisited: 8, rulesCompared: 25, conntrackEntries: 4, bpfInstructions: 0, hooksPerMessage: 12, stackTraversalsPerMessage: 3 });
  assert.equal(trace.outcome.result, 'delivered');
  assert.deepEqual(trace.steps.map(({ index }) => index), trace.steps.map((_, index) => index));
});

test('the first connection step by step', () => {
  assert.deepEqual(outline(follow('pod-a -> pod-b:8080')).filter((line) => line.startsWith('0 ')), [
    '0 socket continue', '0 routing route', '0 OUTPUT conntrack note', '0 OUTPUT nat OUTPUT:1 jump',
    ...[1, 2, 3, 4, 5, 6, 7, 8].map((rule) => `0 OUTPUT nat ISTIO_OUTPUT:${rule} continue`),
    '0 OUTPUT nat ISTIO_OUTPUT:9 jump', '0 OUTPUT nat ISTIO_REDIRECT:1 rewrite', '0 routing route', '0 POSTROUTING nat POSTROUTING:policy verdict', '0 POSTROUTING conntrack note', '0 device lo route',
    '0 PREROUTING conntrack note', '0 PREROUTING conntrack continue', '0 INPUT conntrack continue', '0 socket deliver', '0 socket deliver', '0 socket answer', '0 socket answer',
  ]);
});

test('the sidecar that is addressed at its own port would reach itself', () => {
  const trace = follow('pod-a -> pod-b:15001');
  assert.equal(trace.outcome.result, 'refused');
  assert.match(trace.outcome.summary, /reach itself/);
});

test('nothing listens: the connection to the sidecar opens, and the last one is refused', () => {
  const trace = follow('pod-a -> pod-b:81');
  assert.deepEqual(trace.legs.map((leg) => leg.server !== null), [true, true, false]);
  assert.match(trace.outcome.summary, /ECONNREFUSED: nothing listens on 10.244.1.3:81 in pod-b/);
});

test('an address outside of the node depends on what the snapshot does not show', () => {
  const trace = follow('pod-a -> 192.0.2.7:443');
  assert.equal(trace.outcome.result, 'depends');
  assert.match(trace.outcome.summary, /eth0 of host/);
  assert.match(follow('host -> 192.0.2.7:443 uid 0').outcome.summary, /leaves the node by eth0/);
});

test('an unknown match that decides makes the outcome depend on it by name', () => {
  const trace = follow('pod-a -> pod-b:8080', withRules('pod-a', '*filter\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -p tcp -m string --string GET --algo bm -j DROP\nCOMMIT\n'));
  assert.equal(trace.outcome.result, 'depends');
  assert.match(trace.outcome.summary, /match string in '-A OUTPUT -p tcp -m string/);
});

test('a line that cannot be read is said, and is unknown where it is met', () => {
  const trace = follow('pod-a -> pod-b:8080', withRules('pod-a', '*filter\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT --oops 1 -j DROP\nCOMMIT\n'));
  assert.equal(trace.outcome.result, 'depends');
  assert.ok(trace.assumptions.some((sentence) => sentence.includes('could not be read')));
});

test('without the namespace of the other end of a veth, the owner of the address is taken, and said', () => {
  const trace = follow('pod-a -> pod-b:8080', (snapshot) => ({
    ...snapshot,
    namespaces: snapshot.namespaces.map((namespace) => ({ ...namespace, links: namespace.links.map((link) => ({ ...link, peer: link.kind === 'veth' ? { namespace: null, index: 0 } : null })) })),
  }));
  // The answer has to find its way back as well, and so does the last ACK.
  assert.equal(trace.outcome.result, 'delivered');
  assert.ok(trace.assumptions.some((sentence) => sentence.includes('taken to arrive at pod-b')));
});

test('flows that are none are refused with what is wrong', () => {
  const snapshot = createDemoSnapshot();
  for (const [text, message] of [
    ['pod-a', /not a connection/], ['pod-x -> pod-b:80', /no pod or network namespace 'pod-x'/], ['pod-a -> pod-b', /no port/], ['pod-a -> pod-b:0', /no port/], ['pod-a -> pod-b:70000', /no port/],
    ['pod-a/nope -> pod-b:80', /no container 'nope'/], ['pod-a -> nowhere:80', /neither an address nor a pod/], ['pod-a -> pod-b:80 uid x', /not a uid/], ['pod-a -> pod-b:80 color red', /'color' is not understood/],
  ] as const) {
    assert.throws(() => parseFlowText(snapshot, text), { code: 'INPUT_INVALID', message });
  }
  const mixed = parseFlowText(snapshot, 'pod-a -> [::1]:80 from 127.0.0.1');
  assert.throws(() => explainIptables(buildWorld(snapshot), mixed), { code: 'INPUT_INVALID', message: /two families/ });
});

test('a flow names who connects, or takes the one user of the place', () => {
  const snapshot = createDemoSnapshot();
  const { source } = parseFlowText(snapshot, 'pod-a/istio-proxy -> 10.244.1.3:8080 from 10.244.1.2:5000');
  assert.deepEqual([source.uid, source.gid, source.cgroup, source.address, source.port], [1337, 1337, '/kubepods.slice/pod-a/istio-proxy', '10.244.1.2', 5000]);
  assert.equal(parseFlowText(snapshot, 'pod-a → pod-b:8080').source.uid, 1000);
  assert.equal(parseFlowText(snapshot, 'pod-a/app -> localhost:80 uid 7 gid 8').source.gid, 8);
});
