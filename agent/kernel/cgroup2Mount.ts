import { readFileSync } from 'node:fs';
import { MeshpathError } from '../protocol/errors.ts';
import { parseMountinfo } from './mountinfo.ts';

/**
 * Gives the folder at which the root of the cgroup2 hierarchy is mounted, from /proc/self/mountinfo: /sys/fs/cgroup on
 * most systems, /sys/fs/cgroup/unified where version 1 is mounted too. `mountinfo` is the text of that file.
 * Throws CGROUP2_MISSING.
 */
export function findCgroup2Mount(mountinfo: string = readFileSync('/proc/self/mountinfo', 'utf8')): string {
  const mounts = parseMountinfo(mountinfo).filter(({ filesystem }) => filesystem === 'cgroup2');
  const mount = mounts.find(({ root }) => root === '/');
  if (mount !== undefined) {
    return mount.mountPoint;
  }
  throw new MeshpathError({
    code: 'CGROUP2_MISSING',
    message: 'The cgroup2 hierarchy is not mounted on this node.',
    reason:
      mounts[0] === undefined
        ? '/proc/self/mountinfo names no mount of the type cgroup2.'
        : `The mount at ${mounts[0].mountPoint} shows only a part of the hierarchy, ${mounts[0].root}.`,
    remedy: 'Mount it: `sudo mkdir -p /sys/fs/cgroup/unified && sudo mount -t cgroup2 none /sys/fs/cgroup/unified`, or boot with `systemd.unified_cgroup_hierarchy=1`.',
  });
}
