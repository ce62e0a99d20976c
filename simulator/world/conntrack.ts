import type { ConntrackEntry } from '../../agent/protocol/snapshot.ts';
import type { ConnectionView, ZoneRule } from '../netfilter/packet.ts';
import { PROTOCOL } from '../netfilter/protocolNumbers.ts';
import type { TcpState } from './tcpState.ts';
import { isTcpState } from './tcpState.ts';
import type { Tuple } from './tuple.ts';
import { endpointsOf, invertKnownTuple, sameTuple, tupleKey, tupleOfEndpoints } from './tuple.ts';

/** The zone of a connection. */
export type Zone = ZoneRule;

/** Zone 0, which everything is in that no CT --zone names. */
export const DEFAULT_ZONE: Zone = { id: 0, directions: 'both' };

/**
 * A connection as conntrack keeps it (include/net/netfilter/nf_conntrack.h). `reply` is what answers carry: NAT is the
 * difference to `original` turned round.
 */
export class Connection implements ConnectionView {
  readonly original: Tuple;
  reply: Tuple;
  readonly zoneRule: Zone;
  mark = 0;
  seenReply = false;
  assured = false;
  confirmed = false;
  /** Whether NAT of the source, or of the destination, changes anything (IPS_SRC_NAT, IPS_DST_NAT). */
  sourceTranslated = false;
  destinationTranslated = false;
  /** Whether NAT was decided: it is never decided twice (IPS_SRC_NAT_DONE, IPS_DST_NAT_DONE). */
  sourceBound = false;
  destinationBound = false;
  /** The device that MASQUERADE chose the address of; null without. */
  masqueradeDevice: string | null = null;
  tcpState: TcpState | null = null;
  /** Whether a side asked to close: a new SYN then opens anew. */
  closing = false;
  /** Directions in which segments that a socket wrote, but for resets, belong to it: bit 0 original, bit 1 reply. What crafted ones are numbered then need not fit. */
  numberedDirections = 0;
  /** Packets and bytes of each direction, where the simulation saw them. */
  packets: [number, number] = [0, 0];
  bytes: [number, number] = [0, 0];
  /** Whether it was in the table before the simulation began: its counters are then not known. */
  readonly isOld: boolean;
  /** This connection as the two keys of the table find it. */
  readonly asOriginal: FoundConnection;
  readonly asReply: FoundConnection;

  constructor(original: Tuple, reply: Tuple, zoneRule: Zone, isOld: boolean) {
    this.original = original;
    this.reply = reply;
    this.zoneRule = zoneRule;
    this.isOld = isOld;
    this.asOriginal = { connection: this, isReply: false };
    this.asReply = { connection: this, isReply: true };
  }

  get zone(): number {
    return this.zoneRule.id;
  }

  /** The zone that a direction is looked up in. */
  zoneOf(isReply: boolean): number {
    const { id, directions } = this.zoneRule;
    return directions === 'both' || directions === (isReply ? 'reply' : 'original') ? id : 0;
  }

  copy(): Connection {
    const copy = new Connection(this.original, this.reply, this.zoneRule, this.isOld);
    copy.mark = this.mark;
    copy.seenReply = this.seenReply;
    copy.assured = this.assured;
    copy.confirmed = this.confirmed;
    copy.sourceTranslated = this.sourceTranslated;
    copy.destinationTranslated = this.destinationTranslated;
    copy.sourceBound = this.sourceBound;
    copy.destinationBound = this.destinationBound;
    copy.masqueradeDevice = this.masqueradeDevice;
    copy.tcpState = this.tcpState;
    copy.closing = this.closing;
    copy.numberedDirections = this.numberedDirections;
    copy.packets = [...this.packets];
    copy.bytes = [...this.bytes];
    return copy;
  }
}

/** A connection with the direction that a tuple belongs to. */
export interface FoundConnection {
  readonly connection: Connection;
  readonly isReply: boolean;
}

/** Connections by their two keys; null stands for one that was removed. Layers below others are never changed. */
interface Layer {
  readonly found: Map<string, FoundConnection | null>;
  readonly bySource: Map<string, readonly Connection[]>;
}

/** More layers than this are merged, so that looking up stays quick. */
const MAX_LAYERS = 4;

