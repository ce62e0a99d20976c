import type { Endpoint } from '../../protocol/scalars.ts';

/**
 * What the programs of a lab and the lab say to each other over Node's IPC channel: the lab sends commands, a program
 * answers each by its number and tells events unasked.
 */

export interface Command {
  readonly id: number;
  readonly method: string;
  readonly params: unknown;
}

export type ProgramMessage =
  | { readonly kind: 'ready' }
  | { readonly kind: 'failed'; readonly message: string }
  | { readonly kind: 'event'; readonly name: string; readonly value: unknown }
  | { readonly kind: 'answer'; readonly id: number; readonly result: unknown }
  | { readonly kind: 'refusal'; readonly id: number; readonly code: string | null; readonly message: string };

/** The programs that run in pods. */
export type ProgramName = 'server' | 'proxy' | 'client' | 'socks';

/** Who a program is from the moment on at which it makes its first socket. */
export interface ProgramIdentity {
  readonly uid: number;
  readonly gid: number;
}

export interface ServerParams {
  readonly identity: ProgramIdentity;
  readonly address: string;
  /** 0: one that the kernel chooses. */
  readonly port: number;
  /**
   * `echo` sends back what it receives; `sink` reads and says nothing; `ends-first` is a sink that half-closes at once;
   * `http` answers any request with an HttpReply.
   */
  readonly mode: 'echo' | 'sink' | 'ends-first' | 'http';
  /** Sent as soon as a connection is accepted: a server that speaks first. */
  readonly greeting: string | null;
}

/** A connection that the server accepted, as its kernel sees it. */
export interface AcceptedConnection {
  readonly connection: number;
  readonly peer: Endpoint;
  readonly local: Endpoint;
}

/** A connection of the server that has ended. */
export interface EndedConnection {
  readonly connection: number;
  readonly receivedBytes: number;
  readonly sentBytes: number;
  /** The errno name that ended it; null where both sides closed in good order. */
  readonly error: string | null;
}

/** The body of an answer in http mode, as JSON. */
export interface HttpReply {
  readonly method: string;
  readonly url: string;
  readonly peer: Endpoint;
  readonly local: Endpoint;
  readonly bodyBytes: number;
}

export interface ProxyParams {
  readonly identity: ProgramIdentity;
  readonly outboundPort: number;
  readonly inboundPort: number;
  /** `::` for connections over IPv6 too. */
  readonly listenAddress: string;
  /** What inbound connections are made from. */
  readonly passthroughSource: string;
  readonly passthroughSourceV6: string;
  /** Where inbound connections go on to, at the port that they were made to; null: where they were made to. */
  readonly applicationAddress: string | null;
}

export interface SocksParams {
  readonly identity: ProgramIdentity;
  /** On loopback. */
  readonly outboundPort: number;
  readonly inboundPort: number;
  /** What inbound connections are made from; null: what the kernel chooses. */
  readonly passthroughSource: string | null;
  /** See ProxyParams. */
  readonly applicationAddress: string | null;
}

/** A connection that the proxy accepted. */
export interface ProxiedConnection {
  readonly connection: number;
  readonly listener: 'outbound' | 'inbound';
  readonly peer: Endpoint;
  readonly local: Endpoint;
  /** The answer to getsockopt(SOL_IP, SO_ORIGINAL_DST); null where the kernel gave `originalDestinationError`. */
  readonly originalDestination: Endpoint | null;
  /** `ENOENT` where nobody redirected the connection. */
  readonly originalDestinationError: string | null;
}

/** A proxied connection that has ended. */
export interface EndedProxying {
  readonly connection: number;
  readonly bytesToUpstream: number;
  readonly bytesToDownstream: number;
  readonly error: string | null;
}

export interface ClientParams {
  readonly identity: ProgramIdentity;
}

export interface OpenParams {
  readonly address: string;
  readonly port: number;
  readonly localAddress: string | null;
  /** 0: one that the kernel chooses. */
  readonly localPort: number;
  /** Both ends of the byte pattern must agree on it; an echo server needs no more than this. */
  readonly seed: number;
}

/** An open connection of the client as its kernel sees it. */
export interface OpenedConnection {
  readonly connection: number;
  readonly local: Endpoint;
  /** The answer to getpeername(2), asked of the kernel and not of Node.js. */
  readonly peer: Endpoint;
}

export interface VisitParams {
  readonly address: string;
  readonly port: number;
  /** Sent and awaited back. */
  readonly bytes: number;
  /** Where in the pattern the bytes of this connection begin: another place for each shows bytes of a stranger. */
  readonly offset: number;
  /** How long it may take. */
  readonly milliseconds: number;
}

/** A connection that was opened, used once and is still open. */
export interface Visit extends OpenedConnection {
  readonly connectMilliseconds: number;
  readonly exchangeMilliseconds: number;
  readonly received: ReceivedBytes;
}

export interface SendParams {
  readonly connection: number;
  readonly bytes: number;
  /** Bytes of one write(2), at most. */
  readonly writeBytes: number;
}

export interface ReceiveParams {
  readonly connection: number;
  readonly bytes: number;
}

export interface RoundTripParams {
  readonly connection: number;
  /** Bytes there and back each time. */
  readonly bytes: number;
  readonly rounds: number;
}

/** What was received, compared with the pattern. */
export interface ReceivedBytes {
  readonly bytes: number;
  readonly exact: boolean;
  /** Where in the stream of this connection the first wrong byte was, from 0; null where all were right. */
  readonly firstDifference: number | null;
  /** True where the peer closed before all had come. */
  readonly ended: boolean;
}

export interface HttpParams {
  readonly address: string;
  readonly port: number;
  readonly path: string;
  readonly bodyBytes: number;
}

export interface HttpResult {
  readonly status: number;
  readonly reply: HttpReply;
}
