import { existsSync, readFileSync, rmSync, writeSync } from 'node:fs';
import { getSystemErrorName } from 'node:util';
import koffi from 'koffi';
import { becomeUser } from '../../agent/lab/programs/program.ts';
import type { ProgramIdentity } from '../../agent/lab/programs/reports.ts';
import { formatIpAddress, isIpv4, mappedAddressBytes, toIpAddress } from '../../agent/protocol/ipAddress.ts';

/**
 * A client of UDP that does one system call for each step that it is told, which Node.js cannot: it binds when it likes,
 * connects and connects again, and asks for names. Run as a program with a file of DatagramClientParams as JSON, which it
 * removes (arguments of a program cannot be so long); prints the results of the steps as a JSON list, after `waiting` at each gate.
 */
export interface DatagramClientParams {
  readonly identity: ProgramIdentity;
  readonly steps: readonly DatagramStep[];
  /** Whether the first step that fails is the last. */
  readonly endsAtError: boolean;
}

export interface DatagramEnd {
  readonly address: string;
  readonly port: number;
}

/** Steps are about the socket of a name. */
export type DatagramStep =
  | { readonly do: 'socket'; readonly name: string; readonly family: 4 | 6; readonly creator?: number }
  | { readonly do: 'bind' | 'connect'; readonly name: string; readonly to: DatagramEnd }
  /** connect(2) with AF_UNSPEC. */
  | { readonly do: 'disconnect'; readonly name: string }
  /** Where it is connected, `to` is left out. `times` of them go with one sendmmsg(2). */
  | { readonly do: 'send'; readonly name: string; readonly text: string; readonly to?: DatagramEnd; readonly times?: number }
  /** `named`: asks for the sender, as recvfrom(2) with an address does; `times` come with one recvmmsg(2) each. */
  | { readonly do: 'receive'; readonly name: string; readonly named?: boolean; readonly peek?: boolean }
  | { readonly do: 'names' | 'peer'; readonly name: string }
  | { readonly do: 'close'; readonly name: string }
  /** Waits until there is a file of this path. */
  | { readonly do: 'gate'; readonly file: string };

/** What a step gave: `error` is the name of the errno. */
export interface DatagramResult {
  readonly error?: string;
  readonly text?: string;
  readonly from?: DatagramEnd;
  readonly local?: DatagramEnd;
  readonly peer?: DatagramEnd | string;
}

const AF_INET = 2;
const AF_INET6 = 10;
const SOCK_DGRAM = 2;
const SOL_SOCKET = 1;
const SO_RCVTIMEO = 20;
const MSG_PEEK = 2;
const RECEIVE_SECONDS = 3n;
const GATE_MILLISECONDS = 5;
const DATAGRAM_BYTES = 65_536;

type AddressFunction = (fd: number, address: Uint8Array, length: number) => number;
const libc = koffi.load(null);
const socketFunction = libc.func('int socket(int family, int type, int protocol)') as unknown as (...args: number[]) => number;
const setsockoptFunction = libc.func('int setsockopt(int fd, int level, int option, void *value, uint32_t length)') as unknown as (
  fd: number,
  level: number,
  option: number,
  value: BigInt64Array,
  length: number,
) => number;
const bindFunction = libc.func('int bind(int fd, void *address, uint32_t length)') as unknown as AddressFunction;
const connectFunction = libc.func('int connect(int fd, void *address, uint32_t length)') as unknown as AddressFunction;
const sendtoFunction = libc.func('intptr_t sendto(int fd, void *bytes, size_t length, int flags, void *address, uint32_t size)') as unknown as (
  fd: number,
  bytes: Uint8Array,
  length: number,
  flags: number,
  address: Uint8Array | null,
  size: number,
) => number;
const sendmmsgFunction = libc.func('int sendmmsg(int fd, void *messages, unsigned int count, int flags)') as unknown as (
  fd: number,
  messages: BigUint64Array,
  count: number,
  flags: number,
) => number;
const recvfromFunction = libc.func('intptr_t recvfrom(int fd, _Out_ uint8_t *bytes, size_t length, int flags, _Out_ uint8_t *address, _Inout_ uint32_t *size)') as unknown as (
  fd: number,
  bytes: Uint8Array,
  length: number,
  flags: number,
  address: Uint8Array | null,
  size: [number] | null,
) => number;
type NameFunction = (fd: number, address: Uint8Array, size: [number]) => number;
const getsocknameFunction = libc.func('int getsockname(int fd, _Out_ uint8_t *address, _Inout_ uint32_t *length)') as unknown as NameFunction;
const getpeernameFunction = libc.func('int getpeername(int fd, _Out_ uint8_t *address, _Inout_ uint32_t *length)') as unknown as NameFunction;
const closeFunction = libc.func('int close(int fd)') as unknown as (fd: number) => number;
const seteuidFunction = libc.func('int setresuid(uint32_t real, uint32_t effective, uint32_t saved)') as unknown as (...ids: number[]) => number;

class SystemCallError extends Error {}

function check(result: number): number {
  if (result < 0) {
    throw new SystemCallError(getSystemErrorName(-koffi.errno()));
  }
  return result;
}

