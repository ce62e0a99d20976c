import { formatIpAddress, ipAddressBytes, isIpv4 } from '../../agent/protocol/ipAddress.ts';
import { toPortNumber } from '../../agent/protocol/scalars.ts';
import type { PacketDraft, TransportDraft } from '../../simulator/netfilter/packetDraft.ts';

/** Packets as bytes, in network order: RFC 791, 8200, 9293, 768, 792, 4443. */

const IPV4_BYTES = 20;
const IPV6_BYTES = 40;
const TCP_BYTES = 20;
const UDP_BYTES = 8;
const ICMP_BYTES = 8;
const MAX_QUOTED_DEPTH = 1;
const TCP = 6;
const UDP = 17;
const ICMP = 1;
const ICMPV6 = 58;
const FRAGMENT_HEADER = 44;
const MSS_OPTION = 2;
const DEFAULT_TTL = 64;
type TcpDraft = Extract<TransportDraft, { kind: 'tcp' }>;
const TCP_FLAGS: readonly TcpDraft['flags'][number][] = ['FIN', 'SYN', 'RST', 'PSH', 'ACK', 'URG', 'ECE', 'CWR'];
/** Other protocols whose header begins with two ports: SCTP, DCCP, UDP-Lite. */
const PROTOCOLS_WITH_PORTS: ReadonlySet<number> = new Set([132, 33, 136]);
/** An ICMP error: what it carries is the packet that it is about. */
const ICMP_ERRORS: ReadonlySet<number> = new Set([3, 4, 5, 11, 12]);
const ICMPV6_ERRORS_BELOW = 128;

/** Encodes a packet from its IP header on, checksums included. */
export function encodePacket(draft: PacketDraft): Buffer {
  return isIpv4(draft.source) ? encodeIpv4(draft) : encodeIpv6(draft);
}

/** Decodes a packet from its IP header on; undefined where it is too short for what it begins with. */
export function decodePacket(bytes: Buffer, depth = 0): PacketDraft | undefined {
  const version = (bytes[0] ?? 0) >> 4;
  if (version === 4 && bytes.length >= IPV4_BYTES) {
    return decodeIpv4(bytes, depth);
  }
  return version === 6 && bytes.length >= IPV6_BYTES ? decodeIpv6(bytes, depth) : undefined;
}

/** The packet in one line: `tcp 10.0.0.1:4000 > 10.0.0.2:80 SYN ttl 64`. What is compared. */
export function writePacket(draft: PacketDraft): string {
  return `${writeTransport(draft)} ttl ${draft.ttl ?? DEFAULT_TTL}${(draft.tos ?? 0) === 0 ? '' : ` tos ${String(draft.tos)}`}`;
}

/** The addresses of a packet, with ports where it has some: `10.0.0.1:4000 > 10.0.0.2:80`. */
export function writeEnds({ source, destination, transport }: PacketDraft): string {
  return transport.kind === 'tcp' || transport.kind === 'udp'
    ? `${source}:${transport.sourcePort} > ${destination}:${transport.destinationPort}`
    : `${source} > ${destination}`;
}

function writeTransport({ source, destination, transport }: PacketDraft): string {
  switch (transport.kind) {
    case 'tcp':
      return `tcp ${source}:${transport.sourcePort} > ${destination}:${transport.destinationPort} ${TCP_FLAGS.filter((flag) => transport.flags.includes(flag)).join(',')}`;
    case 'udp':
      return `udp ${source}:${transport.sourcePort} > ${destination}:${transport.destinationPort}`;
    case 'icmp': {
      const about = transport.about === undefined ? '' : ` about (${writeTransport(withoutFlags(transport.about))})`;
      const id = transport.about === undefined ? ` id ${transport.identifier ?? 0}` : '';
      return `icmp ${source} > ${destination} ${transport.type}/${transport.code}${id}${about}`;
    }
    case 'other': {
      const ports = transport.sourcePort === undefined ? ['', ''] : [`:${transport.sourcePort}`, `:${String(transport.destinationPort)}`];
      return `protocol ${transport.protocol} ${source}${ports[0] ?? ''} > ${destination}${ports[1] ?? ''}`;
    }
  }
}

/** Quoted packets may be cut before the flags. */
function withoutFlags(draft: PacketDraft): PacketDraft {
  return draft.transport.kind === 'tcp' ? { ...draft, transport: { ...draft.transport, flags: [] } } : draft;
}

