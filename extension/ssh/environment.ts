import type { HostKeyTrustStore } from './hostKeyPolicy.ts';
import type { SshPrompts } from './prompts.ts';

/** The steps of connecting to each hop. */
export type SshPhase = 'resolving' | 'connecting' | 'verifyingHost' | 'authenticating';

/** What connecting needs from around it. */
export interface SshEnvironment {
  readonly prompts: SshPrompts;
  readonly trustStore: HostKeyTrustStore;
  /** As `ssh -F`. */
  readonly configFile?: string | undefined;
  /** Called at each step of each hop, with one short sentence. */
  readonly onPhase: (phase: SshPhase, message: string) => void;
  /** One line for the log; never holds a secret. */
  readonly log: (line: string) => void;
}
