import type { PacketFlow, TraceOutcome, TraceStep } from '../../agent/protocol/trace.ts';
import type { Journey, JourneyEnd } from '../world/journey.ts';
import { writeEndpoint } from '../world/tuple.ts';
import { arrive, send } from '../world/network.ts';
import { Simulation } from '../world/simulation.ts';
import { TraceRecorder } from '../world/traceRecorder.ts';
import type { World } from '../world/world.ts';
import type { PacketFlowText } from './packetFlowText.ts';
import { explainPackets } from './packetPath.ts';

/** What a flow, or one packet, comes to under rules. */
export interface FlowExplanation {
  readonly flow: PacketFlow;
  readonly outcome: TraceOutcome;
  readonly steps: readonly TraceStep[];
  /** Every packet that was sent, in order. */
  readonly journeys: readonly Journey[];
  /** What was taken to be so; sentences. */
  readonly assumptions: readonly string[];
}

/** Explains what somebody wrote: a whole conversation, or a single packet and what it causes. Deterministic. */
export function explainFlow(world: World, { flow, packet }: Pick<PacketFlowText, 'flow' | 'packet'>): FlowExplanation {
  if (packet === null) {
    const { trace, journeys } = explainPackets(world, flow);
    return { flow, outcome: settleOutcome(trace.outcome, journeys), steps: trace.steps, journeys, assumptions: trace.assumptions };
  }
  const simulation = new Simulation(world);
  const recorder = new TraceRecorder();
  recorder.enter(0, 'packet');
  const { from } = flow;
  const journeys =
    from.kind === 'arrival'
      ? arrive(simulation, recorder, from.namespace, from.device, packet)
      : send(simulation, recorder, { namespace: from.namespace, owner: { uid: from.uid, gid: from.gid } }, packet);
  return { flow, outcome: outcomeOf(journeys), steps: recorder.steps, journeys, assumptions: [...simulation.assumptions] };
}

/** Says in one sentence where a packet ended. The names in it are untrusted text. */
export function describeEnd(end: JourneyEnd): string {
  switch (end.kind) {
    case 'delivered': {
      const told = isTranslated(end) && end.originalDestination !== null ? ` and is told the original destination ${writeEndpoint(end.originalDestination)}` : '';
      return end.socket === null ? 'The kernel takes it.' : `${end.socket.info.owner?.command ?? `A socket of user ${end.socket.info.uid}`} takes it on port ${end.socket.info.local.port}${told}.`;
    }
    case 'unclaimed':
      return `Nobody takes it: ${end.reason}.`;
    case 'dropped':
      return `It is dropped: ${end.reason}.`;
    case 'rejected':
      return `It is rejected with ${end.with}: ${end.reason}.`;
    case 'unreachable':
      return `It cannot be sent (${end.errno}): ${end.reason}.`;
    case 'left':
      return `It leaves by ${end.device}.`;
    case 'unknown':
      return `It depends on ${end.dependsOn}.`;
  }
}

/** Whether what SO_ORIGINAL_DST answers is another destination than the packet has. */
function isTranslated({ originalDestination, packet }: Extract<JourneyEnd, { kind: 'delivered' }>): boolean {
  const port = packet.transport.kind === 'tcp' || packet.transport.kind === 'udp' ? packet.transport.destinationPort : null;
  return originalDestination !== null && (originalDestination.address !== packet.destination || originalDestination.port !== port);
}

/** What leaves this machine got through its rules, although nobody knows what comes of it outside. */
function settleOutcome(outcome: TraceOutcome, journeys: readonly Journey[]): TraceOutcome {
  const isLeftOnly = outcome.result === 'depends' && journeys.some(({ end }) => end.kind === 'left') && journeys.every(({ end }) => end.kind !== 'unknown');
  return isLeftOnly ? outcomeOf(journeys) : outcome;
}

/** The first packet that gets stuck decides; else the first of all tells where it went. */
function outcomeOf(journeys: readonly Journey[]): TraceOutcome {
  const [first] = journeys;
  if (first === undefined) {
    return { result: 'depends', summary: 'Nothing is sent.', dependsOn: ['whether anything is sent'] };
  }
  const stuck = journeys.find(({ end }) => end.kind !== 'delivered' && end.kind !== 'left') ?? first;
  const summary = stuck === first ? describeEnd(first.end) : `${describeEnd(first.end)} The packet from ${stuck.sent.source} to ${stuck.sent.destination} that follows: ${describeEnd(stuck.end)}`;
  switch (stuck.end.kind) {
    case 'delivered':
    case 'left':
      return { result: 'delivered', summary };
    case 'unknown':
      return { result: 'depends', summary, dependsOn: [stuck.end.dependsOn] };
    default:
      return { result: 'refused', summary, step: stuck.end.step ?? 0 };
  }
}
