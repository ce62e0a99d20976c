import { Address, isMany } from '../netfilter/address.ts';
import { Packet, TCP_FLAG_BITS, isIcmpError } from '../netfilter/packet.ts';
import { PROTOCOL } from '../netfilter/protocolNumbers.ts';
import type { WorldPacket } from './hooks.ts';
import type { RouteDecision, RouteQuery } from './routing.ts';
import { findOutputRoute, findRoute, findStrictRoute, greatestSegment, selectDeviceAddress, selectSource } from './routing.ts';
import type { OpenSocket } from './sockets.ts';
import { KERNEL_SOCKET, TIMESTAMP_OPTIONS } from './sockets.ts';
import type { WorldNamespace } from './world.ts';
import { findLink, readSysctl } from './world.ts';

/** A packet that a kernel sends because of another, with the way that it was given. */
export interface Answer {
  readonly packet: WorldPacket;
  readonly route: RouteDecision;
}

/** The two bits of ECN in the type of service, which answers leave out. */
const ECN_BITS = 3;

/** The three times of a timestamp reply, whatever came with the request. */
const TIMESTAMPS_BYTES = 12;

/** The kind of the TCP option that tells the greatest segment. */
const GREATEST_SEGMENT = 2;

/** What a kernel says in an ICMP error, by its two families. */
export const ICMP_ERRORS = {
  netUnreachable: { ipv4: [3, 0], ipv6: [1, 0] },
  hostUnreachable: { ipv4: [3, 1], ipv6: [1, 3] },
  notNeighbour: { ipv4: [3, 1], ipv6: [1, 2] },
  protocolUnreachable: { ipv4: [3, 2], ipv6: [4, 1] },
  portUnreachable: { ipv4: [3, 3], ipv6: [1, 4] },
  prohibited: { ipv4: [3, 13], ipv6: [1, 1] },
  timeExceeded: { ipv4: [11, 0], ipv6: [3, 0] },
  redirect: { ipv4: [5, 1], ipv6: [137, 0] },
} as const satisfies Readonly<Record<string, Readonly<Record<'ipv4' | 'ipv6', readonly [number, number]>>>>;

/** The answers of REJECT (libipt_REJECT.c, libip6t_REJECT.c) as ICMP types and codes. */
const REJECT_ANSWERS: Readonly<Record<string, readonly [number, number]>> = {
  'icmp-net-unreachable': [3, 0], 'icmp-host-unreachable': [3, 1], 'icmp-proto-unreachable': [3, 2], 'icmp-port-unreachable': [3, 3],
  'icmp-net-prohibited': [3, 9], 'icmp-host-prohibited': [3, 10], 'icmp-admin-prohibited': [3, 13],
  'icmp6-no-route': [1, 0], 'no-route': [1, 0], 'icmp6-adm-prohibited': [1, 1], 'adm-prohibited': [1, 1], 'icmp6-addr-unreachable': [1, 3], 'addr-unreach': [1, 3],
  'icmp6-port-unreachable': [1, 4], 'port-unreach': [1, 4], 'icmp6-policy-fail': [1, 5], 'policy-fail': [1, 5], 'icmp6-reject-route': [1, 6], 'reject-route': [1, 6],
};

/**
 * Makes the answer of REJECT (net/ipv4/netfilter/nf_reject_ipv4.c, net/ipv6/netfilter/nf_reject_ipv6.c): null where the kernel
 * sends none (to a reset, to a later fragment, to multicast), undefined where the kind of answer is not known.
 */
export function rejectAnswer(namespace: WorldNamespace, packet: WorldPacket, kind: string, isLocal: boolean): Answer | null | undefined {
  if (kind === 'tcp-reset') {
    return packet.protocol === PROTOCOL.tcp ? rejectReset(namespace, packet) : null;
  }
  const wrongFamily = kind === 'icmp-port-unreachable' && !packet.isIpv4 ? ICMP_ERRORS.portUnreachable.ipv6 : undefined;
  const answer = wrongFamily ?? (Object.hasOwn(REJECT_ANSWERS, kind) ? REJECT_ANSWERS[kind] : undefined);
  return answer === undefined ? undefined : icmpError(namespace, packet, answer, isLocal ? packet.destination : null);
}

