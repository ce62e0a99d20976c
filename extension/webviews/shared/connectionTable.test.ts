import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { ConnectionInfo } from '../../../agent/protocol/connections.ts';
import { toIpAddress } from '../../../agent/protocol/ipAddress.ts';
import { toPortNumber } from '../../../agent/protocol/scalars.ts';
import type { NamespaceId, Uint64Text } from '../../../agent/protocol/scalars.ts';
import { countVerdicts, spellEndpoint, tabulateConnections } from './connectionTable.ts';
import { selectRows, spellRow } from './mapTable.ts';

function connection(state: ConnectionInfo['verdict']['state'], reason: ConnectionInfo['verdict']['reason'], bytes: number): ConnectionInfo {
  const near: ConnectionInfo['near'] = {
    namespace: '1' as NamespaceId,
    pod: 'pod-a',
    cgroup: null,
    inAcceleratedPod: true,
    local: { address: toIpAddress('fd00::1'), port: toPortNumber(40_000) },
    remote: { address: toIpAddress('10.0.0.2'), port: toPortNumber(80) },
    uid: 1000,
    process: { pid: 3, command: 'shop' },
    cookie: null,
    redirectedBytes: String(bytes) as Uint64Text,
    tcpBytes: null,
  };
  return { id: '1', near, far: { ...near, process: null, redirectedBytes: '1' as Uint64Text }, role: 'connecting', original: null, profile: null, openedBootNanoseconds: null, verdict: { state, reason, text: 'The sentence.' } };
}

test('a connection is a row with its badge, its reason and the bytes of both ends', () => {
  const table = tabulateConnections([connection('accelerated', null, 1023), connection('not', 'other_node', 5)]);
  const [first, second] = table.rows.map((row) => spellRow(row, table.columns));
  assert.equal(first, '● accelerated\t\tpod-a\tshop (3), user 1000\t[fd00::1]:40000\tconnecting\t10.0.0.2:80\t\tpod-a\tuser 1000\t1024\t');
  assert.match(second ?? '', /^○ not\tThe sentence\./);
});

test('rows are found by text and sorted by bytes as numbers', () => {
  const table = tabulateConnections([connection('accelerated', null, 1023), connection('not', 'other_node', 5), connection('unknown', 'decision_lost', 90)]);
  assert.deepEqual(selectRows(table, 'sentence', null).map(({ index }) => index), [1, 2]);
  assert.deepEqual(selectRows(table, '', { column: 'redirected', descending: true }).map(({ index }) => index), [0, 2, 1]);
});

test('verdicts are counted by reason', () => {
  assert.deepEqual(countVerdicts([connection('not', 'other_node', 1), connection('accelerated', null, 1), connection('not', 'other_node', 1)]), [
    '2 ○ not: Its other end is not on this node.',
    '1 ● accelerated',
  ]);
  assert.equal(spellEndpoint({ address: toIpAddress('10.0.0.1'), port: toPortNumber(1) }), '10.0.0.1:1');
});
