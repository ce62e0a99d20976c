import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Datapath } from '../../accelerate/datapath.ts';
import type { Libbpf } from '../../libbpf/library.ts';
import { bindSocketCalls } from '../../libbpf/socketCalls.ts';
import type { SocketCalls } from '../../libbpf/socketCalls.ts';
import { ISTIO_PROFILE } from '../../protocol/acceleration.ts';
import type { DecisionCounters, PodEnrolment } from '../../protocol/acceleration.ts';
import { MeshpathError } from '../../protocol/errors.ts';
import { formatIpAddress, ipAddressBytes, isIpv4, toIpAddress } from '../../protocol/ipAddress.ts';
import { toPortNumber } from '../../protocol/scalars.ts';
import type { CgroupPath, Endpoint, IpAddress } from '../../protocol/scalars.ts';

/** The mesh of the tests; nobody answers DNS there. */
export const SCRATCH_PROFILE = { ...ISTIO_PROFILE, dnsPort: null };
/** The group whose connections the mesh leaves alone on their way out. */
export const SIDECAR_GID = SCRATCH_PROFILE.proxyGid;
/** Addresses of the two pods, of ranges for benchmarks and for documentation (RFC 2544, RFC 3849). */
export const POD_ADDRESSES = { a: [toIpAddress('198.18.77.1'), toIpAddress('2001:db8:77::1')], b: [toIpAddress('198.18.77.2'), toIpAddress('2001:db8:77::2')] } as const;
/** Where somebody would be whom no pod is. */
export const ELSEWHERE = { ipv4: endpoint('198.18.99.9', 80), ipv6: endpoint('2001:db8:99::9', 80) } as const;

const AF_INET = 2;
const AF_INET6 = 10;
const SOCK_STREAM = 1;
const SOCK_CLOEXEC = 0o2000000;
const SOL_IP = 0;
const SOL_SOCKET = 1;
const SOL_IPV6 = 41;
const IPPROTO_TCP = 6;
const TCP_NODELAY = 1;
const SO_REUSEADDR = 2;
const SO_RCVTIMEO = 20;
const SO_SNDTIMEO = 21;
const SO_ORIGINAL_DST = 80;
const MSG_NOSIGNAL = 0x4000;
const SOCKADDR_BYTES = 28;
const WAIT_SECONDS = 2n;

export type ScratchPodName = 'a' | 'b';

export interface ScratchPodsOptions {
  readonly libbpf: Libbpf;
  readonly object: Uint8Array;
  readonly unreadLimit: bigint;
  /** Where the cgroup2 hierarchy is mounted, and the folder in it that has the cgroups `a` and `b`. */
  readonly cgroupMount: string;
  readonly cgroup: CgroupPath;
  /** Whether IPv6 addresses could be given. */
  readonly hasIpv6: boolean;
}

/** A connection of this process to itself. */
export interface ScratchConnection {
  readonly connecting: number;
  readonly accepting: number;
}

/**
 * Two pods that this process plays, with the programs attached to their cgroups as they are when acceleration is turned on. A socket is
 * of the pod whose cgroup this process is in when it makes it.
 */
export class ScratchPods {
  readonly hasIpv6: boolean;
  readonly #libbpf: Libbpf;
  readonly #calls: SocketCalls;
  readonly #datapath: Datapath;
  readonly #folder: string;
  readonly #opened = new Set<number>();

  /** Loads and attaches the programs. Throws what turning acceleration on throws. */
  constructor({ libbpf, object, unreadLimit, cgroupMount, cgroup, hasIpv6 }: ScratchPodsOptions) {
    this.#libbpf = libbpf;
    this.#calls = bindSocketCalls(libbpf);
    this.#folder = join(cgroupMount, cgroup);
    this.hasIpv6 = hasIpv6;
    this.#datapath = Datapath.load({ libbpf, cgroupMount, onDecisions: () => undefined }, { object, profile: SCRATCH_PROFILE, unreadLimit, eventLimit: 1 });
    try {
      const enrolments = (['a', 'b'] as const).map((name): PodEnrolment => ({ cgroup: join(cgroup, name) as CgroupPath, addresses: POD_ADDRESSES[name] }));
      this.#datapath.attach(enrolments);
    } catch (error) {
      this.#datapath.close();
      throw error;
    }
  }

