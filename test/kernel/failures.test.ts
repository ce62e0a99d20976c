import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, readFileSync, realpathSync, rmdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite, test } from 'node:test';
import { findCgroup2Mount } from '../../agent/kernel/cgroup2Mount.ts';
import type { PodEnrolment } from '../../agent/protocol/acceleration.ts';
import type { DoctorReport } from '../../agent/protocol/doctor.ts';
import type { WireError } from '../../agent/protocol/errors.ts';
import { toIpAddress } from '../../agent/protocol/ipAddress.ts';
import { connectInProcess } from '../../agent/protocol/node.ts';
import type { Node } from '../../agent/protocol/node.ts';
import type { CgroupPath } from '../../agent/protocol/scalars.ts';
import { createAgentService } from '../../agent/service.ts';
import { prebuiltObject } from '../../scripts/compileBpf.mjs';
import { dist } from '../../scripts/paths.mjs';
import { removeCgroup } from '../../agent/lab/cgroupFolders.ts';
import { waitForNothingLeft } from '../lab/leftovers.ts';
import { missingForKernel } from '../requirements.ts';

const CLI = join(dist, 'cli.cjs');

/** Calls `use` with an agent whose programs are in `objectPath`, a pod and the folder of its cgroup, which `use` may remove. */
async function withAgent(objectPath: string, use: (node: Node, pod: PodEnrolment, folder: string) => Promise<void>): Promise<void> {
  const name = `meshpath-failures-${process.pid}-${randomBytes(3).toString('hex')}`;
  const folder = join(findCgroup2Mount(), name);
  mkdirSync(folder);
  const node = connectInProcess(createAgentService({ objectPath, agentVersion: 'test' }));
  try {
    await use(node, { cgroup: `/${name}` as CgroupPath, addresses: [toIpAddress('10.99.80.1')] }, folder);
  } finally {
    await node.close();
    await removeCgroup(folder);
  }
}

interface Run {
  readonly code: number;
  readonly output: string;
  readonly notes: string;
}

/** Runs the built command line in a mount namespace of its own, in which `prepare` (shell commands) has changed something. */
async function runIn(prepare: string, ...args: readonly string[]): Promise<Run> {
  return new Promise((resolve) => {
    execFile('unshare', ['--mount', '--', 'sh', '-ec', `${prepare}\nexec "$@"`, 'sh', process.execPath, CLI, ...args], (error, output, notes) => {
      resolve({ code: error === null ? 0 : Number(error.code), output, notes });
    });
  });
}

function errorOf({ notes }: Run): WireError {
  return (JSON.parse(notes) as { error: WireError }).error;
}

suite('the agent where something is missing or goes away', { skip: missingForKernel() }, () => {
  test('a cgroup that is removed while it is accelerated: it is told, and nothing is left', async () => {
    let programIds: readonly number[] = [];
    await withAgent(prebuiltObject, async (node, pod, folder) => {
      const notice = new Promise<WireError>((resolve) => node.listen('notice', resolve));
      ({ programIds } = await node.call('turnAccelerationOn', { profile: 'istio', pods: [pod] }));
      rmdirSync(folder);
      // The programs are attached to nothing any more; the snapshot says of no cgroup that it could not be read.
      assert.deepEqual((await node.call('takeSnapshot', {})).omissions.filter(({ what }) => what.includes(pod.cgroup)), []);
      const { code, message } = await notice;
      assert.equal(code, 'CGROUP_NOT_FOUND');
      assert.match(message, new RegExp(`went off for ${pod.cgroup}`));
      await waitForNothingLeft({ labId: 'of no lab', programIds });
      assert.deepEqual(await node.call('listAccelerations', {}), []);
      await assert.rejects(node.call('turnAccelerationOff', { cgroups: null }), { code: 'ACCELERATION_NOT_FOUND' });
      await assert.rejects(node.call('turnAccelerationOn', { profile: 'istio', pods: [pod] }), { code: 'CGROUP_NOT_FOUND' });
    });
    await waitForNothingLeft({ programIds });
  });

  test('compiled programs that are missing, cut off or something else are told as such', async () => {
    const folder = mkdtempSync(join(tmpdir(), `meshpath-failures-${process.pid}-`));
    try {
      const object = readFileSync(prebuiltObject);
      const contents = new Map([
        ['missing', undefined],
        ['empty', new Uint8Array()],
        ['cut off', object.subarray(0, 2_000)],
        ['text', Buffer.from('#!/bin/sh\n'.repeat(100))],
        ['another program', readFileSync(realpathSync(process.execPath)).subarray(0, 100_000)],
      ]);
      for (const [name, bytes] of contents) {
        const path = join(folder, name);
        if (bytes !== undefined) {
          writeFileSync(path, bytes);
        }
        await withAgent(path, async (node, pod) => {
          await assert.rejects(node.call('turnAccelerationOn', { profile: 'istio', pods: [pod] }), { code: 'BPF_OBJECT_INVALID' }, name);
          assert.deepEqual(await node.call('listAccelerations', {}), []);
          assert.equal((await node.call('runDoctor', {})).checks.find(({ id }) => id === 'fionread')?.problem?.code, 'BPF_OBJECT_INVALID', name);
        });
      }
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });

  test('without libbpf the package to install is told', async () => {
    // What the loader finds is an empty file.
    const hideLibbpf = `ldconfig -p | sed -n 's/.*libbpf\\.so.* => //p' | while read -r path; do mount --bind /dev/null "$path"; done`;
    const listed = await runIn(hideLibbpf, 'programs', '--json');
    assert.equal(listed.code, 1);
    const error = errorOf(listed);
    assert.equal(error.code, 'LIBBPF_MISSING');
    assert.match(error.remedy, /apt-get install libbpf1/);
    const report = JSON.parse((await runIn(hideLibbpf, 'doctor', '--json')).output) as DoctorReport;
    assert.equal(report.verdict, 'not-on-this-node');
    assert.deepEqual(
      ['libbpf', 'hook-owners', 'message-order', 'fionread'].map((id) => report.checks.find((check) => check.id === id)?.result),
      ['failed', 'unknown', 'unknown', 'unknown'],
    );
  });

  test('without BTF of the kernel, and without cgroup2, the doctor says so', async () => {
    const checkOf = async (prepare: string, id: string): Promise<readonly [string, string | undefined, string | undefined]> => {
      const report = JSON.parse((await runIn(prepare, 'doctor', '--json')).output) as DoctorReport;
      const check = report.checks.find((candidate) => candidate.id === id);
      return [report.verdict, check?.result, check?.problem?.code];
    };
    assert.deepEqual(await checkOf('mount -t tmpfs none /sys/kernel/btf', 'btf'), ['not-on-this-node', 'failed', 'BTF_MISSING']);
    const withoutCgroups = `umount --lazy '${findCgroup2Mount()}'`;
    assert.deepEqual(await checkOf(withoutCgroups, 'cgroup2'), ['not-on-this-node', 'failed', 'CGROUP2_MISSING']);
    assert.equal(errorOf(await runIn(withoutCgroups, 'cgroups', '--json')).code, 'CGROUP2_MISSING');
  });
});
