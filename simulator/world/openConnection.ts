import { toIpAddress } from '../../agent/protocol/ipAddress.ts';
import type { Endpoint, IpAddress, PortNumber } from '../../agent/protocol/scalars.ts';
import type { ConntrackTuple, SocketInfo } from '../../agent/protocol/snapshot.ts';
import type { PacketState, SocketEnd } from '../../agent/protocol/trace.ts';
import type { PacketOwner } from '../netfilter/packet.ts';
import type { TcpFlag } from '../netfilter/ruleSet.ts';
import type { ConnectionTracker } from './conntrack.ts';
import { sameEndpoint, writeEndpoint } from './conntrack.ts';
import { FlyingPacket } from './flyingPacket.ts';
import type { RouteDecision } from './routing.ts';
import { lookUpRoute, selectSource, writeRoute } from './routing.ts';
import type { PacketEnd } from './sendPacket.ts';
import { sendPacket } from './sendPacket.ts';
import type { Simulation } from './simulation.ts';
import { describeOwner, findListener } from './sockets.ts';
import { TraceRecorder } from './traceRecorder.ts';
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
  const { client, route, destination } = bound;
  request.beforeSyn?.(client.address, destination);
  recorder.enter(request.leg, 'packet');
  const owner: PacketOwner = { kind: 'socket', uid: request.uid, gid: request.gid };
  const syn = new FlyingPacket({ source: client.address, destination }, ['SYN'], owner);
  const end = sendPacket(simulation, recorder, request.namespace, syn, route);
  if (end.kind !== 'arrived') {
    return failure(client, end);
  }
  return acceptConnection(simulation, recorder, request, { client, destination, route, owner }, syn, end.namespace);
}

/** What SO_ORIGINAL_DST answers for a connected socket (net/netfilter/nf_conntrack_proto.c, getorigdst): its connection's first destination. */
export function queryOriginalDestination(tracker: ConnectionTracker, local: Endpoint, remote: Endpoint): Endpoint | null {
  return tracker.find({ source: local, destination: remote })?.connection.original.destination ?? null;
}

interface Binding {
  readonly client: SocketEnd;
  readonly route: Extract<RouteDecision, { kind: 'local' | 'unicast' }>;
  /** Where the SYN goes: 0.0.0.0 means this machine. */
  readonly destination: Endpoint;
}

/** Route and source address of connect(2) (net/ipv4/tcp_ipv4.c, tcp_v4_connect). */
function bindSocket(simulation: Simulation, recorder: TraceRecorder, request: ConnectRequest): Binding | FailedConnection {
  const { namespace } = request;
  recorder.enter(request.leg, 'connect');
  const destination = request.destination.address === '0.0.0.0' ? { ...request.destination, address: request.address ?? toIpAddress('127.0.0.1') } : request.destination;
  const port = request.port ?? simulation.takeEphemeralPort(namespace);
  const route = lookUpRoute(namespace, { destination: destination.address, source: request.address, mark: 0, inInterface: 'lo' });
  const source = route.kind === 'local' || route.kind === 'unicast' ? (request.address ?? selectSource(namespace, route, destination.address)) : request.address;
  const client: SocketEnd = {
    namespace: namespace.id,
    description: request.description,
    uid: request.uid,
    address: { address: source ?? toIpAddress('0.0.0.0'), port },
  };
  const state: PacketState = { source: client.address, destination, inInterface: null, outInterface: null, mark: 0, connection: null };
  const routing = (kind: { readonly table: number | null; readonly route: string | null }, decision: Parameters<TraceRecorder['add']>[0]['decision'], reason: string, after: PacketState): number =>
    recorder.add({ place: { kind: 'routing', namespace: namespace.id, ...kind }, before: state, after, decision, reason });
  if (route.kind === 'unknown') {
    const step = routing({ table: null, route: null }, { kind: 'unknown', dependsOn: route.dependsOn }, `The way depends on ${route.dependsOn}.`, state);
    return { kind: 'unknown', client, step, dependsOn: route.dependsOn };
  }
  if (route.kind === 'refuse' || source === null) {
    const errno = route.kind === 'refuse' ? route.errno : 'EADDRNOTAVAIL';
    const reason = route.kind === 'refuse' ? route.reason : 'there is no source address to take';
    const step = routing({ table: null, route: null }, { kind: 'refuse', errno }, `connect(2) fails with ${errno}: ${reason}.`, state);
    return { kind: 'refused', client, errno, step, reason };
  }
  if (request.address !== null && !isLocal(namespace, request.address)) {
    const reason = `${request.address} is not an address of ${namespace.title}`;
    const step = routing({ table: null, route: null }, { kind: 'refuse', errno: 'EADDRNOTAVAIL' }, `The socket cannot be bound: ${reason}.`, state);
    return { kind: 'refused', client, errno: 'EADDRNOTAVAIL', step, reason };
  }
  const device = route.kind === 'local' ? 'lo' : route.device;
  const how = request.address === null ? `its source address becomes ${source}` : `it is bound to ${source}`;
  routing(
    { table: route.route.table, route: writeRoute(route.route) },
    { kind: 'route', device, local: route.kind === 'local' },
    `connect(2) looks up the way to ${destination.address}: by ${device}; ${how}.`,
    { ...state, outInterface: device },
  );
  return { client, route, destination };
}

