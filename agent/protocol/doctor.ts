import type { WireError } from './errors.ts';

export type DoctorVerdict = 'safe' | 'safe-with-limits' | 'not-on-this-node';

/** One thing that was looked at. */
export interface DoctorCheck {
  /** Stable, for programs: `kernel-version`, `btf`, `cgroup2`, `capability-bpf`, `libbpf`, `hook-owners`, `leftovers`, `message-order`, `fionread`. */
  readonly id: string;
  readonly title: string;
  readonly result: 'ok' | 'limited' | 'failed' | 'unknown';
  /** What was found, one sentence. */
  readonly found: string;
  /** What it means and what to do, where it is not ok. */
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
