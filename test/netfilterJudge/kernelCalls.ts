import { closeSync, openSync } from 'node:fs';
import koffi from 'koffi';
import { ipAddressBytes, isIpv4 } from '../../agent/protocol/ipAddress.ts';
import type { IpAddress } from '../../agent/protocol/scalars.ts';

/**
 * The calls of the C library that Node.js does not offer, made on the calling thread. One process holds sockets in many
 * network namespaces: a socket stays in the namespace in which it was made. Functions that give a number give a negative
 * errno where the call failed.
 */

export const AF_INET = 2;
export const AF_INET6 = 10;
export const AF_NETLINK = 16;
export const AF_PACKET = 17;
export const SOCK_STREAM = 1;
export const SOCK_DGRAM = 2;
export const SOCK_RAW = 3;
/** SOCK_NONBLOCK with SOCK_CLOEXEC. */
const SOCK_FLAGS = 0o2_004_000;
const CLONE_NEWNET = 0x4000_0000;
/** arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h. */
const SETFSUID = process.arch === 'x64' ? 122 : 151;
const SETFSGID = process.arch === 'x64' ? 123 : 152;

type AddressFunction = (fd: number, address: Uint8Array, length: number) => number;

const libc = koffi.load(null);
const functions = {
  unshare: libc.func('int unshare(int flags)') as unknown as (flags: number) => number,
  setns: libc.func('int setns(int fd, int type)') as unknown as (fd: number, type: number) => number,
  syscall: libc.func('long syscall(long number, long argument)') as unknown as (number: number, argument: number) => number,
  socket: libc.func('int socket(int family, int type, int protocol)') as unknown as (family: number, type: number, protocol: number) => number,
  bind: libc.func('int bind(int fd, void *address, uint32_t length)') as unknown as AddressFunction,
  connect: libc.func('int connect(int fd, void *address, uint32_t length)') as unknown as AddressFunction,
  listen: libc.func('int listen(int fd, int backlog)') as unknown as (fd: number, backlog: number) => number,
  accept4: libc.func('int accept4(int fd, void *address, void *length, int flags)') as unknown as (fd: number, address: Uint8Array, length: Uint32Array, flags: number) => number,
  sendto: libc.func('intptr_t sendto(int fd, void *bytes, size_t length, int flags, void *address, uint32_t addressLength)') as unknown as (
    fd: number, bytes: Uint8Array, length: number, flags: number, address: Uint8Array | null, addressLength: number,
  ) => number,
  recvfrom: libc.func('intptr_t recvfrom(int fd, void *bytes, size_t length, int flags, void *address, void *addressLength)') as unknown as (
    fd: number, bytes: Uint8Array, length: number, flags: number, address: Uint8Array, addressLength: Uint32Array,
  ) => number,
  recv: libc.func('intptr_t recv(int fd, void *bytes, size_t length, int flags)') as unknown as (fd: number, bytes: Uint8Array, length: number, flags: number) => number,
  setsockopt: libc.func('int setsockopt(int fd, int level, int option, void *value, uint32_t length)') as unknown as (
    fd: number, level: number, option: number, value: Uint8Array, length: number,
  ) => number,
  getsockopt: libc.func('int getsockopt(int fd, int level, int option, void *value, void *length)') as unknown as (
    fd: number, level: number, option: number, value: Uint8Array, length: Uint32Array,
  ) => number,
  shutdown: libc.func('int shutdown(int fd, int how)') as unknown as (fd: number, how: number) => number,
  close: libc.func('int close(int fd)') as unknown as (fd: number) => number,
  ifNameToIndex: libc.func('uint32_t if_nametoindex(const char *name)') as unknown as (name: string) => number,
};

/**
 * A network namespace that has no name: it lives as long as this descriptor and what is in it, so that a process that is
 * killed leaves nothing behind. Needs CAP_SYS_ADMIN.
 */
export class KernelNamespace {
  readonly fd: number;

  constructor() {
    const home = openSync('/proc/thread-self/ns/net', 'r');
    try {
      demand('unshare', functions.unshare(CLONE_NEWNET));
      this.fd = openSync('/proc/thread-self/ns/net', 'r');
      demand('setns', functions.setns(home, CLONE_NEWNET));
    } finally {
      closeSync(home);
    }
  }

  /** A path by which other programs reach it while this process runs. */
  get path(): string {
    return `/proc/${process.pid}/fd/${this.fd}`;
  }

  /** Runs something that does not wait inside of the namespace: sockets, files of /proc/sys/net and child processes are its own. */
  run<Result>(action: () => Result): Result {
    const home = openSync('/proc/thread-self/ns/net', 'r');
    demand('setns', functions.setns(this.fd, CLONE_NEWNET));
    try {
      return action();
    } finally {
      demand('setns', functions.setns(home, CLONE_NEWNET));
      closeSync(home);
    }
  }

