/** What the programs print: one JSON document a line. */

export type FailureKind = 'corrupted' | 'truncated' | 'refused' | 'reset' | 'hung';

/** A connection that went wrong. */
export interface Failure {
  readonly kind: FailureKind;
  /** Of its plan; null where the server never learned it. */
  readonly seed: number | null;
  readonly detail: string;
}

/** What one end has seen so far. */
export interface EndReport {
  /** Connections opened, or accepted. */
  readonly started: number;
  /** Connections that ended, well or not. */
  readonly ended: number;
  /** Of `ended`: those that the client gave up on purpose. */
  readonly aborted: number;
  /** Of the server's `ended`: reset before the client's header came; at most as many as the client aborted. */
  readonly anonymous: number;
  readonly sentBytes: number;
  readonly receivedBytes: number;
  readonly failures: Readonly<Record<FailureKind, number>>;
  /** The first of them. */
  readonly examples: readonly Failure[];
  /** In the client's last report: from its first connection to its last; else 0. */
  readonly seconds: number;
  /** True in the client's last report. */
  readonly isLast: boolean;
}

export interface ClientParams {
  readonly address: string;
  readonly port: number;
  /** Where the server speaks first. */
  readonly greetingPort: number;
  readonly connections: number;
  /** Opens no more after this time even if there are some left; 0: no limit. */
  readonly seconds: number;
  readonly concurrency: number;
  readonly firstSeed: number;
  /** Binds to ports from this one on, one after the other; null: the kernel chooses. */
  readonly local: { readonly address: string; readonly firstPort: number; readonly ports: number } | null;
  /** Wall clock in milliseconds at which to start; 0: at once. */
  readonly startAt: number;
}

export interface ServerParams {
  readonly address: string;
  readonly port: number;
  readonly greetingPort: number;
  /** The four highest bits of every client's seed, and of its own: bytes of a stranger show. */
  readonly tag: number;
}

export interface SidecarParams {
  readonly outboundPort: number;
  readonly inboundPort: number;
  /** What inbound connections are made from. */
  readonly passthroughSource: string;
}

export interface LeaverParams {
  readonly address: string;
  readonly port: number;
  readonly delaysAck: boolean;
  readonly text: string;
}
