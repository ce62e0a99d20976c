import type { PacketFlow, TraceOutcome, TraceStep } from '../../agent/protocol/trace.ts';
import type { Journey, JourneyEnd } from '../world/journey.ts';
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
    return { flow, outcome: trace.outcome, steps: trace.steps, journeys, assumptions: trace.assumptions };
  }
  const simulation = new Simulation(world);
  const recorder = new TraceRecorder();
  const { from } = flow;
  const journeys =
    from.kind === 'arrival'
      ? arrive(simulation, recorder, from.namespace, from.device, packet)
      : send(simulation, recorder, { namespace: from.namespace, owner: { uid: from.uid, gid: from.gid } }, packet);
  const [first] = journeys;
  const outcome: TraceOutcome = first === undefined ? { result: 'depends', summary: 'Nothing was sent.', dependsOn: ['whether anything is sent'] } : outcomeOf(first.end);
  return { flow, outcome, steps: recorder.steps, journeys, assumptions: [...simulation.assumptions] };
}

/** Says in one sentence where a packet ended. The names in it are untrusted text. */
export function describeEnd(end: JourneyEnd): string {
  switch (end.kind) {
    case 'delivered':
      return end.socket === null ? 'The kernel took it.' : `${end.socket.info.owner?.command ?? `A socket of user ${end.socket.info.uid}`} took it on port ${end.socket.info.local.port}.`;
    case 'unclaimed':
      return `Nobody takes it here: ${end.reason}.`;
    case 'dropped':
      return `It was dropped: ${end.reason}.`;
    case 'rejected':
      return `It was rejected with ${end.with}: ${end.reason}.`;
    case 'unreachable':
      return `It could not be sent (${end.errno}): ${end.reason}.`;
    case 'left':
      return `It left by ${end.device}.`;
    case 'unknown':
      return `It depends on ${end.dependsOn}.`;
  }
}

function outcomeOf(end: JourneyEnd): TraceOutcome {
  const summary = describeEnd(end);
  switch (end.kind) {
    case 'delivered':
    case 'left':
      return { result: 'delivered', summary };
    case 'unknown':
      return { result: 'depends', summary, dependsOn: [end.dependsOn] };
    default:
      return { result: 'refused', summary, step: end.step ?? 0 };
  }
}