/** The SYN has reached the sockets of a namespace: is there one that listens, and does its answer come back? */
function acceptConnection(
  simulation: Simulation,
  recorder: TraceRecorder,
  request: ConnectRequest,
  socket: Binding & { readonly owner: PacketOwner },
  syn: FlyingPacket,
  namespace: WorldNamespace,
): OpenedConnection | FailedConnection {
  const { client } = socket;
  const local = syn.destination;
  const remote = syn.source;
  const state = syn.state();
  const listener = findListener(namespace, local);
  recorder.enter(request.leg, 'accept');
  const description = listener === undefined ? `port ${local.port} of ${namespace.title}` : describeOwner(namespace, listener);
  const place = { kind: 'socket', namespace: namespace.id, description } as const;
  if (listener === undefined) {
    const back = sendBack(simulation, request, { namespace, local, remote }, ['RST', 'ACK'], { kind: 'none' });
    const reason = `nothing listens on ${writeEndpoint(local)} in ${namespace.title}`;
    const step = recorder.add({ place, before: state, after: state, decision: { kind: 'refuse', errno: 'ECONNREFUSED' }, reason: `Nothing listens on ${writeEndpoint(local)} in ${namespace.title}: the kernel answers RST.` });
    const lost = describeLoss(back, client);
    return lost === null ? { kind: 'refused', client, errno: 'ECONNREFUSED', step, reason } : loseAnswer(recorder, client, back, lost, 'RST');
  }
  recorder.add({ place, before: state, after: state, decision: { kind: 'deliver', socket: description }, reason: `${description} listens on ${writeEndpoint(listener.local)} and takes the connection from ${writeEndpoint(remote)}.` });
  const owner: PacketOwner = { kind: 'socket', uid: listener.uid, gid: listener.owner?.gid ?? null };
  const back = sendBack(simulation, request, { namespace, local, remote }, ['SYN', 'ACK'], owner);
  const lost = describeLoss(back, client);
  if (lost !== null) {
    return loseAnswer(recorder, client, back, lost, 'SYN-ACK');
  }
  const ack = new FlyingPacket({ source: client.address, destination: socket.destination }, ['ACK'], socket.owner);
  const ackRecorder = new TraceRecorder();
  ackRecorder.enter(request.leg, 'packet');
  const ackEnd = sendPacket(simulation, ackRecorder, request.namespace, ack, socket.route);
  if (ackEnd.kind !== 'arrived') {
    const base = recorder.steps.length;
    recorder.append(ackRecorder);
    return failure(client, { ...ackEnd, step: base + ackEnd.step });
  }
  recorder.enter(request.leg, 'packet');
  recorder.add({
    place: { kind: 'socket', namespace: request.namespace.id, description: request.description },
    before: state,
    after: state,
    decision: { kind: 'deliver', socket: request.description },
    reason: `The answer (SYN-ACK) comes back and the last ACK gets there; ${ackRecorder.rulesCompared + back.recorder.rulesCompared} rules were compared for them, none of them in nat.`,
  });
  return {
    kind: 'opened',
    client,
    server: { namespace: namespace.id, description, uid: listener.uid, address: local },
    serverNamespace: namespace,
    listener,
    peerSeenByServer: remote,
    originalDestination: queryOriginalDestination(simulation.trackerOf(namespace), local, remote),
    hooksPerMessage: ackEnd.hooks,
  };
}

