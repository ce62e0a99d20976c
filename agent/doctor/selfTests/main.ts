import { readFileSync } from 'node:fs';
import { loadDatapath } from '../../accelerate/loadDatapath.ts';
import { openLibbpf } from '../../libbpf/library.ts';
import type { Libbpf } from '../../libbpf/library.ts';
import { enterScratchNamespace } from '../../libbpf/scratchNamespace.ts';
import { bindSocketCalls } from '../../libbpf/socketCalls.ts';
import type { DoctorCheckId } from '../../protocol/doctorChecks.ts';
import { MeshpathError, toMeshpathError } from '../../protocol/errors.ts';
import { openEnrolledPair } from './enrolledPair.ts';
import { PAIR_TESTS } from './pairTests.ts';
import { POD_TESTS } from './podTests.ts';
import type { ProgramRequest, ProgramReport } from './programReports.ts';
import { POD_ADDRESSES, SCRATCH_PROFILE, ScratchPods } from './scratchPods.ts';
import { SELF_TEST_SECONDS } from './programReports.ts';
import type { SelfTest, SelfTestResult } from './selfTest.ts';

/**
 * The self-tests as a process of their own, which the agent starts: it moves into a network namespace and cgroups that are made for it,
 * tells each result as it has it, and ends. Whatever it opened ends with it.
 */

const ADDRESSES = [...POD_ADDRESSES.a, ...POD_ADDRESSES.b];

process.once('message', (request: ProgramRequest) => {
  void runTests(request).then(
    () => process.disconnect(),
    (error: unknown) => {
      report({ kind: 'failed', error: toMeshpathError(error).toJSON() });
      process.disconnect();
    },
  );
});

async function runTests({ objectPath, unreadLimit, cgroupMount, cgroup }: ProgramRequest): Promise<void> {
  const libbpf = openLibbpf();
  // Also where the agent is killed, or a call of the kernel does not come back to JavaScript.
  bindSocketCalls(libbpf).alarm(SELF_TEST_SECONDS);
  const object = readFileSync(objectPath);
  const limit = BigInt(unreadLimit);
  const addresses = enterScratchNamespace(libbpf, ADDRESSES);
  await runPairTests(libbpf, object, limit);
  const pods = new ScratchPods({ libbpf, object, unreadLimit: limit, cgroupMount, cgroup, hasIpv6: ADDRESSES.every((address) => addresses.includes(address)) });
  try {
    for (const test of POD_TESTS) {
      await tell(test.id, () => test.run(pods));
      pods.closeSockets();
    }
  } finally {
    pods.close();
  }
}

/** The programs decide for two sockets of this process; nothing is attached to a cgroup for these. */
async function runPairTests(libbpf: Libbpf, object: Uint8Array, unreadLimit: bigint): Promise<void> {
  const loaded = loadDatapath(libbpf, object, { profile: SCRATCH_PROFILE, unreadLimit, connectionLimit: 0n, eventLimit: 0 });
  try {
    for (const test of PAIR_TESTS) {
      await tell(test.id, () => {
        const pair = openEnrolledPair(libbpf, loaded.object);
        try {
          return checkRedirection(test, test.run(pair), pair.countRedirected());
        } finally {
          pair.close();
        }
      });
    }
  } finally {
    loaded.close();
  }
}

/** Where nothing was redirected, a test that went well says nothing. */
function checkRedirection(test: SelfTest, result: SelfTestResult, redirected: bigint): SelfTestResult {
  if (test.needsRedirection && redirected === 0n) {
    throw new MeshpathError({
      code: 'KERNEL_UNSUITABLE',
      message: 'Messages were not redirected, so that nothing can be said of redirected ones.',
      reason: 'The program ran for none of the messages of the test, or its look-up in the sockhash found nothing.',
      remedy: 'Look whether another program has taken the sockets (other users of socket maps).',
    });
  }
  return result;
}

async function tell(id: DoctorCheckId, test: () => SelfTestResult | Promise<SelfTestResult>): Promise<void> {
  try {
    const result = test();
    report({ kind: 'result', id, ...(result instanceof Promise ? await result : result) });
  } catch (error) {
    const problem = toMeshpathError(error).toJSON();
    report({ kind: 'result', id, result: 'unknown', found: `It could not be tested: ${problem.message}`, problem });
  }
}

function report(message: ProgramReport): void {
  process.send?.(message);
}
