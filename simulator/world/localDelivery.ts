import type { Endpoint } from '../../agent/protocol/scalars.ts';
import { TCP_FLAG_BITS, isIcmpError } from '../netfilter/packet.ts';
import { PROTOCOL, protocolName } from '../netfilter/protocolNumbers.ts';
import type { Answer } from './answers.ts';
import { ICMP_ERRORS, connectionAnswer, echoReply, icmpError, tcpAnswer, tcpReset } from './answers.ts';
import type { HookContext, WorldPacket } from './hooks.ts';
import type { FoundSocket, OpenSocket, SocketAddress } from './sockets.ts';
import { describeOwner, openedInfo, ownerOf } from './sockets.ts';
import { endpointsOf, tupleOf, writeEndpoint } from './tuple.ts';
import { readSysctl } from './world.ts';

const { SYN, ACK, RST, FIN } = TCP_FLAG_BITS;
/** Of a datagram of 76 bytes at the most (CHECKSUM_BREAK) the checksum is computed again (net/ipv6/udp.c, udp6_csum_init). */
const MAX_RECHECKED_PAYLOAD = 68;
/** Kinds of TCP options. */
const NO_OPERATION = 1;
const TIMESTAMPS = 8;
/** A timestamp request that is shorter is not answered (net/ipv4/icmp.c, icmp_timestamp). */
const TIMESTAMP_BYTES = 4;

/** Who took a packet that was handed up, and what is sent because of it. */
export interface Delivery {
  /** Null where nobody took it. */
  readonly taker: { readonly kind: 'socket'; readonly found: FoundSocket } | { readonly kind: 'kernel' } | null;
  readonly reason: string;
  readonly answers: readonly Answer[];
  /** What it depends on who takes it; left out where that is known. */
  readonly dependsOn?: string;
}

/** Hands a packet to the sockets of a namespace, after INPUT (net/ipv4/ip_input.c, ip_local_deliver_finish). */
export function deliverLocally(context: HookContext, packet: WorldPacket): Delivery {
  if (packet.hidesTransport) {
    const dependsOn = whatFollows(packet);
    return { taker: null, reason: dependsOn, answers: [], dependsOn };
  }
  switch (packet.protocol) {
    case PROTOCOL.tcp:
      return deliverTcp(context, packet);
    case PROTOCOL.udp:
      return deliverUdp(context, packet);
    case PROTOCOL.icmp:
    case PROTOCOL.icmpv6:
      return deliverIcmp(context, packet);
    case PROTOCOL.igmp:
      return { taker: { kind: 'kernel' }, reason: 'The kernel itself takes IGMP.', answers: [] };
    default: {
      context.simulation.assumptions.add(`No module of ${context.namespace.title} takes IP protocol ${packet.protocol}.`);
      return unclaimed(context, packet, ICMP_ERRORS.protocolUnreachable, `nobody takes IP protocol ${packet.protocol}`);
    }
  }
}

/** What is not known of a packet of which only an extension header of IPv6 is told. */
export function whatFollows({ protocol }: Pick<WorldPacket, 'protocol'>): string {
  return `what follows the header ${protocolName(protocol)} of the packet: -p of ip6tables, conntrack and sockets go by that`;
}

/** What SO_ORIGINAL_DST answers for a connected socket (net/netfilter/nf_conntrack_proto.c, getorigdst): its connection's first destination. */
export function originalDestination(context: Pick<HookContext, 'state'>, protocol: number, local: SocketAddress, remote: SocketAddress): Endpoint | null {
  const found = context.state.tracker.find({ protocol, source: local.address, sourcePort: local.port, destination: remote.address, destinationPort: remote.port }, 0);
  return found === undefined ? null : endpointsOf(found.connection.original).destination;
}

