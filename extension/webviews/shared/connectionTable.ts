import { CONNECTION_TEXTS } from '../../../agent/protocol/connections.ts';
import type { ConnectionEnd, ConnectionInfo, ConnectionState } from '../../../agent/protocol/connections.ts';
import type { Endpoint } from '../../../agent/protocol/scalars.ts';
import type { Cell, CellKind, Column, MapTable, Row } from './mapTable.ts';

/** What each verdict is called, with a mark that tells them apart without colour. */
const BADGES: Readonly<Record<ConnectionState, string>> = {
  accelerated: '● accelerated',
  partly: '◐ partly',
  not: '○ not',
  unknown: '? unknown',
};

const COLUMNS: readonly (readonly [id: string, part: Column['part'], title: string, kind: CellKind])[] = [
  ['badge', 'key', 'accelerated', 'text'],
  ['because', 'key', 'because', 'text'],
  ['pod', 'value', 'pod', 'text'],
  ['process', 'value', 'process', 'text'],
  ['local', 'value', 'socket', 'text'],
  ['direction', 'value', 'role', 'text'],
  ['remote', 'value', 'peer', 'text'],
  ['original', 'value', 'meant for', 'text'],
  ['farPod', 'value', 'peer pod', 'text'],
  ['farProcess', 'value', 'peer process', 'text'],
  ['redirected', 'value', 'bytes past TCP', 'number'],
  ['tcp', 'value', 'bytes over TCP', 'number'],
];

/** Gives connections as a table; a row's index is the place of its connection in the list. */
export function tabulateConnections(connections: readonly ConnectionInfo[]): MapTable {
  return {
    columns: COLUMNS.map(([id, part, title, kind]) => ({ id, part, title, kind })),
    rows: connections.map((connection, index): Row => ({ index, cells: new Map(cellsOf(connection)) })),
  };
}

function cellsOf({ near, far, role, original, verdict }: ConnectionInfo): [string, Cell][] {
  const texts: readonly (readonly [string, string | null])[] = [
    ['badge', BADGES[verdict.state]],
    ['because', verdict.reason === null ? null : verdict.text],
    ['pod', near.pod],
    ['process', spellProcess(near)],
    ['local', spellEndpoint(near.local)],
    ['direction', role === 'unknown' ? null : role],
    ['remote', spellEndpoint(near.remote)],
    ['original', original === null ? null : spellEndpoint(original)],
    ['farPod', far?.pod ?? null],
    ['farProcess', far === null ? null : spellProcess(far)],
    ['redirected', sumOf(near.redirectedBytes, far?.redirectedBytes ?? null)],
    ['tcp', sumOf(near.tcpBytes, far?.tcpBytes ?? null)],
  ];
  const kinds = new Map(COLUMNS.map(([id, , , kind]) => [id, kind]));
  return texts.flatMap(([id, text]) => (text === null ? [] : [[id, { text, kind: kinds.get(id) ?? 'text' }]]));
}

/** How many connections there are of each verdict and reason, the most frequent first: `12 ● accelerated`. */
export function countVerdicts(connections: readonly ConnectionInfo[]): readonly string[] {
  const counts = new Map<string, number>();
  for (const { verdict } of connections) {
    const text = verdict.reason === null ? BADGES[verdict.state] : `${BADGES[verdict.state]}: ${CONNECTION_TEXTS[verdict.reason]}`;
    counts.set(text, (counts.get(text) ?? 0) + 1);
  }
  return [...counts].sort(([, left], [, right]) => right - left).map(([text, count]) => `${count} ${text}`);
}

/** Writes `10.0.0.2:8080`, or `[fd00::2]:8080`. */
export function spellEndpoint({ address, port }: Endpoint): string {
  return address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`;
}

function spellProcess({ process, uid }: ConnectionEnd): string {
  return process === null ? `user ${uid}` : `${process.command} (${process.pid}), user ${uid}`;
}

function sumOf(...amounts: readonly (string | null)[]): string | null {
  const known = amounts.filter((amount) => amount !== null);
  return known.length === 0 ? null : known.reduce((sum, amount) => sum + BigInt(amount), 0n).toString();
}