/**
 * The connection tracking table of one network namespace. A fork shares what it has until one of the two changes it. TCP
 * windows and timeouts are not modelled: an entry stays until a packet ends it.
 */
export class ConnectionTracker {
  #layers: readonly Layer[];
  #top = newLayer();
  #added = 0;

  constructor(entries: readonly ConntrackEntry[]) {
    this.#layers = [];
    for (const entry of entries) {
      const connection = readEntry(entry);
      if (connection !== undefined) {
        this.#index(connection);
      }
    }
  }

  /** How many connections were confirmed since the table was made. */
  get added(): number {
    return this.#added;
  }

  /** Gives a table that begins with what this one has; neither sees what the other changes then. */
  fork(): ConnectionTracker {
    if (this.#top.found.size > 0) {
      this.#layers = [...this.#layers, this.#top];
      this.#top = newLayer();
      if (this.#layers.length > MAX_LAYERS) {
        this.#layers = [mergeLayers(this.#layers)];
      }
    }
    const fork = new ConnectionTracker([]);
    fork.#layers = this.#layers;
    fork.#added = this.#added;
    return fork;
  }

  /** Finds the connection of a tuple, whichever direction it belongs to. It may be changed by the caller. */
  find(tuple: Tuple, zone: number): FoundConnection | undefined {
    const key = tupleKey(tuple, zone);
    const top = this.#top.found.get(key);
    if (top !== undefined) {
      return top ?? undefined;
    }
    for (let index = this.#layers.length - 1; index >= 0; index -= 1) {
      const found = this.#layers[index]?.found.get(key);
      if (found === null) {
        return undefined;
      }
      if (found !== undefined) {
        const connection = found.connection.copy();
        this.#index(connection);
        return { connection, isReply: found.isReply };
      }
    }
    return undefined;
  }

  /** Puts a connection into the table, as the last thing that its first packet meets. */
  confirm(connection: Connection): void {
    connection.confirmed = true;
    this.#added += 1;
    this.#index(connection);
  }

  /** Takes a connection out of the table; one of PPTP takes the tunnel between its ends with it (nf_conntrack_pptp.c, pptp_destroy_siblings). */
  remove(connection: Connection): void {
    this.#top.found.set(tupleKey(connection.original, connection.zoneOf(false)), null);
    this.#top.found.set(tupleKey(connection.reply, connection.zoneOf(true)), null);
    if (connection.zoneRule.helper !== 'pptp') {
      return;
    }
    for (const { source, destination } of [connection.original, connection.reply]) {
      // The calls of a tunnel have no numbers yet where nobody has read what they say.
      const tunnel = this.findInZone({ protocol: PROTOCOL.gre, source, sourcePort: 0, destination, destinationPort: 0 }, connection.zoneRule);
      if (tunnel !== undefined) {
        this.remove(tunnel.connection);
      }
    }
  }

  /** Like find, in a zone: one that counts in one direction only leaves the other in zone 0 (nf_conntrack_core.c, nf_ct_zone_id). */
  findInZone(tuple: Tuple, zone: Zone): FoundConnection | undefined {
    const found = this.find(tuple, zone.id);
    if (zone.directions === 'both' || found?.isReply === (zone.directions === 'reply')) {
      return found;
    }
    const inDefault = this.find(tuple, DEFAULT_ZONE.id);
    return inDefault?.isReply === (zone.directions === 'original') ? inDefault : undefined;
  }

  /**
   * Says whether packets with this tuple, which is that of a direction of `connection`, would be taken for those of another connection that
   * is in the table: zones are compared for the direction of the one that is there (nf_conntrack_core.c, nf_ct_key_equal).
   */
  isTaken(tuple: Tuple, connection: Connection, isReply: boolean): boolean {
    const zone = connection.zoneOf(isReply);
    const found = this.#get(tupleKey(tuple, zone));
    return found !== undefined && connection.zoneOf(found.isReply) === zone;
  }

