import { inputError } from '../../agent/protocol/errors.ts';
import type { NamespaceId } from '../../agent/protocol/scalars.ts';
import { toPortNumber } from '../../agent/protocol/scalars.ts';
import type { PacketDraft } from '../netfilter/packetDraft.ts';
import { Address } from '../netfilter/address.ts';
import { Packet, TCP_FLAG_BITS, draftOf, packetOf } from '../netfilter/packet.ts';
import type { PacketSocket } from '../netfilter/packet.ts';
import { PROTOCOL } from '../netfilter/protocolNumbers.ts';
import type { WorldPacket } from './hooks.ts';
import type { ConnectOptions, Journey, Sender } from './journey.ts';
import type { Emission, WayResult } from './packetWay.ts';
import { PacketWay } from './packetWay.ts';
import { findOutputRoute, greatestSegment, selectSource } from './routing.ts';
import type { Simulation } from './simulation.ts';
import type { OpenSocket } from './sockets.ts';
import { TIMESTAMP_OPTIONS, openedInfo } from './sockets.ts';
import type { TraceRecorder } from './traceRecorder.ts';
import type { WorldNamespace } from './world.ts';
import { findLink } from './world.ts';

/** Writes what happens, or with null keeps nothing but the verdicts, which is many times faster. */
export type Recorder = TraceRecorder | null;

/** How far a packet is followed. */
export interface FollowOptions {
  /** False to follow the one packet only: what answers it is made, and not sent. */
  readonly answers?: boolean;
}

/** How a packet is sent. */
interface SendOptions extends FollowOptions {
  /** Whether its source may be somebody else's address, as that of a transparent socket (net/ipv4/route.c, FLOWI_FLAG_ANYSRC). */
  readonly anySource?: boolean;
}

/** More packets than this because of one are taken for a storm that does not end. */
const MAX_PACKETS = 200;

/**
 * Lets a packet arrive at a device from outside, and follows it and everything that it causes (answers of sockets and of the
 * kernel) until nothing moves. Gives a journey for each packet, in the order in which they are sent; the first is the one put
 * in. Changes `simulation`; fork it before to keep what was. Throws INPUT_INVALID for a namespace or device that the world
 * does not have.
 */
export function arrive(simulation: Simulation, recorder: Recorder, namespaceId: NamespaceId, device: string, packet: PacketDraft, options: FollowOptions = {}): readonly Journey[] {
  const namespace = namespaceOf(simulation, namespaceId);
  const link = findLink(namespace, device);
  if (link === undefined) {
    throw inputError(`${namespace.title} has no device '${device}'.`, `It has ${[...namespace.linksByName.keys()].join(', ') || 'none'}.`, 'Name one of its devices.');
  }
  const flying: WorldPacket = packetOf(packet);
  flying.isCrafted = true;
  flying.checksum = packet.checksum ?? 'unknown';
  return follow(simulation, recorder, flying, (way) => way.arrive(namespace, link), options);
}

/** Like arrive, for a packet that a raw socket sends as it is (IP_HDRINCL): it begins at OUTPUT. */
export function send(simulation: Simulation, recorder: Recorder, sender: Sender, packet: PacketDraft, options: FollowOptions = {}): readonly Journey[] {
  const namespace = namespaceOf(simulation, sender.namespace);
  const flying: WorldPacket = packetOf(packet);
  flying.socket = socketOf(sender);
  flying.mark = sender.mark ?? 0;
  flying.isCrafted = true;
  flying.checksum = packet.checksum ?? 'verified';
  return sendFrom(simulation, recorder, namespace, flying, options);
}

/** What connect(2), or the exchange that follows it, came to. */
export interface Exchange {
  readonly journeys: readonly Journey[];
  /** The socket as it is after it; null where there is none (no way, no address). */
  readonly socket: OpenSocket | null;
  readonly outcome:
    /** The three-way handshake is done (TCP), or the socket is bound to its peer. */
    | { readonly kind: 'connected' }
    | { readonly kind: 'failed'; readonly errno: string; readonly reason: string }
    | { readonly kind: 'unknown'; readonly dependsOn: string };
}

/**
 * Opens a TCP connection from a process of a namespace: SYN, SYN-ACK, ACK (net/ipv4/tcp_ipv4.c, tcp_v4_connect). The socket
 * stays open in the simulation.
 */
