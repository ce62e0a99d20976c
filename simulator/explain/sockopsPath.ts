import type { DecisionEvent } from '../../agent/protocol/acceleration.ts';
import type { Flow, Trace } from '../../agent/protocol/trace.ts';
import { Datapath } from '../bpf/datapath.ts';
import { readBpfObject } from '../bpf/object.ts';
import { seededRandom } from '../bpf/random.ts';
import { SocketKernel } from '../bpf/socketKernel.ts';
import { SIMULATED_CPUS, surroundingsOf } from '../bpf/surroundings.ts';
import { Simulation } from '../world/simulation.ts';
import { TraceRecorder } from '../world/traceRecorder.ts';
import type { World } from '../world/world.ts';
import { runAcceleratedFlow } from './acceleratedFlow.ts';
import { enrolledPods } from './acceleratedPods.ts';
import { checkFlow } from './flowSource.ts';
import type { FlowKernel } from './programSteps.ts';

const NANOSECONDS_PER_STEP = 1_000n;

/**
 * Explains what happens to one connection where Meshpath's programs are attached: the compiled programs of `object` run
 * in the virtual machine inside connect(2), when the connection is established, when its ends ask for addresses, and on
 * the first message; every packet of the handshake still meets the rules. The pods are those of the snapshot's
 * accelerations, or, where none is on, all pods with a known mesh. Throws INPUT_INVALID for a flow that is not of
 * this world, BPF_OBJECT_INVALID where `object` is not Meshpath's.
 */
export function explainSockops(world: World, flow: Flow, object: Uint8Array): Trace {
  return predictSockops(world, flow, object).trace;
}

/** Like explainSockops, with the events that the programs send on the way, oldest first. */
export function predictSockops(world: World, flow: Flow, object: Uint8Array): { readonly trace: Trace; readonly events: readonly DecisionEvent[] } {
  checkFlow(flow);
  const events: DecisionEvent[] = [];
  const simulation = new Simulation(world);
  const recorder = new TraceRecorder();
  const { kernel, assumptions } = attachPrograms(world, object, (event) => events.push(event));
  for (const assumption of assumptions) {
    simulation.assumptions.add(assumption);
  }
  const result = runAcceleratedFlow(simulation, recorder, kernel, flow);
  const trace: Trace = {
    origin: 'predicted',
    path: 'sockops',
    flow,
    legs: result.legs,
    steps: recorder.steps,
    outcome: result.outcome,
    cost: {
      tcpConnections: result.connections.length,
      tablesVisited: recorder.tablesVisited,
      rulesCompared: recorder.rulesCompared,
      conntrackEntries: simulation.conntrackEntries,
      bpfInstructions: result.bpfInstructions,
      hooksPerMessage: result.hooksPerMessage,
      stackTraversalsPerMessage: result.stackTraversals,
    },
    assumptions: [...simulation.assumptions],
  };
  return { trace, events };
}

/** A kernel with the programs of `object` in it, and what is taken to be so. */
export interface AttachedPrograms {
  readonly kernel: FlowKernel;
  readonly assumptions: readonly string[];
}

/**
 * Loads the compiled programs once for each mesh of the world and attaches them to its pods: those of the snapshot's
 * accelerations, or, where none is on, all pods with a known mesh. Throws BPF_OBJECT_INVALID where `object` is not Meshpath's.
 */
export function attachPrograms(world: World, object: Uint8Array, report: FlowKernel['report']): AttachedPrograms {
  let now = 0n;
  const sockets = new SocketKernel(
    surroundingsOf(world, {
      bootNanoseconds: () => (now += NANOSECONDS_PER_STEP),
      random: seededRandom(1),
    }),
  );
  const { groups, assumptions } = enrolledPods(world.snapshot);
  const parsed = readBpfObject(object);
  const datapaths = groups.map(({ profile, pods }) => {
    const datapath = new Datapath(parsed, profile, sockets, SIMULATED_CPUS);
    for (const pod of pods) {
      datapath.enrol(pod);
    }
    return datapath;
  });
  const lacks = world.snapshot.omissions.map((omission) => `The snapshot lacks ${omission.what}: ${omission.reason}`);
  return { kernel: { sockets, datapaths, report }, assumptions: [...assumptions, ...lacks] };
}
