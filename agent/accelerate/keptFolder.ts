import { closeSync, constants, existsSync, fstatSync, mkdirSync, openSync, readdirSync, readFileSync, rmdirSync, statSync } from 'node:fs';
import { MeshpathError } from '../protocol/errors.ts';
import { tryLock } from '../libbpf/fileLock.ts';
import type { Libbpf } from '../libbpf/library.ts';
import { parseMountinfo } from '../kernel/mountinfo.ts';

/** Where everything is pinned that is kept when the agent ends. */
export const KEPT_FOLDER = '/sys/fs/bpf/meshpath';
const FOLDER_MODE = 0o700;
const BPFFS = 'bpf';
const MOUNT_COMMAND = 'sudo mount -t bpf bpf /sys/fs/bpf';
/** A folder may be removed while its lock is being taken. */
const LOCK_ATTEMPTS = 10;
/** Sets that are not complete yet, and complete ones. The rest of the name is the same in both. */
export const STAGED_PREFIX = 'new-';
export const SET_PREFIX = 'set-';

/** The folder of what is kept, as long as this process alone may change it. */
export interface LockedFolder {
  readonly path: string;
  /** Removes the folder where nothing is in it; gives up the lock. */
  readonly unlock: () => void;
}

/** What became of taking the lock. */
export type FolderLock =
  | { readonly state: 'locked'; readonly folder: LockedFolder }
  /** `pid`: who has it; 0 where that is not to be seen from here. */
  | { readonly state: 'held'; readonly pid: number }
  | { readonly state: 'absent' };

/** Gives the lock of the folder where there is one and nobody else has it. Throws KEPT_UNREADABLE where it may not be read. */
export function lockKeptFolder(libbpf: Libbpf, path: string): FolderLock {
  for (let attempt = 0; attempt < LOCK_ATTEMPTS && existsSync(path); attempt += 1) {
    const fd = openFolder(path);
    if (!tryLock(libbpf, fd)) {
      const pid = findHolder(fd);
      closeSync(fd);
      return { state: 'held', pid };
    }
    if (isSameFolder(path, fd)) {
      return { state: 'locked', folder: { path, unlock: () => unlock(path, fd) } };
    }
    closeSync(fd);
  }
  return { state: 'absent' };
}

/** Makes the folder where there is none, and gives its lock. Throws BPFFS_MISSING, ACCELERATION_HELD, KEPT_UNREADABLE. */
export function makeKeptFolder(libbpf: Libbpf, path: string): LockedFolder {
  requireBpffs(path);
  for (let attempt = 0; attempt < LOCK_ATTEMPTS; attempt += 1) {
    try {
      mkdirSync(path, { recursive: true, mode: FOLDER_MODE });
    } catch (error) {
      throw bpffsError(`Making ${path}: ${error instanceof Error ? error.message : String(error)}`);
    }
    const lock = lockKeptFolder(libbpf, path);
    if (lock.state === 'locked') {
      return lock.folder;
    }
    if (lock.state === 'held') {
      throw heldError(lock.pid);
    }
  }
  throw bpffsError(`${path} was removed each time when it was made.`);
}

/** Gives the names of the folders of sets in it: complete ones, and staged ones that somebody did not complete. */
export function listSetNames(path: string): { readonly complete: readonly string[]; readonly staged: readonly string[] } {
  const names = readdirSync(path).sort();
  return { complete: names.filter((name) => name.startsWith(SET_PREFIX)), staged: names.filter((name) => name.startsWith(STAGED_PREFIX)) };
}

/** The error for what only another agent may change. */
export function heldError(pid: number): MeshpathError {
  const holder = pid === 0 ? 'Another agent' : `The agent with the process id ${pid}`;
  return new MeshpathError({
    code: 'ACCELERATION_HELD',
    message: 'Another agent has the acceleration that is kept on this node.',
    reason: `${holder} holds it, and two at once would undo what the other does.`,
    remedy: `Change it there, or end that agent (disconnect, or end ${pid === 0 ? 'its process' : `process ${pid}`}): what is kept stays on meanwhile.`,
  });
}

function openFolder(path: string): number {
  try {
    return openSync(path, constants.O_RDONLY | constants.O_DIRECTORY);
  } catch (error) {
    throw new MeshpathError(
      {
        code: 'KEPT_UNREADABLE',
        message: 'What is kept of acceleration on this node cannot be read.',
        reason: error instanceof Error ? error.message : String(error),
        remedy: 'Connect as root or with sudo.',
      },
      { cause: error },
    );
  }
}

function isSameFolder(path: string, fd: number): boolean {
  const open = fstatSync(fd, { bigint: true });
  const now = statSync(path, { bigint: true, throwIfNoEntry: false });
  return now?.ino === open.ino && now.dev === open.dev;
}

function unlock(path: string, fd: number): void {
  try {
    if (listSetNames(path).complete.length === 0) {
      rmdirSync(path);
    }
  } catch {
    // Somebody else's file is in it, or it is gone: the folder itself holds nothing in the kernel.
  } finally {
    closeSync(fd);
  }
}

/** Finds who has the lock of an open folder, in /proc/locks (proc_locks(5)): `1: FLOCK ADVISORY WRITE 4711 00:1b:9 0 EOF`. */
function findHolder(fd: number): number {
  const { ino, dev } = fstatSync(fd, { bigint: true });
  // makedev(3)
  const major = ((dev >> 8n) & 0xfffn) | ((dev >> 32n) & 0xffff_f000n);
  const minor = (dev & 0xffn) | ((dev >> 12n) & 0xffff_ff00n);
  const place = `${major.toString(16).padStart(2, '0')}:${minor.toString(16).padStart(2, '0')}:${ino}`;
  const line = readFileSync('/proc/locks', 'utf8')
    .split('\n')
    .map((text) => text.trim().split(/\s+/))
    .find((fields) => fields[1] === 'FLOCK' && fields[5] === place);
  const pid = Number(line?.[4]);
  return Number.isInteger(pid) && pid > 0 ? pid : 0;
}

function requireBpffs(path: string): void {
  const mounts = parseMountinfo(readFileSync('/proc/self/mountinfo', 'utf8')).filter(({ mountPoint }) => path.startsWith(`${mountPoint === '/' ? '' : mountPoint}/`));
  // The last of the longest is the one that is seen.
  const mount = mounts.reduce((best, candidate) => (candidate.mountPoint.length >= best.mountPoint.length ? candidate : best), { mountPoint: '', filesystem: 'no file system' });
  if (mount.filesystem !== BPFFS) {
    throw bpffsError(`${path} would be on ${mount.filesystem}, mounted at ${mount.mountPoint}.`);
  }
}

function bpffsError(reason: string): MeshpathError {
  return new MeshpathError({
    code: 'BPFFS_MISSING',
    message: 'Acceleration cannot be kept: there is no BPF file system that can be written to.',
    reason,
    remedy: `Mount it (\`${MOUNT_COMMAND}\`), or for reading and writing where it is read-only (\`sudo mount -o remount,rw /sys/fs/bpf\`); or turn acceleration on without keeping it.`,
  });
}
