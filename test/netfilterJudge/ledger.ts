import type { Difference } from './compareCase.ts';
import type { JudgeCase } from './judgeCase.ts';

/** What an entry looks at. */
type DeclaredCase = Pick<JudgeCase, 'rules' | 'stimuli' | 'backend'>;

/**
 * Every difference between the simulator and the kernel that is known and stays. A difference that no entry declares fails
 * the run. docs/netfilterLedger.md is the same list for people; a test holds the two together.
 */
export interface LedgerEntry {
  readonly name: string;
  /** One sentence: what the kernel does that the simulator does not. */
  readonly title: string;
  /** Says whether a difference is this one. */
  readonly declares: (judged: DeclaredCase, difference: Difference) => boolean;
}

export const LEDGER: readonly LedgerEntry[] = [];

/** Gives the name of the entry that declares a difference; undefined where none does. */
export function findDeclared(judged: DeclaredCase, difference: Difference): string | undefined {
  return LEDGER.find((entry) => entry.declares(judged, difference))?.name;
}
