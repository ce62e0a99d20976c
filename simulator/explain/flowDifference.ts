import type { Endpoint } from '../../agent/protocol/scalars.ts';
import type { RulePlace, TraceOutcome } from '../../agent/protocol/trace.ts';
import type { PacketDraft } from '../netfilter/packetDraft.ts';
import { writeEndpoint } from '../world/tuple.ts';
import type { Journey } from '../world/journey.ts';
import type { FlowExplanation } from './explainRules.ts';

/** How a flow fares under two rule sets. */
export interface FlowDifference {
  /** `unknown`: under at least one of them it depends on something, and what is known is the same. */
  readonly result: 'same' | 'different' | 'unknown';
  /** What differs, sentences; empty where it is the same. Names in them are untrusted text. */
  readonly differences: readonly string[];
  /** The rules that decided under one of them and not under the other. */
  readonly onlyBefore: readonly RulePlace[];
  readonly onlyAfter: readonly RulePlace[];
}

/**
 * Compares what a flow comes to under two rule sets: its outcome, and of every packet where it ends, with which addresses,
 * and who takes it. Rules that decide are named where they differ, by their text, so that a rule that only moved is none.
 */
export function compareFlows(before: FlowExplanation, after: FlowExplanation): FlowDifference {
  const differences: string[] = [];
  if (before.outcome.result !== after.outcome.result) {
    differences.push(`It was ${describeOutcome(before.outcome)}; now it is ${describeOutcome(after.outcome)}.`);
  }
  const length = Math.max(before.journeys.length, after.journeys.length);
  for (let index = 0; index < length; index += 1) {
    const was = describeJourney(before.journeys[index]);
    const is = describeJourney(after.journeys[index]);
    if (was !== is) {
      differences.push(`Packet ${index + 1} ${was}; now it ${is}.`);
      // What follows is a consequence.
      break;
    }
  }
  const isUnknown = before.outcome.result === 'depends' || after.outcome.result === 'depends';
  return {
    result: differences.length > 0 ? 'different' : isUnknown ? 'unknown' : 'same',
    differences,
    ...compareRules(before, after),
  };
}

function describeOutcome(outcome: TraceOutcome): string {
  return outcome.result === 'depends' ? `not certain (it depends on ${outcome.dependsOn.join('; ')})` : outcome.result;
}

/** Everything about a packet's way that somebody outside could tell. */
function describeJourney(journey: Journey | undefined): string {
  if (journey === undefined) {
    return 'is not sent';
  }
  const { end } = journey;
  switch (end.kind) {
    case 'delivered': {
      const told = end.originalDestination === null ? '' : `, told the original destination ${writeEndpoint(end.originalDestination)}`;
      return `reaches ${end.socket === null ? 'the kernel' : `port ${end.socket.info.local.port}`} as ${describeEnds(end.packet)}${told}`;
    }
    case 'left':
      return `leaves by ${end.device} as ${describeEnds(end.packet)}`;
    case 'unclaimed':
      return `finds nobody at ${describeEnds(end.packet)}`;
    case 'dropped':
      return 'is dropped';
    case 'rejected':
      return `is rejected with ${end.with}`;
    case 'unreachable':
      return `cannot be sent (${end.errno})`;
    case 'unknown':
      return `depends on ${end.dependsOn}`;
  }
}

function describeEnds({ source, destination, transport }: PacketDraft): string {
  if (transport.kind !== 'tcp' && transport.kind !== 'udp') {
    return `${source} → ${destination}`;
  }
  const from: Endpoint = { address: source, port: transport.sourcePort };
  const to: Endpoint = { address: destination, port: transport.destinationPort };
  return `${writeEndpoint(from)} → ${writeEndpoint(to)}`;
}

function compareRules(before: FlowExplanation, after: FlowExplanation): Pick<FlowDifference, 'onlyBefore' | 'onlyAfter'> {
  const was = decidingRules(before);
  const is = decidingRules(after);
  return { onlyBefore: [...was].flatMap(([key, place]) => (is.has(key) ? [] : [place])), onlyAfter: [...is].flatMap(([key, place]) => (was.has(key) ? [] : [place])) };
}

function decidingRules({ steps }: FlowExplanation): ReadonlyMap<string, RulePlace> {
  const rules = new Map<string, RulePlace>();
  for (const { place, decision } of steps) {
    if (place.kind === 'rule' && decision.kind !== 'continue' && decision.kind !== 'return') {
      const key = `${place.hook} ${place.table} ${place.text}`;
      rules.set(key, rules.get(key) ?? place);
    }
  }
  return rules;
}
