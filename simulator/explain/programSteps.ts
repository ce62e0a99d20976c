import type { DecisionEvent } from '../../agent/protocol/acceleration.ts';
import type { Endpoint } from '../../agent/protocol/scalars.ts';
import type { Decision, PacketState, SourceLine } from '../../agent/protocol/trace.ts';
import type { Datapath } from '../bpf/datapath.ts';
import { changedMaps, decidingLine, describeCalls } from '../bpf/describeRun.ts';
import type { HookRun, SocketKernel } from '../bpf/socketKernel.ts';
import type { KernelSocket } from '../bpf/sockets.ts';
import { sameEndpoint } from '../world/tuple.ts';
import type { TraceRecorder } from '../world/traceRecorder.ts';
import { DECISION_TEXTS } from './decisionTexts.ts';

/** The programs and the sockets of the kernel that a flow goes through. */
export interface FlowKernel {
  readonly sockets: SocketKernel;
  readonly datapaths: readonly Datapath[];
  /** Told of every event that the programs send. */
  readonly report: (event: DecisionEvent) => void;
}

/** Makes the steps of programs that ran. */
export class ProgramSteps {
  readonly #recorder: TraceRecorder;
  readonly #kernel: FlowKernel;
  /** Instructions that all of them ran together. */
  instructions = 0;

  constructor(recorder: TraceRecorder, kernel: FlowKernel) {
    this.#recorder = recorder;
    this.#kernel = kernel;
  }

  /** Adds a step for each program that ran, with what it decided by its own event. */
  add(socket: KernelSocket, description: string, runs: readonly HookRun[], before: PacketState, after: PacketState, decide: (event: DecisionEvent | null, run: HookRun) => Decision): void {
    for (const hookRun of runs) {
      const { attachment, run } = hookRun;
      const datapath = this.#kernel.datapaths.find((candidate) => candidate.loaded === attachment.loaded);
      const events = datapath?.drainEvents() ?? [];
      for (const event of events) {
        this.#kernel.report(event);
      }
      const event = events.at(-1) ?? null;
      const { outcome, program } = run;
      this.instructions += outcome.instructions;
      const isFault = outcome.kind === 'fault';
      const source: SourceLine | null = decidingLine(run);
      const changed = !sameEndpoint(before.destination, after.destination) || !sameEndpoint(before.source, after.source);
      this.#recorder.add({
        place: {
          kind: 'program',
          namespace: socket.namespace,
          cgroup: attachment.target.kind === 'cgroup' ? attachment.target.path : null,
          attachType: program.attachType ?? program.type,
          program: program.name,
          source,
          instructions: outcome.instructions,
        },
        before,
        after: isFault ? before : after,
        conditions: describeCalls(run, attachment.loaded.object.btf),
        decision: isFault ? { kind: 'unknown', dependsOn: `what ${program.name} does after ${outcome.fault.kind}` } : decide(event, hookRun),
        reason: isFault
          ? `${program.name} would be refused by the kernel's verifier: ${outcome.fault.message} (instruction ${outcome.fault.instruction}).`
          : event === null
            ? `${program.name} runs for ${description} and ${silentEffect(run, changed)}.`
            : DECISION_TEXTS[event.reason],
      });
    }
  }
}

/** What a program did that it sent no event about. */
function silentEffect(run: HookRun['run'], changed: boolean): string {
  const maps = changedMaps(run);
  if (maps.length > 0) {
    return `writes to ${maps.map((map) => `the map ${map}`).join(' and ')}`;
  }
  return changed ? 'changes the address' : 'leaves the connection as it is';
}

/** Gives what a socket sends, or is told, before there is a packet. */
export function socketState(source: Endpoint, destination: Endpoint): PacketState {
  return { source, destination, inInterface: null, outInterface: null, mark: 0, connection: null };
}