  /** The connections whose first packets came from a tuple's source (nf_nat_core.c, nf_nat_bysource), latest first. */
  fromSource(tuple: Tuple, zone: number): readonly Connection[] {
    const key = sourceKey(tuple, zone);
    const found: Connection[] = [];
    for (const layer of [this.#top, ...this.#layers.toReversed()]) {
      for (const connection of layer.bySource.get(key) ?? []) {
        if (this.#get(tupleKey(connection.original, connection.zoneOf(false))) !== undefined) {
          found.push(connection);
        }
      }
    }
    return found;
  }

  /** Every connection of the table, in no order that means anything. */
  entries(): readonly Connection[] {
    const merged = mergeLayers([...this.#layers, this.#top]);
    // A packet of a protocol without ports from an address to itself has one key for both directions.
    return [...new Set([...merged.found.values()].flatMap((found) => (found === null ? [] : [found.connection])))];
  }

  #get(key: string): FoundConnection | undefined {
    let found = this.#top.found.get(key);
    for (let index = this.#layers.length - 1; found === undefined && index >= 0; index -= 1) {
      found = this.#layers[index]?.found.get(key);
    }
    return found ?? undefined;
  }

  #index(connection: Connection): void {
    this.#top.found.set(tupleKey(connection.original, connection.zoneOf(false)), connection.asOriginal);
    this.#top.found.set(tupleKey(connection.reply, connection.zoneOf(true)), connection.asReply);
    if (connection.sourceTranslated && !sameTuple(invertKnownTuple(connection.reply), connection.original)) {
      const key = sourceKey(connection.original, connection.zoneOf(false));
      this.#top.bySource.set(key, [connection, ...(this.#top.bySource.get(key) ?? []).filter((other) => !sameTuple(other.original, connection.original))]);
    }
  }
}

/** Writes a connection as a snapshot has it. */
export function describeConnection(connection: Connection): ConntrackEntry {
  const names: Readonly<Record<number, ConntrackEntry['protocol']>> = { [PROTOCOL.tcp]: 'tcp', [PROTOCOL.udp]: 'udp', [PROTOCOL.icmp]: 'icmp', [PROTOCOL.icmpv6]: 'icmpv6' };
  return {
    protocol: names[connection.original.protocol] ?? 'other',
    state: connection.tcpState,
    original: endpointsOf(connection.original),
    reply: endpointsOf(connection.reply),
    mark: connection.mark,
    zone: connection.zone,
    timeoutSeconds: null,
  };
}

function newLayer(): Layer {
  return { found: new Map(), bySource: new Map() };
}

function mergeLayers(layers: readonly Layer[]): Layer {
  const merged = newLayer();
  for (const layer of layers) {
    for (const [key, found] of layer.found) {
      if (found === null) {
        merged.found.delete(key);
      } else {
        merged.found.set(key, found);
      }
    }
    for (const [key, connections] of layer.bySource) {
      merged.bySource.set(key, [...connections, ...(merged.bySource.get(key) ?? [])]);
    }
  }
  return merged;
}

function sourceKey(tuple: Tuple, zone: number): string {
  return `${tuple.protocol} ${tuple.source.text} ${tuple.sourcePort} ${zone}`;
}

/** Entries of protocols that a snapshot does not name, and of ICMP, whose types it does not tell, are left out: a packet of theirs begins anew. */
function readEntry(entry: ConntrackEntry): Connection | undefined {
  if (entry.protocol !== 'tcp' && entry.protocol !== 'udp') {
    return undefined;
  }
  const protocol = PROTOCOL[entry.protocol];
  const original = tupleOfEndpoints(protocol, entry.original);
  const reply = tupleOfEndpoints(protocol, entry.reply);
  const connection = new Connection(original, reply, { id: entry.zone, directions: 'both' }, true);
  connection.mark = entry.mark;
  connection.confirmed = true;
  connection.sourceBound = true;
  connection.destinationBound = true;
  connection.sourceTranslated = !original.source.equals(reply.destination) || original.sourcePort !== reply.destinationPort;
  connection.destinationTranslated = !original.destination.equals(reply.source) || original.destinationPort !== reply.sourcePort;
  connection.tcpState = protocol === PROTOCOL.tcp && entry.state !== null && isTcpState(entry.state) ? entry.state : protocol === PROTOCOL.tcp ? 'ESTABLISHED' : null;
  connection.seenReply = entry.state !== 'SYN_SENT';
  connection.assured = connection.tcpState === 'ESTABLISHED';
  connection.closing = connection.tcpState === 'TIME_WAIT' || connection.tcpState === 'CLOSE';
  return connection;
}