function encodeIpv4(draft: PacketDraft): Buffer {
  const body = encodeTransport(draft);
  const header = Buffer.alloc(IPV4_BYTES);
  header[0] = 0x45;
  header[1] = draft.tos ?? 0;
  header.writeUInt16BE(IPV4_BYTES + body.length, 2);
  header.writeUInt16BE(draft.fragment === undefined ? 0 : 1, 4);
  header.writeUInt16BE(draft.fragment === undefined ? 0 : (draft.fragment.offset >> 3) | (draft.fragment.more ? 0x2000 : 0), 6);
  header[8] = draft.ttl ?? DEFAULT_TTL;
  header[9] = protocolNumber(draft);
  header.set(ipAddressBytes(draft.source), 12);
  header.set(ipAddressBytes(draft.destination), 16);
  header.writeUInt16BE(checksum(header), 10);
  return Buffer.concat([header, body]);
}

function encodeIpv6(draft: PacketDraft): Buffer {
  const body = encodeTransport(draft);
  const header = Buffer.alloc(IPV6_BYTES);
  header.writeUInt32BE((0x6000_0000 | ((draft.tos ?? 0) << 20)) >>> 0, 0);
  header.writeUInt16BE(body.length, 4);
  header[6] = protocolNumber(draft);
  header[7] = draft.ttl ?? DEFAULT_TTL;
  header.set(ipAddressBytes(draft.source), 8);
  header.set(ipAddressBytes(draft.destination), 24);
  return Buffer.concat([header, body]);
}

function protocolNumber({ source, transport }: PacketDraft): number {
  switch (transport.kind) {
    case 'tcp':
      return TCP;
    case 'udp':
      return UDP;
    case 'icmp':
      return isIpv4(source) ? ICMP : ICMPV6;
    case 'other':
      return transport.protocol;
  }
}

function encodeTransport(draft: PacketDraft): Buffer {
  const { transport } = draft;
  const payload = Buffer.alloc(draft.payload ?? 0, 0x78);
  switch (transport.kind) {
    case 'tcp': {
      const options = encodeTcpOptions(transport);
      const segment = Buffer.concat([Buffer.alloc(TCP_BYTES), options, payload]);
      segment.writeUInt16BE(transport.sourcePort, 0);
      segment.writeUInt16BE(transport.destinationPort, 2);
      segment.writeUInt32BE(transport.flags.includes('SYN') ? 1_000 : 1_001, 4);
      segment.writeUInt32BE(transport.flags.includes('ACK') ? 2_000 : 0, 8);
      segment[12] = (TCP_BYTES + options.length) << 2;
      segment[13] = transport.flags.reduce((bits, flag) => bits | (1 << TCP_FLAGS.indexOf(flag)), 0);
      segment.writeUInt16BE(64_240, 14);
      segment.writeUInt16BE(checksum(pseudoHeader(draft, segment), segment), 16);
      return segment;
    }
    case 'udp': {
      const datagram = Buffer.concat([Buffer.alloc(UDP_BYTES), payload]);
      datagram.writeUInt16BE(transport.sourcePort, 0);
      datagram.writeUInt16BE(transport.destinationPort, 2);
      datagram.writeUInt16BE(datagram.length, 4);
      const sum = checksum(pseudoHeader(draft, datagram), datagram);
      datagram.writeUInt16BE(sum === 0 ? 0xffff : sum, 6);
      return datagram;
    }
    case 'icmp': {
      const quoted = transport.about === undefined ? payload : encodePacket(transport.about);
      const message = Buffer.concat([Buffer.alloc(ICMP_BYTES), quoted]);
      message[0] = transport.type;
      message[1] = transport.code;
      message.writeUInt16BE(transport.about === undefined ? (transport.identifier ?? 0) : 0, 4);
      message.writeUInt16BE(isIpv4(draft.source) ? checksum(message) : checksum(pseudoHeader(draft, message), message), 2);
      return message;
    }
    case 'other': {
      if (transport.sourcePort === undefined) {
        return payload;
      }
      const header = Buffer.alloc(12);
      header.writeUInt16BE(transport.sourcePort, 0);
      header.writeUInt16BE(transport.destinationPort ?? 0, 2);
      return Buffer.concat([header, payload]);
    }
  }
}

function encodeTcpOptions({ options = [], mss }: TcpDraft): Buffer {
  const bytes = options.flatMap((option) => (option === MSS_OPTION ? [MSS_OPTION, 4, (mss ?? 1460) >> 8, (mss ?? 1460) & 0xff] : [option, 2]));
  while (bytes.length % 4 !== 0) {
    bytes.push(1);
  }
  return Buffer.from(bytes);
}

