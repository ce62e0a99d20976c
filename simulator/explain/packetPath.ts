import type { PacketFlow, Trace } from '../../agent/protocol/trace.ts';
import type { Journey } from '../world/journey.ts';
import { Simulation } from '../world/simulation.ts';
import { TraceRecorder } from '../world/traceRecorder.ts';
import type { World } from '../world/world.ts';

/** What a flow came to, with the state of the world after it. */
export interface PacketExplanation {
  readonly trace: Trace<PacketFlow>;
  readonly journeys: readonly Journey[];
  readonly after: Simulation;
}

/**
 * Explains a whole conversation: TCP from SYN to close, a UDP request and its answer, an ICMP echo and its reply; for packets
 * that arrive from outside, the first packet and what the namespace answers. Deterministic. `before` gives the state in which
 * it begins (connections that exist, recent lists, limits); it is not changed.
 */
export function explainPackets(world: World, flow: PacketFlow, before?: Simulation): PacketExplanation {
  const recorder = new TraceRecorder();
  const dependsOn = 'packets of this kind, which are not modelled yet';
  return {
    trace: {
      origin: 'predicted', path: 'iptables', flow, legs: [], steps: recorder.steps,
      outcome: { result: 'depends', summary: `It depends on ${dependsOn}.`, dependsOn: [dependsOn] },
      cost: { tcpConnections: 0, tablesVisited: 0, rulesCompared: 0, conntrackEntries: 0, bpfInstructions: 0, hooksPerMessage: 0, stackTraversalsPerMessage: 0 },
      assumptions: [],
    },
    journeys: [],
    after: before ?? new Simulation(world),
  };
}
