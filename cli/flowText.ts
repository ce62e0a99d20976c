import type { PacketState } from '../agent/protocol/trace.ts';
import type { FlowExplanation } from '../simulator/explain/explainRules.ts';
import { describeEnd } from '../simulator/explain/explainRules.ts';
import type { PacketDraft } from '../simulator/netfilter/packetDraft.ts';
import type { Journey } from '../simulator/world/journey.ts';
import { formatEndpoint, formatList, formatOutcome, formatSteps } from './explanationText.ts';
import { escapeText } from './text/escape.ts';
import type { TableOptions } from './text/table.ts';

export interface FlowTextOptions extends TableOptions {
  /** Shows every step and every condition of every packet, and not only of the first. */
  readonly all: boolean;
}

/** Gives what a flow comes to as lines: the outcome, its packets with their steps, what was taken to be so. */
export function formatFlowExplanation(text: string, explanation: FlowExplanation, options: FlowTextOptions): string[] {
  const { steps, journeys, outcome, assumptions } = explanation;
  const { style } = options;
  const before = steps.filter(({ packet }) => packet === undefined);
  const packets = journeys.flatMap((journey, index) => {
    const own = steps.filter(({ packet }) => packet === journey.packet);
    const title = `  ${style.bold(`Packet ${index + 1}`)}: ${escapeText(describePacket(journey, own[0]?.before))}`;
    const isStuck = journey.end.kind !== 'delivered' && journey.end.kind !== 'left';
    if (!options.all && index > 0 && !isStuck) {
      return [...(index === 1 ? [''] : []), `${title}${style.dim(`  ${escapeText(describeEnd(journey.end))}`)}`];
    }
    return ['', title, ...formatSteps(own, { ...options, details: options.all, deciding: true }), `    ${escapeText(describeEnd(journey.end))}`];
  });
  return [
    // What it depends on stands in the summary too.
    `${style.bold(escapeText(text))}: ${outcome.result === 'depends' ? `${style.warning('depends')}. ${escapeText(outcome.summary)}` : formatOutcome(outcome, style)}`,
    ...formatSteps(before, { ...options, details: options.all, deciding: true }),
    ...packets,
    ...formatList('Taken to be so without having been seen:', assumptions, options),
  ];
}

function describePacket({ sent }: Journey, state: PacketState | undefined): string {
  return `${state?.summary ?? describeTransport(sent)} ${describeEnds(sent)}`;
}

function describeEnds({ source, destination, transport }: PacketDraft): string {
  const hasPorts = transport.kind === 'tcp' || transport.kind === 'udp';
  const from = hasPorts ? formatEndpoint({ address: source, port: transport.sourcePort }) : source;
  const to = hasPorts ? formatEndpoint({ address: destination, port: transport.destinationPort }) : destination;
  return `${from} → ${to}`;
}

function describeTransport({ transport }: PacketDraft): string {
  switch (transport.kind) {
    case 'tcp':
      return `TCP ${transport.flags.join(' ') || 'without flags'}`;
    case 'udp':
      return 'UDP';
    case 'icmp':
      return `ICMP type ${transport.type} code ${transport.code}`;
    case 'other':
      return `IP protocol ${transport.protocol}`;
  }
}
