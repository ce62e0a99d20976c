import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { suite, test } from 'node:test';
import { loadDatapath } from '../../agent/accelerate/loadDatapath.ts';
import { openEnrolledPair } from '../../agent/doctor/selfTests/enrolledPair.ts';
import { PAIR_TESTS } from '../../agent/doctor/selfTests/pairTests.ts';
import { runSelfTests } from '../../agent/doctor/selfTests/runSelfTests.ts';
import type { SelfTestResult } from '../../agent/doctor/selfTests/selfTest.ts';
import { RECORD_FOLDER, RECORD_PREFIX } from '../../agent/doctor/selfTests/selfTestRecord.ts';
import { findCgroup2Mount } from '../../agent/kernel/cgroup2Mount.ts';
import { removeCgroup } from '../../agent/lab/cgroupFolders.ts';
import { createIntrospection } from '../../agent/libbpf/introspection.ts';
import { openLibbpf } from '../../agent/libbpf/library.ts';
import { deleteElement, updateElement } from '../../agent/libbpf/maps.ts';
import type { SocketCalls } from '../../agent/libbpf/socketCalls.ts';
import { ISTIO_PROFILE } from '../../agent/protocol/acceleration.ts';
import type { PodEnrolment } from '../../agent/protocol/acceleration.ts';
import { encodeStructure } from '../../agent/protocol/datapath.ts';
import { effectOf, SELF_TEST_IDS } from '../../agent/protocol/doctorChecks.ts';
import type { DoctorCheckId } from '../../agent/protocol/doctorChecks.ts';
import { toIpAddress } from '../../agent/protocol/ipAddress.ts';
import { connectInProcess } from '../../agent/protocol/node.ts';
import type { Node } from '../../agent/protocol/node.ts';
import type { CgroupPath } from '../../agent/protocol/scalars.ts';
import { createAgentService } from '../../agent/service.ts';
import { prebuiltObject } from '../../scripts/compileBpf.mjs';
import { waitForNothingLeft } from '../lab/leftovers.ts';
import { missingForKernel } from '../requirements.ts';

const UNREAD_LIMIT = 1024n * 1024n;
const NEVER = new AbortController().signal;

type Pair = ReturnType<typeof openEnrolledPair>;
type Loaded = ReturnType<typeof loadDatapath>;

