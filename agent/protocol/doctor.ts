import type { WireError } from './errors.ts';

/** `not-on-this-node`: not with this kernel, or not with what this node lets the agent do. */
export type DoctorVerdict = 'safe' | 'safe-with-limits' | 'not-on-this-node';

/** One thing that was looked at. */
export interface DoctorCheck {
  /** Stable, for programs: a DoctorCheckId of this or of another version. */
  readonly id: string;
  readonly title: string;
  readonly result: 'ok' | 'limited' | 'failed' | 'unknown';
  /** What was found, one sentence. */
  readonly found: string;
  /** What it means, for whom, and what to do, where it is not ok. */
  readonly problem: WireError | null;
}

export interface DoctorReport {
  readonly verdict: DoctorVerdict;
  /** One sentence with the reason. */
  readonly summary: string;
  readonly checks: readonly DoctorCheck[];
  /** ISO 8601. */
  readonly at: string;
}

/** What a finding does when acceleration is to be turned on. */
export type FindingEffect =
  /** Nothing: it is about something else. */
  | 'none'
  /** It is told. */
  | 'told'
  /** It is told, and whoever turns acceleration on has to have accepted it. */
  | 'asked'
  /** Acceleration is refused, unless it is overridden by name. */
  | 'refused';

/** A finding that acceleration is on in spite of. */
export interface AcceptedFinding {
  readonly id: string;
  readonly title: string;
  /** What it means for applications, one sentence. */
  readonly meaning: string;
  readonly answer: 'told' | 'accepted' | 'overridden';
}