function deliverTcp(context: HookContext, packet: WorldPacket): Delivery {
  const found = findSocket(context, packet);
  const flags = packet.tcpFlags;
  // net/ipv4/tcp_ipv4.c, tcp_v4_rcv, tcp_v4_send_reset and tcp_v4_conn_request: a listening socket answers what came as if it were for this host alone, unless it opens a connection.
  if (packet.packetType !== 'unicast' || (packet.isForMany && (flags & (SYN | ACK)) === SYN)) {
    return { taker: null, reason: 'TCP takes nothing that is sent to many', answers: [] };
  }
  if (found === undefined) {
    // What a socket that is bound to lo sends to another address comes here by no route to this host: nobody answers it (tcp_v4_send_reset).
    const reset = packet.isIpv4 && packet.routeType !== 'local' ? null : tcpReset(context.namespace, packet);
    return { taker: null, reason: `nothing listens on ${writeEndpoint(endpointsOf(tupleOf(packet)).destination)} in ${context.namespace.title}`, answers: listed(reset) };
  }
  if (found.kind === 'open') {
    return deliverToConnection(context, packet, found.socket);
  }
  if ((flags & RST) !== 0 || (flags & (SYN | ACK)) === 0 || ((flags & SYN) !== 0 && (flags & FIN) !== 0 && (flags & ACK) === 0)) {
    return { taker: { kind: 'socket', found }, reason: 'The listening socket ignores the segment: it opens nothing.', answers: [] };
  }
  if ((flags & ACK) !== 0) {
    const reset = tcpReset(context.namespace, packet, ownerOf(found.info), found.info.transparent === true);
    return { taker: { kind: 'socket', found }, reason: 'The listening socket knows no connection of this segment: the kernel answers RST.', answers: listed(reset) };
  }
  const owner = ownerOf(found.info);
  const answer = tcpAnswer(context.namespace, packet, SYN | ACK, owner, found.info.transparent === true);
  if (answer === null) {
    return { taker: { kind: 'socket', found }, reason: 'There is no way for the answer: the listening socket forgets the segment.', answers: [] };
  }
  const { local, remote } = endsOf(packet);
  context.state.sockets.put({
    protocol: PROTOCOL.tcp, local, remote, state: 'synReceived', owner, isTransparent: found.info.transparent ?? null, error: null, info: openedInfo('tcp', owner, local, remote), opened: true,
    hasTimestamps: packet.tcpOptions.includes(TIMESTAMPS),
  });
  return { taker: { kind: 'socket', found }, reason: context.recorder === null ? '' : `${describeOwner(context.namespace, found.info)} listens on ${writeEndpoint(found.info.local)} and takes the connection from ${writeEndpoint(endpointsOf(tupleOf(packet)).source)}.`, answers: [answer] };
}

