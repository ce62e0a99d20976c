import type { Endpoint } from '../../agent/protocol/scalars.ts';
import type { ConntrackEntry, ConntrackTuple } from '../../agent/protocol/snapshot.ts';

export type TrackedDirection = 'original' | 'reply';

/** A connection as conntrack keeps it. `reply` is what answers carry: NAT is the difference to `original` turned round. */
export interface TrackedConnection {
  readonly original: ConntrackTuple;
  reply: ConntrackTuple;
  mark: number;
  seenReply: boolean;
  /** Whether NAT of the destination, or of the source, was decided: it is never decided twice. */
  destinationBound: boolean;
  sourceBound: boolean;
  confirmed: boolean;
}

/**
 * The connection tracking table of one network namespace while a flow is simulated: what the snapshot has, and what the
 * flow adds. TCP windows and timeouts are not modelled.
 */
export class ConnectionTracker {
  readonly #connections = new Map<string, { readonly connection: TrackedConnection; readonly direction: TrackedDirection }>();
  #added = 0;

  constructor(entries: readonly ConntrackEntry[]) {
    for (const entry of entries) {
      // A new SYN reopens a connection in these states (nf_conntrack_proto_tcp.c, tcp_conntracks).
      const over = entry.state === 'TIME_WAIT' || entry.state === 'CLOSE';
      if (entry.protocol === 'tcp' && entry.zone === 0 && !over) {
        this.#index({
          original: entry.original,
          reply: entry.reply,
          mark: entry.mark,
          seenReply: entry.state !== 'SYN_SENT',
          destinationBound: true,
          sourceBound: true,
          confirmed: true,
        });
      }
    }
  }

  /** How many connections the flow added. */
  get added(): number {
    return this.#added;
  }

  /** Finds the connection of a tuple, whichever direction it belongs to. */
  find(tuple: ConntrackTuple): { readonly connection: TrackedConnection; readonly direction: TrackedDirection } | undefined {
    return this.#connections.get(tupleKey(tuple));
  }

  /** Begins a connection: it is in the table only once it is confirmed. */
  begin(tuple: ConntrackTuple): TrackedConnection {
    return { original: tuple, reply: invertTuple(tuple), mark: 0, seenReply: false, destinationBound: false, sourceBound: false, confirmed: false };
  }

  /** Puts a connection into the table, as the last thing that its first packet meets. */
  confirm(connection: TrackedConnection): void {
    connection.confirmed = true;
    this.#added += 1;
    this.#index(connection);
  }

  /** Says whether answers with this tuple would be taken for another connection's. */
  isTaken(reply: ConntrackTuple): boolean {
    return this.#connections.has(tupleKey(reply));
  }

  #index(connection: TrackedConnection): void {
    this.#connections.set(tupleKey(connection.original), { connection, direction: 'original' });
    this.#connections.set(tupleKey(connection.reply), { connection, direction: 'reply' });
  }
}

/** Gives the tuple of the answers to a tuple. */
export function invertTuple(tuple: ConntrackTuple): ConntrackTuple {
  return { source: tuple.destination, destination: tuple.source };
}

/** Writes an endpoint as `address:port`, IPv6 in brackets. */
export function writeEndpoint(endpoint: Endpoint): string {
  return endpoint.address.includes(':') ? `[${endpoint.address}]:${endpoint.port}` : `${endpoint.address}:${endpoint.port}`;
}

/** Says whether two endpoints are the same. */
export function sameEndpoint(left: Endpoint, right: Endpoint): boolean {
  return left.address === right.address && left.port === right.port;
}

function tupleKey({ source, destination }: ConntrackTuple): string {
  return `${source.address} ${source.port} ${destination.address} ${destination.port}`;
}