  dispose(): void {
    closeSync(this.fd);
  }
}

/** Opens a socket that does not block and gives its descriptor; throws an Error with the errno. */
export function openSocket(family: number, type: number, protocol: number): number {
  return demand('socket', functions.socket(family, type | SOCK_FLAGS, protocol));
}

/**
 * Opens sockets as a user: `-m owner` sees the credentials with which the file was opened (net/netfilter/xt_owner.c).
 * Only the calling thread's fsuid and fsgid change, and its capabilities over the network stay.
 */
export function openAs<Result>(user: { readonly uid: number; readonly gid: number }, open: () => Result): Result {
  functions.syscall(SETFSGID, user.gid);
  functions.syscall(SETFSUID, user.uid);
  try {
    return open();
  } finally {
    functions.syscall(SETFSUID, 0);
    functions.syscall(SETFSGID, 0);
  }
}

/** bind(2). */
export function bindSocket(fd: number, address: Uint8Array): number {
  return outcome(functions.bind(fd, address, address.length));
}

/** connect(2). */
export function connectSocket(fd: number, address: Uint8Array): number {
  return outcome(functions.connect(fd, address, address.length));
}

/** listen(2) with a backlog of 128. */
export function listenSocket(fd: number): number {
  return outcome(functions.listen(fd, 128));
}

/** accept4(2): a descriptor and the peer's socket address, or a negative errno. */
export function acceptSocket(fd: number): { readonly fd: number; readonly peer: Uint8Array } {
  const peer = new Uint8Array(28);
  return { fd: outcome(functions.accept4(fd, peer, Uint32Array.of(peer.length), SOCK_FLAGS)), peer };
}

/** sendto(2), or send(2) without an address. */
export function sendBytes(fd: number, bytes: Uint8Array, address: Uint8Array | null = null): number {
  return outcome(functions.sendto(fd, bytes, bytes.length, 0, address, address?.length ?? 0));
}

/** recv(2): how many bytes were put into `bytes`, or a negative errno. */
export function receiveBytes(fd: number, bytes: Uint8Array): number {
  return outcome(functions.recv(fd, bytes, bytes.length, 0));
}

/** recvfrom(2). */
export function receiveFrom(fd: number, bytes: Uint8Array): { readonly count: number; readonly from: Uint8Array } {
  const from = new Uint8Array(28);
  return { count: outcome(functions.recvfrom(fd, bytes, bytes.length, 0, from, Uint32Array.of(from.length))), from };
}

/** setsockopt(2) with a whole number; throws an Error with the errno. */
export function setOption(fd: number, level: number, option: number, value: number): void {
  setOptionBytes(fd, level, option, new Uint8Array(Int32Array.of(value).buffer));
}

/** setsockopt(2) with bytes; throws an Error with the errno. */
export function setOptionBytes(fd: number, level: number, option: number, value: Uint8Array): void {
  demand('setsockopt', functions.setsockopt(fd, level, option, value, value.length));
}

/** getsockopt(2) into `length` bytes; null where the kernel answers with an error. */
export function readOption(fd: number, level: number, option: number, length: number): Uint8Array | null {
  const value = new Uint8Array(length);
  return functions.getsockopt(fd, level, option, value, Uint32Array.of(length)) < 0 ? null : value;
}

/** shutdown(2) of what is sent: TCP sends a FIN. */
export function endSending(fd: number): number {
  return outcome(functions.shutdown(fd, 1));
}

/** close(2). */
export function closeSocket(fd: number): void {
  functions.close(fd);
}

/** Gives the index of a device of the namespace that the calling thread is in; throws an Error where there is none. */
export function deviceIndex(name: string): number {
  const index = functions.ifNameToIndex(name);
  if (index === 0) {
    throw new Error(`there is no device ${name}`);
  }
  return index;
}

/** A sockaddr_in or sockaddr_in6. */
export function socketAddress(address: IpAddress, port: number): Uint8Array {
  const isV4 = isIpv4(address);
  const bytes = new Uint8Array(isV4 ? 16 : 28);
  const view = new DataView(bytes.buffer);
  view.setUint16(0, isV4 ? AF_INET : AF_INET6, true);
  view.setUint16(2, port);
  bytes.set(ipAddressBytes(address), isV4 ? 4 : 8);
  return bytes;
}

/** Waits on the calling thread. */
export function pause(milliseconds: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, milliseconds);
}

function outcome(result: number): number {
  return result < 0 ? -koffi.errno() : result;
}

function demand(call: string, result: number): number {
  if (result < 0) {
    throw new Error(`${call}: errno ${koffi.errno()}`);
  }
  return result;
}