/** nf_send_reset: a segment in the other direction, which carries the connection as RELATED and closes it (nf_conntrack_tcp_set_closing). */
function rejectReset(namespace: WorldNamespace, packet: WorldPacket): Answer | null {
  if ((packet.tcpFlags & TCP_FLAG_BITS.RST) !== 0 || !packet.hasTransport || isMany(packet.destination) || packet.isForMany) {
    return null;
  }
  const answer = turnedRound(packet);
  answer.tcpFlags = resetFlags(packet);
  answer.answersCrafted = packet.isCrafted && (packet.tcpFlags & TCP_FLAG_BITS.ACK) !== 0;
  answer.mark = reflectedMark(namespace, packet);
  answer.tracking = relatedTracking(packet);
  answer.isAttached = packet.untracked;
  answer.trackingDone = answer.tracking !== null;
  // That of IPv4 goes by the device that the sender is bound to (net/ipv4/netfilter.c, ip_route_me_harder).
  const outInterface = packet.isIpv4 ? (packet.socket?.device ?? null) : null;
  const route = findOutputRoute(namespace, { destination: answer.destination, source: answer.source, mark: answer.mark, inInterface: 'lo', outInterface }, true);
  // A connection that is not in the table yet does not change (nf_conntrack_proto_tcp.c, nf_conntrack_tcp_set_closing).
  if (packet.tracking?.connection.confirmed === true && route.kind !== 'refuse') {
    packet.tracking.connection.tcpState = 'CLOSE';
  }
  return { packet: answer, route };
}

/** Makes the reset that TCP answers with (net/ipv4/tcp_ipv4.c, tcp_v4_send_reset), in the name of the socket that was met, if any; null to a reset. */
export function tcpReset(namespace: WorldNamespace, packet: WorldPacket, owner: WorldPacket['socket'] = null, isTransparent = false): Answer | null {
  if ((packet.tcpFlags & TCP_FLAG_BITS.RST) !== 0) {
    return null;
  }
  const answer = byStrictDevice(namespace, packet.inInterface, tcpAnswer(namespace, packet, resetFlags(packet), owner, isTransparent));
  if (answer !== null) {
    answer.packet.tos = packet.tos & ~ECN_BITS;
    answer.packet.answersCrafted = packet.isCrafted && (packet.tcpFlags & TCP_FLAG_BITS.ACK) !== 0;
    // Without a socket IPv4 sends by one of the kernel's own, IPv6 by none (net/ipv6/tcp_ipv6.c, tcp_v6_send_response).
    answer.packet.socket = owner === null && !packet.isIpv4 ? null : answer.packet.socket;
  }
  return answer;
}

/** Makes a segment of a connected socket, which goes by the socket's own addresses: NAT of INPUT may have changed those of the packet. */
export function connectionAnswer(namespace: WorldNamespace, packet: WorldPacket, flags: number, { local, remote, owner, isTransparent, hasTimestamps }: OpenSocket): Answer | null {
  const answer: WorldPacket = new Packet(local.address, remote.address, packet.protocol);
  answer.sourcePort = local.port;
  answer.destinationPort = remote.port;
  const completed = completeAnswer(namespace, packet, answer, flags, owner, isTransparent === true);
  if (completed !== null && hasTimestamps === true && (flags & TCP_FLAG_BITS.SYN) === 0) {
    completed.packet.tcpOptions = TIMESTAMP_OPTIONS;
  }
  return completed;
}

/** Makes a segment in the other direction: of a socket, or with null of the kernel's own. */
export function tcpAnswer(namespace: WorldNamespace, packet: WorldPacket, flags: number, owner: WorldPacket['socket'], isTransparent = false): Answer | null {
  return completeAnswer(namespace, packet, turnedRound(packet), flags, owner, isTransparent);
}

function completeAnswer(namespace: WorldNamespace, packet: WorldPacket, answer: WorldPacket, flags: number, owner: WorldPacket['socket'], isTransparent: boolean): Answer | null {
  answer.tcpFlags = flags;
  // A SYN-ACK takes what the SYN offered, and always tells its own greatest segment (net/ipv4/tcp_output.c, tcp_synack_options).
  answer.tcpOptions = (flags & TCP_FLAG_BITS.SYN) === 0 ? [] : [...new Set([GREATEST_SEGMENT, ...packet.tcpOptions])];
  answer.acknowledgesCrafted = packet.isCrafted || packet.acknowledgesCrafted;
  answer.socket = owner ?? KERNEL_SOCKET;
  // The mark of a reset is that of what it answers, where that is reflected, else that of the socket (tcp_v4_send_reset, tcp_v6_send_response).
  const reflected = owner === null || (flags & TCP_FLAG_BITS.RST) !== 0 ? reflectedMark(namespace, packet) : 0;
  answer.mark = reflected === 0 ? (owner?.mark ?? 0) : reflected;
  const found = withRoute(namespace, answer, packet.inInterface, isTransparent);
  answer.mss = found === null || (flags & TCP_FLAG_BITS.SYN) === 0 ? null : greatestSegment(namespace, found.route, answer.isIpv4);
  return found;
}

