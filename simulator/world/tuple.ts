import { toPortNumber } from '../../agent/protocol/scalars.ts';
import type { Endpoint } from '../../agent/protocol/scalars.ts';
import type { ConntrackTuple } from '../../agent/protocol/snapshot.ts';
import { Address } from '../netfilter/address.ts';
import type { ConnectionView, Packet } from '../netfilter/packet.ts';
import { PROTOCOL, hasPorts } from '../netfilter/protocolNumbers.ts';

/**
 * What conntrack knows a direction of a connection by (include/net/netfilter/nf_conntrack_tuple.h). ICMP has its identifier as
 * the source port, and type * 256 + code as the destination port; protocols without ports have zeros.
 */
export interface Tuple {
  readonly protocol: number;
  readonly source: Address;
  readonly sourcePort: number;
  readonly destination: Address;
  readonly destinationPort: number;
}

/** ICMP types that are asked and answered (nf_conntrack_proto_icmp.c and _icmpv6.c, invmap). */
const ICMP_INVERSE: ReadonlyMap<number, number> = new Map([[8, 0], [0, 8], [13, 14], [14, 13], [15, 16], [16, 15], [17, 18], [18, 17]]);
const ICMPV6_INVERSE: ReadonlyMap<number, number> = new Map([[128, 129], [129, 128], [139, 140], [140, 139]]);

/** Gives the tuple of a packet as it is now. */
export function tupleOf<Connection extends ConnectionView>(packet: Packet<Connection>): Tuple {
  const { protocol, source, destination } = packet;
  if (protocol === PROTOCOL.icmp || protocol === PROTOCOL.icmpv6) {
    return { protocol, source, sourcePort: packet.icmpId, destination, destinationPort: packet.icmpType * 256 + packet.icmpCode };
  }
  return hasPorts(protocol)
    ? { protocol, source, sourcePort: packet.sourcePort, destination, destinationPort: packet.destinationPort }
    : { protocol, source, sourcePort: 0, destination, destinationPort: 0 };
}

/** Gives the tuple of the answers; undefined for ICMP types that nothing answers. */
export function invertTuple(tuple: Tuple): Tuple | undefined {
  const { protocol, source, destination } = tuple;
  if (protocol === PROTOCOL.icmp || protocol === PROTOCOL.icmpv6) {
    const type = tuple.destinationPort >> 8;
    const inverse = (protocol === PROTOCOL.icmp ? ICMP_INVERSE : ICMPV6_INVERSE).get(type);
    return inverse === undefined ? undefined : { protocol, source: destination, sourcePort: tuple.sourcePort, destination: source, destinationPort: inverse * 256 + (tuple.destinationPort & 255) };
  }
  return { protocol, source: destination, sourcePort: tuple.destinationPort, destination: source, destinationPort: tuple.sourcePort };
}

/** Like invertTuple, for tuples of connections, which have been inverted before. Throws a RangeError for another. */
export function invertKnownTuple(tuple: Tuple): Tuple {
  const inverted = invertTuple(tuple);
  if (inverted === undefined) {
    throw new RangeError(`ICMP type ${tuple.destinationPort >> 8} has no answer`);
  }
  return inverted;
}

/** Says whether two tuples are the same. */
export function sameTuple(left: Tuple, right: Tuple): boolean {
  return (
    left.sourcePort === right.sourcePort && left.destinationPort === right.destinationPort && left.protocol === right.protocol &&
    left.source.equals(right.source) && left.destination.equals(right.destination)
  );
}

/** Gives a tuple in a zone as a key of a map: not to be read. Every part has a code unit or more of its own. */
export function tupleKey(tuple: Tuple, zone: number): string {
  const { source, destination } = tuple;
  if (source.isIpv4) {
    return String.fromCharCode(
      tuple.protocol, zone, source.w0 >>> 16, source.w0 & 0xffff, tuple.sourcePort, destination.w0 >>> 16, destination.w0 & 0xffff, tuple.destinationPort,
    );
  }
  return String.fromCharCode(
    tuple.protocol, zone, tuple.sourcePort, tuple.destinationPort,
    source.w0 >>> 16, source.w0 & 0xffff, source.w1 >>> 16, source.w1 & 0xffff, source.w2 >>> 16, source.w2 & 0xffff, source.w3 >>> 16, source.w3 & 0xffff,
    destination.w0 >>> 16, destination.w0 & 0xffff, destination.w1 >>> 16, destination.w1 & 0xffff, destination.w2 >>> 16, destination.w2 & 0xffff, destination.w3 >>> 16, destination.w3 & 0xffff,
  );
}

/** Writes a tuple with addresses and ports as text: the protocol is not in it. */
export function writeTuple(tuple: Tuple): string {
  const { source, destination } = endpointsOf(tuple);
  return `${writeEndpoint(source)} → ${writeEndpoint(destination)}`;
}

/** Gives a tuple as two endpoints; ICMP has its identifier as both ports. */
export function endpointsOf(tuple: Tuple): ConntrackTuple {
  const icmp = tuple.protocol === PROTOCOL.icmp || tuple.protocol === PROTOCOL.icmpv6;
  return {
    source: { address: tuple.source.text, port: toPortNumber(tuple.sourcePort) },
    destination: { address: tuple.destination.text, port: toPortNumber(icmp ? tuple.sourcePort : tuple.destinationPort) },
  };
}

/** Makes a tuple of two endpoints. */
export function tupleOfEndpoints(protocol: number, { source, destination }: ConntrackTuple): Tuple {
  return { protocol, source: Address.of(source.address), sourcePort: source.port, destination: Address.of(destination.address), destinationPort: destination.port };
}

/** Writes an endpoint as `address:port`, IPv6 in brackets. */
export function writeEndpoint(endpoint: Endpoint): string {
  return endpoint.address.includes(':') ? `[${endpoint.address}]:${endpoint.port}` : `${endpoint.address}:${endpoint.port}`;
}

/** Says whether two endpoints are the same. */
export function sameEndpoint(left: Endpoint, right: Endpoint): boolean {
  return left.address === right.address && left.port === right.port;
}