/** Runs a self-test in this process on a pair that `change` has changed, and says which programs were loaded for it. */
function runOn(id: DoctorCheckId, change: (pair: Pair, loaded: Loaded) => Pair = (pair) => pair, unreadLimit = UNREAD_LIMIT): { readonly outcome: SelfTestResult; readonly programIds: number[] } {
  const libbpf = openLibbpf();
  const loaded = loadDatapath(libbpf, readFileSync(prebuiltObject), { profile: ISTIO_PROFILE, unreadLimit, connectionLimit: 0n, eventLimit: 0 });
  try {
    const { object } = loaded;
    const programIds = object.programNames.map((name) => createIntrospection(libbpf).programInfo(object.programFd(name)).id);
    const selfTest = PAIR_TESTS.find((candidate) => candidate.id === id);
    assert.ok(selfTest, id);
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

function withCalls(change: (calls: SocketCalls, pair: Pair, loaded: Loaded) => Partial<SocketCalls>): (pair: Pair, loaded: Loaded) => Pair {
  return (pair, loaded) => ({ ...pair, calls: { ...pair.calls, ...change(pair.calls, pair, loaded) } });
}

/** Takes the accepting socket out of the sockhash, as kernels before 5.16 did when it was closed for TCP. */
function forgetAccepting({ object }: Loaded): void {
  deleteElement(openLibbpf(), object.mapFd('sockets'), encodeStructure(object.btf, 'socket_key', { local_port: 2n }));
}

function scratchCgroups(): string[] {
  return readdirSync(findCgroup2Mount()).filter((name) => name.startsWith(`meshpath-doctor-${process.pid}-`));
}

function selfTests(objectPath = prebuiltObject, signal = NEVER): ReturnType<typeof runSelfTests> {
  return runSelfTests({ objectPath, unreadLimit: UNREAD_LIMIT, cgroupMount: findCgroup2Mount() }, signal);
}

suite("the doctor's self-tests", { skip: missingForKernel() }, () => {
  test('each gives a result of this kernel, vital ones that all is well, and nothing is left', async () => {
    const checks = await selfTests();
    assert.deepEqual(checks.map(({ id }) => id), SELF_TEST_IDS);
    assert.deepEqual(checks.filter((check) => effectOf(check) === 'refused' || check.result === 'unknown'), []);
    assert.deepEqual(checks.filter(({ result, problem }) => (result === 'ok') !== (problem === null)), []);
    const found = (id: DoctorCheckId): string => checks.find((check) => check.id === id)?.found ?? '';
    // Which of the two is up to the kernel.
    assert.match(found('fionread'), /^Of 8 bytes that wait, FIONREAD tells [08] where they were redirected and [08] where they came through TCP\.$/);
    assert.match(found('splice'), /and 7 where they came through TCP\.$/);
    assert.match(found('back-pressure'), /of which 1\.0 MiB were redirected; all could be read then\.$/);
    assert.equal(found('enrolment'), 'Messages went from socket to socket inside a pod and between pods.');
    assert.deepEqual(scratchCgroups(), []);
    await waitForNothingLeft({ holders: [], programIds: [] });
  });

  test('the test of the order notices messages that overtake others, and leaves no program', async () => {
    const { outcome, programIds } = runOn('message-order', (pair, { object }) => {
      const sockets = object.mapFd('sockets');
      const key = encodeStructure(object.btf, 'socket_key', { local_port: 1n });
      let isFirst = true;
      return {
        ...pair,
        // As if the socket had come into the sockhash after its first message only.
        send: (fd, text) => {
          if (isFirst) {
            deleteElement(openLibbpf(), sockets, key);
          }
          pair.send(fd, text);
          if (isFirst) {
            isFirst = false;
            updateElement(openLibbpf(), sockets, key, new Uint8Array(BigUint64Array.of(BigInt(fd)).buffer));
          }
        },
      };
    });
    assert.equal(outcome.result, 'failed');
    assert.match(outcome.problem?.reason ?? '', /arrived 'and after it/);
    await waitForNothingLeft({ programIds, holders: [] });
  });

  test('the test of back-pressure notices a writer that nothing holds up, and bytes that are wrong', () => {
    const { outcome } = runOn('back-pressure', undefined, 0n);
    assert.deepEqual([outcome.result, outcome.found], ['failed', 'A writer is not held up by a reader that does not read.']);
    const corrupted = withCalls((calls) => ({
      recv: (fd, bytes, length, flags) => {
        const received = calls.recv(fd, bytes, length, flags);
        bytes[Math.max(0, received - 1)] = 255;
        return received;
      },
    }));
    assert.match(runOn('back-pressure', corrupted).outcome.problem?.reason ?? '', /is missing or another/);
  });

  test('the tests of closing notice bytes that a kernel drops with the entry of the sockhash', () => {
    const dropping = (pair: Pair, loaded: Loaded): Pair => ({
      ...pair,
      closeEarly: (fd) => {
        pair.closeEarly(fd);
        forgetAccepting(loaded);
      },
    });
    const { outcome } = runOn('close', dropping);
    assert.equal(outcome.result, 'failed');
    assert.match(outcome.problem?.reason ?? '', /^Of 'the last request' arrived '' after both sides had closed\.$/);
    assert.equal(runOn('reset', dropping).outcome.result, 'limited');
    const droppingEarly = withCalls((calls, _pair, loaded) => ({
      shutdown: (fd, how) => {
        forgetAccepting(loaded);
        return calls.shutdown(fd, how);
      },
    }));
    assert.equal(runOn('half-close', droppingEarly).outcome.result, 'failed');
  });

  test('the others notice answers that are not those of TCP', () => {
    const deaf = withCalls(() => ({ epoll_wait: () => 0 }));
    assert.deepEqual([runOn('wake-up', deaf).outcome.result, runOn('wake-up').outcome.result], ['failed', 'ok']);
    const taking = withCalls((calls) => ({ recv: (fd, bytes, length) => calls.recv(fd, bytes, length, 0) }));
    assert.deepEqual([runOn('peek', taking).outcome.result, runOn('peek').outcome.result], ['failed', 'ok']);
    assert.equal(runOn('fionread', (pair) => ({ ...pair, countReadable: (fd) => Math.min(pair.countReadable(fd), 0) })).outcome.result, 'limited');
    assert.equal(runOn('fionread', (pair) => ({ ...pair, countReadable: (fd) => Math.max(pair.countReadable(fd), 8) })).outcome.result, 'ok');
    const splicing = withCalls((calls, pair) => ({
      splice: (from, _fromOffset, _to, _toOffset, length) => {
        pair.receiveAll(from, length);
        return calls.close(-1) < 0 ? length : 0;
      },
    }));
    assert.deepEqual([runOn('splice', splicing).outcome.result, runOn('splice').outcome.problem?.code], ['ok', 'KERNEL_UNSUITABLE']);
    const completing = (pair: Pair): Pair => ({ ...pair, poll: () => 8 });
    assert.deepEqual([runOn('zerocopy', completing).outcome.result, runOn('zerocopy').outcome.result], ['ok', 'limited']);
  });

  test('what cannot be tested is not known, and says why', async () => {
    const checks = await selfTests(join(import.meta.dirname, 'doctor.test.ts'));
    assert.deepEqual(checks.map(({ result, problem }) => [result, problem?.code]), checks.map(() => ['unknown', 'BPF_OBJECT_INVALID']));
    assert.deepEqual(scratchCgroups(), []);
  });

  test('tests that are cancelled leave nothing, and those of an agent that was killed are cleared away', async () => {
    const mount = findCgroup2Mount();
    const ended = spawn('true');
    await once(ended, 'exit');
    const abandoned = join(mount, `meshpath-doctor-${ended.pid}-abandoned`);
    mkdirSync(join(abandoned, 'a'), { recursive: true });
    try {
      const cancelling = new AbortController();
      const running = selfTests(prebuiltObject, cancelling.signal);
      setTimeout(() => {
        cancelling.abort();
      }, 100);
      await assert.rejects(running, { code: 'CANCELLED' });
      assert.deepEqual(scratchCgroups(), []);
      assert.equal(existsSync(abandoned), false);
    } finally {
      await removeCgroup(abandoned);
    }
  });
});

suite('the gate before acceleration', { skip: missingForKernel() }, () => {
  /** Calls `use` with an agent of a version of its own, so that what it keeps is no other's, and a pod. */
  async function withAgent(use: (node: Node, pod: PodEnrolment) => Promise<void>, objectPath = prebuiltObject): Promise<void> {
    const name = `meshpath-gate-${process.pid}`;
    const folder = join(findCgroup2Mount(), name);
    mkdirSync(folder);
    const before = new Set(listRecords());
    const node = connectInProcess(createAgentService({ objectPath, agentVersion: `test-${process.pid}` }));
    try {
      await use(node, { cgroup: `/${name}` as CgroupPath, addresses: [toIpAddress('10.99.81.1')] });
    } finally {
      await node.close();
      await removeCgroup(folder);
      listRecords().filter((record) => !before.has(record)).forEach((record) => {
        rmSync(join(RECORD_FOLDER, record), { force: true });
      });
    }
  }

  function listRecords(): string[] {
    return existsSync(RECORD_FOLDER) ? readdirSync(RECORD_FOLDER).filter((name) => name.startsWith(RECORD_PREFIX)) : [];
  }

  test('asks for limits that matter, tells them, and tries this kernel once', async () => {
    await withAgent(async (node, pod) => {
      const report = await node.call('checkAcceleration', {});
      assert.equal(report.verdict, 'safe-with-limits', 'no kernel splices redirected bytes');
      const asked = report.checks.filter((check) => effectOf(check) === 'asked').map(({ id }) => id);
      await assert.rejects(node.call('turnAccelerationOn', { profile: 'istio', pods: [pod], acceptedLimits: [] }), { code: 'LIMITS_NOT_ACCEPTED' });
      assert.deepEqual(await node.call('listAccelerations', {}), []);
      const { findings } = await node.call('turnAccelerationOn', { profile: 'istio', pods: [pod], acceptedLimits: asked });
      assert.deepEqual(findings?.filter(({ answer }) => answer === 'accepted').map(({ id }) => id), asked);
      assert.deepEqual((await node.call('listAccelerations', {})).map((info) => info.findings), [findings]);
      await node.call('turnAccelerationOff', { cgroups: null });
      // Nobody is asked who does not know of limits; they are told.
      const told = await node.call('turnAccelerationOn', { profile: 'istio', pods: [pod] });
      assert.deepEqual(new Set(told.findings?.map(({ answer }) => answer)), new Set(['told']));
      assert.deepEqual((await node.call('checkAcceleration', {})).checks, report.checks);
    });
  });

  test('takes what was kept of this boot, and the doctor tries anew', async () => {
    await withAgent(async (node) => {
      const before = new Set(listRecords());
      const first = await node.call('checkAcceleration', {});
      const [record, ...others] = listRecords().filter((name) => !before.has(name));
      assert.ok(record !== undefined && others.length === 0);
      const again = connectInProcess(createAgentService({ objectPath: prebuiltObject, agentVersion: `test-${process.pid}` }));
      try {
        assert.deepEqual((await again.call('checkAcceleration', {})).checks, first.checks);
        const doctor = await again.call('runDoctor', {});
        const ids = doctor.checks.map(({ id }) => id);
        assert.deepEqual(ids.filter((id) => SELF_TEST_IDS.some((known) => known === id)), SELF_TEST_IDS);
        assert.ok(ids.includes('hook-owners') && ids.includes('leftovers'));
      } finally {
        await again.close();
      }
    });
  });
});