/** Makes the answer to an echo request (net/ipv4/icmp.c, icmp_reply; net/ipv6/icmp.c, icmpv6_echo_reply). */
export function echoReply(namespace: WorldNamespace, packet: WorldPacket): Answer | null {
  const answer = turnedRound(packet);
  answer.icmpType = packet.isIpv4 ? (packet.icmpType === 13 ? 14 : 0) : 129;
  answer.icmpId = packet.icmpId;
  answer.payload = packet.isIpv4 && packet.icmpType === 13 ? TIMESTAMPS_BYTES : packet.payload;
  answer.tos = packet.tos;
  answer.mark = reflectedMark(namespace, packet);
  answer.socket = KERNEL_SOCKET;
  if (!isMany(packet.destination)) {
    return withRoute(namespace, answer, packet.inInterface, false);
  }
  // The way out chooses the address of what answers for many.
  const route = findRoute(namespace, { destination: answer.destination, source: null, mark: answer.mark, inInterface: 'lo', outInterface: packet.inInterface });
  const source = route.kind === 'local' || route.kind === 'unicast' ? selectSource(namespace, route, answer.destination) : null;
  if (source === null || (route.kind !== 'local' && route.kind !== 'unicast')) {
    return null;
  }
  answer.source = source;
  return { packet: answer, route };
}

/**
 * Looks up the way of resets to ::1 by one device, whose routes do not lead there but by a gateway: the one that the packet came by, or, over
 * lo, the one that owns the address that was reached (net/ipv6/tcp_ipv6.c, tcp_v6_send_response and tcp_v6_iif; net/ipv6/route.c,
 * rt6_need_strict). Null where there is none.
 */
function byStrictDevice(namespace: WorldNamespace, inInterface: string | null, answer: Answer | null): Answer | null {
  if (answer === null || !isIpv6Loopback(answer.packet.destination)) {
    return answer;
  }
  const { source, destination, mark } = answer.packet;
  const own = findRoute(namespace, { destination: source, source: null, mark, inInterface: 'lo' });
  const device = inInterface !== 'lo' ? inInterface : own.kind === 'local' ? own.route.device : null;
  if (device === null || device === 'lo') {
    return answer;
  }
  const route = findStrictRoute(namespace, { destination, source, mark, inInterface: 'lo' }, device);
  return route.kind === 'refuse' ? null : { packet: answer.packet, route };
}

/**
 * Makes an ICMP error about a packet (net/ipv4/icmp.c, __icmp_send; net/ipv6/icmp.c, icmp6_send). `wanted` is the address that
 * a packet of IPv4 had found here; null for routing to choose. IPv6 takes the packet's destination wherever it is an own
 * one. Null where RFC 1122 forbids one.
 */
export function icmpError(namespace: WorldNamespace, packet: WorldPacket, [type, code]: readonly [number, number], wanted: Address | null): Answer | null {
  const source = packet.isIpv4 ? wanted : isOwnSeenFrom(namespace, packet.inInterface ?? 'lo', packet.destination) ? packet.destination : null;
  const isFromNowhere = packet.source.w0 === 0 && packet.source.w1 === 0 && packet.source.w2 === 0 && packet.source.w3 === 0;
  if (isIcmpError(packet.protocol, packet.icmpType) || !packet.hasTransport || isMany(packet.destination) || isMany(packet.source) || isFromNowhere || packet.packetType !== 'unicast' || packet.isForMany) {
    return null;
  }
  // While the kernel sends ICMP itself it cannot send another about it (icmp_xmit_lock).
  if (packet.socket?.hasFile === false && (packet.protocol === PROTOCOL.icmp || packet.protocol === PROTOCOL.icmpv6)) {
    return null;
  }
  const mark = reflectedMark(namespace, packet);
  const route = routeBack(namespace, packet.inInterface, { destination: packet.source, source, mark, inInterface: 'lo' }, false);
  const chosen = source ?? (route.kind === 'local' || route.kind === 'unicast' || route.kind === 'many' ? (addressOfInput(namespace, packet, route) ?? selectSource(namespace, route, packet.source)) : null);
  if (chosen === null || route.kind === 'refuse') {
    return null;
  }
  const answer: WorldPacket = new Packet(chosen, packet.source, packet.isIpv4 ? PROTOCOL.icmp : PROTOCOL.icmpv6);
  answer.icmpType = type;
  answer.icmpCode = code;
  answer.about = packet.copyWire();
  answer.tos = packet.isIpv4 ? (packet.tos & 0x1e) | 0xc0 : 0;
  answer.mark = mark;
  answer.socket = KERNEL_SOCKET;
  answer.tracking = relatedTracking(packet);
  answer.isAttached = packet.untracked;
  answer.trackingDone = answer.tracking !== null;
  return { packet: answer, route };
}

