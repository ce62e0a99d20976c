import type { DecisionEvent } from '../../agent/protocol/acceleration.ts';
import { anyAddressLike, isAnyAddress, isIpv4 } from '../../agent/protocol/ipAddress.ts';
import type { CgroupPath, Endpoint, PortNumber } from '../../agent/protocol/scalars.ts';
import type { Decision, Flow, PacketState, TraceLeg, TraceOutcome } from '../../agent/protocol/trace.ts';
import { changedMaps } from '../bpf/describeRun.ts';
import type { HookRun } from '../bpf/socketKernel.ts';
import type { KernelSocket, Task } from '../bpf/sockets.ts';
import { decideSidecar, findSidecar } from '../mesh/sidecar.ts';
import { sameEndpoint, writeEndpoint } from '../world/tuple.ts';
import { openConnection } from '../world/openConnection.ts';
import type { FailedConnection, OpenedConnection } from '../world/openConnection.ts';
import type { Simulation } from '../world/simulation.ts';
import type { TraceRecorder } from '../world/traceRecorder.ts';
import type { WorldNamespace } from '../world/world.ts';
import { describeSource, findSourceNamespace } from './flowSource.ts';
import { ProgramSteps, socketState } from './programSteps.ts';
import type { FlowKernel } from './programSteps.ts';

/** More legs than any mesh makes of one connection; a chain of proxies that is longer is taken for a circle. */
const MAX_LEGS = 16;
/** The length of the message that is followed. */
const MESSAGE_BYTES = 1_024;
const UNKNOWN_ID = 0xffff_ffff;

/** Both ends of one leg. */
export interface FlowConnection {
  readonly client: KernelSocket;
  readonly server: KernelSocket;
}

export interface FlowResult {
  readonly legs: readonly TraceLeg[];
  readonly outcome: TraceOutcome;
  readonly connections: readonly FlowConnection[];
  readonly bpfInstructions: number;
  /** Netfilter hooks that one message meets on its whole way. */
  readonly hooksPerMessage: number;
  /** How many times one message goes through the TCP/IP stack. */
  readonly stackTraversals: number;
}

interface LegRequest {
  readonly leg: number;
  readonly role: 'application' | 'sidecar';
  readonly namespace: WorldNamespace;
  readonly description: string;
  readonly owner: Task;
  readonly gid: number | null;
  readonly cgroup: CgroupPath | null;
  readonly address: Endpoint['address'] | null;
  readonly port: PortNumber | null;
  readonly destination: Endpoint;
}

/** A leg that is open: what happened to it, and the sockets at its ends. */
interface OpenLeg {
  readonly opened: OpenedConnection;
  readonly requested: Endpoint;
  readonly client: KernelSocket;
  readonly server: KernelSocket;
  readonly originalDestination: Endpoint | null;
  readonly peerSeenByClient: Endpoint;
}

/**
 * Opens the connection of a flow and every connection that sidecars open for it, in a kernel with programs attached: they
 * run in front of the rules of the namespaces, which every packet still meets. Then follows one message from the first
 * socket to the last. Steps go to `recorder`. Throws INPUT_INVALID where the flow is not of this world.
 */
export function runAcceleratedFlow(simulation: Simulation, recorder: TraceRecorder, kernel: FlowKernel, flow: Flow): FlowResult {
  return new AcceleratedFlow(simulation, recorder, kernel).run(flow);
}

class AcceleratedFlow {
  readonly #simulation: Simulation;
  readonly #recorder: TraceRecorder;
  readonly #kernel: FlowKernel;
  readonly #programs: ProgramSteps;
  readonly #legs: TraceLeg[] = [];
  readonly #open: OpenLeg[] = [];
  readonly #reached = new Set<string>();
  #hooks = 0;
  #traversals = 0;

  constructor(simulation: Simulation, recorder: TraceRecorder, kernel: FlowKernel) {
    this.#simulation = simulation;
    this.#recorder = recorder;
    this.#kernel = kernel;
    this.#programs = new ProgramSteps(recorder, kernel);
  }

