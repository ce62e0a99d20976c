import type { PacketState } from '../../agent/protocol/trace.ts';
import { toPortNumber } from '../../agent/protocol/scalars.ts';
import { Address } from './address.ts';
import type { PacketDraft, TransportDraft } from './packetDraft.ts';
import { PROTOCOL, hasPorts, protocolName } from './protocolNumbers.ts';

/** The bits of the flags byte of a TCP header (RFC 9293, 3.1). */
export const TCP_FLAG_BITS = { FIN: 1, SYN: 2, RST: 4, PSH: 8, ACK: 16, URG: 32, ECE: 64, CWR: 128 } as const;
type TcpFlagName = keyof typeof TCP_FLAG_BITS;
const FLAG_NAMES = Object.keys(TCP_FLAG_BITS) as readonly TcpFlagName[];
/** The names of each of the 256 bytes of flags: packets are described so often that making the lists shows. */
const FLAG_LISTS: readonly (readonly TcpFlagName[])[] = Array.from({ length: 256 }, (_, bits) => FLAG_NAMES.filter((name) => (bits & TCP_FLAG_BITS[name]) !== 0));
const FLAG_TEXTS: readonly string[] = FLAG_LISTS.map((names) => (names.length === 0 ? 'NONE' : names.join(',')));

/** Headers of IPv6 behind which another one follows (net/ipv6/exthdrs_core.c, ipv6_ext_hdr). */
const EXTENSION_HEADERS: ReadonlySet<number> = new Set([0, 43, 44, 51, 60]);

export type ConnectionStateLabel = 'NEW' | 'ESTABLISHED' | 'RELATED' | 'INVALID' | 'UNTRACKED';

/** The socket that a packet comes from. */
export interface PacketSocket {
  readonly uid: number;
  /** Null where it is not known. */
  readonly gid: number | null;
  /** False for sockets of the kernel, which have no file: `-m owner` sees nobody (net/netfilter/xt_owner.c). */
  readonly hasFile: boolean;
  readonly mark: number;
  readonly cgroup: string | null;
  readonly device: string | null;
}

/** One direction of a connection. */
export interface TupleView {
  readonly protocol: number;
  readonly source: Address;
  readonly sourcePort: number;
  readonly destination: Address;
  readonly destinationPort: number;
}

/** What matches ask of a packet's connection; the engine's own record of it has more. */
export interface ConnectionView {
  mark: number;
  readonly zone: number;
  readonly original: TupleView;
  readonly reply: TupleView;
  readonly seenReply: boolean;
  readonly assured: boolean;
  readonly confirmed: boolean;
  readonly sourceTranslated: boolean;
  readonly destinationTranslated: boolean;
  /** Packets and bytes of the two directions; not known where it is old. */
  readonly packets: readonly [number, number];
  readonly bytes: readonly [number, number];
  /** Whether it was there before the simulation began. */
  readonly isOld: boolean;
}

/** A zone of conntrack, and in which directions it counts (CT --zone, --zone-orig, --zone-reply). */
export interface ZoneRule {
  readonly id: number;
  readonly directions: 'both' | 'original' | 'reply';
  /** The helper that a connection which begins now gets (CT --helper). */
  readonly helper?: string;
}

/** What conntrack put on a packet. */
export interface PacketTracking<Connection extends ConnectionView = ConnectionView> {
  readonly connection: Connection;
  readonly isReply: boolean;
  readonly state: 'NEW' | 'ESTABLISHED' | 'RELATED';
}

