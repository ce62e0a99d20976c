import { constants } from 'node:os';
import koffi from 'koffi';

/**
 * Sockets of the C library without Node.js between: one send(2) is one message, options can be set before connect(2),
 * and a connection costs a fraction of what node:net takes. All sockets are TCP over IPv4; they do not block unless that is asked for.
 * Functions that give a number give a negative errno where the call failed.
 */

const AF_INET = 2;
const SOCK_STREAM = 1;
const SOCK_CLOEXEC = 0o2_000_000;
const SOCK_NONBLOCK = 0o4_000;
const SOL_IP = 0;
const SOL_SOCKET = 1;
const SO_REUSEADDR = 2;
const SO_ERROR = 4;
const SO_LINGER = 13;
const IPPROTO_TCP = 6;
const TCP_NODELAY = 1;
const TCP_QUICKACK = 12;
/** include/uapi/linux/in.h: bind(2) leaves the port to connect(2), which may use one for many destinations. */
const IP_BIND_ADDRESS_NO_PORT = 24;
/** include/uapi/linux/netfilter_ipv4.h */
const SO_ORIGINAL_DST = 80;
const SHUT_WR = 1;
const MSG_NOSIGNAL = 0x4000;
const LISTEN_BACKLOG = 4_096;
const SOCKADDR_BYTES = 16;
const POLLFD_BYTES = 8;
const POLLIN = 1;

/** The negative errno of a call that would have to wait. */
export const WOULD_BLOCK = -constants.errno.EAGAIN;
/** The negative errno of connect(2) where no source port is free. */
export const NO_PORT = -constants.errno.EADDRNOTAVAIL;
/**
 * Between a call and the reading of its errno the garbage collector may run, whose own calls (madvise, mprotect) leave theirs:
 * one of a hundred thousand. A call that seems to have lacked memory is made again, which none of them minds.
 */
const DOUBTFUL = -constants.errno.ENOMEM;

type AddressFunction = (fd: number, address: Uint8Array, length: number) => number;
type TransferFunction = (fd: number, bytes: Uint8Array, length: number, flags: number) => number;

const libc = koffi.load(null);
const functions = {
  socket: libc.func('int socket(int family, int type, int protocol)') as unknown as (family: number, type: number, protocol: number) => number,
  setsockopt: libc.func('int setsockopt(int fd, int level, int option, void *value, uint32_t length)') as unknown as (
    fd: number,
    level: number,
    option: number,
    value: Uint8Array,
    length: number,
  ) => number,
  getsockopt: libc.func('int getsockopt(int fd, int level, int option, void *value, void *length)') as unknown as (
    fd: number,
    level: number,
    option: number,
    value: Uint8Array,
    length: Uint32Array,
  ) => number,
  getsockname: libc.func('int getsockname(int fd, void *address, void *length)') as unknown as (fd: number, address: Uint8Array, length: Uint32Array) => number,
  bind: libc.func('int bind(int fd, void *address, uint32_t length)') as unknown as AddressFunction,
  connect: libc.func('int connect(int fd, void *address, uint32_t length)') as unknown as AddressFunction,
  listen: libc.func('int listen(int fd, int backlog)') as unknown as (fd: number, backlog: number) => number,
  accept4: libc.func('int accept4(int fd, void *address, void *length, int flags)') as unknown as (
    fd: number,
    address: null,
    length: null,
    flags: number,
  ) => number,
  send: libc.func('intptr_t send(int fd, void *bytes, size_t length, int flags)') as unknown as TransferFunction,
  recv: libc.func('intptr_t recv(int fd, void *bytes, size_t length, int flags)') as unknown as TransferFunction,
  poll: libc.func('int poll(void *fds, unsigned long count, int milliseconds)') as unknown as (fds: Uint8Array, count: number, milliseconds: number) => number,
  shutdown: libc.func('int shutdown(int fd, int how)') as unknown as (fd: number, how: number) => number,
  close: libc.func('int close(int fd)') as unknown as (fd: number) => number,
};

/** An IPv4 address in dotted form, and a port in host order. */
export interface SocketEndpoint {
  readonly address: string;
  readonly port: number;
}

export interface SocketOptions {
  /** Bound to before connecting; port 0 leaves the port to connect(2). */
  readonly local?: SocketEndpoint;
  /** TCP_QUICKACK off: the ACK of the handshake goes with the first data. */
  readonly delaysAck?: boolean;
  /** Calls wait until they are done. */
  readonly blocks?: boolean;
}

