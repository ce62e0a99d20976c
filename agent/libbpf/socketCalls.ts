import type { Libbpf } from './library.ts';

/** Calls of the C library on sockets. Each gives what C gives, or the negative errno where it failed. */
export interface SocketCalls {
  readonly socket: (family: number, type: number, protocol: number) => number;
  readonly bind: (fd: number, address: Uint8Array, length: number) => number;
  readonly listen: (fd: number, backlog: number) => number;
  readonly getsockname: (fd: number, address: Uint8Array, length: Uint32Array) => number;
  readonly getpeername: (fd: number, address: Uint8Array, length: Uint32Array) => number;
  readonly connect: (fd: number, address: Uint8Array, length: number) => number;
  readonly accept: (fd: number, address: null, length: null) => number;
  readonly setsockopt: (fd: number, level: number, option: number, value: Uint8Array, length: number) => number;
  readonly getsockopt: (fd: number, level: number, option: number, value: Uint8Array, length: Uint32Array) => number;
  readonly shutdown: (fd: number, how: number) => number;
  readonly send: (fd: number, bytes: Uint8Array, length: number, flags: number) => number;
  readonly recv: (fd: number, bytes: Uint8Array, length: number, flags: number) => number;
  readonly splice: (from: number, fromOffset: null, to: number, toOffset: null, length: number, flags: number) => number;
  readonly pipe2: (fds: Int32Array, flags: number) => number;
  readonly read: (fd: number, bytes: Uint8Array, length: number) => number;
  readonly poll: (polled: Uint8Array, count: number, milliseconds: number) => number;
  readonly epoll_create1: (flags: number) => number;
  readonly epoll_ctl: (epoll: number, operation: number, fd: number, event: Uint8Array) => number;
  readonly epoll_wait: (epoll: number, events: Uint8Array, most: number, milliseconds: number) => number;
  readonly ioctl: (fd: number, request: number, value: Uint8Array | Uint32Array) => number;
  readonly close: (fd: number) => number;
  readonly unshare: (flags: number) => number;
  readonly alarm: (seconds: number) => number;
}

/** C declarations of SocketCalls: result type, parameter types. */
const DECLARATIONS: { readonly [Name in keyof SocketCalls]: readonly [string, readonly string[]] } = {
  socket: ['int', ['int', 'int', 'int']],
  bind: ['int', ['int', 'void *', 'uint32_t']],
  listen: ['int', ['int', 'int']],
  getsockname: ['int', ['int', 'void *', 'void *']],
  getpeername: ['int', ['int', 'void *', 'void *']],
  connect: ['int', ['int', 'void *', 'uint32_t']],
  accept: ['int', ['int', 'void *', 'void *']],
  setsockopt: ['int', ['int', 'int', 'int', 'void *', 'uint32_t']],
  getsockopt: ['int', ['int', 'int', 'int', 'void *', 'void *']],
  shutdown: ['int', ['int', 'int']],
  send: ['intptr_t', ['int', 'void *', 'size_t', 'int']],
  recv: ['intptr_t', ['int', 'void *', 'size_t', 'int']],
  splice: ['intptr_t', ['int', 'void *', 'int', 'void *', 'size_t', 'unsigned int']],
  pipe2: ['int', ['void *', 'int']],
  read: ['intptr_t', ['int', 'void *', 'size_t']],
  poll: ['int', ['void *', 'unsigned long', 'int']],
  epoll_create1: ['int', ['int']],
  epoll_ctl: ['int', ['int', 'int', 'int', 'void *']],
  epoll_wait: ['int', ['int', 'void *', 'int', 'int']],
  // Variadic in C; on the platforms of the agent such arguments are passed like others.
  ioctl: ['int', ['int', 'unsigned long', 'void *']],
  close: ['int', ['int']],
  unshare: ['int', ['int']],
  alarm: ['unsigned int', ['unsigned int']],
};

/** Gives the calls; they go to the C library that Node.js has loaded. */
export function bindSocketCalls({ koffi }: Libbpf): SocketCalls {
  const libc = koffi.load(null);
  const calls = Object.entries(DECLARATIONS).map(([name, [result, parameters]]) => {
    const call = libc.func(name, result, [...parameters]) as unknown as (...values: readonly unknown[]) => number | bigint;
    return [
      name,
      (...values: readonly unknown[]): number => {
        const given = Number(call(...values));
        return given < 0 ? -koffi.errno() : given;
      },
    ];
  });
  return Object.fromEntries(calls) as SocketCalls;
}
