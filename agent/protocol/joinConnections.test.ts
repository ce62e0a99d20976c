import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { DecisionEvent, DecisionReason } from './acceleration.ts';
import type { ConnectionEntry, ConnectionSide } from './connectionEntries.ts';
import { MAX_LISTED_CONNECTIONS } from './connections.ts';
import type { ConnectionInfo } from './connections.ts';
import { DecisionHistory } from './decisionHistory.ts';
import { toIpAddress } from './ipAddress.ts';
import { joinConnections } from './joinConnections.ts';
import type { ConnectionSources, ListedSocket } from './joinConnections.ts';
import { toPortNumber } from './scalars.ts';
import type { CgroupPath, Endpoint, NamespaceId, Uint64Text } from './scalars.ts';
import type { SocketInfo } from './snapshot.ts';

const POD_A = { id: '1' as NamespaceId, pod: 'pod-a', addresses: [toIpAddress('10.0.0.1')], cgroup: '/pod-a' as CgroupPath };
const POD_B = { id: '2' as NamespaceId, pod: 'pod-b', addresses: [toIpAddress('10.0.0.2')], cgroup: '/pod-b' as CgroupPath };

function at(text: string): Endpoint {
  const colon = text.lastIndexOf(':');
  return { address: toIpAddress(text.slice(0, colon)), port: toPortNumber(Number(text.slice(colon + 1))) };
}

function socket(pod: typeof POD_A, cookie: number, local: string, remote: string, state: SocketInfo['state'] = 'established'): ListedSocket {
  return {
    namespace: pod.id,
    tcpBytes: null,
    socket: {
      protocol: 'tcp', state, local: at(local), remote: at(remote), dualStack: false, uid: 1000, inode: '1' as Uint64Text, cookie: String(cookie) as Uint64Text,
      owner: { pid: cookie, command: 'app', cgroup: `${pod.cgroup}/app` as CgroupPath, gid: 1000 },
    },
  };
}

function decided(cookie: number, reason: DecisionReason, errno = 0): DecisionEvent {
  return {
    bootNanoseconds: '1' as Uint64Text, hook: reason === 'enrol_failed' ? 'sockops' : 'connect4', reason, errno, socketCookie: String(cookie) as Uint64Text,
    cgroupId: '1' as Uint64Text, netnsCookie: '1' as Uint64Text, uid: 1000, local: at('10.0.0.1:1'), remote: at('10.0.0.2:1'), original: null, bytes: 0,
  };
}

function side(cookie: number, messages: DecisionReason | null = 'message_redirected', isEnrolled = true): ConnectionSide {
  return { cookie: String(cookie) as Uint64Text, isEnrolled, messages, redirectedBytes: '10' as Uint64Text };
}

function entry(connecting: ConnectionSide, accepting: ConnectionSide, more: Partial<ConnectionEntry> = {}): ConnectionSources['entries'][number] {
  return {
    profile: 'istio',
    entry: {
      connecting, accepting, source: at('10.0.0.1:40000'), destination: at('127.0.0.1:15001'), original: at('10.0.0.2:80'), openedBootNanoseconds: '7' as Uint64Text,
      isSwitchedOff: false, ...more,
    },
  };
}

function join(sources: Partial<ConnectionSources>, scope: 'accelerated-pods' | 'all' = 'all'): readonly ConnectionInfo[] {
  const none: ConnectionSources = {
    namespaces: [POD_A, POD_B], sockets: [], cgroups: [{ path: POD_A.cgroup, profile: 'istio', isOwn: true }], entries: [], decisions: new DecisionHistory(), readAt: '', omissions: [],
  };
  return joinConnections({ ...none, ...sources }, scope).connections;
}

const verdicts = (connections: readonly ConnectionInfo[]): readonly unknown[] => connections.map(({ verdict }) => [verdict.state, verdict.reason]);

test('an entry of the map says what each direction does', () => {
  const sockets = [socket(POD_A, 1, '10.0.0.1:40000', '127.0.0.1:15001'), socket(POD_A, 2, '127.0.0.1:15001', '10.0.0.1:40000')];
  const judge = (known: ConnectionSources['entries'][number], decisions = new DecisionHistory()): unknown => verdicts(join({ sockets, entries: [known], decisions }))[0];
  assert.deepEqual(judge(entry(side(1), side(2))), ['accelerated', null]);
  assert.deepEqual(judge(entry(side(1, null), side(2, null))), ['accelerated', null]);
  assert.deepEqual(judge(entry(side(1, 'message_passed_unread_limit'), side(2))), ['partly', 'message_passed_unread_limit']);
  assert.deepEqual(judge(entry(side(1), side(2, 'message_passed_peer_missing'))), ['partly', 'message_passed_peer_missing']);
  assert.deepEqual(judge(entry(side(1, 'message_passed_peer_missing'), side(2, 'message_passed_unread_limit'))), ['not', 'message_passed_peer_missing']);
  assert.deepEqual(judge(entry(side(1), side(2), { isSwitchedOff: true })), ['not', 'message_passed_switched_off']);
  assert.deepEqual(judge(entry(side(1), side(2, null, false))), ['not', 'not_enrolled_yet']);
  const history = new DecisionHistory();
  history.note({ events: [decided(2, 'enrol_failed', 95)], lost: 0 });
  assert.deepEqual(judge(entry(side(1, null), side(2, null, false)), history), ['not', 'enrol_failed']);
  // Its sockets are closed: it is no connection any more.
  assert.deepEqual(join({ entries: [entry(side(1), side(2))] }), []);
});