/** A packet on its way, with what an skb carries that matters to its path. Changes as it goes. */
export class Packet<Connection extends ConnectionView = ConnectionView> {
  source: Address;
  destination: Address;
  readonly protocol: number;
  /** Whether it is said to be a header of IPv6 behind which another one follows, but not which: ip6tables and conntrack look past it (ipv6_find_hdr, ipv6_skip_exthdr). */
  readonly hidesTransport: boolean;
  sourcePort = 0;
  destinationPort = 0;
  tcpFlags = 0;
  tcpOptions: readonly number[] = [];
  mss: number | null = null;
  icmpType = 0;
  icmpCode = 0;
  icmpId = 0;
  /** The packet that an ICMP error is about. */
  about: Packet | null = null;
  ttl = 64;
  tos = 0;
  payload = 0;
  fragmentOffset = 0;
  moreFragments = false;
  macSource: string | null = null;
  packetType: 'unicast' | 'broadcast' | 'multicast' | 'otherhost' = 'unicast';
  /** The kind of route that it has (rt_type). Over lo it keeps that of who sent it. */
  routeType = 'local';
  inInterface: string | null = null;
  outInterface: string | null = null;
  /** The device that sockets take it to have come by: over lo it is that of the address that it goes to. */
  socketDevice: string | null = null;
  mark = 0;
  socket: PacketSocket | null = null;
  /** What TPROXY assigned: an opaque handle of a socket. */
  assigned: object | null = null;
  tracking: PacketTracking<Connection> | null = null;
  /** Whether somebody wrote it and no socket did: its sequence numbers are then taken not to fit. */
  isCrafted = false;
  /** Whether it is a reset that answers such a packet: its sequence number is then not known to fit. */
  answersCrafted = false;
  /** Whether somebody vouches for its checksum (skb->ip_summed). */
  checksum: 'verified' | 'unverified' | 'unknown' = 'verified';
  /** Traffic class and hop limit that conntrack summed with the rest of an IPv6 datagram, as summedFields writes them; null where it did not. */
  summed: number | null = null;
  /** Whether it acknowledges what somebody wrote, or is a reset of what does. */
  acknowledgesCrafted = false;
  /** Whether it is on its way over a bridge with br_netfilter. */
  isBridged = false;
  /** Whether it is about an untracked packet: CT and NOTRACK then leave it alone (nf_conntrack_core.c, nf_conntrack_attach). */
  isAttached = false;
  /** NOTRACK. */
  untracked = false;
  /** Whether conntrack looked at it: without, a packet has no state yet. */
  trackingDone = false;
  /** What CT --zone asked for, until conntrack looks. */
  zoneRule: ZoneRule | null = null;

  constructor(source: Address, destination: Address, protocol: number) {
    this.source = source;
    this.destination = destination;
    this.protocol = protocol;
    this.hidesTransport = !source.isIpv4 && EXTENSION_HEADERS.has(protocol);
  }

  get isIpv4(): boolean {
    return this.source.isIpv4;
  }

  /** Whether the header of the transport is in this packet: later fragments have none. */
  get hasTransport(): boolean {
    return this.fragmentOffset === 0;
  }

  /** Whether routing has found that it goes to many. */
  get isForMany(): boolean {
    return this.routeType === 'broadcast' || this.routeType === 'multicast';
  }

  /** The state as `-m conntrack --ctstate` sees it; null before conntrack looked. */
  get connectionState(): ConnectionStateLabel | null {
    if (this.tracking !== null) {
      return this.tracking.state;
    }
    if (this.untracked) {
      return 'UNTRACKED';
    }
    return this.trackingDone ? 'INVALID' : null;
  }

  /** Traffic class and hop limit as they stand in the sum of the header's 16-bit words. */
  get summedFields(): number {
    return this.tos * 16 + this.ttl;
  }

  /** The length of the IP packet in bytes, as `-m length` sees it (for IPv6 with its header of 40). */
  get length(): number {
    return (this.isIpv4 ? 20 : 40) + this.transportLength;
  }

  /** The bytes of the transport header and what follows. */
  get transportLength(): number {
    return transportHeaderLength(this) + this.payload;
  }

