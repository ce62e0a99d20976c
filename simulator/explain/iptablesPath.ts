import type { Endpoint } from '../../agent/protocol/scalars.ts';
import type { Flow, PacketState, Trace, TraceLeg, TraceOutcome } from '../../agent/protocol/trace.ts';
import { decideSidecar, findSidecar } from '../mesh/sidecar.ts';
import { writeEndpoint } from '../world/tuple.ts';
import type { ConnectRequest, FailedConnection, OpenedConnection } from '../world/openConnection.ts';
import { openConnection } from '../world/openConnection.ts';
import { Simulation } from '../world/simulation.ts';
import { TraceRecorder } from '../world/traceRecorder.ts';
import type { World } from '../world/world.ts';
import { checkFlow, describeSource, findSourceNamespace } from './flowSource.ts';

/** More legs than any mesh makes of one connection; a chain of proxies that is longer is taken for a circle. */
const MAX_LEGS = 16;

type Role = 'application' | 'sidecar';

/**
 * Explains what netfilter does with one connection: from the process through its namespace's hooks to the socket that
 * takes it, and on with each connection that a transparent sidecar opens for it. Throws INPUT_INVALID for a flow that is
 * not of this world.
 */
export function explainIptables(world: World, flow: Flow): Trace {
  checkFlow(flow);
  return new IptablesPath(world, flow).explain();
}

class IptablesPath {
  readonly #flow: Flow;
  readonly #simulation: Simulation;
  readonly #recorder = new TraceRecorder();
  readonly #legs: TraceLeg[] = [];
  readonly #reached = new Set<string>();
  #hooksPerMessage = 0;

  constructor(world: World, flow: Flow) {
    this.#flow = flow;
    this.#simulation = new Simulation(world);
    for (const omission of world.snapshot.omissions) {
      this.#simulation.assumptions.add(`The snapshot lacks ${omission.what}: ${omission.reason}`);
    }
  }

  explain(): Trace {
    const outcome = this.#follow();
    const opened = this.#legs.filter((leg) => leg.server !== null).length;
    return {
      origin: 'predicted',
      path: 'iptables',
      flow: this.#flow,
      legs: this.#legs,
      steps: this.#recorder.steps,
      outcome,
      cost: {
        tcpConnections: opened,
        tablesVisited: this.#recorder.tablesVisited,
        rulesCompared: this.#recorder.rulesCompared,
        conntrackEntries: this.#simulation.conntrackEntries,
        bpfInstructions: 0,
        hooksPerMessage: this.#hooksPerMessage,
        stackTraversalsPerMessage: opened,
      },
      assumptions: [...this.#simulation.assumptions],
    };
  }

  #follow(): TraceOutcome {
    const { source, destination } = this.#flow;
    const namespace = findSourceNamespace(this.#simulation.world, source);
    let role: Role = 'application';
    let request: ConnectRequest = {
      leg: 0, namespace, description: describeSource(namespace, source), uid: source.uid, gid: source.gid, address: source.address, port: source.port, destination,
    };
    for (;;) {
      const opened = this.#open(request, role);
      if (opened.kind !== 'opened') {
        return failedOutcome(opened);
      }
      const action = decideSidecar(opened, opened.originalDestination);
      if (action === undefined) {
        return { result: 'delivered', summary: `${opened.server.description} takes the connection at ${writeEndpoint(opened.server.address)}.` };
      }
      const key = JSON.stringify([opened.server.namespace, opened.server.address, opened.originalDestination]);
      if (action.kind !== 'connects' || this.#reached.has(key) || this.#legs.length >= MAX_LEGS) {
        const reason = action.kind === 'connects' ? `${opened.server.description} would reach itself again: the connection goes round in a circle` : action.reason;
        const step = this.#socketStep(opened, { kind: 'refuse', errno: 'ECONNRESET' }, `${reason}.`);
        return { result: 'refused', summary: `${reason}.`, step };
      }
      this.#reached.add(key);
      this.#simulation.assumptions.add(action.assumption);
      role = 'sidecar';
      const gid = opened.listener.owner?.gid ?? action.profile.proxyGid;
      request = {
        leg: request.leg + 1, namespace: opened.serverNamespace, description: opened.server.description, uid: opened.listener.uid, gid,
        address: action.source, port: null, destination: action.destination,
      };
    }
  }

  #open(request: ConnectRequest, role: Role): OpenedConnection | FailedConnection {
    this.#recorder.enter(request.leg, 'socket');
    const state = socketState(request);
    const target = writeEndpoint(request.destination);
    this.#recorder.add({
      place: { kind: 'socket', namespace: request.namespace.id, description: request.description },
      before: state,
      after: state,
      decision: { kind: 'continue' },
      reason: `${request.description} (uid ${request.uid}) opens a socket and connects to ${target}.`,
    });
    const opened = openConnection(this.#simulation, this.#recorder, request);
    const isOpen = opened.kind === 'opened';
    const server: Role = isOpen && findSidecar(opened) !== undefined ? 'sidecar' : 'application';
    this.#legs.push({
      index: request.leg,
      title: isOpen ? `${role} → ${server}` : `${role} → ${target}`,
      client: opened.client,
      server: isOpen ? opened.server : null,
      requested: request.destination,
      originalDestination: isOpen ? opened.originalDestination : null,
      peerSeenByClient: isOpen ? request.destination : null,
      data: isOpen ? 'tcp' : 'none',
    });
    if (isOpen) {
      this.#hooksPerMessage += opened.hooksPerMessage;
      this.#query(opened, request.destination, request.leg);
    }
    return opened;
  }

  /** What the ends are told when they ask. */
  #query(opened: OpenedConnection, requested: Endpoint, leg: number): void {
    this.#recorder.enter(leg, 'query');
    const { originalDestination, server, client } = opened;
    const answered = originalDestination === null ? 'nothing (ENOENT): conntrack does not know the connection' : writeEndpoint(originalDestination);
    this.#socketStep(
      opened,
      originalDestination === null ? { kind: 'refuse', errno: 'ENOENT' } : { kind: 'answer', endpoint: originalDestination },
      `SO_ORIGINAL_DST would tell ${server.description} ${answered}.`,
    );
    const state: PacketState = { source: client.address, destination: requested, inInterface: null, outInterface: null, mark: 0, connection: null };
    this.#recorder.add({
      place: { kind: 'socket', namespace: client.namespace, description: client.description },
      before: state,
      after: state,
      decision: { kind: 'answer', endpoint: requested },
      reason: `getpeername tells ${client.description} ${writeEndpoint(requested)}, the address that it asked for: NAT does not show.`,
    });
  }

  #socketStep(opened: OpenedConnection, decision: Parameters<TraceRecorder['add']>[0]['decision'], reason: string): number {
    const { server, peerSeenByServer } = opened;
    const state: PacketState = { source: peerSeenByServer, destination: server.address, inInterface: null, outInterface: null, mark: 0, connection: null };
    return this.#recorder.add({ place: { kind: 'socket', namespace: server.namespace, description: server.description }, before: state, after: state, decision, reason });
  }
}

function socketState(request: ConnectRequest): PacketState {
  const source = { address: request.address ?? ('0.0.0.0' as Endpoint['address']), port: request.port ?? (0 as Endpoint['port']) };
  return { source, destination: request.destination, inInterface: null, outInterface: null, mark: 0, connection: null };
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
