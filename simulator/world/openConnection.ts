import { anyAddressLike, isAnyAddress, toIpAddress } from '../../agent/protocol/ipAddress.ts';
import type { Endpoint, IpAddress, PortNumber } from '../../agent/protocol/scalars.ts';
import { toPortNumber } from '../../agent/protocol/scalars.ts';
import type { SocketInfo } from '../../agent/protocol/snapshot.ts';
import type { PacketState, SocketEnd } from '../../agent/protocol/trace.ts';
import { Address } from '../netfilter/address.ts';
import type { PacketSocket } from '../netfilter/packet.ts';
import { Packet, TCP_FLAG_BITS } from '../netfilter/packet.ts';
import { PROTOCOL } from '../netfilter/protocolNumbers.ts';
import type { WorldPacket } from './hooks.ts';
import type { JourneyEnd } from './journey.ts';
import type { Emission, WayResult } from './packetWay.ts';
import { PacketWay } from './packetWay.ts';
import type { RouteDecision } from './routing.ts';
import { findRoute, greatestSegment, selectSource, writeRoute } from './routing.ts';
import type { Simulation } from './simulation.ts';
import type { OpenSocket } from './sockets.ts';
import { describeOwner, openedInfo } from './sockets.ts';
import { TraceRecorder } from './traceRecorder.ts';
import { writeEndpoint } from './tuple.ts';
import type { WorldNamespace } from './world.ts';

/** One connect(2): who and to where. */
export interface ConnectRequest {
  readonly leg: number;
  readonly namespace: WorldNamespace;
  /** `app in pod-a`, untrusted text. */
  readonly description: string;
  readonly uid: number;
  /** Null where it is not known; `--gid-owner` is then unknown. */
  readonly gid: number | null;
  /** What the socket is bound to; null where routing and the kernel choose. */
  readonly address: IpAddress | null;
  readonly port: PortNumber | null;
  readonly destination: Endpoint;
  /** Called once the socket has both addresses, before its SYN is sent (net/ipv4/tcp_output.c, tcp_connect). */
  readonly beforeSyn?: (local: Endpoint, remote: Endpoint) => void;
}

/** A connection that a listening socket took. */
export interface OpenedConnection {
  readonly kind: 'opened';
  readonly client: SocketEnd;
  readonly server: SocketEnd;
  readonly serverNamespace: WorldNamespace;
  readonly listener: SocketInfo;
  /** The client's address as the server sees it. */
  readonly peerSeenByServer: Endpoint;
  /** What SO_ORIGINAL_DST answers to the server; null where conntrack does not know the connection. */
  readonly originalDestination: Endpoint | null;
  /** Netfilter hooks that one message from client to server meets. */
  readonly hooksPerMessage: number;
}

/** A connection that was not opened: refused with an errno of connect(2), or not to be told. */
export type FailedConnection = { readonly client: SocketEnd } & (
  | { readonly kind: 'refused'; readonly errno: string; readonly step: number; readonly reason: string }
  /** The packet left this node. */
  | { readonly kind: 'left'; readonly step: number; readonly reason: string }
  | { readonly kind: 'unknown'; readonly step: number; readonly dependsOn: string }
);

/**
 * Opens one TCP connection as the kernel does: route and source of the socket, the SYN's whole way, the listening
 * socket, the answer's way back and the last ACK's way there. Writes the steps of the phases connect, packet and accept;
 * those of the answer and the ACK only where they are lost.
 */
export function openConnection(simulation: Simulation, recorder: TraceRecorder, request: ConnectRequest): OpenedConnection | FailedConnection {
  const bound = bindSocket(simulation, recorder, request);
  if ('kind' in bound) {
    return bound;
  }
  const { client, route, socket } = bound;
  request.beforeSyn?.(client.address, { address: socket.remote.address.text, port: toPortNumber(socket.remote.port) });
  recorder.enter(request.leg, 'packet');
  const syn: WorldPacket = new Packet(socket.local.address, socket.remote.address, PROTOCOL.tcp);
  syn.sourcePort = socket.local.port;
  syn.destinationPort = socket.remote.port;
  syn.tcpFlags = TCP_FLAG_BITS.SYN;
  syn.tcpOptions = [2, 4, 8, 1, 3];
  syn.mss = greatestSegment(request.namespace, route, syn.isIpv4);
  syn.socket = socket.owner;
  const sent = new PacketWay(simulation, recorder, syn).send(request.namespace, route);
  return finish(simulation, recorder, request, bound, sent);
}

