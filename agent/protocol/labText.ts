import { CONNECTION_TEXTS } from './connections.ts';
import { isIpv4 } from './ipAddress.ts';
import type { LabInfo, LabLatency, LabRunReport, Seen } from './lab.ts';
import type { Endpoint } from './scalars.ts';

/** What is known of one thing, for a person. Names in it are untrusted. */
export interface LabFinding {
  readonly title: string;
  readonly lines: readonly string[];
}

/** Gives what a run in a lab showed: from the client along the path to the server, then what it cost and what was decided. */
export function describeLabRun(report: LabRunReport): readonly LabFinding[] {
  const total = report.exact + report.failures.reduce((sum, { count }) => sum + count, 0);
  const bytes = report.bytes === 0 ? '' : `, ${report.bytes} bytes came back`;
  return [
    {
      title: 'Connections',
      lines: [`${report.exact} of ${total} to ${formatEndpoint(report.destination)} exact${bytes}`, ...report.failures.map(({ value, count }) => `${count} failed: ${value}`)],
    },
    { title: `Client in ${report.from}`, lines: report.clientPeers.map((seen) => `is told that its peer is ${formatSeen(seen, formatEndpoint)}`) },
    ...report.sidecars.map(({ pod, side, connections, originalDestinations, peers }) => ({
      title: `Sidecar of ${pod}, ${side}`,
      lines: [
        `took ${connections} connection${connections === 1 ? '' : 's'} from ${peers.map((seen) => formatSeen(seen, String)).join(', ')}`,
        ...originalDestinations.map((seen) => `was told that they were meant for ${formatSeen(seen, (destination) => (destination === null ? 'nothing (SO_ORIGINAL_DST failed)' : formatEndpoint(destination)))}`),
      ],
    })),
    { title: `Server in ${report.to}`, lines: report.serverPeers.map((seen) => `saw connections come from ${formatSeen(seen, String)}`) },
    { title: 'Path', lines: describePath(report) },
    { title: 'Latency', lines: [...formatLatency('connect(2)', report.connectLatency), ...formatLatency('one exchange', report.exchangeLatency)] },
    { title: 'Decisions of the programs', lines: describeDecisions(report) },
    { title: 'Not seen', lines: report.omissions },
  ].filter(({ lines }) => lines.length > 0);
}

/** Gives a lab in one sentence: what it was made for. */
export function describeLabSetting({ profile, path, sidecar, pods }: LabInfo): string {
  if (profile === null || path === null || sidecar === null) {
    return 'It is not written down what it was made for.';
  }
  const way = { iptables: `${profile}'s iptables rules`, ebpf: `eBPF programs for ${profile}, without rules`, none: `nothing that sends traffic to the sidecars of ${profile}` }[path];
  return `${pods.length} pods with ${way}; sidecar: ${sidecar}.`;
}

function describePath({ legs }: LabRunReport): string[] {
  if (legs.length === 0) {
    return ['No program took part: every byte went through TCP, and whatever rules there are.'];
  }
  return legs.map(({ text, count, state, reason }) => {
    const verdict = { accelerated: 'socket to socket', partly: 'socket to socket one way', not: 'through TCP', unknown: 'not known' }[state];
    return `${count} × ${text}: ${verdict}${reason === null ? '' : ` (${CONNECTION_TEXTS[reason]})`}`;
  });
}

function describeDecisions({ decisions, lostEvents }: LabRunReport): string[] {
  const lines = decisions.map(({ value: { hook, reason }, count }) => `${count} × ${hook}: ${reason.replaceAll('_', ' ')}`);
  return [...lines, ...(lostEvents === 0 ? [] : [`${lostEvents} of the node came faster than they could be read`])];
}

function formatLatency(what: string, latency: LabLatency | null): string[] {
  return latency === null ? [] : [`${what}: median ${formatMicroseconds(latency.median)}, from ${formatMicroseconds(latency.least)} to ${formatMicroseconds(latency.most)}`];
}

function formatMicroseconds(microseconds: number): string {
  return microseconds < 1_000 ? `${Math.round(microseconds)} µs` : `${(microseconds / 1_000).toFixed(2)} ms`;
}

function formatSeen<Value>({ value, count }: Seen<Value>, format: (value: Value) => string): string {
  return `${format(value)} (${count} ×)`;
}

function formatEndpoint({ address, port }: Endpoint): string {
  return isIpv4(address) ? `${address}:${port}` : `[${address}]:${port}`;
}