test('an accepting end that never came by the programs is named where it is in no accelerated pod', () => {
  const sockets = [socket(POD_A, 1, '10.0.0.1:40000', '10.0.0.2:15006'), socket(POD_B, 2, '10.0.0.2:15006', '10.0.0.1:40000')];
  assert.deepEqual(verdicts(join({ sockets: sockets.slice(0, 1), entries: [entry(side(1, null), side(0, null, false))] })), [['not', 'not_enrolled_yet']]);
  assert.deepEqual(verdicts(join({ sockets, entries: [entry(side(1, null), side(0, null, false))] }))[0], ['not', 'accepting_side_not_enrolled']);
});

test('both ends of a connection are one row, found by their addresses, on loopback only within a namespace', () => {
  const loopback = [socket(POD_A, 1, '127.0.0.1:40000', '127.0.0.1:80'), socket(POD_B, 2, '127.0.0.1:80', '127.0.0.1:40000')];
  assert.equal(join({ sockets: loopback }).length, 2);
  const across = [socket(POD_A, 1, '10.0.0.1:40000', '10.0.0.2:80'), socket(POD_B, 2, '10.0.0.2:80', '10.0.0.1:40000'), socket(POD_B, 3, '0.0.0.0:80', '0.0.0.0:0', 'listen')];
  const [found, ...others] = join({ sockets: across });
  assert.deepEqual([found?.role, found?.near.pod, found?.far?.pod, others.length], ['connecting', 'pod-a', 'pod-b', 0]);
});

test('connections that are in no map: decisions, what was open before, what nobody can see', () => {
  const history = new DecisionHistory();
  const connection = (cookie: number, port: number, pod = POD_A): ListedSocket => socket(pod, cookie, `${pod.addresses[0] ?? ''}:${port}`, '203.0.113.9:443');
  history.note({ events: [decided(4, 'passed_excluded_port')], lost: 0 });
  history.beginTurnOn()(['4', '5'] as Uint64Text[]);
  history.note({ events: [decided(6, 'passed_peer_not_enrolled')], lost: 0 });
  const sockets = [connection(4, 40_004), connection(5, 40_005), connection(6, 40_006), connection(7, 40_007), connection(8, 40_008, POD_B), connection(9, 8080), socket(POD_A, 99, '0.0.0.0:8080', '0.0.0.0:0', 'listen')];
  const byId = new Map(join({ sockets, decisions: history }).map((info) => [info.id, [info.verdict.state, info.verdict.reason]]));
  assert.deepEqual(Object.fromEntries(byId), {
    // The decision about it was taken before acceleration was turned on again.
    4: ['not', 'opened_before'],
    5: ['not', 'opened_before'],
    6: ['not', 'passed_peer_not_enrolled'],
    7: ['unknown', 'decision_not_seen'],
    8: ['not', 'no_pod'],
    9: ['not', 'other_node'],
  });
  history.note({ events: [], lost: 2 });
  assert.deepEqual(verdicts(join({ sockets: [connection(7, 40_007)], decisions: history })), [['unknown', 'decision_lost']]);
  const elsewhere = { path: POD_A.cgroup, profile: null, isOwn: false };
  assert.deepEqual(verdicts(join({ sockets: [connection(7, 40_007)], cgroups: [elsewhere] })), [['unknown', 'decided_elsewhere']]);
  assert.deepEqual(join({ sockets: [connection(8, 40_008, POD_B)] }, 'accelerated-pods'), []);
});

test('history is bounded and counts what it drops; a closed socket is forgotten', () => {
  const history = new DecisionHistory(2);
  history.note({ events: [decided(1, 'passed_loopback'), decided(2, 'redirected_to_outbound'), decided(3, 'connections_full', 7)], lost: 0 });
  assert.deepEqual([1, 2, 3].map((cookie) => history.find(String(cookie) as Uint64Text)?.reason), [undefined, null, 'connections_full']);
  assert.equal(history.lost, 1);
  history.note({ events: [decided(3, 'connection_closed')], lost: 4 });
  assert.deepEqual([history.find('3' as Uint64Text), history.lost], [undefined, 5]);
});

test('a list is bounded, and what is left out is said', () => {
  const sockets = Array.from({ length: MAX_LISTED_CONNECTIONS + 3 }, (_, index) => socket(POD_A, index + 1, `10.0.0.1:${(index % 60_000) + 1}`, `10.${index >> 8}.0.1:443`));
  const list = joinConnections({ namespaces: [POD_A], sockets, cgroups: [], entries: [], decisions: new DecisionHistory(), readAt: '', omissions: [] }, 'all');
  assert.equal(list.connections.length, MAX_LISTED_CONNECTIONS);
  assert.match(list.omissions[0]?.what ?? '', /^3 connections/);
});