  /** The packet for the steps of a trace. */
  state(): PacketState {
    const icmp = this.protocol === PROTOCOL.icmp || this.protocol === PROTOCOL.icmpv6;
    return {
      source: { address: this.source.text, port: toPortNumber(icmp ? this.icmpId : this.sourcePort) },
      destination: { address: this.destination.text, port: toPortNumber(icmp ? 0 : this.destinationPort) },
      inInterface: this.inInterface,
      outInterface: this.outInterface,
      mark: this.mark,
      connection: this.connectionState,
      summary: this.summary(),
      ...(this.tracking === null ? {} : { connectionMark: this.tracking.connection.mark }),
      ttl: this.ttl,
    };
  }

  /** What the packet is, in a few words: `TCP SYN`, `ICMP type 3 code 1`. */
  summary(): string {
    switch (this.protocol) {
      case PROTOCOL.tcp:
        return `TCP ${writeTcpFlags(this.tcpFlags)}`;
      case PROTOCOL.icmp:
      case PROTOCOL.icmpv6:
        return `${this.protocol === PROTOCOL.icmp ? 'ICMP' : 'ICMPv6'} ${icmpName(this)}`;
      default:
        return protocolName(this.protocol).toUpperCase();
    }
  }

  /** A copy of what is on the wire, without what an skb carries beside it. */
  copyWire(): Packet<Connection> {
    const copy = new Packet<Connection>(this.source, this.destination, this.protocol);
    copy.sourcePort = this.sourcePort;
    copy.destinationPort = this.destinationPort;
    copy.tcpFlags = this.tcpFlags;
    copy.tcpOptions = this.tcpOptions;
    copy.mss = this.mss;
    copy.icmpType = this.icmpType;
    copy.icmpCode = this.icmpCode;
    copy.icmpId = this.icmpId;
    copy.about = this.about?.copyWire() ?? null;
    copy.ttl = this.ttl;
    copy.tos = this.tos;
    copy.payload = this.payload;
    copy.fragmentOffset = this.fragmentOffset;
    copy.moreFragments = this.moreFragments;
    copy.macSource = this.macSource;
    return copy;
  }
}

/** Says whether an ICMP type is an error, which carries the packet that it is about (RFC 792, RFC 4443). */
export function isIcmpError(protocol: number, type: number): boolean {
  return protocol === PROTOCOL.icmpv6 ? type < 128 : protocol === PROTOCOL.icmp && (type === 3 || type === 4 || type === 5 || type === 11 || type === 12);
}

/** Writes the flags of a TCP header as `SYN,ACK`. */
export function writeTcpFlags(bits: number): string {
  return FLAG_TEXTS[bits & 0xff] ?? 'NONE';
}

/** Makes a packet of a description. Throws a RangeError where its addresses are of two families. */
export function packetOf<Connection extends ConnectionView>(draft: PacketDraft): Packet<Connection> {
  const source = Address.of(draft.source);
  const destination = Address.of(draft.destination);
  if (source.isIpv4 !== destination.isIpv4) {
    throw new RangeError(`a packet goes from ${draft.source} to ${draft.destination}: these are of two families`);
  }
  const packet = new Packet<Connection>(source, destination, draftProtocol(draft.transport, source.isIpv4));
  packet.ttl = draft.ttl ?? 64;
  packet.tos = draft.tos ?? 0;
  packet.payload = draft.payload ?? 0;
  packet.fragmentOffset = draft.fragment?.offset ?? 0;
  packet.moreFragments = draft.fragment?.more ?? false;
  packet.macSource = draft.macSource ?? null;
  fillTransport(packet, draft.transport);
  return packet;
}

/** Describes a packet as it is on the wire. */
export function draftOf(packet: Packet): PacketDraft {
  return {
    source: packet.source.text,
    destination: packet.destination.text,
    transport: describeTransport(packet),
    ...(packet.ttl === 64 ? {} : { ttl: packet.ttl }),
    ...(packet.tos === 0 ? {} : { tos: packet.tos }),
    ...(packet.payload === 0 ? {} : { payload: packet.payload }),
    ...(packet.fragmentOffset === 0 && !packet.moreFragments ? {} : { fragment: { offset: packet.fragmentOffset, more: packet.moreFragments } }),
  };
}

