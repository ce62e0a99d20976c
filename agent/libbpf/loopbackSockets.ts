import { constants } from 'node:os';
import { MeshpathError } from '../protocol/errors.ts';
import type { Libbpf } from './library.ts';

/** Two connected TCP sockets of this process over 127.0.0.1, used without Node.js, which reads what comes before one can look. */
export interface SocketPair {
  readonly connecting: number;
  readonly accepting: number;
  /** Sends all of `text` in one message. Throws KERNEL_UNSUITABLE. */
  readonly send: (fd: number, text: string) => void;
  /** Gives what has come by then, at most `bytes`: it waits for the first byte only. Throws KERNEL_UNSUITABLE, TIMED_OUT. */
  readonly receive: (fd: number, bytes: number) => string;
  /** Gives how many bytes the kernel says can be read (ioctl FIONREAD), once something can be. Throws KERNEL_UNSUITABLE, TIMED_OUT. */
  readonly countReadable: (fd: number) => number;
  /** Waits until something can be read. Throws KERNEL_UNSUITABLE, TIMED_OUT. */
  readonly waitForBytes: (fd: number) => void;
  readonly close: () => void;
}

const AF_INET = 2;
const SOCK_STREAM = 1;
const SOCK_CLOEXEC = 0o2000000;
const SOL_SOCKET = 1;
const SO_RCVTIMEO = 20;
const IPPROTO_TCP = 6;
const TCP_NODELAY = 1;
const FIONREAD = 0x541b;
const MSG_NOSIGNAL = 0x4000;
const POLLIN = 1;
const SOCKADDR_BYTES = 16;
const WAIT_MILLISECONDS = 2_000;

interface SocketFunctions {
  readonly socket: (family: number, type: number, protocol: number) => number;
  readonly bind: (fd: number, address: Uint8Array, length: number) => number;
  readonly listen: (fd: number, backlog: number) => number;
  readonly getsockname: (fd: number, address: Uint8Array, length: Uint32Array) => number;
  readonly connect: (fd: number, address: Uint8Array, length: number) => number;
  readonly accept: (fd: number, address: null, length: null) => number;
  readonly setsockopt: (fd: number, level: number, option: number, value: Uint8Array, length: number) => number;
  readonly send: (fd: number, bytes: Uint8Array, length: number, flags: number) => number;
  readonly recv: (fd: number, bytes: Uint8Array, length: number, flags: number) => number;
  readonly poll: (polled: Uint8Array, count: number, milliseconds: number) => number;
  readonly ioctl: (fd: number, request: number, value: Uint32Array) => number;
  readonly close: (fd: number) => number;
}

const DECLARATIONS: { readonly [Name in keyof SocketFunctions]: readonly [string, readonly string[]] } = {
  socket: ['int', ['int', 'int', 'int']],
  bind: ['int', ['int', 'void *', 'uint32_t']],
  listen: ['int', ['int', 'int']],
  getsockname: ['int', ['int', 'void *', 'void *']],
  connect: ['int', ['int', 'void *', 'uint32_t']],
  accept: ['int', ['int', 'void *', 'void *']],
  setsockopt: ['int', ['int', 'int', 'int', 'void *', 'uint32_t']],
  send: ['intptr_t', ['int', 'void *', 'size_t', 'int']],
  recv: ['intptr_t', ['int', 'void *', 'size_t', 'int']],
  poll: ['int', ['void *', 'unsigned long', 'int']],
  // Variadic in C; on the platforms of the agent such arguments are passed like others.
  ioctl: ['int', ['int', 'unsigned long', 'void *']],
  close: ['int', ['int']],
};

/** Opens a pair; the caller closes it. No call waits longer than two seconds. Throws KERNEL_UNSUITABLE. */
export function openSocketPair(libbpf: Libbpf): SocketPair {
  const sockets = new LoopbackSockets(libbpf);
  try {
    const { connecting, accepting } = sockets.connect();
    return {
      connecting,
      accepting,
      send: (fd, text) => sockets.send(fd, text),
      receive: (fd, bytes) => sockets.receive(fd, bytes),
      countReadable: (fd) => sockets.countReadable(fd),
      waitForBytes: (fd) => sockets.waitForBytes(fd),
      close: () => sockets.close(),
    };
  } catch (error) {
    sockets.close();
    throw error;
  }
}

/** The sockets of one pair, and the calls that are made on them. */
class LoopbackSockets {
  readonly #libbpf: Libbpf;
  readonly #functions: SocketFunctions;
  readonly #opened: number[] = [];

