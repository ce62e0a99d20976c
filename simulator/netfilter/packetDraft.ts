import type { IpAddress, PortNumber } from '../../agent/protocol/scalars.ts';
import type { TcpFlag } from './ruleSet.ts';

/**
 * A packet as somebody describes it: JSON, IPv4 or IPv6 by its addresses. What is left out is what Linux sends: TTL 64, no
 * type of service, no payload, no fragment.
 */
export interface PacketDraft {
  readonly source: IpAddress;
  readonly destination: IpAddress;
  readonly transport: TransportDraft;
  /** TTL or hop limit, 0 to 255. */
  readonly ttl?: number;
  /** The whole byte of type of service or traffic class: DSCP and ECN. */
  readonly tos?: number;
  /** Bytes after the transport header. */
  readonly payload?: number;
  /** For a fragment: its offset in bytes, and whether more follow. Offset 0 without more is no fragment. */
  readonly fragment?: { readonly offset: number; readonly more: boolean };
  /** The link address of who sent it, for packets that arrive: `02:00:00:00:00:01`. */
  readonly macSource?: string;
  /** Whether the device that it comes by, or the socket that sends it, vouches for its checksum, as sockets do and raw ones do not; left out where that is not known. */
  readonly checksum?: 'verified' | 'unverified';
}

export type TransportDraft =
  | {
      readonly kind: 'tcp';
      readonly sourcePort: PortNumber;
      readonly destinationPort: PortNumber;
      readonly flags: readonly (TcpFlag | 'ECE' | 'CWR')[];
      /** The numbers of its options; MSS is 2. */
      readonly options?: readonly number[];
      readonly mss?: number;
    }
  | { readonly kind: 'udp'; readonly sourcePort: PortNumber; readonly destinationPort: PortNumber }
  /** ICMP for IPv4, ICMPv6 for IPv6. Errors carry the packet that they are about. */
  | { readonly kind: 'icmp'; readonly type: number; readonly code: number; readonly identifier?: number; readonly about?: PacketDraft }
  /** Another IP protocol by its number; ports where the protocol begins with them (SCTP, UDP-Lite, DCCP). */
  | { readonly kind: 'other'; readonly protocol: number; readonly sourcePort?: PortNumber; readonly destinationPort?: PortNumber };
