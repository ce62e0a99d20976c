import type { Readable, Writable } from 'node:stream';
import type { MeshpathError } from '../../agent/protocol/errors.ts';

/** How a program ended. */
export interface ProcessExit {
  readonly code: number | null;
  readonly signal: string | null;
  /** The error of the transport where it was lost under the program; null where the program ended by itself. */
  readonly lost: MeshpathError | null;
}

/** A program that runs on a node, with its three streams. */
export interface NodeProcess {
  readonly stdin: Writable;
  readonly stdout: Readable;
  readonly stderr: Readable;
  readonly exited: Promise<ProcessExit>;
  /** Ends it without asking. */
  kill(): void;
}

/** A way to run programs on a node: SSH, or a shell of this machine. */
export interface Transport {
  /** Runs one command line of plain words and single quotes, which every login shell reads the same. */
  start(command: string): Promise<NodeProcess>;
  /** Resolves when it ended: with the error that ended it, or null where close() did. */
  readonly closed: Promise<MeshpathError | null>;
  /** Safe to call more than once. */
  close(): Promise<void>;
}
