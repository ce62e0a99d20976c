import type { MeshpathError, WireError } from '../../agent/protocol/errors.ts';
import type { NodeDescription } from '../../agent/protocol/methods.ts';
import type { Node } from '../../agent/protocol/node.ts';
import type { HostKeyTrustStore } from '../ssh/hostKeyPolicy.ts';
import type { SshPrompts } from '../ssh/prompts.ts';

/** What a session connects to. Plain data: it can be kept in settings or state. */
export type NodeTarget =
  /** An alias of the user's ssh configuration, or `user@host:port`. */
  | { readonly kind: 'ssh'; readonly host: string }
  | { readonly kind: 'thisMachine' }
  | { readonly kind: 'simulated' };

/** The steps of connecting, in their order; a session that needs no SSH skips those of SSH. */
export const CONNECTING_PHASES = [
  'resolving',
  'connecting',
  'verifyingHost',
  'authenticating',
  'preflight',
  'deploying',
  'starting',
] as const;

export type ConnectingPhase = (typeof CONNECTING_PHASES)[number];

/** Where a session stands. */
export type SessionState =
  | { readonly phase: 'idle' }
  /** `message` is one short sentence for progress. */
  | { readonly phase: ConnectingPhase; readonly message: string }
  | {
      readonly phase: 'ready';
      readonly node: Node;
      readonly description: NodeDescription;
      /** What the user should know though nothing failed: SUDO_UNAVAILABLE where the agent runs without privilege. */
      readonly notices: readonly WireError[];
    }
  /** `error` is null where close() ended it; CANCELLED where the user did while connecting. */
  | { readonly phase: 'closed'; readonly error: MeshpathError | null };

/** What the user interface gives to a session. */
export interface NodeSessionOptions {
  readonly target: NodeTarget;
  /** `meshpath-vscode 0.1.0`. */
  readonly client: string;
  /** The folder with the agent's manifest.json (`dist/agent` of the extension). */
  readonly agentFolder: string;
  readonly prompts: SshPrompts;
  readonly trustStore: HostKeyTrustStore;
  /** Makes the simulated node. */
  readonly createSimulatedNode: () => Node;
  /** One line for the output channel; never holds a secret. */
  readonly log: (line: string) => void;
  /** The ssh configuration to read instead of ~/.ssh/config. */
  readonly sshConfigFile?: string | undefined;
  /** Path of the node program on the SSH host, from the settings. */
  readonly remoteNodePath?: string | undefined;
}

/** One connection to one node, from the first look-up to the end; many live side by side. */
export interface NodeSession {
  readonly target: NodeTarget;
  /** The name to show: the host as the user wrote it, `This machine`, `Simulated node`. */
  readonly label: string;
  readonly state: SessionState;
  /** Calls `listener` after every change of `state` until the returned function is called. */
  onStateChange(listener: (state: SessionState) => void): () => void;
  /**
   * Connects; from `idle` or `closed` (which is how to reconnect). Resolves with the node once it is `ready`; rejects
   * with a MeshpathError after the state became `closed`, with nothing left behind on either side. Aborting `signal`
   * cancels at any step (CANCELLED).
   */
  connect(signal?: AbortSignal): Promise<Node>;
  /** Ends the agent and the SSH connection; cancels where it is still connecting. Safe to call more than once. */
  close(): Promise<void>;
}

/** The signature of createNodeSession. */
export type CreateNodeSession = (options: NodeSessionOptions) => NodeSession;
