import type { WireError } from './errors.ts';

/** Something of Meshpath's on a node that stays when the agent ends. */
export interface Leftover {
  /** `kept-acceleration`: pinned programs, maps and links. `lab`: pods that nobody's lab has any more. `cached-agent`: the files of an agent that does not run. `self-test-results`: what the doctor keeps until the next boot. */
  readonly kind: 'kept-acceleration' | 'lab' | 'cached-agent' | 'self-test-results';
  /** Its folder, or the name of the lab. */
  readonly where: string;
  /** What it is, one sentence. */
  readonly what: string;
  readonly isRemoved: boolean;
  /** Why it was not, or would not be, removed. */
  readonly problem: WireError | null;
}

/** What cleaning found, and removed unless it was to look only. */
export interface CleanReport {
  readonly items: readonly Leftover[];
}