export function connect(simulation: Simulation, recorder: Recorder, options: ConnectOptions): Exchange {
  const bound = bindSocket(simulation, PROTOCOL.tcp, options);
  if ('outcome' in bound) {
    return bound;
  }
  const { namespace, socket } = bound;
  const syn = segmentOf(socket, TCP_FLAG_BITS.SYN, 0);
  syn.tcpOptions = [2, 4, 8, 1, 3];
  const journeys = sendFrom(simulation, recorder, namespace, syn);
  return exchangeOf(simulation, namespace, socket, journeys);
}

/** Sends data on an open TCP connection, with everything that follows. */
export function sendData(simulation: Simulation, recorder: Recorder, namespaceId: NamespaceId, socket: OpenSocket, bytes: number): readonly Journey[] {
  return sendFrom(simulation, recorder, namespaceOf(simulation, namespaceId), segmentOf(socket, TCP_FLAG_BITS.PSH | TCP_FLAG_BITS.ACK, bytes), { anySource: socket.isTransparent === true });
}

/** Closes a TCP connection from one of its ends: FIN, or with `reset` RST. */
export function close(simulation: Simulation, recorder: Recorder, namespaceId: NamespaceId, socket: OpenSocket, { reset = false }: { readonly reset?: boolean } = {}): readonly Journey[] {
  const namespace = namespaceOf(simulation, namespaceId);
  const { sockets } = simulation.stateOf(namespace);
  const now = sockets.connected(socket.protocol, socket.local, socket.remote) ?? socket;
  const anySource = now.isTransparent === true;
  if (reset) {
    sockets.remove(now);
    return sendFrom(simulation, recorder, namespace, segmentOf(now, TCP_FLAG_BITS.RST | TCP_FLAG_BITS.ACK, 0), { anySource });
  }
  sockets.put({ ...now, state: now.state === 'closeWait' ? 'lastAck' : 'finWait' });
  return sendFrom(simulation, recorder, namespace, segmentOf(now, TCP_FLAG_BITS.FIN | TCP_FLAG_BITS.ACK, 0), { anySource });
}

/** Sends a datagram of a connected UDP socket, which is opened for it where there is none yet. */
export function sendDatagram(simulation: Simulation, recorder: Recorder, options: ConnectOptions, bytes: number): Exchange {
  const bound = bindSocket(simulation, PROTOCOL.udp, options);
  if ('outcome' in bound) {
    return bound;
  }
  const packet = packetFrom(bound.socket);
  packet.payload = bytes;
  return exchangeOf(simulation, bound.namespace, bound.socket, sendFrom(simulation, recorder, bound.namespace, packet));
}

/** Answers a datagram that a socket took, as its server would: from the address that it was sent to. */
export function answerDatagram(simulation: Simulation, recorder: Recorder, namespaceId: NamespaceId, received: PacketDraft, owner: PacketSocket, bytes: number): readonly Journey[] {
  const question = packetOf(received);
  const packet: WorldPacket = new Packet(question.destination, question.source, question.protocol);
  packet.sourcePort = question.destinationPort;
  packet.destinationPort = question.sourcePort;
  packet.payload = bytes;
  packet.socket = owner;
  packet.mark = owner.mark;
  return sendFrom(simulation, recorder, namespaceOf(simulation, namespaceId), packet);
}

/** Sends an echo request from a process, as ping does; the identifier is the port of the options. */
export function ping(simulation: Simulation, recorder: Recorder, options: ConnectOptions, bytes: number): Exchange {
  const isIpv4 = !options.destination.address.includes(':');
  const bound = bindSocket(simulation, isIpv4 ? PROTOCOL.icmp : PROTOCOL.icmpv6, { ...options, destination: { ...options.destination, port: toPortNumber(0) } });
  if ('outcome' in bound) {
    return bound;
  }
  const { socket } = bound;
  const packet = packetFrom(socket);
  packet.icmpType = isIpv4 ? 8 : 128;
  packet.icmpId = socket.local.port;
  packet.sourcePort = 0;
  packet.payload = bytes;
  return exchangeOf(simulation, bound.namespace, socket, sendFrom(simulation, recorder, bound.namespace, packet));
}

