import type { DecisionEvent } from '../../agent/protocol/acceleration.ts';
import { anyAddressLike, isIpv4 } from '../../agent/protocol/ipAddress.ts';
import type { CgroupPath, Endpoint, PortNumber } from '../../agent/protocol/scalars.ts';
import type { FlowSource, Trace, TraceOutcome } from '../../agent/protocol/trace.ts';
import { sameEndpoint, writeEndpoint } from '../world/tuple.ts';
import { describeOwner, findDatagramSocket } from '../world/sockets.ts';
import { TraceRecorder } from '../world/traceRecorder.ts';
import type { World } from '../world/world.ts';
import { DECISION_TEXTS } from './decisionTexts.ts';
import { describeSource, findSourceNamespace } from './flowSource.ts';
import { ProgramSteps, socketState } from './programSteps.ts';
import { attachPrograms } from './sockopsPath.ts';

const NO_PORT = 0 as PortNumber;

/** A datagram that asks a resolver, and the reading of its answer. */
export interface QuestionFlow {
  readonly protocol: 'udp';
  readonly source: FlowSource;
  /** The resolver. */
  readonly destination: Endpoint;
  /** Whether the socket connects to it first; else each datagram names it. */
  readonly connects: boolean;
}

/** What a question meets, with the events that the programs send on the way, oldest first. */
export interface QuestionPrediction {
  readonly trace: Trace<QuestionFlow>;
  readonly events: readonly DecisionEvent[];
}

/**
 * Explains what the compiled programs of `object` do with a question: whether it is captured, because of what, and what who
 * asks is told of its peer, of itself and of the answer. What they leave alone depends on the rules. Pods are those of
 * explainSockops. Throws INPUT_INVALID for a flow that is not of this world, BPF_OBJECT_INVALID where `object` is not Meshpath's.
 */
export function explainQuestion(world: World, flow: QuestionFlow, object: Uint8Array): QuestionPrediction {
  const events: DecisionEvent[] = [];
  const recorder = new TraceRecorder();
  const { kernel, assumptions } = attachPrograms(world, object, (event) => events.push(event));
  const programs = new ProgramSteps(recorder, kernel);
  const { source, destination } = flow;
  const namespace = findSourceNamespace(world, source);
  const description = describeSource(namespace, source);
  const { sockets } = kernel;
  recorder.enter(0, 'socket');
  const { socket, runs: created } = sockets.openSocket({
    namespace: namespace.id,
    cgroup: source.cgroup,
    owner: { pid: 0, command: '', uid: source.uid, gid: source.gid, cgroupId: cgroupId(world, source.cgroup) },
    family: isIpv4(destination.address) ? 2 : 10,
    protocol: 'udp',
    local: source.address === null && source.port === null ? null : { address: source.address ?? anyAddressLike(destination.address), port: source.port ?? NO_PORT },
  });
  const asked = socketState(socket.local, destination);
  const say = (reason: string): number =>
    recorder.add({ place: { kind: 'socket', namespace: namespace.id, description }, before: asked, after: asked, decision: { kind: 'continue' }, reason });
  programs.add(socket, description, created, asked, asked, () => ({ kind: 'continue' }));
  say(`${description} (uid ${source.uid}) asks ${writeEndpoint(destination)} over UDP.`);

  recorder.enter(0, 'connect');
  const sent = flow.connects ? sendConnected(kernel.sockets, socket, destination) : sockets.sendDatagram(socket, destination);
  const isCaptured = !sameEndpoint(sent.address, destination);
  programs.add(socket, description, sent.runs, asked, socketState(socket.local, sent.address), () => (isCaptured ? { kind: 'rewrite', target: writeEndpoint(sent.address) } : { kind: 'continue' }));
  const decision = events.at(-1);
  const outcome = isCaptured ? findOutcome() : leftAlone(say, decision);
  if (isCaptured) {
    followAnswer();
  }
  const trace: Trace<QuestionFlow> = {
    origin: 'predicted',
    path: 'sockops',
    flow,
    legs: [],
    steps: recorder.steps,
    outcome,
    cost: {
      tcpConnections: 0,
      tablesVisited: 0,
      rulesCompared: 0,
      conntrackEntries: 0,
      bpfInstructions: programs.instructions,
      hooksPerMessage: 0,
      stackTraversalsPerMessage: 1,
    },
    assumptions: [...assumptions, 'Packets over loopback are taken to be accepted by the rules.'],
  };
  return { trace, events };

  function findOutcome(): TraceOutcome {
    const resolver = findDatagramSocket(namespace, sent.address);
    const by = decision === undefined ? 'by a program' : `by ${decision.hook}: ${DECISION_TEXTS[decision.reason]}`;
    return resolver === undefined
      ? { result: 'refused', summary: `Nothing answers at ${writeEndpoint(sent.address)}.`, step: recorder.steps.length - 1 }
      : { result: 'delivered', summary: `${describeOwner(namespace, resolver)} takes the question at ${writeEndpoint(sent.address)}, captured ${by}` };
  }

  /** What who asked is told, the way back. */
  function followAnswer(): void {
    recorder.enter(0, 'query');
    if (flow.connects) {
      const peer = sockets.askPeerName(socket);
      programs.add(socket, description, peer.runs, asked, asked, () => ({ kind: 'answer', endpoint: peer.answer }));
    }
    recorder.enter(0, 'data');
    const answer = socketState(sent.source === null ? sent.address : { ...sent.address, address: sent.source }, socket.local);
    const received = sockets.receiveDatagram(socket, answer.source);
    const told = { ...answer, source: received.address };
    programs.add(socket, description, received.runs, answer, told, () => ({ kind: 'answer', endpoint: received.address }));
    recorder.add({
      place: { kind: 'socket', namespace: namespace.id, description },
      before: told,
      after: told,
      decision: { kind: 'deliver', socket: description },
      reason: `recvmsg tells ${description} that the answer is from ${writeEndpoint(received.address)}, ${sameEndpoint(received.address, destination) ? 'whom it asked' : 'whom it did not ask'}.`,
    });
  }
}

type Sockets = ReturnType<typeof attachPrograms>['kernel']['sockets'];

function sendConnected(sockets: Sockets, socket: Parameters<Sockets['connect']>[0], destination: Endpoint): ReturnType<Sockets['sendDatagram']> {
  const { destination: address, ...decision } = sockets.connect(socket, destination);
  socket.remote = address;
  return { ...decision, address, source: null };
}

function leftAlone(say: (reason: string) => number, decision: DecisionEvent | undefined): TraceOutcome {
  const reason = decision === undefined ? 'No program decides about it.' : DECISION_TEXTS[decision.reason];
  say(`The question is not captured. ${reason}`);
  return { result: 'depends', summary: `The question goes the way of the rules. ${reason}`, dependsOn: ['the rules for port 53'] };
}

function cgroupId(world: World, path: CgroupPath | null): bigint {
  return BigInt(world.snapshot.cgroups.find((cgroup) => cgroup.path === path)?.id ?? 0);
}