interface Answer {
  readonly recorder: TraceRecorder;
  readonly packet: FlyingPacket;
  readonly end: PacketEnd | { readonly kind: 'noRoute'; readonly reason: string };
}

function sendBack(simulation: Simulation, request: ConnectRequest, from: { readonly namespace: WorldNamespace } & { readonly local: Endpoint; readonly remote: Endpoint }, flags: readonly TcpFlag[], owner: PacketOwner): Answer {
  const recorder = new TraceRecorder();
  recorder.enter(request.leg, 'packet');
  const tuple: ConntrackTuple = { source: from.local, destination: from.remote };
  const packet = new FlyingPacket(tuple, flags, owner);
  const route = lookUpRoute(from.namespace, { destination: tuple.destination.address, source: tuple.source.address, mark: 0, inInterface: 'lo' });
  if (route.kind === 'refuse' || route.kind === 'unknown') {
    return { recorder, packet, end: { kind: 'noRoute', reason: route.kind === 'refuse' ? route.reason : route.dependsOn } };
  }
  return { recorder, packet, end: sendPacket(simulation, recorder, from.namespace, packet, route) };
}

/** Says why an answer does not reach the client's socket; null where it does. */
function describeLoss({ end, packet }: Answer, client: SocketEnd): string | null {
  switch (end.kind) {
    case 'arrived':
      if (end.namespace.id !== client.namespace || !sameEndpoint(packet.destination, client.address)) {
        return `the answer arrives at ${writeEndpoint(packet.destination)} in ${end.namespace.title}, where the client is not`;
      }
      return null;
    case 'unknown':
      return end.dependsOn;
    case 'noRoute':
    case 'left':
    case 'drop':
    case 'reject':
      return end.reason;
  }
}

function loseAnswer(recorder: TraceRecorder, client: SocketEnd, answer: Answer, reason: string, what: string): FailedConnection {
  const base = recorder.steps.length;
  recorder.append(answer.recorder);
  const step = 'step' in answer.end ? base + answer.end.step : recorder.steps.length - 1;
  if (answer.end.kind === 'unknown' || answer.end.kind === 'noRoute') {
    return { kind: 'unknown', client, step, dependsOn: `the way of the answer (${what}): ${reason}` };
  }
  if (answer.end.kind === 'left') {
    return { kind: 'left', client, step, reason: `the answer (${what}) goes elsewhere: ${reason}` };
  }
  return { kind: 'refused', client, errno: 'ETIMEDOUT', step, reason: `the answer (${what}) does not come back: ${reason}` };
}

function failure(client: SocketEnd, end: Exclude<PacketEnd, { kind: 'arrived' }>): FailedConnection {
  switch (end.kind) {
    case 'drop':
      return { kind: 'refused', client, errno: 'ETIMEDOUT', step: end.step, reason: end.reason };
    case 'reject':
      return { kind: 'refused', client, errno: end.errno, step: end.step, reason: end.reason };
    case 'left':
      return { kind: 'left', client, step: end.step, reason: end.reason };
    case 'unknown':
      return { kind: 'unknown', client, step: end.step, dependsOn: end.dependsOn };
  }
}

function isLocal(namespace: WorldNamespace, address: IpAddress): boolean {
  return lookUpRoute(namespace, { destination: address, source: null, mark: 0, inInterface: 'lo' }).kind === 'local';
}