function writeAddress({ address, port }: DatagramEnd, family: 4 | 6): Uint8Array {
  const parsed = toIpAddress(address);
  // An IPv4 address is given to an IPv6 socket as it is, or mapped where it was written so.
  const isPlain = isIpv4(parsed) && !address.includes(':');
  const bytes = new Uint8Array(family === 6 && !isPlain ? 28 : 16);
  new Uint16Array(bytes.buffer, 0, 1)[0] = isPlain ? AF_INET : AF_INET6;
  new DataView(bytes.buffer).setUint16(2, port);
  bytes.set(isPlain ? mappedAddressBytes(parsed).subarray(12) : mappedAddressBytes(parsed), isPlain ? 4 : 8);
  return bytes;
}

function readAddress(bytes: Uint8Array): DatagramEnd {
  const isOfIpv4 = new Uint16Array(bytes.buffer, 0, 1)[0] === AF_INET;
  const address = isOfIpv4 ? bytes.subarray(4, 8) : bytes.subarray(8, 24);
  return { address: formatIpAddress(address), port: new DataView(bytes.buffer).getUint16(2) };
}

function askName(ask: NameFunction, fd: number): DatagramEnd {
  const bytes = new Uint8Array(28);
  check(ask(fd, bytes, [bytes.length]));
  return readAddress(bytes);
}

/** sendmmsg(2) of the same datagram again and again: struct mmsghdr is a struct msghdr of 56 bytes and a length. */
function sendMany(fd: number, text: Uint8Array, address: Uint8Array | null, times: number): number {
  const vector = BigUint64Array.of(koffi.address(text), BigInt(text.length));
  const messages = new BigUint64Array(8 * times);
  for (let index = 0; index < times; index += 1) {
    messages.set([address === null ? 0n : koffi.address(address), BigInt(address?.length ?? 0), koffi.address(vector), 1n], index * 8);
  }
  return sendmmsgFunction(fd, messages, times, 0);
}

class Client {
  readonly #sockets = new Map<string, { readonly fd: number; readonly family: 4 | 6 }>();

  run(step: DatagramStep): DatagramResult {
    if (step.do === 'gate') {
      writeSync(process.stdout.fd, 'waiting\n');
      waitForFile(step.file);
      return {};
    }
    if (step.do === 'socket') {
      if (step.creator !== undefined) {
        check(seteuidFunction(step.creator, step.creator, 0));
      }
      const fd = check(socketFunction(step.family === 4 ? AF_INET : AF_INET6, SOCK_DGRAM, 0));
      check(setsockoptFunction(fd, SOL_SOCKET, SO_RCVTIMEO, BigInt64Array.of(RECEIVE_SECONDS, 0n), 16));
      this.#sockets.set(step.name, { fd, family: step.family });
      return {};
    }
    const { fd, family } = this.#find(step.name);
    switch (step.do) {
      case 'bind':
      case 'connect': {
        const address = writeAddress(step.to, family);
        check((step.do === 'bind' ? bindFunction : connectFunction)(fd, address, address.length));
        return {};
      }
      case 'disconnect':
        check(connectFunction(fd, new Uint8Array(16), 16));
        return {};
      case 'send': {
        const text = Buffer.from(step.text);
        const address = step.to === undefined ? null : writeAddress(step.to, family);
        check(step.times === undefined ? sendtoFunction(fd, text, text.length, 0, address, address?.length ?? 0) : sendMany(fd, text, address, step.times));
        return {};
      }
      case 'receive': {
        const bytes = new Uint8Array(DATAGRAM_BYTES);
        const address = new Uint8Array(28);
        const isNamed = step.named !== false;
        const count = check(recvfromFunction(fd, bytes, bytes.length, step.peek === true ? MSG_PEEK : 0, isNamed ? address : null, isNamed ? [28] : null));
        return { text: Buffer.from(bytes.subarray(0, count)).toString('latin1'), ...(isNamed ? { from: readAddress(address) } : {}) };
      }
      case 'peer':
        return { peer: askName(getpeernameFunction, fd) };
      case 'names': {
        const local = askName(getsocknameFunction, fd);
        try {
          return { local, peer: askName(getpeernameFunction, fd) };
        } catch (error) {
          return { local, peer: (error as Error).message };
        }
      }
      case 'close':
        check(closeFunction(fd));
        return {};
    }
  }

  #find(name: string): { readonly fd: number; readonly family: 4 | 6 } {
    const found = this.#sockets.get(name);
    if (found === undefined) {
      throw new Error(`there is no socket ${name}`);
    }
    return found;
  }
}

function runStep(client: Client, step: DatagramStep): DatagramResult {
  try {
    return client.run(step);
  } catch (error) {
    if (error instanceof SystemCallError) {
      return { error: error.message };
    }
    throw error;
  }
}

function waitForFile(path: string): void {
  const never = new Int32Array(new SharedArrayBuffer(4));
  while (!existsSync(path)) {
    Atomics.wait(never, 0, 0, GATE_MILLISECONDS);
  }
}

function main({ identity, steps, endsAtError }: DatagramClientParams): void {
  becomeUser(identity);
  const client = new Client();
  const results: DatagramResult[] = [];
  for (const step of steps) {
    const result = runStep(client, step);
    results.push(result);
    if (endsAtError && result.error !== undefined) {
      break;
    }
  }
  writeSync(process.stdout.fd, `${JSON.stringify(results)}\n`);
}

const paramsFile = process.argv[2] ?? '';
const params = readFileSync(paramsFile, 'utf8');
rmSync(paramsFile);
main(JSON.parse(params) as DatagramClientParams);
