import { constants } from 'node:os';
import { MeshpathError } from '../protocol/errors.ts';
import type { Libbpf } from './library.ts';

/** LOCK_EX | LOCK_NB */
const EXCLUSIVE_AT_ONCE = 6;

/**
 * Takes the exclusive lock of an open file or folder (flock(2)); gives false where somebody else has it. It ends when the
 * descriptor closes, whatever ends the process. Throws INTERNAL.
 */
export function tryLock({ koffi, describe }: Libbpf, fd: number): boolean {
  const flock = koffi.load(null).func('flock', 'int', ['int', 'int']) as unknown as (descriptor: number, operation: number) => number;
  if (flock(fd, EXCLUSIVE_AT_ONCE) === 0) {
    return true;
  }
  const errno = koffi.errno();
  if (errno === constants.errno.EWOULDBLOCK) {
    return false;
  }
  throw new MeshpathError({
    code: 'INTERNAL',
    message: 'A lock could not be taken.',
    reason: `flock failed with ${describe(errno)}.`,
    remedy: 'Try again; report what the Meshpath output channel shows.',
  });
}