interface Binding {
  readonly client: SocketEnd;
  readonly route: RouteDecision;
  readonly socket: OpenSocket;
}

/** Route and source address of connect(2) (net/ipv4/tcp_ipv4.c, tcp_v4_connect). */
function bindSocket(simulation: Simulation, recorder: TraceRecorder, request: ConnectRequest): Binding | FailedConnection {
  const { namespace } = request;
  recorder.enter(request.leg, 'connect');
  const destination = anyToLocal(request);
  const target = Address.of(destination.address);
  const given = request.address === null ? null : Address.of(request.address);
  const port = request.port ?? simulation.takeEphemeralPort(namespace);
  const route = findRoute(namespace, { destination: target, source: given, mark: 0, inInterface: 'lo' });
  const found = route.kind === 'refuse' || route.kind === 'unknown' ? null : route;
  const source = given ?? (found === null ? null : selectSource(namespace, found, target));
  const client: SocketEnd = { namespace: namespace.id, description: request.description, uid: request.uid, address: { address: source?.text ?? anyAddressLike(destination.address), port } };
  const state: PacketState = { source: client.address, destination, inInterface: null, outInterface: null, mark: 0, connection: null };
  const routing = (kind: { readonly table: number | null; readonly route: string | null }, decision: Parameters<TraceRecorder['add']>[0]['decision'], reason: string, after: PacketState): number =>
    recorder.add({ place: { kind: 'routing', namespace: namespace.id, ...kind }, before: state, after, decision, reason });
  if (route.kind === 'unknown') {
    const step = routing({ table: null, route: null }, { kind: 'unknown', dependsOn: route.dependsOn }, `The way depends on ${route.dependsOn}.`, state);
    return { kind: 'unknown', client, step, dependsOn: route.dependsOn };
  }
  if (route.kind === 'refuse' || route.kind === 'many' || source === null) {
    const errno = route.kind === 'refuse' ? route.errno : route.kind === 'many' ? 'ENETUNREACH' : 'EADDRNOTAVAIL';
    const reason = route.kind === 'refuse' ? route.reason : route.kind === 'many' ? `the route to it is '${writeRoute(route.route)}'` : 'there is no source address to take';
    const step = routing({ table: null, route: null }, { kind: 'refuse', errno }, `connect(2) fails with ${errno}: ${reason}.`, state);
    return { kind: 'refused', client, errno, step, reason };
  }
  if (given !== null && findRoute(namespace, { destination: given, source: null, mark: 0, inInterface: 'lo' }).kind !== 'local') {
    const reason = `${given.text} is not an address of ${namespace.title}`;
    const step = routing({ table: null, route: null }, { kind: 'refuse', errno: 'EADDRNOTAVAIL' }, `The socket cannot be bound: ${reason}.`, state);
    return { kind: 'refused', client, errno: 'EADDRNOTAVAIL', step, reason };
  }
  const device = route.kind === 'local' ? 'lo' : route.device;
  const how = request.address === null ? `its source address becomes ${source.text}` : `it is bound to ${source.text}`;
  routing(
    { table: route.route.table, route: writeRoute(route.route) },
    { kind: 'route', device, local: route.kind === 'local' },
    `connect(2) looks up the way to ${destination.address}: by ${device}; ${how}.`,
    { ...state, outInterface: device },
  );
  const owner: PacketSocket = { uid: request.uid, gid: request.gid, hasFile: true, mark: 0, cgroup: null, device: null };
  const [local, remote] = [{ address: source, port }, { address: target, port: destination.port }];
  const socket: OpenSocket = { protocol: PROTOCOL.tcp, local, remote, state: 'synSent', owner, isTransparent: false, error: null, info: openedInfo('tcp', owner, local, remote), opened: true };
  simulation.stateOf(namespace).sockets.put(socket);
  return { client, route, socket };
}

