import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { suite, test } from 'node:test';
import { loadDatapath } from '../../agent/accelerate/loadDatapath.ts';
import { openEnrolledPair } from '../../agent/doctor/selfTests/enrolledPair.ts';
import { messageOrderTest } from '../../agent/doctor/selfTests/messageOrder.ts';
import { readableBytesTest } from '../../agent/doctor/selfTests/readableBytes.ts';
import { runSelfTests } from '../../agent/doctor/selfTests/runSelfTests.ts';
import type { SelfTest, SelfTestResult } from '../../agent/doctor/selfTests/selfTest.ts';
import { createIntrospection } from '../../agent/libbpf/introspection.ts';
import { openLibbpf } from '../../agent/libbpf/library.ts';
import { updateElement } from '../../agent/libbpf/maps.ts';
import { ISTIO_PROFILE } from '../../agent/protocol/acceleration.ts';
import { encodeStructure } from '../../agent/protocol/datapath.ts';
import { prebuiltObject } from '../../scripts/compileBpf.mjs';
import { waitForNothingLeft } from '../lab/leftovers.ts';
import { missingForKernel } from '../requirements.ts';

const readObject = (): Uint8Array => readFileSync(prebuiltObject);

/** Runs a self-test on a pair that `change` has changed, and says which programs were loaded for it. */
function runOn(selfTest: SelfTest, change: (pair: ReturnType<typeof openEnrolledPair>, loaded: ReturnType<typeof loadDatapath>) => typeof pair): { readonly outcome: SelfTestResult; readonly programIds: number[] } {
  const libbpf = openLibbpf();
  const loaded = loadDatapath(libbpf, readObject(), { profile: ISTIO_PROFILE, unreadLimit: 0n, connectionLimit: 0n, eventLimit: 0 });
  try {
    const { object } = loaded;
    const programIds = object.programNames.map((name) => createIntrospection(libbpf).programInfo(object.programFd(name)).id);
    const pair = openEnrolledPair(libbpf, object);
    try {
      return { outcome: selfTest.run(change(pair, loaded)), programIds };
    } finally {
      pair.close();
    }
  } finally {
    loaded.close();
  }
}

suite("the doctor's self-tests", { skip: missingForKernel() }, () => {
  test('each gives a result of this kernel, with a problem where it is not ok', () => {
    const checks = runSelfTests(readObject);
    assert.deepEqual(checks.map(({ id }) => id), ['message-order', 'fionread']);
    const [order, readable] = checks;
    assert.equal(order?.result, 'ok', order?.found);
    // Which of the two is up to the kernel.
    assert.match(readable?.found ?? '', /^Of 8 bytes that wait, FIONREAD tells [08] where they were redirected and [08] where they came through TCP\.$/);
    const isRight = readable?.found.includes('tells 8') === true && readable.found.includes('and 8');
    assert.deepEqual([readable?.result, readable?.problem?.code], isRight ? ['ok', undefined] : ['limited', 'KERNEL_UNSUITABLE']);
  });

  test('the test of the order notices messages that overtake others, and leaves no program', async () => {
    const { outcome, programIds } = runOn(messageOrderTest, (pair, { object }) => ({
      ...pair,
      enrolAccepting: () => {
        pair.enrolAccepting();
        // As if the program did not remember that a message went through TCP.
        const forgotten = encodeStructure(object.btf, 'socket_state', {
          connection: encodeStructure(object.btf, 'connection_key', { source_port: 1n }),
          peer: encodeStructure(object.btf, 'socket_key', { local_port: 2n }),
          cookie: 1n,
          is_connecting: 1n,
        });
        updateElement(openLibbpf(), object.mapFd('socket_state'), new Uint8Array(Uint32Array.of(pair.connecting).buffer), forgotten);
      },
    }));
    assert.equal(outcome.result, 'failed');
    assert.match(outcome.problem?.reason ?? '', /arrived 'and after it/);
    await waitForNothingLeft({ programIds, holders: [] });
  });

  test('the test of FIONREAD notices a kernel that counts wrong', () => {
    const { outcome } = runOn(readableBytesTest, (pair) => ({ ...pair, countReadable: (fd) => Math.min(pair.countReadable(fd), 0) }));
    assert.deepEqual([outcome.result, outcome.problem?.code], ['limited', 'KERNEL_UNSUITABLE']);
    const { outcome: healthy } = runOn(readableBytesTest, (pair) => ({ ...pair, countReadable: (fd) => Math.max(pair.countReadable(fd), 8) }));
    assert.deepEqual([healthy.result, healthy.problem], ['ok', null]);
  });

  test('what cannot be tested is not known, and says why', () => {
    const checks = runSelfTests(() => new Uint8Array(64));
    assert.deepEqual(checks.map(({ result, problem }) => [result, problem?.code]), checks.map(() => ['unknown', 'BPF_OBJECT_INVALID']));
  });
});