  run(flow: Flow): FlowResult {
    const outcome = this.#follow(flow);
    for (const [index, leg] of this.#open.entries()) {
      this.#sendMessage(index, leg);
    }
    return {
      legs: this.#legs,
      outcome,
      connections: this.#open.map(({ client, server }) => ({ client, server })),
      bpfInstructions: this.#programs.instructions,
      hooksPerMessage: this.#hooks,
      stackTraversals: this.#traversals,
    };
  }

  #follow(flow: Flow): TraceOutcome {
    let request = this.#firstRequest(flow);
    for (;;) {
      const opened = this.#openLeg(request);
      if ('kind' in opened) {
        return failedOutcome(opened);
      }
      const action = decideSidecar(opened.opened, opened.originalDestination);
      const { server, listener } = opened.opened;
      if (action === undefined) {
        return { result: 'delivered', summary: `${server.description} takes the connection at ${writeEndpoint(server.address)}.` };
      }
      const key = JSON.stringify([server.namespace, server.address, opened.originalDestination]);
      if (action.kind !== 'connects' || this.#reached.has(key) || this.#legs.length >= MAX_LEGS) {
        const reason = action.kind === 'connects' ? `${server.description} would reach itself again: the connection goes round in a circle` : action.reason;
        const state = socketState(opened.opened.peerSeenByServer, server.address);
        const step = this.#socketStep(opened.server, server.description, state, { kind: 'refuse', errno: 'ECONNRESET' }, `${reason}.`);
        return { result: 'refused', summary: `${reason}.`, step };
      }
      this.#reached.add(key);
      this.#simulation.assumptions.add(action.assumption);
      request = {
        leg: request.leg + 1,
        role: 'sidecar',
        namespace: opened.opened.serverNamespace,
        description: server.description,
        owner: { ...opened.server.owner, gid: listener.owner?.gid ?? action.profile.proxyGid },
        gid: listener.owner?.gid ?? action.profile.proxyGid,
        cgroup: opened.server.cgroup,
        address: action.source,
        port: null,
        destination: action.destination,
      };
    }
  }

  #firstRequest({ source, destination }: Flow): LegRequest {
    const { world, assumptions } = this.#simulation;
    const namespace = findSourceNamespace(world, source);
    const pods = world.snapshot.pods.filter((pod) => pod.namespace === source.namespace);
    const assumed = source.cgroup === null && pods.length === 1 ? (pods[0]?.cgroups[0] ?? null) : null;
    if (assumed !== null) {
      assumptions.add(`The process is taken to be in the cgroup ${assumed} of the pod that its network namespace belongs to.`);
    }
    const cgroup = source.cgroup ?? assumed;
    const process = namespace.state.sockets.find((socket) => socket.uid === source.uid && socket.owner !== null && socket.owner.cgroup === cgroup);
    return {
      leg: 0,
      role: 'application',
      namespace,
      description: describeSource(namespace, source),
      owner: {
        pid: process?.owner?.pid ?? 0,
        command: process?.owner?.command ?? '',
        uid: source.uid,
        gid: source.gid,
        cgroupId: this.#cgroupId(cgroup),
      },
      gid: source.gid,
      cgroup,
      address: source.address,
      port: source.port,
      destination,
    };
  }

  #openLeg(request: LegRequest): OpenLeg | FailedConnection {
    const { sockets } = this.#kernel;
    const { leg, namespace, description, destination } = request;
    const made = sockets.openSocket({
      namespace: namespace.id,
      cgroup: request.cgroup,
      owner: request.owner,
      family: isIpv4(destination.address) ? 2 : 10,
      local: request.address === null && request.port === null ? null : { address: request.address ?? anyAddressLike(destination.address), port: request.port ?? (0 as PortNumber) },
    });
    const client = made.socket;
    this.#recorder.enter(leg, 'socket');
    const asked = socketState(client.local, destination);
    this.#programs.add(client, description, made.runs, asked, asked, () => ({ kind: 'continue' }));
    this.#socketStep(client, description, asked, { kind: 'continue' }, `${description} (uid ${request.owner.uid}) opens a socket and connects to ${writeEndpoint(destination)}.`);
    this.#recorder.enter(leg, 'connect');
    const connected = sockets.connect(client, destination);
    if (connected.runs.length === 0) {
      this.#socketStep(client, description, asked, { kind: 'continue' }, `No program is attached to the cgroup of ${description}: the connection takes the way of the rules.`);
    }
    this.#programs.add(client, description, connected.runs, asked, socketState(client.local, connected.destination), (event) =>
      sameEndpoint(destination, connected.destination) ? { kind: 'continue' } : { kind: 'rewrite', target: event === null ? 'connect(2)' : writeEndpoint(connected.destination) },
    );
    const opened = openConnection(this.#simulation, this.#recorder, {
      leg,
      namespace,
      description,
      uid: request.owner.uid,
      gid: request.gid,
      address: isAnyAddress(client.local.address) ? null : client.local.address,
      port: client.local.port === 0 ? null : client.local.port,
      destination: connected.destination,
      beforeSyn: (local, remote) => {
        const runs = sockets.sendSyn(client, local, remote);
        const state = socketState(local, remote);
        this.#programs.add(client, description, runs, state, state, (_event, run) => {
          const [map] = changedMaps(run.run);
          return map === undefined ? { kind: 'continue' } : { kind: 'note', target: `map ${map}` };
        });
      },
    });
    const result = opened.kind === 'opened' ? this.#establish(request, client, opened) : opened;
    this.#addLeg(request, opened, 'kind' in result ? null : result);
    return result;
  }

  /** The handshake is over: sockops of both ends, then what the ends ask. */
  #establish(request: LegRequest, client: KernelSocket, opened: OpenedConnection): OpenLeg {
    const { sockets } = this.#kernel;
    const { leg, description, destination } = request;
    const { listener, server: serverEnd, peerSeenByServer } = opened;
    const clientState = socketState(client.local, client.remote);
    const serverState = socketState(serverEnd.address, peerSeenByServer);
    const enrols = (event: DecisionEvent | null): Decision =>
      event?.reason === 'enrolled_active' || event?.reason === 'enrolled_passive' ? { kind: 'enrol' } : { kind: 'continue' };
    this.#recorder.enter(leg, 'accept');
    this.#programs.add(client, description, sockets.establishActive(client), clientState, clientState, enrols);
    const cgroup = listener.owner?.cgroup ?? null;
    const server = sockets.acceptSocket({
      namespace: opened.serverNamespace.id,
      cgroup,
      owner: { pid: listener.owner?.pid ?? 0, command: listener.owner?.command ?? '', uid: listener.uid, gid: listener.owner?.gid ?? UNKNOWN_ID, cgroupId: this.#cgroupId(cgroup) },
      family: listener.dualStack ? 10 : 2,
      local: null,
    });
    this.#programs.add(server, serverEnd.description, sockets.establishPassive(server, serverEnd.address, peerSeenByServer, client), serverState, serverState, enrols);
    this.#recorder.enter(leg, 'query');
    const original = sockets.askOriginalDestination(server, opened.originalDestination);
    const answers = (answer: Endpoint | null): Decision => (answer === null ? { kind: 'refuse', errno: 'ENOENT' } : { kind: 'answer', endpoint: answer });
    const answersByProgram = (answer: Endpoint | null) => (_event: DecisionEvent | null, { run }: HookRun): Decision => (run.contextWrite === null ? { kind: 'continue' } : answers(answer));
    this.#programs.add(server, serverEnd.description, original.runs, serverState, serverState, answersByProgram(original.answer));
    if (original.runs.every(({ run }) => run.contextWrite === null)) {
      const told = original.answer === null ? 'nothing (ENOENT): neither conntrack nor a program knows the connection' : writeEndpoint(original.answer);
      this.#socketStep(server, serverEnd.description, serverState, answers(original.answer), `SO_ORIGINAL_DST would tell ${serverEnd.description} ${told}.`);
    }
    const peer = sockets.askPeerName(client);
    this.#programs.add(client, description, peer.runs, clientState, clientState, answersByProgram(peer.answer));
    const seen = sameEndpoint(peer.answer, destination) ? 'the address that it asked for' : 'not the address that it asked for';
    this.#socketStep(client, description, clientState, { kind: 'answer', endpoint: peer.answer }, `getpeername tells ${description} ${writeEndpoint(peer.answer)}, ${seen}.`);
    const open: OpenLeg = { opened, requested: destination, client, server, originalDestination: original.answer, peerSeenByClient: peer.answer };
    this.#open.push(open);
    return open;
  }

  #addLeg(request: LegRequest, opened: OpenedConnection | FailedConnection, leg: OpenLeg | null): void {
    const target = writeEndpoint(request.destination);
    const isOpen = opened.kind === 'opened';
    const role = isOpen && findSidecar(opened) !== undefined ? 'sidecar' : 'application';
    this.#legs.push({
      index: request.leg,
      title: isOpen ? `${request.role} → ${role}` : `${request.role} → ${target}`,
      client: opened.client,
      server: isOpen ? opened.server : null,
      requested: request.destination,
      originalDestination: leg?.originalDestination ?? null,
      peerSeenByClient: leg?.peerSeenByClient ?? null,
      data: isOpen ? 'tcp' : 'none',
    });
  }

  /** One message from client to server: redirected by sk_msg, or down the stack. */
  #sendMessage(index: number, leg: OpenLeg): void {
    const { client, opened } = leg;
    const sent = this.#kernel.sockets.send(client, MESSAGE_BYTES);
    const state = socketState(client.local, client.remote);
    const server = opened.server.description;
    this.#recorder.enter(index, 'data');
    this.#programs.add(client, opened.client.description, sent.runs, state, state, () => (sent.redirect === null ? { kind: 'continue' } : { kind: 'redirect', socket: server }));
    if (sent.redirect === null) {
      this.#hooks += opened.hooksPerMessage;
      this.#traversals += 1;
      this.#socketStep(client, opened.client.description, state, { kind: 'deliver', socket: server }, `The message goes through TCP and meets ${opened.hooksPerMessage} netfilter hook(s) on its way to ${server}.`);
      return;
    }
    this.#kernel.sockets.receive(sent.redirect);
    this.#socketStep(leg.server, server, { ...state, source: leg.server.remote, destination: leg.server.local }, { kind: 'deliver', socket: server }, `${server} reads the message from its own queue: no packet was made, and no hook, rule or conntrack entry was asked.`);
    const known = this.#legs[index];
    if (known !== undefined) {
      this.#legs[index] = { ...known, data: 'socket-to-socket' };
    }
  }

  #socketStep(socket: KernelSocket, description: string, state: PacketState, decision: Decision, reason: string): number {
    return this.#recorder.add({ place: { kind: 'socket', namespace: socket.namespace, description }, before: state, after: state, decision, reason });
  }

  #cgroupId(path: CgroupPath | null): bigint {
    return BigInt(this.#simulation.world.snapshot.cgroups.find((cgroup) => cgroup.path === path)?.id ?? 0);
  }
}

function failedOutcome(failed: FailedConnection): TraceOutcome {
  switch (failed.kind) {
    case 'refused':
      return { result: 'refused', summary: `${failed.client.description} gets ${failed.errno}: ${failed.reason}.`, step: failed.step };
    case 'left':
      return { result: 'depends', summary: `The first packet leaves what the snapshot shows: ${failed.reason}.`, dependsOn: [failed.reason] };
    case 'unknown':
      return { result: 'depends', summary: `It depends on ${failed.dependsOn}.`, dependsOn: [failed.dependsOn] };
  }
}