/** 0.0.0.0 and :: mean this machine. */
function anyToLocal({ destination, address }: ConnectRequest): Endpoint {
  if (!isAnyAddress(destination.address)) {
    return destination;
  }
  return { ...destination, address: address ?? toIpAddress(destination.address === '::' ? '::1' : '127.0.0.1') };
}

/** The SYN has come to its end: was it taken, and does the answer come back? */
function finish(simulation: Simulation, recorder: TraceRecorder, request: ConnectRequest, { client, socket }: Binding, { end, emissions }: WayResult): OpenedConnection | FailedConnection {
  const step = end.step ?? recorder.steps.length - 1;
  switch (end.kind) {
    case 'unknown':
      return { kind: 'unknown', client, step, dependsOn: end.dependsOn };
    case 'left':
      return { kind: 'left', client, step, reason: `it leaves the node by ${end.device} of ${titleOf(simulation, end.namespace)}` };
    case 'dropped':
      return { kind: 'refused', client, errno: 'ETIMEDOUT', step, reason: end.reason };
    case 'unreachable':
      return { kind: 'refused', client, errno: end.errno, step, reason: end.reason };
    case 'rejected':
    case 'unclaimed':
      return refuse(simulation, recorder, request, { client, socket, step, reason: end.reason, what: end.kind === 'rejected' ? 'answer of REJECT' : 'RST' }, emissions);
    case 'delivered':
      return accept(simulation, recorder, request, { client, socket }, end, emissions);
  }
}

interface Refusal {
  readonly client: SocketEnd;
  readonly socket: OpenSocket;
  readonly step: number;
  readonly reason: string;
  readonly what: string;
}

/** Somebody answers that there is no connection: the socket learns of it if the answer comes back. */
function refuse(simulation: Simulation, recorder: TraceRecorder, request: ConnectRequest, refusal: Refusal, emissions: readonly Emission[]): FailedConnection {
  const { client, socket, step, reason, what } = refusal;
  const back = sendAside(simulation, request.leg, emissions[0]);
  const error = socketNow(simulation, request.namespace, socket)?.error ?? null;
  if (error !== null) {
    return { kind: 'refused', client, errno: error, step, reason };
  }
  return back === null ? { kind: 'refused', client, errno: 'ETIMEDOUT', step, reason } : loseAnswer(simulation, recorder, client, back, what);
}

/** A listening socket has taken the SYN: its answer's way back, and the last ACK's way there. */
function accept(simulation: Simulation, recorder: TraceRecorder, request: ConnectRequest, { client, socket }: Pick<Binding, 'client' | 'socket'>, end: Extract<JourneyEnd, { kind: 'delivered' }>, emissions: readonly Emission[]): OpenedConnection | FailedConnection {
  const serverNamespace = simulation.world.namespaces.get(end.namespace);
  const { transport } = end.packet;
  if (serverNamespace === undefined || end.socket === null || transport.kind !== 'tcp') {
    throw new RangeError('a SYN was delivered to nobody');
  }
  const taken = recorder.steps.at(-1);
  const back = sendAside(simulation, request.leg, emissions[0]);
  const now = socketNow(simulation, request.namespace, socket);
  if (back === null || now?.state !== 'established') {
    const step = taken?.index ?? 0;
    return back === null ? { kind: 'unknown', client, step, dependsOn: 'what the socket answers' } : loseAnswer(simulation, recorder, client, back, 'SYN-ACK');
  }
  const ack = sendAside(simulation, request.leg, back.result.emissions[0]);
  if (ack?.result.end.kind !== 'delivered') {
    return ack === null ? { kind: 'unknown', client, step: taken?.index ?? 0, dependsOn: 'the last ACK' } : loseAck(simulation, recorder, client, ack);
  }
  const server: Endpoint = { address: end.packet.destination, port: transport.destinationPort };
  const peer: Endpoint = { address: end.packet.source, port: transport.sourcePort };
  recorder.enter(request.leg, 'packet');
  const state = taken?.after ?? { source: peer, destination: server, inInterface: null, outInterface: null, mark: 0, connection: null };
  recorder.add({
    place: { kind: 'socket', namespace: request.namespace.id, description: request.description },
    before: state,
    after: state,
    decision: { kind: 'deliver', socket: request.description },
    reason: `The answer (SYN-ACK) comes back and the last ACK gets there; ${ack.recorder.rulesCompared + back.recorder.rulesCompared} rules were compared for them, none of them in nat.`,
  });
  return {
    kind: 'opened',
    client,
    server: { namespace: end.namespace, description: describeOwner(serverNamespace, end.socket.info), uid: end.socket.info.uid, address: server },
    serverNamespace,
    listener: end.socket.info,
    peerSeenByServer: peer,
    originalDestination: end.originalDestination,
    hooksPerMessage: ack.result.hooks,
  };
}

