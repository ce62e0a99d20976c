import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { kernelVersionProblem, missingCapabilities, parseEffectiveCapabilities } from './capabilities.ts';
import { attachmentMode } from './cgroupTree.ts';
import { parseBpfFdinfo } from './fdinfo.ts';
import { attachTypeName, CGROUP_ATTACH_TYPES, mapFlagNames, mapTypeName, programTypeName } from './kernelNames.ts';
import { mapReadability } from './mapReadability.ts';
import { parseMountinfo } from './mountinfo.ts';

describe('mountinfo', () => {
  it('reads mounts with and without optional fields, and blanks in paths', () => {
    const text = [
      '36 35 98:0 /root /mnt/with\\040blank rw,noatime shared:1 master:2 - ext4 /dev/root rw',
      '41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw',
      'not a mount',
    ].join('\n');
    assert.deepEqual(parseMountinfo(text), [
      { root: '/root', mountPoint: '/mnt/with blank', filesystem: 'ext4', options: ['rw', 'noatime'] },
      { root: '/', mountPoint: '/sys/fs/cgroup/unified', filesystem: 'cgroup2', options: ['rw', 'relatime'] },
    ]);
  });
});

describe('fdinfo', () => {
  it('tells programs, maps and links apart, also a link on a sockmap', () => {
    assert.deepEqual(parseBpfFdinfo('pos:\t0\nprog_type:\t16\nprog_tag:\t957233059cbc84f2\nmemlock:\t4096\nprog_id:\t130\n'), { kind: 'program', id: 130, memoryBytes: 4_096, frozen: false });
    assert.deepEqual(parseBpfFdinfo('map_type:\t2\nkey_size:\t4\nmemlock:\t8192\nmap_id:\t54\nfrozen:\t1\n'), { kind: 'map', id: 54, memoryBytes: 8_192, frozen: true });
    assert.deepEqual(parseBpfFdinfo('link_type:\tsockmap\nlink_id:\t5\nprog_tag:\t95\nprog_id:\t130\nmap_id:\t54\nattach_type:\t7\n'), { kind: 'link', id: 5, memoryBytes: null, frozen: false });
    assert.equal(parseBpfFdinfo('pos:\t0\nflags:\t02000002\neventfd-count:\t0\n'), undefined);
  });
});

describe('names', () => {
  it('are those of the kernel, and numbers beyond them are shown', () => {
    assert.deepEqual([programTypeName(13), programTypeName(16), programTypeName(18), programTypeName(47)], ['sock_ops', 'sk_msg', 'cgroup_sock_addr', 'type 47']);
    assert.deepEqual([mapTypeName(18), mapTypeName(27), mapTypeName(33), mapTypeName(99)], ['sockhash', 'ringbuf', 'arena', 'type 99']);
    assert.deepEqual([attachTypeName(7), attachTypeName(10), attachTypeName(21), attachTypeName(29), attachTypeName(57)], ['sk_msg_verdict', 'cgroup_inet4_connect', 'cgroup_getsockopt', 'cgroup_inet4_getpeername', 'trace_uprobe_session']);
    assert.ok(CGROUP_ATTACH_TYPES.some(({ name, number }) => name === 'cgroup_sock_ops' && number === 3));
    assert.deepEqual(mapFlagNames((1 << 10) | (1 << 7) | (1 << 30)), ['rdonly_prog', 'mmapable', 'bit 30']);
  });

  it('modes of attachments', () => {
    assert.deepEqual([0, 1, 2, 3].map(attachmentMode), ['exclusive', 'override', 'multi', 'multi']);
  });
});

describe('readability of maps', () => {
  it('sockets need values of 8 bytes; buffers and storages cannot be listed', () => {
    assert.deepEqual(mapReadability({ type: 18, valueBytes: 8, flags: 0 }), { ok: true });
    const narrow = mapReadability({ type: 18, valueBytes: 4, flags: 0 });
    assert.ok(!narrow.ok && narrow.reason.includes('ENOSPC'));
    assert.equal(mapReadability({ type: 27, valueBytes: 0, flags: 0 }).ok, false);
    assert.equal(mapReadability({ type: 24, valueBytes: 8, flags: 0 }).ok, false);
    assert.equal(mapReadability({ type: 1, valueBytes: 8, flags: 1 << 4 }).ok, false);
    assert.equal(mapReadability({ type: 1, valueBytes: 8, flags: 0 }).ok, true);
  });
});

describe('capabilities', () => {
  it('are read from the effective set, and CAP_SYS_ADMIN stands for CAP_BPF', () => {
    const root = parseEffectiveCapabilities('CapPrm:\t0\nCapEff:\t000001ffffffffff\n');
    assert.deepEqual(missingCapabilities(root, ['CAP_BPF', 'CAP_NET_ADMIN']), []);
    const admin = parseEffectiveCapabilities('CapEff:\t0000000000200000\n');
    assert.deepEqual([...admin], ['CAP_SYS_ADMIN']);
    assert.deepEqual(missingCapabilities(admin, ['CAP_BPF', 'CAP_NET_ADMIN']), ['CAP_NET_ADMIN']);
    assert.deepEqual(missingCapabilities(parseEffectiveCapabilities('CapEff:\t0\n'), ['CAP_BPF']), ['CAP_BPF']);
  });

  it('old kernels are refused by version', () => {
    assert.equal(kernelVersionProblem('5.9.0')?.code, 'KERNEL_TOO_OLD');
    assert.equal(kernelVersionProblem('4.18.0')?.code, 'KERNEL_TOO_OLD');
    assert.deepEqual(['5.10.0-30-amd64', '5.15.0', '6.1.0-13-amd64', '7.0'].map(kernelVersionProblem), [null, null, null, null]);
  });
});
