import { readFile } from 'node:fs/promises';
import { posix } from 'node:path';
import { parseMountinfo } from '../agent/kernel/mountinfo.ts';
import { inputError } from '../agent/protocol/errors.ts';
import type { CgroupPath } from '../agent/protocol/scalars.ts';
import { escapeText } from './text/escape.ts';

const MAX_PATH_LENGTH = 4_096;

/**
 * Gives a cgroup that a person named as the path that /proc/PID/cgroup writes: they may give it relative to the root of
 * the hierarchy, with or without the slash, or as the folder below a mount point of cgroup2.
 */
export async function toCgroupPath(text: string): Promise<CgroupPath> {
  return resolveCgroupPath(text, await readMountPoints());
}

/** Does the same for known mount points; throws a MeshpathError INPUT_INVALID for what cannot be a path. */
export function resolveCgroupPath(text: string, mountPoints: readonly string[]): CgroupPath {
  if (text === '' || text.length > MAX_PATH_LENGTH || text.includes('\0')) {
    throw inputError('A cgroup path is wrong.', `'${escapeText(text.slice(0, 60))}' cannot be a path.`, 'Give the path of a cgroup, as meshpath cgroups shows it.');
  }
  const path = posix.resolve('/', text);
  if (text.split('/').includes('..')) {
    throw inputError('A cgroup path is wrong.', `'${escapeText(text.slice(0, 60))}' goes up with '..'.`, 'Give the path without it.');
  }
  const mountPoint = mountPoints.find((point) => path === point || path.startsWith(`${point}/`));
  return (mountPoint === undefined ? path : path.slice(mountPoint.length) || '/') as CgroupPath;
}

async function readMountPoints(): Promise<string[]> {
  const text = await readFile('/proc/self/mountinfo', 'utf8').catch((error: unknown) => {
    // Where there is no Linux there is only the simulated node, whose cgroups are not mounted anywhere.
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') {
      return '';
    }
    throw error;
  });
  return parseMountinfo(text)
    .filter(({ filesystem, root }) => filesystem === 'cgroup2' && root === '/')
    .map(({ mountPoint }) => mountPoint);
}
