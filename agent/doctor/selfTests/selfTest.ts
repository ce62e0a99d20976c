import type { DoctorCheck } from '../../protocol/doctor.ts';
import type { DoctorCheckId } from '../../protocol/doctorChecks.ts';
import type { WireError } from '../../protocol/errors.ts';
import type { EnrolledPair } from './enrolledPair.ts';

/** A test of how this kernel behaves with Meshpath's programs: the version alone does not tell, for distributions port changes back. */
export interface SelfTest {
  /** The id of its check. */
  readonly id: DoctorCheckId;
  /** Whether it says anything only where messages were redirected. */
  readonly needsRedirection: boolean;
  /** Tries it on two connected sockets of its own. Throws a MeshpathError where it cannot be tried. */
  readonly run: (pair: EnrolledPair) => SelfTestResult;
}

/** What was seen: `limited` where some applications break, `failed` where bytes are lost or changed, or all applications break. */
export type SelfTestResult = Pick<DoctorCheck, 'found' | 'problem'> & { readonly result: 'ok' | 'limited' | 'failed' };

/** The result of a test in which accelerated sockets behaved as others do. */
export function asExpected(found: string): SelfTestResult {
  return { result: 'ok', found, problem: null };
}

/** The result of a test in which only some applications would notice. */
export function limitation(found: string, message: string, reason: string, remedy: string): SelfTestResult {
  return { result: 'limited', found, problem: unsuitable(message, reason, remedy) };
}

const LEAVE_OFF = 'Leave acceleration off on this node, and report what the doctor shows with the version of the kernel.';

/** The result of a test that no application survives. */
export function breakage(found: string, message: string, reason: string): SelfTestResult {
  return { result: 'failed', found, problem: unsuitable(message, reason, LEAVE_OFF) };
}

function unsuitable(message: string, reason: string, remedy: string): WireError {
  return { code: 'KERNEL_UNSUITABLE', message, reason, remedy };
}
