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

/** A trace whose ends are these, one leg after the other; undefined: nobody accepts. */
function chain(path: Trace['path'], ends: readonly (readonly [NamespaceId, number, string] | undefined)[]): Trace {
  const base = trace(path, [], 'tcp');
  const endOf = ([namespace, uid, description]: readonly [NamespaceId, number, string]) => ({ namespace, uid, description, address: asked });
  const legs = ends.slice(1).flatMap((server, index) => {
    const client = ends[index];
    return client === undefined
      ? []
      : [{ index, title: '', client: endOf(client), server: server === undefined ? null : endOf(server), requested: asked, originalDestination: null, peerSeenByClient: null, data: server === undefined ? ('none' as const) : ('tcp' as const) }];
  });
  return { ...base, legs };
}

function draw(iptables: Trace, sockops: Trace) {
  const diagram = drawPaths({ flow: iptables.flow, iptables, sockops, current: 'iptables', differences: [] });
  return {
    actors: diagram.actors.map((actor) => `${actor.namespace}${actor.uid}`),
    iptables: diagram.iptables.map((leg) => [leg.from, leg.to]),
    sockops: diagram.sockops.map((leg) => [leg.from, leg.to]),
  };
}

test('ends are told apart by whose they are and where they stand, never by their names', () => {
  const same = 'node in pod';
  const ends = [[a, 1000, same], [a, 1337, same], [b, 1337, same], [b, 1000, same]] as const;
  const legs = [[0, 1], [1, 2], [2, 3]];
  assert.deepEqual(draw(chain('iptables', ends), chain('sockops', ends)), { actors: ['a1000', 'a1337', 'b1337', 'b1000'], iptables: legs, sockops: legs });
  const named = [[a, 1000, 'other'], [a, 1337, 'names'], [b, 1337, 'for'], [b, 1000, 'them']] as const;
  assert.deepEqual(draw(chain('iptables', ends), chain('sockops', named)).actors.length, 4, 'names that differ change nothing');
});

test('whoever comes up again later in the same path stands there again', () => {
  const ends = [[a, 1000, 'app'], [a, 1337, 'sidecar'], [a, 1000, 'app']] as const;
  assert.deepEqual(draw(chain('iptables', ends), chain('sockops', ends)), { actors: ['a1000', 'a1337', 'a1000'], iptables: [[0, 1], [1, 2]], sockops: [[0, 1], [1, 2]] });
});

test('paths that take different ways share who takes part in both, and stay in order', () => {
  const long = chain('iptables', [[a, 1000, ''], [a, 1337, ''], [b, 1337, ''], [b, 1000, '']]);
  assert.deepEqual(draw(long, chain('sockops', [[a, 1000, ''], [b, 1000, '']])).sockops, [[0, 3]]);
  assert.deepEqual(draw(long, chain('sockops', [[a, 1000, ''], undefined])).sockops, [[0, null]]);
  assert.deepEqual(draw(chain('iptables', [[a, 1000, ''], [b, 1000, '']]), chain('sockops', [[a, 1000, ''], [host, 0, ''], [b, 1000, '']])), {
    actors: ['a1000', 'h0', 'b1000'],
    iptables: [[0, 2]],
    sockops: [[0, 1], [1, 2]],
  });
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