  constructor(libbpf: Libbpf) {
    this.#libbpf = libbpf;
    this.#functions = bindFunctions(libbpf);
  }

  connect(): { readonly connecting: number; readonly accepting: number } {
    const functions = this.#functions;
    const listener = this.#open('socket', functions.socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const address = loopbackAddress();
    this.#check('bind', functions.bind(listener, address, SOCKADDR_BYTES));
    this.#check('getsockname', functions.getsockname(listener, address, Uint32Array.of(SOCKADDR_BYTES)));
    this.#check('listen', functions.listen(listener, 1));
    const connecting = this.#open('socket', functions.socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    this.#check('connect', functions.connect(connecting, address, SOCKADDR_BYTES));
    this.waitForBytes(listener);
    const accepting = this.#open('accept', functions.accept(listener, null, null));
    for (const fd of [connecting, accepting]) {
      this.#check('setsockopt', functions.setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, new Uint8Array(Uint32Array.of(1).buffer), 4));
      this.#check('setsockopt', functions.setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, new Uint8Array(BigUint64Array.of(BigInt(WAIT_MILLISECONDS / 1_000), 0n).buffer), 16));
    }
    return { connecting, accepting };
  }

  send(fd: number, text: string): void {
    const bytes = Buffer.from(text);
    if (this.#check('send', this.#functions.send(fd, bytes, bytes.length, MSG_NOSIGNAL)) !== bytes.length) {
      throw callError('send', 'fewer bytes than were given');
    }
  }

  receive(fd: number, bytes: number): string {
    const buffer = Buffer.alloc(bytes);
    return buffer.toString('utf8', 0, this.#check('recv', this.#functions.recv(fd, buffer, bytes, 0)));
  }

  countReadable(fd: number): number {
    this.waitForBytes(fd);
    const count = new Uint32Array(1);
    this.#check('ioctl', this.#functions.ioctl(fd, FIONREAD, count));
    return count[0] ?? 0;
  }

  waitForBytes(fd: number): void {
    // struct pollfd: int fd; short events, revents.
    const polled = new Uint8Array(8);
    new Uint32Array(polled.buffer)[0] = fd;
    new Uint16Array(polled.buffer)[2] = POLLIN;
    if (this.#check('poll', this.#functions.poll(polled, 1, WAIT_MILLISECONDS)) === 0) {
      throw timeoutError('poll');
    }
  }

  close(): void {
    this.#opened.splice(0).forEach((fd) => this.#functions.close(fd));
  }

  #open(call: 'socket' | 'accept', fd: number): number {
    this.#opened.push(this.#check(call, fd));
    return fd;
  }

  #check(call: keyof SocketFunctions, result: number): number {
    if (result >= 0) {
      return result;
    }
    const errno = this.#libbpf.lastErrno();
    throw errno === constants.errno.EAGAIN ? timeoutError(call) : callError(call, this.#libbpf.describe(errno));
  }
}

function bindFunctions({ koffi }: Libbpf): SocketFunctions {
  const libc = koffi.load(null);
  const functions = Object.entries(DECLARATIONS).map(([name, [result, parameters]]) => [name, libc.func(name, result, [...parameters])]);
  return Object.fromEntries(functions) as SocketFunctions;
}

/** struct sockaddr_in of 127.0.0.1 with a port that the kernel chooses. */
function loopbackAddress(): Uint8Array {
  const address = new Uint8Array(SOCKADDR_BYTES);
  new Uint16Array(address.buffer)[0] = AF_INET;
  address.set([127, 0, 0, 1], 4);
  return address;
}

function timeoutError(call: string): MeshpathError {
  return new MeshpathError({
    code: 'TIMED_OUT',
    message: 'A test of sockets did not end in time.',
    reason: `${call} had nothing after ${WAIT_MILLISECONDS} ms on a connection over 127.0.0.1.`,
    remedy: 'Look whether rules of the node (`iptables-save`) or other BPF programs hold up connections over loopback.',
  });
}

function callError(call: string, found: string): MeshpathError {
  return new MeshpathError({
    code: 'KERNEL_UNSUITABLE',
    message: 'A test of sockets could not be made.',
    reason: `${call} on a connection over 127.0.0.1 failed with ${found}.`,
    remedy: 'Look whether rules of the node (`iptables-save`) or other BPF programs refuse connections over loopback, and whether lo is up.',
  });
}