/** Gives a namespace of the world; throws INPUT_INVALID where there is none of that id. */
export function namespaceOf(simulation: Simulation, id: NamespaceId): WorldNamespace {
  const namespace = simulation.world.namespaces.get(id);
  if (namespace === undefined) {
    throw inputError(`There is no network namespace ${id}.`, `The world has ${[...simulation.world.namespaces.keys()].join(', ') || 'none'}.`, 'Name one of its namespaces.');
  }
  return namespace;
}

/** Gives a sender as rules see it. */
export function socketOf(sender: Sender): PacketSocket | null {
  return sender.owner === null
    ? null
    : { uid: sender.owner.uid, gid: sender.owner.gid, hasFile: true, mark: sender.mark ?? 0, cgroup: sender.cgroup ?? null, device: sender.device ?? null };
}

/** Sends a packet by the way that its headers lead, with everything that follows. */
export function sendFrom(simulation: Simulation, recorder: Recorder, namespace: WorldNamespace, packet: WorldPacket, { anySource = false, ...options }: SendOptions = {}): readonly Journey[] {
  // A raw socket that writes its own header is routed without the source in it (net/ipv4/raw.c, raw_sendmsg).
  const query = { destination: packet.destination, source: packet.isCrafted ? null : packet.source, mark: packet.mark, inInterface: 'lo', outInterface: packet.socket?.device ?? null };
  const route = findOutputRoute(namespace, query, packet.isCrafted || anySource);
  if (!packet.isCrafted && packet.protocol === PROTOCOL.tcp && (packet.tcpFlags & TCP_FLAG_BITS.SYN) !== 0) {
    packet.mss = greatestSegment(namespace, route, packet.isIpv4);
  }
  return follow(simulation, recorder, packet, (way) => way.send(namespace, route), options);
}

function follow(simulation: Simulation, recorder: Recorder, first: WorldPacket, start: (way: PacketWay) => WayResult, { answers = true }: FollowOptions): readonly Journey[] {
  const journeys: Journey[] = [];
  const queue: { readonly emission: Emission; readonly cause: number }[] = [];
  const run = (packet: WorldPacket, cause: number | null, begin: (way: PacketWay) => WayResult): void => {
    const number = simulation.nextPacket;
    simulation.nextPacket += 1;
    recorder?.enterPacket(number);
    const sent = draftOf(packet);
    const { end, transmissions, emissions, hooks } = begin(new PacketWay(simulation, recorder, packet));
    journeys.push({ packet: number, cause, sent, transmissions, end, hooks });
    for (const emission of answers ? emissions : []) {
      queue.push({ emission, cause: number });
    }
  };
  run(first, null, start);
  for (let next = queue.shift(); next !== undefined && journeys.length < MAX_PACKETS; next = queue.shift()) {
    const { emission, cause } = next;
    run(emission.packet, cause, (way) => way.send(emission.namespace, emission.route));
  }
  recorder?.enterPacket(null);
  return journeys;
}

interface Bound {
  readonly namespace: WorldNamespace;
  readonly socket: OpenSocket;
}