  /** Moves this process into the cgroup of a pod. */
  enter(pod: ScratchPodName): void {
    writeFileSync(join(this.#folder, pod, 'cgroup.procs'), String(process.pid));
  }

  /** Makes a TCP socket of the pod that this process is in. No call on it waits longer than two seconds. */
  makeSocket(family: 'ipv4' | 'ipv6'): number {
    const fd = this.#check('socket', this.#calls.socket(family === 'ipv4' ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
    this.#opened.add(fd);
    const time = new Uint8Array(BigUint64Array.of(WAIT_SECONDS, 0n).buffer);
    const on = new Uint8Array(Uint32Array.of(1).buffer);
    this.#check('setsockopt', this.#calls.setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, time, time.length));
    this.#check('setsockopt', this.#calls.setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, time, time.length));
    this.#check('setsockopt', this.#calls.setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, on, on.length));
    this.#check('setsockopt', this.#calls.setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, on, on.length));
    return fd;
  }

  /** Listens in a pod. */
  listen(pod: ScratchPodName, { address, port }: Endpoint): number {
    this.enter(pod);
    const fd = this.makeSocket(isIpv4(address) ? 'ipv4' : 'ipv6');
    this.bind(fd, { address, port });
    this.#check('listen', this.#calls.listen(fd, 8));
    return fd;
  }

  bind(fd: number, local: Endpoint): void {
    const address = encodeAddress(local);
    this.#check('bind', this.#calls.bind(fd, address, address.length));
  }

  /** Connects; gives a negative errno where that fails. */
  tryConnect(fd: number, destination: Endpoint): number {
    const address = encodeAddress(destination);
    return this.#calls.connect(fd, address, address.length);
  }

  connect(fd: number, destination: Endpoint): void {
    this.#check('connect', this.tryConnect(fd, destination));
  }

  accept(listener: number): number {
    const fd = this.#check('accept', this.#calls.accept(listener, null, null));
    this.#opened.add(fd);
    const on = new Uint8Array(Uint32Array.of(1).buffer);
    this.#check('setsockopt', this.#calls.setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, on, on.length));
    const time = new Uint8Array(BigUint64Array.of(WAIT_SECONDS, 0n).buffer);
    this.#check('setsockopt', this.#calls.setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, time, time.length));
    return fd;
  }

  send(fd: number, text: string): void {
    const bytes = Buffer.from(text);
    this.#check('send', this.#calls.send(fd, bytes, bytes.length, MSG_NOSIGNAL));
  }

  /** Gives what comes until there are `bytes`, the end, or nothing more in time. */
  receiveAll(fd: number, bytes: number): string {
    const buffer = Buffer.alloc(bytes);
    let count = 0;
    while (count < bytes) {
      const received = this.#calls.recv(fd, buffer.subarray(count), bytes - count, 0);
      if (received <= 0) {
        break;
      }
      count += received;
    }
    return buffer.toString('utf8', 0, count);
  }

  /** Says that this side sends no more. */
  shutdown(fd: number): void {
    this.#check('shutdown', this.#calls.shutdown(fd, 1));
  }

  /** What the socket's program is told of where its client wanted to go (getsockopt SO_ORIGINAL_DST); null where nothing is. */
  readOriginalDestination(fd: number, family: 'ipv4' | 'ipv6'): Endpoint | null {
    const address = new Uint8Array(SOCKADDR_BYTES);
    const result = this.#calls.getsockopt(fd, family === 'ipv4' ? SOL_IP : SOL_IPV6, SO_ORIGINAL_DST, address, Uint32Array.of(SOCKADDR_BYTES));
    return result < 0 ? null : decodeAddress(address);
  }

  /** What the socket's program is told of its peer (getpeername). */
  readPeer(fd: number): Endpoint {
    const address = new Uint8Array(SOCKADDR_BYTES);
    this.#check('getpeername', this.#calls.getpeername(fd, address, Uint32Array.of(SOCKADDR_BYTES)));
    return decodeAddress(address);
  }

  countDecisions(): DecisionCounters {
    return this.#datapath.countDecisions();
  }

  closeSocket(fd: number): void {
    if (this.#opened.delete(fd)) {
      this.#calls.close(fd);
    }
  }

  /** Closes the sockets of a test. */
  closeSockets(): void {
    [...this.#opened].forEach((fd) => {
      this.closeSocket(fd);
    });
  }

  /** Detaches the programs and frees them. */
  close(): void {
    this.closeSockets();
    this.#datapath.close();
  }

  #check(call: keyof SocketCalls, result: number): number {
    if (result < 0) {
      throw new MeshpathError({
        code: 'KERNEL_UNSUITABLE',
        message: 'A test of pods could not be made.',
        reason: `${call} in a network namespace of its own failed with ${this.#libbpf.describe(-result)}.`,
        remedy: 'Look whether BPF programs of others are attached to the root of the cgroups (`bpftool cgroup tree`): they run for the test, too.',
      });
    }
    return result;
  }
}

/** Gives an endpoint from text. */
export function endpoint(address: string, port: number): Endpoint {
  return { address: toIpAddress(address), port: toPortNumber(port) };
}

/** struct sockaddr_in or sockaddr_in6. */
function encodeAddress({ address, port }: Endpoint): Uint8Array {
  const ofIpv4 = isIpv4(address);
  const bytes = new Uint8Array(ofIpv4 ? 16 : SOCKADDR_BYTES);
  new Uint16Array(bytes.buffer, 0, 1)[0] = ofIpv4 ? AF_INET : AF_INET6;
  new DataView(bytes.buffer).setUint16(2, port);
  bytes.set(ipAddressBytes(address), ofIpv4 ? 4 : 8);
  return bytes;
}

function decodeAddress(bytes: Uint8Array): Endpoint {
  const ofIpv4 = new Uint16Array(bytes.buffer, bytes.byteOffset, 1)[0] === AF_INET;
  const address: IpAddress = formatIpAddress(ofIpv4 ? bytes.subarray(4, 8) : bytes.subarray(8, 24));
  return { address, port: toPortNumber(new DataView(bytes.buffer, bytes.byteOffset).getUint16(2)) };
}
