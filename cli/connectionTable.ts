import { CONNECTION_TEXTS } from '../agent/protocol/connections.ts';
import type { ConnectionEnd, ConnectionInfo, ConnectionList } from '../agent/protocol/connections.ts';
import { formatEndpoint } from './explanationText.ts';
import { formatByteCount } from './kernelObjectTables.ts';
import { formatCount } from './text/count.ts';
import { formatTable } from './text/table.ts';
import type { TableOptions } from './text/table.ts';

/** Gives connections as a table, then how many there are of each verdict and what that means. */
export function formatConnections(list: ConnectionList, options: TableOptions): string[] {
  const { connections, lostDecisions } = list;
  if (connections.length === 0) {
    return ['There are no open connections of accelerated pods.'];
  }
  const rows = connections.map(({ verdict, near, far, original, role }) => [
    verdict.state,
    verdict.reason?.replaceAll('_', ' ') ?? '',
    formatEnd(near),
    formatEndpoint(near.local),
    role === 'accepting' ? '←' : '→',
    formatEndpoint(near.remote),
    original === null ? '' : formatEndpoint(original),
    far === null ? '' : formatEnd(far),
    formatBytes(near, far, 'redirectedBytes'),
    formatBytes(near, far, 'tcpBytes'),
  ]);
  return [
    ...formatTable(
      [
        { title: 'ACCELERATED' },
        { title: 'BECAUSE' },
        { title: 'POD AND PROCESS' },
        { title: 'SOCKET' },
        { title: '' },
        { title: 'PEER' },
        { title: 'MEANT FOR' },
        { title: 'PEER PROCESS' },
        { title: 'PAST TCP', align: 'right' },
        { title: 'TCP', align: 'right' },
      ],
      rows,
      options,
    ),
    '',
    ...countVerdicts(connections),
    ...(lostDecisions === 0 ? [] : [options.style.warning(`${formatCount(lostDecisions, 'decision')} of the programs came faster than they could be read, or are not kept any more.`)]),
  ];
}

/** How many connections there are of each verdict, the most frequent first. */
function countVerdicts(connections: readonly ConnectionInfo[]): string[] {
  const counts = new Map<string, number>();
  for (const { verdict } of connections) {
    const text = verdict.reason === null ? verdict.state : `${verdict.state}: ${CONNECTION_TEXTS[verdict.reason]}`;
    counts.set(text, (counts.get(text) ?? 0) + 1);
  }
  return [...counts].sort(([, a], [, b]) => b - a).map(([text, count]) => `${count} ${text}`);
}

function formatEnd({ pod, process, uid }: ConnectionEnd): string {
  return `${pod ?? 'no pod'} ${process === null ? `uid ${uid}` : `${process.command} (${process.pid})`}`;
}

/** The bytes that both ends sent together, as far as they are known. */
function formatBytes(near: ConnectionEnd, far: ConnectionEnd | null, which: 'redirectedBytes' | 'tcpBytes'): string {
  const known = [near[which], far?.[which] ?? null].filter((bytes) => bytes !== null);
  return known.length === 0 ? '' : formatByteCount(Number(known.reduce((sum, bytes) => sum + BigInt(bytes), 0n)));
}
