import assert from 'node:assert/strict';
import { test } from 'node:test';
import { MeshpathError } from '../protocol/errors.ts';
import { findCgroup2Mount } from './cgroup2Mount.ts';

const V1 = '32 31 0:29 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n';

test('finds the hierarchy beside version 1, with blanks in its path', () => {
  assert.equal(findCgroup2Mount(`${V1}41 31 0:38 / /sys/fs/cgroup/uni\\040fied rw,relatime - cgroup2 cgroup2 rw\n`), '/sys/fs/cgroup/uni fied');
});

test('takes the mount of the whole hierarchy, not of a part', () => {
  const part = '40 31 0:38 /kubepods /mnt/part rw - cgroup2 cgroup2 rw\n';
  assert.equal(findCgroup2Mount(`${part}41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n`), '/sys/fs/cgroup');
  assert.throws(() => findCgroup2Mount(part), (error) => MeshpathError.is(error, 'CGROUP2_MISSING') && error.reason.includes('/kubepods'));
});

test('says so where there is none', () => {
  assert.throws(() => findCgroup2Mount(V1), (error) => MeshpathError.is(error, 'CGROUP2_MISSING'));
});