/** A segment of a connection that exists here (net/ipv4/tcp_input.c, tcp_rcv_state_process): sequence numbers are taken to fit. */
function deliverToConnection(context: HookContext, packet: WorldPacket, socket: OpenSocket): Delivery {
  const { sockets } = context.state;
  const flags = packet.tcpFlags;
  const taker = { kind: 'socket', found: { kind: 'open', socket } } as const;
  const move = (state: OpenSocket['state'], error: string | null = null): void => {
    sockets.put({ ...socket, state, error });
  };
  const answer = (bits: number, reason: string): Delivery => ({ taker, reason, answers: listed(connectionAnswer(context.namespace, packet, bits, socket)) });
  const quiet = (reason: string): Delivery => ({ taker, reason, answers: [] });
  if ((flags & RST) !== 0) {
    if (packet.answersCrafted && socket.state !== 'closed') {
      return { ...quiet('Whether the reset is in the window is not known.'), dependsOn: 'the sequence number of a reset that answers a segment of no socket' };
    }
    if (socket.state === 'synSent' && (flags & ACK) === 0) {
      return quiet('A reset that acknowledges nothing is ignored while the socket connects.');
    }
    sockets.put({ ...socket, state: 'closed', error: socket.state === 'synSent' ? 'ECONNREFUSED' : 'ECONNRESET' });
    return quiet('The connection is reset.');
  }
  switch (socket.state) {
    case 'synSent':
      if ((flags & SYN) === 0 || packet.isCrafted) {
        const reset = tcpReset(context.namespace, packet, socket.owner, socket.isTransparent === true);
        return { taker, reason: 'The segment does not answer the SYN: the kernel answers RST.', answers: listed(reset) };
      }
      if ((flags & ACK) === 0) {
        move('synReceived');
        return answer(SYN | ACK, 'Both sides opened at once: the socket answers SYN-ACK.');
      }
      sockets.put({ ...socket, state: 'established', hasTimestamps: packet.tcpOptions.includes(TIMESTAMPS) });
      return withTimestamps(packet, answer(ACK, 'The connection is established: the socket answers ACK.'));
    case 'synReceived':
      if (packet.isCrafted && (flags & SYN) === 0) {
        return { taker, reason: 'The segment acknowledges what was not sent: the kernel answers RST.', answers: listed(tcpReset(context.namespace, packet, socket.owner, socket.isTransparent === true)) };
      }
      if ((flags & SYN) !== 0) {
        return answer(SYN | ACK, 'The SYN came again: the socket answers SYN-ACK again.');
      }
      if ((flags & ACK) === 0) {
        return quiet('The segment acknowledges nothing and is ignored.');
      }
      move((flags & FIN) !== 0 ? 'closeWait' : 'established');
      return packet.payload > 0 || (flags & FIN) !== 0 ? answer(ACK, 'The connection is established, and what came is acknowledged.') : quiet('The connection is established.');
    case 'closed': {
      const reset = tcpReset(context.namespace, packet);
      return { taker: null, reason: 'the connection is closed', answers: listed(reset) };
    }
    default:
      return deliverToEstablished(packet, socket, { move, answer, quiet, close: () => sockets.remove(socket) });
  }
}

/** A connection whose two SYNs offered timestamps has them in every segment from then on (RFC 7323). */
function withTimestamps(packet: WorldPacket, delivery: Delivery): Delivery {
  if (packet.tcpOptions.includes(TIMESTAMPS)) {
    for (const answer of delivery.answers) {
      answer.packet.tcpOptions = [NO_OPERATION, NO_OPERATION, TIMESTAMPS];
    }
  }
  return delivery;
}

interface Moves {
  readonly move: (state: OpenSocket['state']) => void;
  readonly answer: (bits: number, reason: string) => Delivery;
  readonly quiet: (reason: string) => Delivery;
  readonly close: () => void;
}

function deliverToEstablished(packet: WorldPacket, socket: OpenSocket, { move, answer, quiet, close }: Moves): Delivery {
  const flags = packet.tcpFlags;
  if ((flags & SYN) !== 0) {
    return answer(ACK, 'A SYN in an open connection is answered with a challenge ACK (RFC 5961).');
  }
  if ((flags & FIN) !== 0) {
    if (socket.state === 'finWait') {
      close();
      return answer(ACK, 'Both sides have closed: the last ACK is sent.');
    }
    move('closeWait');
    return answer(ACK, 'The other side has closed; it is acknowledged.');
  }
  if (socket.state === 'lastAck' && (flags & ACK) !== 0) {
    close();
    return quiet('The connection is closed.');
  }
  return packet.payload > 0 ? answer(ACK, 'The socket takes the data and acknowledges it.') : quiet('The socket takes the acknowledgement.');
}

function deliverUdp(context: HookContext, packet: WorldPacket): Delivery {
  const spoilt = packet.payload > MAX_RECHECKED_PAYLOAD && packet.summed !== null && packet.summed !== packet.summedFields;
  if (spoilt && packet.checksum === 'unverified') {
    return { taker: null, reason: 'conntrack summed the datagram before a rule changed its header: UDP takes its checksum for wrong and drops it', answers: [] };
  }
  if (spoilt) {
    const dependsOn = `whether ${packet.inInterface ?? 'the device'} has verified the checksum of the datagram: if not, UDP takes it for wrong, since a rule changed the header after conntrack had summed it`;
    return { taker: null, reason: dependsOn, answers: [], dependsOn };
  }
  const found = findSocket(context, packet);
  return found === undefined
    ? unclaimed(context, packet, ICMP_ERRORS.portUnreachable, `no socket is bound to port ${packet.destinationPort} of ${packet.destination.text}`)
    : { taker: { kind: 'socket', found }, reason: 'The socket takes the datagram.', answers: [] };
}

