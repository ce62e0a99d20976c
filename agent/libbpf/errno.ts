import { constants } from 'node:os';

/** Not in errno(3): the kernel's "operation is not supported" (include/linux/errno.h), which bpf(2) gives out too. */
const ENOTSUPP = 524;

const names = new Map<number, string>([...Object.entries(constants.errno).map(([name, value]) => [value, name] as const), [ENOTSUPP, 'ENOTSUPP']]);
// Two names share a number on Linux; these are the ones that man pages use.
names.set(constants.errno.EAGAIN, 'EAGAIN');
names.set(constants.errno.EOPNOTSUPP, 'EOPNOTSUPP');

/** Gives the name of a positive errno (`EPERM`), or `errno 4021` where it has none (libbpf's own errors start at 4000). */
export function errnoName(errno: number): string {
  return names.get(errno) ?? `errno ${errno}`;
}

/** The errors of libbpf itself, by number (enum libbpf_errno in libbpf.h). */
const libbpfErrors = new Map<number, string>([
  [4000, 'the object is not a BPF ELF file'],
  [4001, 'the ELF format is wrong'],
  [4002, 'the kernel version in the object does not fit'],
  [4003, 'the byte order of the object is not that of this machine'],
  [4004, 'an internal error of libbpf'],
  [4005, 'a relocation failed'],
  [4006, 'the verifier refused the program'],
  [4007, 'the program is too big'],
  [4008, 'the kernel does not match the object'],
  [4009, 'the program type does not fit'],
]);

/** Gives the errors of libbpf and of the kernel as text: `EPERM (Operation not permitted)`; `messageOf` is strerror(3). */
export function describeErrno(errno: number, messageOf: (errno: number) => string): string {
  const own = libbpfErrors.get(errno);
  return own === undefined ? `${errnoName(errno)} (${messageOf(errno)})` : `libbpf: ${own}`;
}