/** A packet that is followed with a recorder of its own, since its steps matter only where it is lost. */
interface Aside {
  readonly recorder: TraceRecorder;
  readonly result: WayResult;
}

function sendAside(simulation: Simulation, leg: number, emission: Emission | undefined): Aside | null {
  if (emission === undefined) {
    return null;
  }
  const recorder = new TraceRecorder();
  recorder.enter(leg, 'packet');
  return { recorder, result: new PacketWay(simulation, recorder, emission.packet).send(emission.namespace, emission.route) };
}

function loseAnswer(simulation: Simulation, recorder: TraceRecorder, client: SocketEnd, { recorder: steps, result: { end } }: Aside, what: string): FailedConnection {
  const base = recorder.steps.length;
  recorder.append(steps);
  const step = end.step === null ? recorder.steps.length - 1 : base + end.step;
  switch (end.kind) {
    case 'unknown':
      return { kind: 'unknown', client, step, dependsOn: `the way of the answer (${what}): ${end.dependsOn}` };
    case 'unreachable':
      return { kind: 'unknown', client, step, dependsOn: `the way of the answer (${what}): ${end.reason}` };
    case 'left':
      return { kind: 'left', client, step, reason: `the answer (${what}) goes elsewhere: it leaves the node by ${end.device} of ${titleOf(simulation, end.namespace)}` };
    case 'dropped':
    case 'rejected':
      return { kind: 'refused', client, errno: 'ETIMEDOUT', step, reason: `the answer (${what}) does not come back: ${end.reason}` };
    case 'unclaimed':
    case 'delivered': {
      const { transport, destination } = end.packet;
      const port = toPortNumber('destinationPort' in transport ? (transport.destinationPort ?? 0) : 0);
      const reason = `the answer arrives at ${writeEndpoint({ address: destination, port })} in ${titleOf(simulation, end.namespace)}, where the client is not`;
      return { kind: 'refused', client, errno: 'ETIMEDOUT', step, reason: `the answer (${what}) does not come back: ${reason}` };
    }
  }
}

function loseAck(simulation: Simulation, recorder: TraceRecorder, client: SocketEnd, { recorder: steps, result: { end } }: Aside): FailedConnection {
  const base = recorder.steps.length;
  recorder.append(steps);
  const step = end.step === null ? recorder.steps.length - 1 : base + end.step;
  if (end.kind === 'unknown') {
    return { kind: 'unknown', client, step, dependsOn: end.dependsOn };
  }
  if (end.kind === 'left') {
    return { kind: 'left', client, step, reason: `it leaves the node by ${end.device} of ${titleOf(simulation, end.namespace)}` };
  }
  const reason = 'reason' in end ? end.reason : 'it goes elsewhere';
  return { kind: 'refused', client, errno: 'ETIMEDOUT', step, reason: `the last ACK does not get there: ${reason}` };
}

function socketNow(simulation: Simulation, namespace: WorldNamespace, socket: OpenSocket): OpenSocket | undefined {
  return simulation.stateOf(namespace).sockets.connected(socket.protocol, socket.local, socket.remote);
}

function titleOf(simulation: Simulation, namespace: WorldNamespace['id']): string {
  return simulation.world.namespaces.get(namespace)?.title ?? namespace;
}
