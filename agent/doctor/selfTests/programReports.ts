import type { DoctorCheck } from '../../protocol/doctor.ts';
import type { DoctorCheckId } from '../../protocol/doctorChecks.ts';
import type { WireError } from '../../protocol/errors.ts';
import type { CgroupPath } from '../../protocol/scalars.ts';

/** How long all self-tests may take; then their process ends. They take less than a second where nothing hangs. */
export const SELF_TEST_SECONDS = 30;

/** What the process of the self-tests is asked for. */
export interface ProgramRequest {
  readonly objectPath: string;
  /** Bytes, decimal. */
  readonly unreadLimit: string;
  readonly cgroupMount: string;
  /** An empty cgroup with the empty cgroups `a` and `b` in it. */
  readonly cgroup: CgroupPath;
}

/** What it tells, one message a test; `failed` where it could not go on. */
export type ProgramReport = ({ readonly kind: 'result'; readonly id: DoctorCheckId } & Pick<DoctorCheck, 'result' | 'found' | 'problem'>) | { readonly kind: 'failed'; readonly error: WireError };
