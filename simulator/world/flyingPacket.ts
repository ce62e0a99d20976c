import type { Endpoint } from '../../agent/protocol/scalars.ts';
import type { ConntrackTuple } from '../../agent/protocol/snapshot.ts';
import type { PacketState } from '../../agent/protocol/trace.ts';
import type { Packet, PacketConnection, PacketOwner } from '../netfilter/packet.ts';
import type { TcpFlag } from '../netfilter/ruleSet.ts';
import type { TrackedConnection, TrackedDirection } from './conntrack.ts';

/** What conntrack put on a packet. */
export type PacketTracking =
  | { readonly kind: 'tracked'; readonly connection: TrackedConnection; readonly direction: TrackedDirection; readonly state: 'NEW' | 'ESTABLISHED' }
  | { readonly kind: 'untracked' }
  | { readonly kind: 'invalid' };

/** A TCP packet on its way: what an skb carries that matters to its path. */
export class FlyingPacket {
  source: Endpoint;
  destination: Endpoint;
  readonly flags: readonly TcpFlag[];
  mark = 0;
  owner: PacketOwner;
  inInterface: string | null = null;
  outInterface: string | null = null;
  tracking: PacketTracking | null = null;

  constructor(tuple: ConntrackTuple, flags: readonly TcpFlag[], owner: PacketOwner) {
    this.source = tuple.source;
    this.destination = tuple.destination;
    this.flags = flags;
    this.owner = owner;
  }

  /** The packet for the steps of a trace. */
  state(): PacketState {
    return {
      source: this.source,
      destination: this.destination,
      inInterface: this.inInterface,
      outInterface: this.outInterface,
      mark: this.mark,
      connection: this.#connectionState(),
    };
  }

  /** The packet as rules see it. */
  view(): Packet {
    return {
      source: this.source,
      destination: this.destination,
      flags: this.flags,
      inInterface: this.inInterface,
      outInterface: this.outInterface,
      mark: this.mark,
      owner: this.owner,
      connection: this.#connectionView(),
    };
  }

  tuple(): ConntrackTuple {
    return { source: this.source, destination: this.destination };
  }

  #connectionState(): PacketState['connection'] {
    switch (this.tracking?.kind) {
      case undefined:
        return null;
      case 'tracked':
        return this.tracking.state;
      case 'untracked':
        return 'UNTRACKED';
      case 'invalid':
        return 'INVALID';
    }
  }

  #connectionView(): PacketConnection | null {
    const state = this.#connectionState();
    if (state === null) {
      return null;
    }
    const connection = this.tracking?.kind === 'tracked' ? this.tracking.connection : undefined;
    if (connection === undefined) {
      return { state, mark: 0, sourceTranslated: false, destinationTranslated: false };
    }
    const { original, reply } = connection;
    const differs = (left: Endpoint, right: Endpoint): boolean => left.address !== right.address || left.port !== right.port;
    return {
      state,
      mark: connection.mark,
      sourceTranslated: differs(original.source, reply.destination),
      destinationTranslated: differs(original.destination, reply.source),
    };
  }
}
