import assert from 'node:assert/strict';
import { mkdtemp, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import type { IpAddress } from '../agent/protocol/scalars.ts';
import { SNAPSHOT_FORMAT, SNAPSHOT_VERSION } from '../agent/protocol/snapshot.ts';
import type { Snapshot } from '../agent/protocol/snapshot.ts';
import { createFakeNode, runCli } from '../test/cliSurroundings.ts';
import { resolveCgroupPath } from './cgroupPath.ts';
import { snapshotCommand } from './commands/snapshot.ts';
import { parsePodArgument } from './podArgument.ts';
import { readSnapshotFile, writeSnapshotFile } from './snapshotFile.ts';

const folder = await mkdtemp(join(tmpdir(), 'meshpath-cli-test-'));
after(() => rm(folder, { recursive: true, force: true }));

const snapshot: Snapshot = {
  format: SNAPSHOT_FORMAT,
  formatVersion: SNAPSHOT_VERSION,
  takenAt: '2026-11-22T22:00:00.000Z',
  node: { hostname: 'n', kernelRelease: '6.1', machine: 'x86_64', kind: 'linux' },
  namespaces: [],
  pods: [],
  cgroups: [],
  bpf: { programs: [], maps: [], links: [], contents: [] },
  accelerations: [],
  omissions: [{ what: 'conntrack', reason: 'no conntrack command', remedy: 'Install it.' }],
};

test('a cgroup may be named relative, absolute in the hierarchy, or as a folder below the mount', () => {
  const mounts = ['/sys/fs/cgroup/unified'];
  assert.equal(resolveCgroupPath('pods/a', mounts), '/pods/a');
  assert.equal(resolveCgroupPath('/pods//a/', mounts), '/pods/a');
  assert.equal(resolveCgroupPath('/sys/fs/cgroup/unified/pods/a', mounts), '/pods/a');
  assert.equal(resolveCgroupPath('/sys/fs/cgroup/unified', mounts), '/');
  assert.equal(resolveCgroupPath('/sys/fs/cgroup/unified2', mounts), '/sys/fs/cgroup/unified2');
  assert.equal(resolveCgroupPath('/', []), '/');
  for (const text of ['', 'a/../b', 'a\0b', 'x'.repeat(5_000)]) {
    assert.throws(() => resolveCgroupPath(text, mounts), { code: 'INPUT_INVALID' });
  }
});

test('a pod argument is split at its last =', () => {
  assert.deepEqual(parsePodArgument('/a=b/c=10.0.0.1,FD00::0:1,10.0.0.1'), { cgroup: '/a=b/c', addresses: ['10.0.0.1', 'fd00::1'] as IpAddress[] });
});

test('a snapshot is written for its owner only, replaces as a whole, and reads back', async () => {
  const path = join(folder, 'node.json');
  await writeFile(path, 'old');
  const { node } = createFakeNode({ takeSnapshot: () => Promise.resolve(snapshot) });
  const { code, output, notes } = await runCli(['snapshot', '--output', path], { commands: [snapshotCommand], node });
  assert.deepEqual({ code, output }, { code: 0, output: '' });
  assert.match(notes, /Saved 0 network namespaces, 0 cgroups, 0 maps to .*node\.json\.\nLeft out: conntrack: no conntrack command$/);
  assert.equal((await stat(path)).mode & 0o777, 0o600);
  assert.deepEqual(await readSnapshotFile(path), snapshot);
  assert.deepEqual(await readdir(folder), ['node.json']);
});

test('a snapshot goes to standard output where no file is named', async () => {
  const { node } = createFakeNode({ takeSnapshot: () => Promise.resolve(snapshot) });
  assert.deepEqual(JSON.parse((await runCli(['snapshot'], { commands: [snapshotCommand], node })).output), snapshot);
});

test('a file that cannot be written or read is told, and leaves nothing', async () => {
  await assert.rejects(writeSnapshotFile(join(folder, 'no', 'such.json'), snapshot), { code: 'INPUT_INVALID' });
  await assert.rejects(writeSnapshotFile(folder, snapshot), { code: 'INPUT_INVALID' });
  await assert.rejects(readSnapshotFile(join(folder, 'missing.json')), { code: 'INPUT_INVALID' });
  assert.deepEqual((await readdir(folder)).filter((name) => name.endsWith('.part')), []);
});

for (const [name, text] of [
  ['no JSON', '{'],
  ['another document', '[1]'],
  ['null', 'null'],
  ['another version', JSON.stringify({ ...snapshot, formatVersion: 99 })],
  ['a part missing', JSON.stringify({ ...snapshot, pods: undefined })],
] as const) {
  test(`a snapshot file with ${name} is refused`, async () => {
    const path = join(folder, 'bad.json');
    await writeFile(path, text);
    await assert.rejects(readSnapshotFile(path), { code: 'SNAPSHOT_INVALID' });
  });
}