/** net/ipv6/addrconf.c, ipv6_chk_addr: ::1 and link-local addresses are own ones of their device only. */
function isOwnSeenFrom(namespace: WorldNamespace, device: string, address: Address): boolean {
  const isScoped = isIpv6Loopback(address) || isIpv6LinkLocal(address);
  return namespace.ownAddresses.has(address.text) && (!isScoped || findLink(namespace, device)?.addresses.some((own) => Address.of(own.address).equals(address)) === true);
}

/** IPv6 takes an address of the device that the packet came by, whichever way the error goes, unless a route says another one (net/ipv6/icmp.c, icmpv6_rt_has_prefsrc). */
function addressOfInput(namespace: WorldNamespace, { isIpv4, inInterface, source }: WorldPacket, { route }: Extract<RouteDecision, { kind: 'local' | 'many' | 'unicast' }>): Address | null {
  return isIpv4 || inInterface === null || route.preferredSource !== null ? null : selectDeviceAddress(namespace, inInterface, source);
}

/** Says whether an address is one of a single link, fe80::/10: it means nothing without a device. */
export function isIpv6LinkLocal(address: Address): boolean {
  return !address.isIpv4 && address.w0 >>> 22 === 0x3fa;
}

/** The way to where a packet came from; to a link-local address by the device that it came by (net/ipv6/icmp.c and tcp_ipv6.c set flowi6_oif). */
function routeBack(namespace: WorldNamespace, inInterface: string | null, query: RouteQuery, anySource: boolean): RouteDecision {
  return isIpv6LinkLocal(query.destination) && inInterface !== null ? findStrictRoute(namespace, query, inInterface) : findOutputRoute(namespace, query, anySource);
}

/** Says whether an address is ::1. */
export function isIpv6Loopback(address: Address): boolean {
  return !address.isIpv4 && address.w0 === 0 && address.w1 === 0 && address.w2 === 0 && address.w3 === 1;
}

function resetFlags(packet: WorldPacket): number {
  return (packet.tcpFlags & TCP_FLAG_BITS.ACK) !== 0 ? TCP_FLAG_BITS.RST : TCP_FLAG_BITS.RST | TCP_FLAG_BITS.ACK;
}

/** nf_conntrack_core.c, nf_conntrack_attach. */
function relatedTracking(packet: WorldPacket): WorldPacket['tracking'] {
  return packet.tracking === null ? null : { connection: packet.tracking.connection, isReply: !packet.tracking.isReply, state: 'RELATED' };
}

/** IP4_REPLY_MARK: what the kernel itself answers has no mark unless fwmark_reflect says so. */
function reflectedMark(namespace: WorldNamespace, packet: WorldPacket): number {
  return readSysctl(namespace, `net.${packet.isIpv4 ? 'ipv4' : 'ipv6'}.fwmark_reflect`) === 1 ? packet.mark : 0;
}

function turnedRound(packet: WorldPacket): WorldPacket {
  const answer: WorldPacket = new Packet(packet.destination, packet.source, packet.protocol);
  answer.sourcePort = packet.destinationPort;
  answer.destinationPort = packet.sourcePort;
  return answer;
}

/** Null where the kernel finds no way for such an answer: nobody is told. */
function withRoute(namespace: WorldNamespace, packet: WorldPacket, inInterface: string | null, anySource: boolean): Answer | null {
  const query = { destination: packet.destination, source: packet.source, mark: packet.mark, inInterface: 'lo', outInterface: packet.socket?.device ?? null };
  const route = routeBack(namespace, inInterface, query, anySource);
  return route.kind === 'refuse' ? null : { packet, route };
}
