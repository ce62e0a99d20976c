import { closeSync, constants, fstatSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { MeshpathError } from '../protocol/errors.ts';
import type { CgroupPath } from '../protocol/scalars.ts';

/** A cgroup that is open, so that its id cannot become that of another. */
export interface OpenCgroup {
  readonly fd: number;
  /** The kernel's id: the inode number of the folder. */
  readonly id: bigint;
}

/** Calls `use` with the cgroup open. `mount` is where the hierarchy is mounted. Throws CGROUP_NOT_FOUND. */
export function withCgroup<Value>(mount: string, cgroup: CgroupPath, use: (opened: OpenCgroup) => Value): Value {
  const fd = openFolder(mount, cgroup);
  try {
    return use({ fd, id: fstatSync(fd, { bigint: true }).ino });
  } finally {
    closeSync(fd);
  }
}

function openFolder(mount: string, cgroup: CgroupPath): number {
  try {
    return openSync(join(mount, cgroup), constants.O_RDONLY | constants.O_DIRECTORY);
  } catch (error) {
    throw new MeshpathError(
      {
        code: 'CGROUP_NOT_FOUND',
        message: `There is no cgroup ${cgroup}.`,
        reason: `Opening ${join(mount, cgroup)}: ${error instanceof Error ? error.message : String(error)}`,
        remedy: 'Take a path from the list of cgroups, or from /proc/PID/cgroup (the line that begins with `0::`).',
      },
      { cause: error },
    );
  }
}
