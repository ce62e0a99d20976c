import type { DoctorCheck } from '../../agent/protocol/doctor.ts';
import { meaningOf } from '../../agent/protocol/doctorChecks.ts';

/** More does not fit in a dialog; the report of the doctor has all. */
const MAX_NAMED = 6;

/** Gives lines of a dialog that name what applications would notice. */
export function describeLimits(checks: readonly DoctorCheck[]): readonly string[] {
  const named = checks.slice(0, MAX_NAMED).map((check) => `• ${check.title}: ${meaningOf(check)}`);
  return checks.length > MAX_NAMED ? [...named, `• and ${checks.length - MAX_NAMED} more, which the doctor’s report names`] : named;
}

/** Gives the texts of the dialog about findings that would refuse acceleration. */
export function describeOverride(label: string, refused: readonly DoctorCheck[]): { readonly question: string; readonly detail: string } {
  return {
    question: `Acceleration is not safe at ${label}.`,
    detail: [...describeLimits(refused), '', `To override turns it on in spite of: ${refused.map(({ id }) => id).join(', ')}. It is written to the log, and told wherever acceleration is listed.`].join('\n'),
  };
}