/** Finds the addresses of a socket and opens it (net/ipv4/route.c, ip_route_connect). */
function bindSocket(simulation: Simulation, protocol: number, options: ConnectOptions): Bound | Exchange {
  const namespace = namespaceOf(simulation, options.sender.namespace);
  const fail = (errno: string, reason: string): Exchange => ({ journeys: [], socket: null, outcome: { kind: 'failed', errno, reason } });
  const wanted = Address.of(options.destination.address);
  const isAny = (wanted.w0 | wanted.w1 | wanted.w2 | wanted.w3) === 0;
  const given = options.address === null ? null : Address.of(options.address);
  const destination = isAny ? (given ?? (wanted.isIpv4 ? Address.ofIpv4(0x7f00_0001) : Address.ofIpv6(0, 0, 0, 1))) : wanted;
  const owner = socketOf(options.sender);
  if (given !== null && options.sender.device !== undefined && isOfOneDevice(given) && findLink(namespace, options.sender.device)?.addresses.every(({ address }) => address !== given.text) !== false) {
    return fail('EADDRNOTAVAIL', `${given.text} is no address of ${options.sender.device}, which the socket is bound to`);
  }
  const route = findOutputRoute(namespace, { destination, source: given, mark: options.sender.mark ?? 0, inInterface: 'lo', outInterface: options.sender.device ?? null }, true);
  if (route.kind === 'unknown') {
    return { journeys: [], socket: null, outcome: { kind: 'unknown', dependsOn: route.dependsOn } };
  }
  if (route.kind === 'refuse') {
    return fail(route.errno, route.reason);
  }
  const source = given ?? selectSource(namespace, route, destination);
  if (source === null) {
    return fail('EADDRNOTAVAIL', 'there is no source address to take');
  }
  const bound = findOutputRoute(namespace, { destination, source, mark: options.sender.mark ?? 0, inInterface: 'lo', outInterface: options.sender.device ?? null }, false);
  if (bound.kind === 'refuse') {
    return fail(bound.errno, bound.reason);
  }
  const local = { address: source, port: options.port ?? simulation.takeEphemeralPort(namespace) };
  const remote = { address: destination, port: options.destination.port };
  const sender = owner ?? { uid: 0, gid: 0, hasFile: false, mark: 0, cgroup: null, device: null };
  const socket: OpenSocket = {
    protocol, local, remote, state: protocol === PROTOCOL.tcp ? 'synSent' : 'datagram', owner: sender, isTransparent: false, error: null,
    info: openedInfo(protocol === PROTOCOL.tcp ? 'tcp' : 'udp', sender, local, remote), opened: true,
  };
  simulation.stateOf(namespace).sockets.put(socket);
  return { namespace, socket };
}

/** Whether an IPv6 address counts on its own device only: ::1 and link-local ones (net/ipv6/addrconf.c, __ipv6_chk_addr_and_flags). */
function isOfOneDevice(address: Address): boolean {
  return !address.isIpv4 && ((address.w0 === 0 && address.w1 === 0 && address.w2 === 0 && address.w3 === 1) || address.w0 >>> 22 === 0x3fa);
}

/** What the socket of an exchange has come to once nothing moves any more. */
function exchangeOf(simulation: Simulation, namespace: WorldNamespace, before: OpenSocket, journeys: readonly Journey[]): Exchange {
  const socket = simulation.stateOf(namespace).sockets.connected(before.protocol, before.local, before.remote) ?? null;
  if (socket !== null && socket.error !== null) {
    const reason = journeys.find(({ end }) => end.kind === 'rejected' || end.kind === 'unclaimed' || end.kind === 'unreachable')?.end;
    return { journeys, socket, outcome: { kind: 'failed', errno: socket.error, reason: reason !== undefined && 'reason' in reason ? reason.reason : 'the other side reset it' } };
  }
  for (const { end } of journeys) {
    if (end.kind === 'unknown') {
      return { journeys, socket, outcome: { kind: 'unknown', dependsOn: end.dependsOn } };
    }
  }
  if (socket === null || (socket.state !== 'synSent' && socket.state !== 'closed')) {
    return { journeys, socket, outcome: { kind: 'connected' } };
  }
  const last = journeys.at(-1)?.end;
  if (last?.kind === 'left') {
    return { journeys, socket, outcome: { kind: 'unknown', dependsOn: `what is outside of this node: the packet leaves it by ${last.device}` } };
  }
  const first = journeys[0]?.end;
  if (first?.kind === 'unreachable') {
    return { journeys, socket, outcome: { kind: 'failed', errno: first.errno, reason: first.reason } };
  }
  return { journeys, socket, outcome: { kind: 'failed', errno: 'ETIMEDOUT', reason: last !== undefined && 'reason' in last ? last.reason : 'nothing comes back' } };
}

function segmentOf(socket: OpenSocket, flags: number, payload: number): WorldPacket {
  const packet = packetFrom(socket);
  packet.tcpFlags = flags;
  packet.payload = payload;
  packet.tcpOptions = socket.hasTimestamps === true ? TIMESTAMP_OPTIONS : [];
  return packet;
}

function packetFrom(socket: OpenSocket): WorldPacket {
  const packet: WorldPacket = new Packet(socket.local.address, socket.remote.address, socket.protocol);
  packet.sourcePort = socket.local.port;
  packet.destinationPort = socket.remote.port;
  packet.socket = socket.owner;
  packet.mark = socket.owner.mark;
  return packet;
}