function deliverIcmp(context: HookContext, packet: WorldPacket): Delivery {
  const { namespace, state } = context;
  const kernel = (reason: string, answers: readonly Answer[] = []): Delivery => ({ taker: { kind: 'kernel' }, reason, answers });
  if (packet.isIpv4 && packet.isForMany) {
    // net/ipv4/icmp.c, icmp_rcv.
    return readSysctl(namespace, 'net.ipv4.icmp_echo_ignore_broadcasts') === 0 && packet.icmpType === 8
      ? { ...kernel('It is not modelled which address answers.'), dependsOn: `which address of ${namespace.title} answers an echo request to ${packet.destination.text}` }
      : kernel('The kernel ignores ICMP that is sent to many.');
  }
  const [request, reply] = packet.isIpv4 ? [8, 0] : [128, 129];
  const isEcho = packet.icmpType === request;
  if (isEcho || (packet.isIpv4 && packet.icmpType === 13 && packet.payload >= TIMESTAMP_BYTES)) {
    const ignored = isEcho && readSysctl(namespace, packet.isIpv4 ? 'net.ipv4.icmp_echo_ignore_all' : 'net.ipv6.icmp.echo_ignore_all') === 1;
    return ignored ? kernel('The kernel ignores this echo request.') : kernel('The kernel answers the echo request.', listed(echoReply(namespace, packet)));
  }
  if (packet.icmpType === reply) {
    const socket = state.sockets.connectedBy(packet.socketDevice, packet.protocol, { address: packet.destination, port: packet.icmpId }, { address: packet.source, port: 0 });
    return socket === undefined ? kernel('Nobody waits for this echo reply.') : { taker: { kind: 'socket', found: { kind: 'open', socket } }, reason: 'The socket takes the echo reply.', answers: [] };
  }
  const { about } = packet;
  if (!isIcmpError(packet.protocol, packet.icmpType) || about === null) {
    return kernel('The kernel itself takes this ICMP message.');
  }
  const icmp = about.protocol === PROTOCOL.icmp || about.protocol === PROTOCOL.icmpv6;
  // net/ipv4/ping.c, ping_err: a ping socket is found by where the error itself goes, and asks about its requests only.
  const local = icmp ? { address: packet.destination, port: about.icmpId } : { address: about.source, port: about.sourcePort };
  // net/ipv4/udp.c, __udp4_lib_err; net/ipv6/tcp_ipv6.c, tcp_v6_err: these ask for the device itself, lo as well.
  const byDevice = about.protocol === (packet.isIpv4 ? PROTOCOL.udp : PROTOCOL.tcp);
  const socket = state.sockets.connectedBy(byDevice ? packet.inInterface : packet.socketDevice, about.protocol, local, { address: about.destination, port: icmp ? 0 : about.destinationPort });
  const errno = errnoOf(packet);
  if (socket === undefined || (icmp && about.icmpType !== request)) {
    return kernel('The error is about a packet that no socket here has sent.');
  }
  if (socket.state === 'synSent' && about.protocol === PROTOCOL.tcp && (about.tcpFlags & SYN) === 0) {
    // Its number counts only once connect(2) has sent its SYN (net/ipv4/tcp_output.c, tcp_connect), which may be later than what follows on it.
    return { ...kernel('Whether the error is about what the socket has sent is not known.'), dependsOn: 'whether the error comes before connect(2) has done with sending: it is about a segment after the SYN' };
  }
  // An established TCP connection notes such an error and goes on; one that connects fails (net/ipv4/tcp_ipv4.c, tcp_v4_err).
  if (errno !== null && (socket.state === 'synSent' || (socket.state === 'datagram' && isHardError(packet)))) {
    state.sockets.put({ ...socket, state: socket.state === 'synSent' ? 'closed' : socket.state, error: errno });
  }
  return { taker: { kind: 'socket', found: { kind: 'open', socket } }, reason: `The socket is told ${errno ?? 'of the error'}.`, answers: [] };
}

