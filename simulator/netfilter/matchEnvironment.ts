import type { Hook } from '../../agent/protocol/trace.ts';
import type { Address } from './address.ts';
import type { MatchState } from './matchState.ts';
import type { Packet } from './packet.ts';

/** Three-valued: what the world does not tell is null. */
export type Known<Value> = Value | null;

/** What matches and targets ask beyond the packet: the namespace that they run in. */
export interface MatchEnvironment {
  readonly hook: Hook;
  /** The type of an address for addrtype, `LOCAL`, `UNICAST`, …; with a device only as that device sees it. */
  readonly addressType: (address: Address, device: string | null) => Known<string>;
  /** Seconds since 1970, with fractions; does not go on by itself. */
  readonly now: number;
  /** What recent, limit and their like remember. */
  readonly state: MatchState;
  /** Whether a packet's source would be reached by the interface that it came from (rpfilter). */
  readonly reversePath: (packet: Packet, options: { readonly loose: boolean; readonly validMark: boolean; readonly acceptLocal: boolean }) => Known<boolean>;
  /** The socket of this namespace that a packet belongs to, for `-m socket`; undefined where there is none. */
  readonly findSocket: (packet: Packet) => Known<SocketFacts> | undefined;
  /** Hands a packet to a local socket for TPROXY; false where there is none that is transparent, null where that is not known. */
  readonly assignSocket: (packet: Packet, address: Address | null, port: number) => Known<boolean>;
  /** What connlimit counts a packet as. */
  readonly countedConnection: (packet: Packet) => CountedConnection;
  /** Whether what it has counted is in the table of connections now, and not closed. */
  readonly isConnectionOpen: (id: string) => boolean;
  /** Whether anything here asks for the mark of such a packet, or of its connection. */
  readonly readsMarks: (packet: Packet) => boolean;
  /** The least of the MTUs of the devices that a packet leaves by and that its answers would leave by, for TCPMSS; null where that is not known. */
  readonly pathMtu: (packet: Packet) => Known<number>;
  /** Notes what is taken to be so without being known: a sentence. */
  readonly assume: (sentence: string) => void;
  /** Whether an IP set of the namespace has what is asked; null where the set is not known. */
  readonly testSet: (name: string, packet: Packet, directions: readonly ('src' | 'dst')[], wantsException: boolean) => Known<boolean>;
  /** Puts what a packet has into an IP set, or takes it out (target SET). */
  readonly changeSet: (name: string, packet: Packet, directions: readonly ('src' | 'dst')[], action: 'add' | 'remove', overwrites: boolean) => void;
}

/** A packet's connection as connlimit keeps it: what it began with, or the packet's own addresses where it belongs to none yet. */
export interface CountedConnection {
  /** Names it for isConnectionOpen. */
  readonly id: string;
  readonly zone: number;
  /** Whether it is in the table of connections already. */
  readonly isConfirmed: boolean;
}

/** What `-m socket` asks of a socket. */
export interface SocketFacts {
  readonly isWildcard: boolean;
  readonly isTransparent: Known<boolean>;
  readonly mark: number;
}