function draftProtocol(transport: TransportDraft, isIpv4: boolean): number {
  switch (transport.kind) {
    case 'tcp':
      return PROTOCOL.tcp;
    case 'udp':
      return PROTOCOL.udp;
    case 'icmp':
      return isIpv4 ? PROTOCOL.icmp : PROTOCOL.icmpv6;
    case 'other':
      return transport.protocol;
  }
}

function fillTransport(packet: Packet, transport: TransportDraft): void {
  switch (transport.kind) {
    case 'tcp':
      packet.sourcePort = transport.sourcePort;
      packet.destinationPort = transport.destinationPort;
      packet.tcpFlags = transport.flags.reduce((bits, flag) => bits | TCP_FLAG_BITS[flag], 0);
      packet.tcpOptions = transport.options ?? [];
      packet.mss = transport.mss ?? null;
      return;
    case 'udp':
      packet.sourcePort = transport.sourcePort;
      packet.destinationPort = transport.destinationPort;
      return;
    case 'icmp':
      packet.icmpType = transport.type;
      packet.icmpCode = transport.code;
      packet.icmpId = transport.identifier ?? 0;
      packet.about = transport.about === undefined ? null : packetOf(transport.about);
      return;
    case 'other':
      packet.sourcePort = transport.sourcePort ?? 0;
      packet.destinationPort = transport.destinationPort ?? 0;
  }
}

function describeTransport(packet: Packet): TransportDraft {
  const ports = { sourcePort: toPortNumber(packet.sourcePort), destinationPort: toPortNumber(packet.destinationPort) };
  switch (packet.protocol) {
    case PROTOCOL.tcp:
      return {
        kind: 'tcp', ...ports, flags: FLAG_LISTS[packet.tcpFlags & 0xff] ?? [],
        ...(packet.tcpOptions.length === 0 ? {} : { options: packet.tcpOptions }),
        ...(packet.mss === null ? {} : { mss: packet.mss }),
      };
    case PROTOCOL.udp:
      return { kind: 'udp', ...ports };
    case PROTOCOL.icmp:
    case PROTOCOL.icmpv6:
      return {
        kind: 'icmp', type: packet.icmpType, code: packet.icmpCode,
        ...(packet.icmpId === 0 ? {} : { identifier: packet.icmpId }),
        ...(packet.about === null ? {} : { about: draftOf(packet.about) }),
      };
    default:
      return { kind: 'other', protocol: packet.protocol, ...(hasPorts(packet.protocol) ? ports : {}) };
  }
}

/** The lengths of TCP options by number (IANA); one that is not known takes two bytes. */
export const TCP_OPTION_LENGTHS: Readonly<Record<number, number>> = { 0: 1, 1: 1, 2: 4, 3: 3, 4: 2, 5: 10, 8: 10, 19: 18 };

function transportHeaderLength(packet: Packet): number {
  switch (packet.protocol) {
    case PROTOCOL.tcp: {
      const options = packet.tcpOptions.reduce((sum, option) => sum + (TCP_OPTION_LENGTHS[option] ?? 2), 0);
      return 20 + Math.ceil(options / 4) * 4;
    }
    case PROTOCOL.udp:
    case PROTOCOL.udplite:
      return 8;
    case PROTOCOL.icmp:
    case PROTOCOL.icmpv6:
      return 8 + (packet.about === null ? 0 : packet.about.length);
    case PROTOCOL.sctp:
      return 12;
    default:
      return 0;
  }
}

function icmpName(packet: Packet): string {
  const { icmpType: type, icmpCode: code } = packet;
  if (packet.protocol === PROTOCOL.icmp) {
    if (type === 8 || type === 0) {
      return type === 8 ? 'echo request' : 'echo reply';
    }
  } else if (type === 128 || type === 129) {
    return type === 128 ? 'echo request' : 'echo reply';
  }
  return `type ${type} code ${code}`;
}
