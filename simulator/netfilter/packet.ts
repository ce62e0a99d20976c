import type { Endpoint, IpAddress } from '../../agent/protocol/scalars.ts';
import type { TcpFlag } from './ruleSet.ts';

/** A TCP packet as the rules of one table see it. */
export interface Packet {
  readonly source: Endpoint;
  readonly destination: Endpoint;
  readonly flags: readonly TcpFlag[];
  readonly inInterface: string | null;
  readonly outInterface: string | null;
  /** 32 bits. */
  readonly mark: number;
  readonly owner: PacketOwner;
  /** Null where conntrack has not seen the packet (yet). */
  readonly connection: PacketConnection | null;
}

/**
 * The socket that a packet comes from, as `-m owner` sees it (net/netfilter/xt_owner.c): only on the way out of the
 * machine that created it. `gid` is null where the snapshot does not tell it.
 */
export type PacketOwner = { readonly kind: 'socket'; readonly uid: number; readonly gid: number | null } | { readonly kind: 'none' };

/** What conntrack knows of the packet. */
export interface PacketConnection {
  readonly state: 'NEW' | 'ESTABLISHED' | 'RELATED' | 'INVALID' | 'UNTRACKED';
  readonly mark: number;
  readonly sourceTranslated: boolean;
  readonly destinationTranslated: boolean;
}

/** What matches ask beyond the packet. */
export interface MatchContext {
  /** The type of an address in the packet's namespace (net/ipv4/fib_frontend.c, inet_addr_type): `LOCAL`, `UNICAST`, …; null where it cannot be told. */
  readonly addressType: (address: IpAddress) => string | null;
}
