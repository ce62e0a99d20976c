import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import type { CgroupInfo, ObjectOwner, ProgramInfo } from '../protocol/kernelObjects.ts';
import type { CgroupPath, ProgramId, Uint64Text } from '../protocol/scalars.ts';
import { checkHookOwners, checkLeftovers, checkSocketMapUsers } from './bpfChecks.ts';

const OURS: ObjectOwner = { kind: 'meshpath', processes: [{ pid: 7, command: 'node' }], pins: [] };
const THEIRS: ObjectOwner = { kind: 'process', processes: [{ pid: 8, command: 'cilium' }], pins: [] };

function program(id: number, owner: ObjectOwner, type = 'cgroup_sock_addr'): ProgramInfo {
  return {
    id: id as ProgramId, name: `program_${id}`, type, tag: '', loadedAt: '', loadedByUid: 0, mapIds: [], btfId: null, instructionCount: 1, jitedBytes: 1, memoryBytes: null,
    runCount: '0' as Uint64Text, runTimeNanoseconds: '0' as Uint64Text, gplCompatible: true, owner,
  };
}

function cgroup(path: string, programId: number, mode: 'multi' | 'override' | 'exclusive', attachedTo = path): CgroupInfo {
  const attachment = { attachType: 'cgroup_inet4_connect', programId: programId as ProgramId, programName: `program_${programId}`, linkId: null, attachedTo: attachedTo as CgroupPath, mode, order: 0 };
  return { path: path as CgroupPath, id: '1' as Uint64Text, processCount: 0, attachments: [attachment] };
}

describe('other owners of the hooks', () => {
  it('are none where all is of Meshpath, whatever its name', () => {
    assert.equal(checkHookOwners([cgroup('/a', 1, 'multi')], [program(1, OURS)]).result, 'ok');
  });

  it('limit acceleration, or rule it out where they close the root', () => {
    const programs = [program(2, THEIRS)];
    const beside = checkHookOwners([cgroup('/a', 2, 'multi'), cgroup('/a/b', 2, 'multi', '/a')], programs);
    assert.deepEqual([beside.result, beside.problem?.code], ['limited', 'BPF_ATTACH_FAILED']);
    assert.match(beside.found, /^1 program is .*program_2 \(id 2, held by cilium with process id 8\) at cgroup_inet4_connect of \/a, beside others/);
    assert.deepEqual(checkHookOwners([cgroup('/a', 2, 'exclusive')], programs).problem?.code, 'BPF_ATTACH_EXCLUSIVE');
    assert.equal(checkHookOwners([cgroup('/', 2, 'exclusive')], programs).result, 'failed');
  });
});

it('other users of socket maps limit acceleration', () => {
  assert.equal(checkSocketMapUsers([program(1, OURS, 'sk_msg'), program(2, THEIRS, 'sched_cls')]).result, 'ok');
  assert.equal(checkSocketMapUsers([program(2, THEIRS, 'sk_skb')]).result, 'limited');
});

describe('leftovers of Meshpath', () => {
  const check = (...owners: readonly ObjectOwner[]): ReturnType<typeof checkLeftovers> =>
    checkLeftovers({ programs: owners.map((owner, index) => program(index + 1, owner)), maps: [], links: [] });

  it('are none while an agent holds them, which is named', () => {
    const { result, found } = check(OURS, THEIRS);
    assert.deepEqual([result, found], ['ok', 'None; another agent is at work (process 7).']);
    assert.equal(check({ ...OURS, processes: [{ pid: process.pid, command: 'node' }] }).found, 'No program of Meshpath is left behind.');
  });

  it('are programs that nobody holds, and pins', () => {
    const abandoned = check({ ...OURS, processes: [] });
    assert.deepEqual([abandoned.result, abandoned.problem?.code], ['limited', 'ACCELERATION_OVERLAPS']);
    assert.match(check({ ...OURS, pins: ['/sys/fs/bpf/x'] }).problem?.remedy ?? '', /meshpath clean/);
    assert.equal(check({ ...THEIRS, pins: ['/sys/fs/bpf/x'] }).result, 'ok');
  });
});