/** Starts to connect and gives the descriptor, or a negative errno. Writable: connected or failed (readSocketError). */
export function startConnecting(remote: SocketEndpoint, options: SocketOptions = {}): number {
  const fd = openSocket(options.blocks);
  setOption(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  if (options.delaysAck === true) {
    setOption(fd, IPPROTO_TCP, TCP_QUICKACK, 0);
  }
  if (options.local !== undefined) {
    setOption(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    setOption(fd, SOL_IP, IP_BIND_ADDRESS_NO_PORT, 1);
    const bound = outcome(functions.bind(fd, encodeEndpoint(options.local), SOCKADDR_BYTES));
    if (bound < 0) {
      closeSocket(fd);
      return bound;
    }
  }
  const connected = connectTo(fd, encodeEndpoint(remote));
  if (connected < 0 && connected !== -constants.errno.EINPROGRESS) {
    closeSocket(fd);
    return connected;
  }
  return fd;
}

/** Listens and gives the descriptor; throws an Error with the errno where it cannot. */
export function listenOn(local: SocketEndpoint, options: Pick<SocketOptions, 'blocks'> = {}): number {
  const fd = openSocket(options.blocks);
  setOption(fd, SOL_SOCKET, SO_REUSEADDR, 1);
  demand('bind', functions.bind(fd, encodeEndpoint(local), SOCKADDR_BYTES));
  demand('listen', functions.listen(fd, LISTEN_BACKLOG));
  return fd;
}

/** Gives the descriptor of the next accepted connection, or a negative errno. */
export function acceptSocket(fd: number, options: Pick<SocketOptions, 'blocks'> = {}): number {
  const flags = socketFlags(options.blocks);
  const first = outcome(functions.accept4(fd, null, null, flags));
  const accepted = first === DOUBTFUL ? outcome(functions.accept4(fd, null, null, flags)) : first;
  if (accepted >= 0) {
    setOption(accepted, IPPROTO_TCP, TCP_NODELAY, 1);
  }
  return accepted;
}

/** Sends bytes in one send(2); gives how many, or a negative errno. */
export function sendBytes(fd: number, bytes: Uint8Array): number {
  const sent = outcome(functions.send(fd, bytes, bytes.length, MSG_NOSIGNAL));
  return sent === DOUBTFUL ? outcome(functions.send(fd, bytes, bytes.length, MSG_NOSIGNAL)) : sent;
}

/** Receives up to `bytes.length`; gives how many, 0 at the end, or a negative errno. */
export function receiveBytes(fd: number, bytes: Uint8Array): number {
  const received = outcome(functions.recv(fd, bytes, bytes.length, 0));
  return received === DOUBTFUL ? outcome(functions.recv(fd, bytes, bytes.length, 0)) : received;
}

/** Sends a FIN. It may be too late for that: the next call on the socket tells. */
export function shutdownSocket(fd: number): void {
  functions.shutdown(fd, SHUT_WR);
}

export function closeSocket(fd: number): void {
  functions.close(fd);
}

/** Closes with a reset. */
export function resetSocket(fd: number): void {
  const linger = new Uint8Array(Int32Array.of(1, 0).buffer);
  functions.setsockopt(fd, SOL_SOCKET, SO_LINGER, linger, linger.length);
  functions.close(fd);
}

/** Gives the negative errno that waits on a socket (SO_ERROR), 0 where none does. */
export function readSocketError(fd: number): number {
  const value = new Uint8Array(4);
  demand('getsockopt', functions.getsockopt(fd, SOL_SOCKET, SO_ERROR, value, Uint32Array.of(value.length)));
  return -new DataView(value.buffer).getInt32(0, true);
}

/** Gives what the client meant before it was redirected (SO_ORIGINAL_DST); a negative errno where nobody redirected it. */
export function readOriginalEndpoint(fd: number): SocketEndpoint | number {
  const address = new Uint8Array(SOCKADDR_BYTES);
  const result = outcome(functions.getsockopt(fd, SOL_IP, SO_ORIGINAL_DST, address, Uint32Array.of(SOCKADDR_BYTES)));
  return result < 0 ? result : decodeEndpoint(address);
}

/** Gives the socket's own end (getsockname(2)). */
export function readLocalEnd(fd: number): SocketEndpoint {
  const address = new Uint8Array(SOCKADDR_BYTES);
  demand('getsockname', functions.getsockname(fd, address, Uint32Array.of(SOCKADDR_BYTES)));
  return decodeEndpoint(address);
}

/** Waits until one of the descriptors can be read, ended or failed; gives which can. */
export function waitForAnyReadable(fds: readonly number[]): readonly boolean[] {
  // struct pollfd: int fd; short events; short revents.
  const entries = new DataView(new ArrayBuffer(fds.length * POLLFD_BYTES));
  fds.forEach((fd, index) => {
    entries.setInt32(index * POLLFD_BYTES, fd, true);
    entries.setInt16(index * POLLFD_BYTES + 4, POLLIN, true);
  });
  demand('poll', functions.poll(new Uint8Array(entries.buffer), fds.length, -1));
  return fds.map((_, index) => entries.getInt16(index * POLLFD_BYTES + 6, true) !== 0);
}

function connectTo(fd: number, address: Uint8Array): number {
  const connected = outcome(functions.connect(fd, address, SOCKADDR_BYTES));
  if (connected !== DOUBTFUL) {
    return connected;
  }
  // connect(2): what the second call says of the first one.
  const again = outcome(functions.connect(fd, address, SOCKADDR_BYTES));
  return again === -constants.errno.EISCONN ? 0 : again === -constants.errno.EALREADY ? -constants.errno.EINPROGRESS : again;
}

function openSocket(blocks = false): number {
  return demand('socket', functions.socket(AF_INET, SOCK_STREAM | socketFlags(blocks), 0));
}

function socketFlags(blocks = false): number {
  return blocks ? SOCK_CLOEXEC : SOCK_CLOEXEC | SOCK_NONBLOCK;
}

function setOption(fd: number, level: number, option: number, value: number): void {
  demand('setsockopt', functions.setsockopt(fd, level, option, new Uint8Array(Int32Array.of(value).buffer), 4));
}

function encodeEndpoint({ address, port }: SocketEndpoint): Uint8Array {
  const bytes = new Uint8Array(SOCKADDR_BYTES);
  const view = new DataView(bytes.buffer);
  view.setUint16(0, AF_INET, true);
  view.setUint16(2, port);
  bytes.set(address.split('.').map(Number), 4);
  return bytes;
}

function decodeEndpoint(bytes: Uint8Array): SocketEndpoint {
  return { address: bytes.subarray(4, 8).join('.'), port: new DataView(bytes.buffer).getUint16(2) };
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
