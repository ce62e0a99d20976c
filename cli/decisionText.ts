import { DECISION_HOOKS, DECISION_REASONS } from '../agent/protocol/acceleration.ts';
import type { AccelerationInfo, DecisionCounters, DecisionEvent, DecisionReason, TurnOffReport } from '../agent/protocol/acceleration.ts';
import type { Uint64Text } from '../agent/protocol/scalars.ts';
import { formatEndpoint } from './explanationText.ts';
import { formatCount } from './text/count.ts';
import { escapeText } from './text/escape.ts';
import type { Style } from './text/style.ts';
import { padText } from './text/width.ts';

const HOOK_WIDTH = Math.max(...DECISION_HOOKS.map((hook) => hook.length));
const REASON_WIDTH = Math.max(...DECISION_REASONS.map((reason) => reason.length));
const NANOSECONDS = 1_000_000_000n;

type Look = Exclude<keyof Style, 'bold'>;

/** Names of pods by the id of their cgroup. */
export type PodNames = ReadonlyMap<Uint64Text, string>;

/** Gives one decision as one line: when, where, what and why, whose socket, and what was meant before. */
export function formatDecision(event: DecisionEvent, pods: PodNames, style: Style): string {
  const pod = pods.get(event.cgroupId);
  const details = [
    ...(pod === undefined ? [] : [escapeText(pod)]),
    ...(event.uid === null ? [] : [`uid ${event.uid}`]),
    `${formatEndpoint(event.local)} → ${formatEndpoint(event.remote)}`,
    ...(event.original === null ? [] : [`for ${formatEndpoint(event.original)}`]),
    ...(event.bytes === 0 ? [] : [`${event.bytes} bytes`]),
    ...(event.errno === 0 ? [] : [`errno ${event.errno}`]),
  ];
  const reason = style[lookOf(event.reason)](padText(event.reason.replaceAll('_', ' '), REASON_WIDTH));
  return `${style.dim(formatBootTime(event.bootNanoseconds))}  ${padText(event.hook, HOOK_WIDTH)}  ${reason}  ${details.join('  ')}`;
}

/** Gives the lines with which acceleration begins. */
export function formatTurnedOn(info: AccelerationInfo, style: Style): string[] {
  const pods = info.pods.map(({ cgroup, addresses }) => `  ${escapeText(cgroup)}  ${addresses.join(', ')}`);
  const parts = [formatCount(info.programIds.length, 'program'), formatCount(info.mapIds.length, 'map'), formatCount(info.linkIds.length, 'link')].join(', ');
  const findings = (info.findings ?? []).map(({ id, meaning, answer }) => style.warning(`  ${answer === 'told' ? 'Limit' : answer === 'accepted' ? 'Accepted limit' : 'OVERRIDDEN'} (${escapeText(id)}): ${escapeText(meaning)}`));
  return [`${style.good('Acceleration is on')} for ${formatCount(info.pods.length, 'pod')} with profile ${escapeText(info.profile)}: ${parts}.`, ...pods, ...findings];
}

/** Gives the lines with which acceleration ends: what was undone, what goes on, and how often each decision was taken. */
export function formatTurnedOff(report: TurnOffReport, counters: DecisionCounters | null, lostEvents: number, style: Style): string[] {
  const remaining =
    report.remainingConnections === 0
      ? 'No accelerated connection is left.'
      : `${formatCount(report.remainingConnections, 'accelerated connection')} still open, from now on over plain TCP; the kernel frees the programs with the last of them.`;
  const counted = counters === null ? [] : DECISION_REASONS.filter((reason) => counters[reason] !== '0');
  const width = Math.max(0, ...counted.map((reason) => counters?.[reason].length ?? 0));
  return [
    `${style.bold('Acceleration is off')}: ${formatCount(report.detachedLinks, 'link')} detached. ${remaining}`,
    ...counted.map((reason) => `  ${padText(counters?.[reason] ?? '', width, 'right')}  ${reason.replaceAll('_', ' ')}`),
    ...(lostEvents === 0 ? [] : [style.warning(`Not shown above: ${formatCount(lostEvents, 'event')} that came faster than they could be read.`)]),
  ];
}

function lookOf(reason: DecisionReason): Look {
  if (reason.includes('failed') || reason.endsWith('_full')) {
    return 'bad';
  }
  return reason.includes('passed') ? 'warning' : 'good';
}

/** Gives nanoseconds since boot as seconds with six digits, as the kernel's log writes time. */
function formatBootTime(nanoseconds: Uint64Text): string {
  const value = BigInt(nanoseconds);
  const micros = String((value % NANOSECONDS) / 1_000n).padStart(6, '0');
  return `${value / NANOSECONDS}.${micros}`;
}
