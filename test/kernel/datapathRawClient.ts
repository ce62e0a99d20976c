import { existsSync, writeSync } from 'node:fs';
import koffi from 'koffi';
import { becomeUser } from '../../agent/lab/programs/program.ts';
import type { ProgramIdentity } from '../../agent/lab/programs/reports.ts';

/**
 * A client that Node.js cannot be: it binds its port, delays the ACK of the handshake and decides what is one send(2).
 * Run as a program with RawClientParams as JSON; prints what came back on each connection as a JSON list of text.
 */
export interface RawClientParams {
  /** Who it becomes: it starts as root, since its own modules may be in a folder that only root can read. */
  readonly identity: ProgramIdentity;
  readonly address: string;
  readonly port: number;
  readonly localAddress?: string;
  readonly localPort?: number;
  /** TCP_QUICKACK off: the handshake's ACK goes with the first data. */
  readonly delayAck?: boolean;
  readonly connections: number;
  /** Sent one by one; as many bytes are then awaited. */
  readonly messages: readonly string[];
  /** Before it connects or sends (`gateAt`), `waiting` is printed and the program waits until there is a file of this path. */
  readonly gate?: string;
  /** `send` where it is left out. */
  readonly gateAt?: 'connect' | 'send';
  /** Makes its sockets as one user and connects them as another; the program has to be started as root. */
  readonly users?: { readonly creator: number; readonly connector: number };
}

const AF_INET = 2;
const SOCK_STREAM = 1;
const SOL_SOCKET = 1;
const SO_REUSEADDR = 2;
const IPPROTO_TCP = 6;
const TCP_NODELAY = 1;
const TCP_QUICKACK = 12;
/** How often the gate is looked for. */
const GATE_MILLISECONDS = 5;

const libc = koffi.load(null);
const socketFunction = libc.func('int socket(int family, int type, int protocol)') as unknown as (...args: number[]) => number;
const setsockoptFunction = libc.func('int setsockopt(int fd, int level, int option, int *value, uint32_t length)') as unknown as (
  fd: number,
  level: number,
  option: number,
  value: number[],
  length: number,
) => number;
type AddressFunction = (fd: number, address: Uint8Array, length: number) => number;
const bindFunction = libc.func('int bind(int fd, void *address, uint32_t length)') as unknown as AddressFunction;
const connectFunction = libc.func('int connect(int fd, void *address, uint32_t length)') as unknown as AddressFunction;
type TransferFunction = (fd: number, bytes: Uint8Array, length: number, flags: number) => number;
const sendFunction = libc.func('intptr_t send(int fd, void *bytes, size_t length, int flags)') as unknown as TransferFunction;
const recvFunction = libc.func('intptr_t recv(int fd, void *bytes, size_t length, int flags)') as unknown as TransferFunction;
const setresuidFunction = libc.func('int setresuid(uint32_t real, uint32_t effective, uint32_t saved)') as unknown as (...ids: number[]) => number;
const closeFunction = libc.func('int close(int fd)') as unknown as (fd: number) => number;

function check(call: string, result: number): number {
  if (result < 0) {
    throw new Error(`${call}: errno ${koffi.errno()}`);
  }
  return result;
}

function socketAddress(address: string, port: number): Uint8Array {
  const bytes = new Uint8Array(16);
  new Uint16Array(bytes.buffer, 0, 1)[0] = AF_INET;
  new DataView(bytes.buffer).setUint16(2, port);
  bytes.set(address.split('.').map(Number), 4);
  return bytes;
}

/** Root is kept as the saved user, to come back to. */
function actAs(uid: number): void {
  check('setresuid', setresuidFunction(0, 0, 0));
  check('setresuid', setresuidFunction(uid, uid, 0));
}

function waitAt(place: 'connect' | 'send', { gate, gateAt = 'send' }: RawClientParams): void {
  if (gate !== undefined && gateAt === place) {
    writeSync(process.stdout.fd, 'waiting\n');
    waitForFile(gate);
  }
}

function openConnection(params: RawClientParams): number {
  if (params.users !== undefined) {
    actAs(params.users.creator);
  }
  const fd = check('socket', socketFunction(AF_INET, SOCK_STREAM, 0));
  const set = (level: number, option: number, value: number): void => {
    check('setsockopt', setsockoptFunction(fd, level, option, [value], 4));
  };
  set(IPPROTO_TCP, TCP_NODELAY, 1);
  set(SOL_SOCKET, SO_REUSEADDR, 1);
  if (params.delayAck === true) {
    set(IPPROTO_TCP, TCP_QUICKACK, 0);
  }
  if (params.localAddress !== undefined) {
    check('bind', bindFunction(fd, socketAddress(params.localAddress, params.localPort ?? 0), 16));
  }
  waitAt('connect', params);
  if (params.users !== undefined) {
    actAs(params.users.connector);
  }
  check('connect', connectFunction(fd, socketAddress(params.address, params.port), 16));
  return fd;
}

function converse(fd: number, messages: readonly string[]): string {
  for (const message of messages) {
    check('send', sendFunction(fd, Buffer.from(message), message.length, 0));
  }
  const wanted = messages.join('').length;
  const buffer = Buffer.alloc(wanted);
  let received = 0;
  while (received < wanted) {
    const count = check('recv', recvFunction(fd, buffer.subarray(received), wanted - received, 0));
    if (count === 0) {
      break;
    }
    received += count;
  }
  return buffer.toString('latin1', 0, received);
}

/** Waits as this program does everything: without an event loop. */
function waitForFile(path: string): void {
  const never = new Int32Array(new SharedArrayBuffer(4));
  while (!existsSync(path)) {
    Atomics.wait(never, 0, 0, GATE_MILLISECONDS);
  }
}

function main(params: RawClientParams): void {
  becomeUser(params.identity);
  const answers: string[] = [];
  for (let index = 0; index < params.connections; index += 1) {
    const fd = openConnection(params);
    waitAt('send', params);
    answers.push(converse(fd, params.messages));
    check('close', closeFunction(fd));
  }
  writeSync(process.stdout.fd, `${JSON.stringify(answers)}\n`);
}

main(JSON.parse(process.argv[2] ?? '') as RawClientParams);
