import { constants } from 'node:os';
import { MeshpathError } from '../protocol/errors.ts';
import type { Libbpf } from './library.ts';
import { bindSocketCalls } from './socketCalls.ts';
import type { SocketCalls } from './socketCalls.ts';

/** Two connected TCP sockets of this process over 127.0.0.1, used without Node.js, which reads what comes before one can look. */
export interface SocketPair {
  readonly connecting: number;
  readonly accepting: number;
  /** For what the functions below do not do; the errno is the caller's to look at. */
  readonly calls: SocketCalls;
  /** Sends all of `text` in one message. Throws KERNEL_UNSUITABLE. */
  readonly send: (fd: number, text: string) => void;
  /** Gives what has come by then, at most `bytes`: it waits for the first byte only. '' at the end. Throws KERNEL_UNSUITABLE, TIMED_OUT. */
  readonly receive: (fd: number, bytes: number) => string;
  /** Gives what comes until there are `bytes`, the end of the stream, or nothing more in time. Throws KERNEL_UNSUITABLE. */
  readonly receiveAll: (fd: number, bytes: number) => string;
  /** Gives how many bytes the kernel says can be read (ioctl FIONREAD), once something can be. Throws KERNEL_UNSUITABLE, TIMED_OUT. */
  readonly countReadable: (fd: number) => number;
  /** Waits until something can be read. Throws KERNEL_UNSUITABLE, TIMED_OUT. */
  readonly waitForBytes: (fd: number) => void;
  /** Waits for one of the poll(2) events of a mask; gives those that came, 0 for none in time. Throws KERNEL_UNSUITABLE. */
  readonly poll: (fd: number, events: number, milliseconds: number) => number;
  /** Keeps a descriptor, or throws KERNEL_UNSUITABLE where the call that was to open it failed. It ends with the pair. */
  readonly keep: (call: keyof SocketCalls, fd: number) => number;
  /** Gives the result of a call. Throws KERNEL_UNSUITABLE, or TIMED_OUT for EAGAIN, where it failed. */
  readonly check: (call: keyof SocketCalls, result: number) => number;
  /** Closes one of the descriptors before the others. */
  readonly closeEarly: (fd: number) => void;
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
/** poll(2) */
export const POLLIN = 1;
const SOCKADDR_BYTES = 16;
const WAIT_MILLISECONDS = 2_000;

/** Opens a pair; the caller closes it. No call waits longer than two seconds. Throws KERNEL_UNSUITABLE. */
export function openSocketPair(libbpf: Libbpf): SocketPair {
  const sockets = new LoopbackSockets(libbpf);
  try {
    const { connecting, accepting } = sockets.connect();
    return {
      connecting,
      accepting,
      calls: sockets.calls,
      send: (fd, text) => sockets.send(fd, text),
      receive: (fd, bytes) => sockets.receive(fd, bytes),
      receiveAll: (fd, bytes) => sockets.receiveAll(fd, bytes),
      countReadable: (fd) => sockets.countReadable(fd),
      waitForBytes: (fd) => sockets.waitForBytes(fd),
      poll: (fd, events, milliseconds) => sockets.poll(fd, events, milliseconds),
      keep: (call, fd) => sockets.keep(call, fd),
      check: (call, result) => sockets.check(call, result),
      closeEarly: (fd) => sockets.closeEarly(fd),
      close: () => sockets.close(),
    };
  } catch (error) {
    sockets.close();
    throw error;
  }
}

/** The sockets of one pair, and the calls that are made on them. */
class LoopbackSockets {
  readonly calls: SocketCalls;
  readonly #libbpf: Libbpf;
  readonly #opened: number[] = [];

  constructor(libbpf: Libbpf) {
    this.#libbpf = libbpf;
    this.calls = bindSocketCalls(libbpf);
  }

  connect(): { readonly connecting: number; readonly accepting: number } {
    const { calls } = this;
    const listener = this.keep('socket', calls.socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const address = loopbackAddress();
    this.check('bind', calls.bind(listener, address, SOCKADDR_BYTES));
    this.check('getsockname', calls.getsockname(listener, address, Uint32Array.of(SOCKADDR_BYTES)));
    this.check('listen', calls.listen(listener, 1));
    const connecting = this.keep('socket', calls.socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    this.check('connect', calls.connect(connecting, address, SOCKADDR_BYTES));
    this.waitForBytes(listener);
    const accepting = this.keep('accept', calls.accept(listener, null, null));
    for (const fd of [connecting, accepting]) {
      this.check('setsockopt', calls.setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, new Uint8Array(Uint32Array.of(1).buffer), 4));
      this.check('setsockopt', calls.setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, new Uint8Array(BigUint64Array.of(BigInt(WAIT_MILLISECONDS / 1_000), 0n).buffer), 16));
    }
    return { connecting, accepting };
  }

  send(fd: number, text: string): void {
    const bytes = Buffer.from(text);
    if (this.check('send', this.calls.send(fd, bytes, bytes.length, MSG_NOSIGNAL)) !== bytes.length) {
      throw callError('send', 'fewer bytes than were given');
    }
  }

  receive(fd: number, bytes: number): string {
    const buffer = Buffer.alloc(bytes);
    return buffer.toString('utf8', 0, this.check('recv', this.calls.recv(fd, buffer, bytes, 0)));
  }

  receiveAll(fd: number, bytes: number): string {
    let received = '';
    while (received.length < bytes && this.poll(fd, POLLIN, WAIT_MILLISECONDS) !== 0) {
      const part = this.receive(fd, bytes - received.length);
      if (part === '') {
        break;
      }
      received += part;
    }
    return received;
  }

  countReadable(fd: number): number {
    this.waitForBytes(fd);
    const count = new Uint32Array(1);
    this.check('ioctl', this.calls.ioctl(fd, FIONREAD, count));
    return count[0] ?? 0;
  }

  waitForBytes(fd: number): void {
    if (this.poll(fd, POLLIN, WAIT_MILLISECONDS) === 0) {
      throw timeoutError('poll');
    }
  }

  poll(fd: number, events: number, milliseconds: number): number {
    // struct pollfd: int fd; short events, revents.
    const polled = new Uint8Array(8);
    const halves = new Uint16Array(polled.buffer);
    new Int32Array(polled.buffer)[0] = fd;
    halves[2] = events;
    this.check('poll', this.calls.poll(polled, 1, milliseconds));
    return halves[3] ?? 0;
  }

  keep(call: keyof SocketCalls, fd: number): number {
    this.#opened.push(this.check(call, fd));
    return fd;
  }

  check(call: keyof SocketCalls, result: number): number {
    if (result >= 0) {
      return result;
    }
    throw result === -constants.errno.EAGAIN ? timeoutError(call) : callError(call, this.#libbpf.describe(-result));
  }

  closeEarly(fd: number): void {
    const index = this.#opened.indexOf(fd);
    if (index >= 0) {
      this.#opened.splice(index, 1);
      this.calls.close(fd);
    }
  }

  close(): void {
    this.#opened.splice(0).forEach((fd) => this.calls.close(fd));
  }
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
