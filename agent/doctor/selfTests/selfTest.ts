import type { WireError } from '../../protocol/errors.ts';
import type { EnrolledPair } from './enrolledPair.ts';

/** A test of how this kernel behaves with Meshpath's programs: the version alone does not tell, for distributions port changes back. */
export interface SelfTest {
  /** The id of its check. */
  readonly id: string;
  readonly title: string;
  /** Tries it on two connected sockets of its own. Throws a MeshpathError where it cannot be tried. */
  readonly run: (pair: EnrolledPair) => SelfTestResult;
}

export interface SelfTestResult {
  /** `limited` where some applications break, `failed` where bytes are lost or changed. */
  readonly result: 'ok' | 'limited' | 'failed';
  /** What was found, one sentence. */
  readonly found: string;
  readonly problem: WireError | null;
}