function pseudoHeader(draft: PacketDraft, segment: Buffer): Buffer {
  const addresses = [ipAddressBytes(draft.source), ipAddressBytes(draft.destination)];
  const rest = Buffer.alloc(isIpv4(draft.source) ? 4 : 8);
  if (isIpv4(draft.source)) {
    rest[1] = protocolNumber(draft);
    rest.writeUInt16BE(segment.length, 2);
  } else {
    rest.writeUInt32BE(segment.length, 0);
    rest[7] = protocolNumber(draft);
  }
  return Buffer.concat([...addresses, rest]);
}

/** RFC 1071. */
function checksum(...parts: readonly Buffer[]): number {
  let sum = 0;
  for (const part of parts) {
    for (let offset = 0; offset < part.length; offset += 2) {
      sum += offset + 1 < part.length ? part.readUInt16BE(offset) : (part[offset] ?? 0) << 8;
    }
  }
  while (sum > 0xffff) {
    sum = (sum & 0xffff) + (sum >>> 16);
  }
  return ~sum & 0xffff;
}

function decodeIpv4(bytes: Buffer, depth: number): PacketDraft | undefined {
  const headerBytes = ((bytes[0] ?? 0) & 15) * 4;
  const flags = bytes.readUInt16BE(6);
  const offset = (flags & 0x1fff) * 8;
  const more = (flags & 0x2000) !== 0;
  const transport = decodeTransport(bytes[9] ?? 0, bytes.subarray(headerBytes), offset, depth);
  return transport === undefined
    ? undefined
    : {
        source: formatIpAddress(bytes.subarray(12, 16)),
        destination: formatIpAddress(bytes.subarray(16, 20)),
        transport,
        ttl: bytes[8] ?? 0,
        tos: bytes[1] ?? 0,
        ...(offset > 0 || more ? { fragment: { offset, more } } : {}),
      };
}

function decodeIpv6(bytes: Buffer, depth: number): PacketDraft | undefined {
  const skipped = bytes[6] === FRAGMENT_HEADER ? 8 : 0;
  const protocol = skipped === 0 ? (bytes[6] ?? 0) : (bytes[IPV6_BYTES] ?? 0);
  const transport = decodeTransport(protocol, bytes.subarray(IPV6_BYTES + skipped), 0, depth);
  return transport === undefined
    ? undefined
    : {
        source: formatIpAddress(bytes.subarray(8, 24)),
        destination: formatIpAddress(bytes.subarray(24, 40)),
        transport,
        ttl: bytes[7] ?? 0,
        tos: (bytes.readUInt16BE(0) >> 4) & 0xff,
      };
}

function decodeTransport(protocol: number, bytes: Buffer, fragmentOffset: number, depth: number): TransportDraft | undefined {
  const ports = (): { readonly sourcePort: ReturnType<typeof toPortNumber>; readonly destinationPort: ReturnType<typeof toPortNumber> } => ({
    sourcePort: toPortNumber(bytes.readUInt16BE(0)),
    destinationPort: toPortNumber(bytes.readUInt16BE(2)),
  });
  if (fragmentOffset > 0) {
    return { kind: 'other', protocol };
  }
  if (protocol === TCP) {
    const flags = TCP_FLAGS.filter((_, bit) => (((bytes[13] ?? 0) >> bit) & 1) === 1);
    return bytes.length < 4 ? undefined : { kind: 'tcp', ...ports(), flags };
  }
  if (protocol === UDP) {
    return bytes.length < 4 ? undefined : { kind: 'udp', ...ports() };
  }
  if (protocol === ICMP || protocol === ICMPV6) {
    return bytes.length < ICMP_BYTES ? undefined : decodeIcmp(protocol, bytes, depth);
  }
  return { kind: 'other', protocol, ...(PROTOCOLS_WITH_PORTS.has(protocol) && bytes.length >= 4 ? ports() : {}) };
}

function decodeIcmp(protocol: number, bytes: Buffer, depth: number): TransportDraft {
  const type = bytes[0] ?? 0;
  const code = bytes[1] ?? 0;
  const isError = protocol === ICMP ? ICMP_ERRORS.has(type) : type < ICMPV6_ERRORS_BELOW;
  if (!isError) {
    return { kind: 'icmp', type, code, identifier: bytes.readUInt16BE(4) };
  }
  const about = depth < MAX_QUOTED_DEPTH ? decodePacket(bytes.subarray(ICMP_BYTES), depth + 1) : undefined;
  return { kind: 'icmp', type, code, ...(about === undefined ? {} : { about }) };
}
