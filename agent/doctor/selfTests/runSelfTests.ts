import { loadDatapath } from '../../accelerate/loadDatapath.ts';
import type { LoadedDatapath } from '../../accelerate/loadDatapath.ts';
import { openLibbpf } from '../../libbpf/library.ts';
import type { Libbpf } from '../../libbpf/library.ts';
import { ISTIO_PROFILE } from '../../protocol/acceleration.ts';
import type { DoctorCheck } from '../../protocol/doctor.ts';
import { toMeshpathError } from '../../protocol/errors.ts';
import { openEnrolledPair } from './enrolledPair.ts';
import { messageOrderTest } from './messageOrder.ts';
import { readableBytesTest } from './readableBytes.ts';
import type { SelfTest } from './selfTest.ts';

const SELF_TESTS: readonly SelfTest[] = [messageOrderTest, readableBytesTest];

/**
 * Tries how the programs of `object` behave on this kernel: loads them, attaches them to nothing but their own sockhash, and lets them
 * decide for connections of this process to itself over 127.0.0.1. A test that cannot be made gives `unknown` with the reason. Leaves
 * nothing: the kernel frees the programs with their descriptors and sockets.
 */
export function runSelfTests(object: () => Uint8Array): DoctorCheck[] {
  let libbpf: Libbpf;
  let loaded: LoadedDatapath;
  try {
    libbpf = openLibbpf();
    loaded = loadDatapath(libbpf, object(), { profile: ISTIO_PROFILE, unreadLimit: 0n, connectionLimit: 0n, eventLimit: 0 });
  } catch (error) {
    return SELF_TESTS.map((test) => cannotTest(test, error));
  }
  try {
    return SELF_TESTS.map((test) => runSelfTest(libbpf, loaded, test));
  } finally {
    loaded.close();
  }
}

function runSelfTest(libbpf: Libbpf, { object }: LoadedDatapath, test: SelfTest): DoctorCheck {
  try {
    const pair = openEnrolledPair(libbpf, object);
    try {
      return { id: test.id, title: test.title, ...test.run(pair) };
    } finally {
      pair.close();
    }
  } catch (error) {
    return cannotTest(test, error);
  }
}

function cannotTest({ id, title }: SelfTest, error: unknown): DoctorCheck {
  const problem = toMeshpathError(error).toJSON();
  return { id, title, result: 'unknown', found: `It could not be tested: ${problem.message}`, problem };
}