function listed(answer: Answer | null): readonly Answer[] {
  return answer === null ? [] : [answer];
}

/** What a socket is told for an ICMP error (net/ipv4/icmp.c, icmp_err_convert; net/ipv6/icmp.c, icmpv6_err_convert); null for what is no failure yet. */
function errnoOf(packet: WorldPacket): string | null {
  const { icmpType: type, icmpCode: code } = packet;
  if (packet.isIpv4) {
    if (type !== 3) {
      return type === 11 ? 'EHOSTUNREACH' : type === 12 ? 'EPROTO' : null;
    }
    return ['ENETUNREACH', 'EHOSTUNREACH', 'ENOPROTOOPT', 'ECONNREFUSED', 'EMSGSIZE', 'EOPNOTSUPP', 'ENETUNREACH', 'EHOSTDOWN', 'ENONET', 'ENETUNREACH', 'EHOSTUNREACH', 'ENETUNREACH', 'EHOSTUNREACH', 'EHOSTUNREACH', 'EHOSTUNREACH', 'EHOSTUNREACH'][code] ?? null;
  }
  if (type === 1) {
    return ['ENETUNREACH', 'EACCES', 'EHOSTUNREACH', 'EHOSTUNREACH', 'ECONNREFUSED', 'EACCES', 'EACCES'][code] ?? null;
  }
  return type === 3 ? 'EHOSTUNREACH' : type === 4 ? 'EPROTO' : null;
}

/** The codes of ICMP errors that are no failure for a datagram socket, which may be repaired (net/ipv4/icmp.c, icmp_err_convert; net/ipv6/icmp.c, icmpv6_err_convert). */
const SOFT_CODES: ReadonlySet<number> = new Set([0, 1, 4, 5, 11, 12]);
const SOFT_CODES_6: ReadonlySet<number> = new Set([0, 2, 3]);

/** Whether a datagram socket fails for an ICMP error (net/ipv4/udp.c, __udp4_lib_err; net/ipv4/ping.c, ping_err). */
function isHardError({ isIpv4, icmpType: type, icmpCode: code }: WorldPacket): boolean {
  return isIpv4 ? type === 12 || (type === 3 && !SOFT_CODES.has(code)) : type === 4 || (type === 1 && !SOFT_CODES_6.has(code));
}

function unclaimed(context: HookContext, packet: WorldPacket, error: Readonly<Record<'ipv4' | 'ipv6', readonly [number, number]>>, reason: string): Delivery {
  const answer = icmpError(context.namespace, packet, error[packet.isIpv4 ? 'ipv4' : 'ipv6'], packet.destination);
  if (answer !== null && packet.protocol === PROTOCOL.udp) {
    // UDP lets go of the connection before it looks for a socket (net/ipv4/udp.c, nf_reset_ct), so that the answer does not carry it.
    answer.packet.tracking = null;
    answer.packet.isAttached = false;
    answer.packet.trackingDone = false;
  }
  return { taker: null, reason, answers: listed(answer) };
}

/** The socket of a packet: what TPROXY assigned, else the connection, else who listens. */
function findSocket(context: HookContext, packet: WorldPacket): FoundSocket | undefined {
  if (packet.assigned !== null) {
    return packet.assigned as FoundSocket;
  }
  const { local, remote } = endsOf(packet);
  return context.environment.lookUpSocket(packet.socketDevice, packet.protocol, local, remote);
}

function endsOf(packet: WorldPacket): { readonly local: SocketAddress; readonly remote: SocketAddress } {
  return { local: { address: packet.destination, port: packet.destinationPort }, remote: { address: packet.source, port: packet.sourcePort } };
}
