import { isAnyAddress, isIpv4, toIpAddress } from '../../agent/protocol/ipAddress.ts';
import type { CgroupPath, Endpoint, IpAddress, NamespaceId, PortNumber } from '../../agent/protocol/scalars.ts';
import { mapMessage, mapNewSocket, mapSockAddr, mapSocketOption, mapSockOps, readSocketAddress, SOCK_OPS, SOCKET_ADDRESS_BYTES, writeSocketAddress } from './contexts.ts';
import type { AddressResult, Context, OptionAnswer } from './contexts.ts';
import { wantsStateChanges } from './helpers.ts';
import type { HelperKernel } from './helpers.ts';
import { runLoadedProgram } from './loadedObject.ts';
import type { LoadedObject, ProgramRun } from './loadedObject.ts';
import { ERRNO } from './maps.ts';
import type { SocketHash } from './maps.ts';
import type { AddressSpace } from './memory.ts';
import type { ProgramDefinition } from './object.ts';
import { TCP_STATE } from './sockets.ts';
import type { KernelSocket, Task } from './sockets.ts';

const AF_INET = 2;
const AF_INET6 = 10;
/** The level of SO_ORIGINAL_DST and of IP6T_SO_ORIGINAL_DST, which have the same number. */
const OPTION_LEVELS = { [AF_INET]: 0, [AF_INET6]: 41 } as const;
const SO_ORIGINAL_DST = 80;
const ANY_ADDRESS = { [AF_INET]: toIpAddress('0.0.0.0'), [AF_INET6]: toIpAddress('::') } as const;
const NO_PORT = 0 as PortNumber;

/** A program that is attached to a cgroup or to a sockhash. */
export interface Attachment {
  readonly loaded: LoadedObject;
  readonly program: ProgramDefinition;
  readonly target: { readonly kind: 'cgroup'; readonly path: CgroupPath; readonly id: bigint } | { readonly kind: 'map'; readonly map: SocketHash };
}

/** One program that ran at a hook, with the cgroup that it is attached to. */
export interface HookRun {
  readonly attachment: Attachment;
  readonly run: ProgramRun<unknown>;
}

/** What surrounds the sockets: the world that they live in. */
export interface SocketSurroundings {
  readonly cpus: number;
  readonly bootNanoseconds: () => bigint;
  readonly random: () => number;
  /** The cgroup ids of a cgroup and its ancestors, itself first. */
  readonly cgroupLine: (path: CgroupPath) => readonly bigint[];
  readonly netnsCookie: (namespace: NamespaceId) => bigint;
  readonly isLocalAddress: (namespace: NamespaceId, address: IpAddress) => boolean;
  /** Whether a UDP socket of a namespace gets what is sent to an address and port of it. */
  readonly receivesDatagrams: (namespace: NamespaceId, destination: Endpoint) => boolean;
}

export interface SocketRequest {
  readonly namespace: NamespaceId;
  readonly cgroup: CgroupPath | null;
  readonly owner: Task;
  readonly family: 2 | 10;
  /** TCP where it is left out. */
  readonly protocol?: 'tcp' | 'udp';
  readonly local: Endpoint | null;
}

/** What the programs of a hook that knows an address made of it, and whether all of them let the call go on. */
export interface AddressDecision {
  readonly allowed: boolean;
  readonly address: Endpoint;
  readonly runs: readonly HookRun[];
}

/** What the sendmsg programs made of a datagram. */
export interface DatagramDecision extends AddressDecision {
  /** What it comes from; null: what routing picks. */
  readonly source: IpAddress | null;
}

/**
 * The sockets of a simulated kernel and the hooks at which programs see them: cgroup/sock_create, connect, getpeername,
 * getsockname and getsockopt, sock_release, sockops and sk_msg of TCP, sendmsg and recvmsg of UDP (net/ipv4/af_inet.c, net/ipv6/af_inet6.c, tcp_output.c,
 * tcp_bpf.c, udp.c, kernel/bpf/cgroup.c). Packets between the sockets are the business of whoever uses it.
 */
export class SocketKernel {
  readonly #surroundings: SocketSurroundings;
  readonly #attachments = new Set<Attachment>();
  readonly #sockets = new Set<KernelSocket>();
  #nextCookie = 1n;
  readonly #helperKernel: HelperKernel;

  constructor(surroundings: SocketSurroundings) {
    this.#surroundings = surroundings;
    this.#helperKernel = {
      bootNanoseconds: surroundings.bootNanoseconds,
      random: surroundings.random,
      bind: (socket, address) => this.#bind(socket, address),
      receivesDatagrams: ({ namespace }, destination) => surroundings.receivesDatagrams(namespace, destination),
    };
  }

  /** Attaches a program; gives the function that detaches it. */
  attach(attachment: Attachment): () => void {
    this.#attachments.add(attachment);
    return () => {
      this.#attachments.delete(attachment);
    };
  }

  sockets(): readonly KernelSocket[] {
    return [...this.#sockets];
  }

  /** socket(2): runs the sock_create programs; where one forbids, there is no socket (EPERM). */
  openSocket(request: SocketRequest): { readonly allowed: boolean; readonly socket: KernelSocket; readonly runs: readonly HookRun[] } {
    const socket = this.acceptSocket(request);
    const runs = this.#cgroupHooks(socket, 'cgroup_inet_sock_create').map((attachment): HookRun => {
      const run = this.#run(attachment, socket, null, (memory) => mapNewSocket(memory, socket));
      Object.assign(socket, run.result);
      return { attachment, run };
    });
    const allowed = allAllow(runs);
    if (!allowed) {
      this.close(socket);
    }
    return { allowed, socket, runs };
  }

  /** Makes the socket of an accepted connection: no program sees its making. */
  acceptSocket(request: SocketRequest): KernelSocket {
    const cookie = this.#nextCookie;
    this.#nextCookie += 1n;
    const nowhere: Endpoint = { address: ANY_ADDRESS[request.family], port: NO_PORT };
    const socket: KernelSocket = {
      cookie,
      namespace: request.namespace,
      netnsCookie: this.#surroundings.netnsCookie(request.namespace),
      family: request.family,
      protocol: request.protocol ?? 'tcp',
      cgroup: request.cgroup,
      cgroupId: request.owner.cgroupId,
      owner: request.owner,
      boundDevice: 0,
      mark: 0,
      priority: 0,
      local: request.local ?? nowhere,
      remote: nowhere,
      state: TCP_STATE.CLOSE,
      callbacks: 0,
      nextSent: 0,
      nextReceived: 0,
      unreadBytes: 0,
      appliedVerdict: null,
      storage: new Map(),
    };
    this.#sockets.add(socket);
    return socket;
  }

  /**
   * Runs the connect4 or, for an IPv6 socket, the connect6 programs for connect(2): where it goes then, and whether it may. An
   * IPv6 socket that connects to an IPv4-mapped address is seen by connect6 alone (tcp_v6_pre_connect).
   */
  connect(socket: KernelSocket, destination: Endpoint): { readonly allowed: boolean; readonly destination: Endpoint; readonly runs: readonly HookRun[] } {
    const { address, ...decision } = this.#decideAddress(socket, socket.family === AF_INET ? 'cgroup_inet4_connect' : 'cgroup_inet6_connect', destination, socket.family);
    return { ...decision, destination: address };
  }

  /**
   * Runs the sendmsg programs for a datagram of a socket that is not connected: where it goes. An IPv4-mapped destination of an
   * IPv6 socket is seen by sendmsg4 (udpv6_sendmsg hands it to udp_sendmsg).
   */
  sendDatagram(socket: KernelSocket, destination: Endpoint): DatagramDecision {
    const family = isIpv4(destination.address) ? AF_INET : AF_INET6;
    return this.#decideAddress(socket, family === AF_INET ? 'cgroup_udp4_sendmsg' : 'cgroup_udp6_sendmsg', destination, family);
  }

  /** Runs the recvmsg programs for a datagram from `source`: what the reader is told. An IPv6 socket is told by recvmsg6 also of IPv4. */
  receiveDatagram(socket: KernelSocket, source: Endpoint): AddressDecision {
    return this.#decideAddress(socket, socket.family === AF_INET ? 'cgroup_udp4_recvmsg' : 'cgroup_udp6_recvmsg', source, socket.family);
  }

  /** The socket has its addresses and is about to send its SYN (tcp_connect): sockops TCP_CONNECT. */
  sendSyn(socket: KernelSocket, local: Endpoint, remote: Endpoint): readonly HookRun[] {
    socket.local = local;
    socket.remote = remote;
    socket.state = TCP_STATE.SYN_SENT;
    socket.nextSent = this.#surroundings.random();
    return this.#sockOps(socket, SOCK_OPS.TCP_CONNECT);
  }

  /** The SYN-ACK has come, with the other side's first sequence number: sockops ACTIVE_ESTABLISHED. */
  establishActive(socket: KernelSocket): readonly HookRun[] {
    socket.state = TCP_STATE.ESTABLISHED;
    socket.nextSent = nextSequence(socket.nextSent);
    socket.nextReceived = nextSequence(this.#surroundings.random());
    return this.#sockOps(socket, SOCK_OPS.ACTIVE_ESTABLISHED);
  }

  /**
   * The last ACK of the handshake of `peer`, which is established, has come and the accepted socket exists: sockops
   * PASSIVE_ESTABLISHED. `local` and `remote` are as it sees them; NAT may have changed them on the way, not the sequence numbers.
   */
  establishPassive(socket: KernelSocket, local: Endpoint, remote: Endpoint, peer: KernelSocket): readonly HookRun[] {
    socket.local = local;
    socket.remote = remote;
    socket.nextSent = peer.nextReceived;
    socket.nextReceived = peer.nextSent;
    socket.state = TCP_STATE.ESTABLISHED;
    return this.#sockOps(socket, SOCK_OPS.PASSIVE_ESTABLISHED);
  }

  /**
   * Sends one message. Where the socket is in a sockhash with an sk_msg program, that decides (tcp_bpf_sendmsg): `redirect`
   * is the socket that gets the message, null where it goes through TCP; not allowed: EACCES. A message that is longer than
   * what an earlier verdict still applies to goes the way of its rest.
   */
  send(socket: KernelSocket, bytes: number): MessageVerdict & { readonly runs: readonly HookRun[] } {
    const attachment = [...this.#attachments].find(({ target }) => target.kind === 'map' && target.map.sockets().includes(socket));
    if (attachment === undefined) {
      return { allowed: true, redirect: null, runs: [] };
    }
    const applied = socket.appliedVerdict;
    const rest = bytes - (applied?.bytes ?? 0);
    if (applied !== null && rest <= 0) {
      socket.appliedVerdict = rest === 0 ? null : { ...applied, bytes: -rest };
      return { ...deliver(applied, bytes), runs: [] };
    }
    const run = this.#run(attachment, socket, null, (memory) => mapMessage(memory, socket, rest));
    const allowed = returnedValue(run) === 1n;
    const verdict = { allowed, redirect: allowed ? run.redirect : null };
    socket.appliedVerdict = run.appliedBytes > rest ? { ...verdict, bytes: run.appliedBytes - rest } : null;
    return { ...deliver(verdict, bytes), runs: [{ attachment, run }] };
  }

  /** The reader took everything that was redirected to the socket. */
  receive(socket: KernelSocket): void {
    socket.unreadBytes = 0;
  }

  /**
   * getsockopt(SOL_IP, SO_ORIGINAL_DST), or its like of SOL_IPV6 where the local address is IPv6: `kernelAnswer` is what conntrack
   * knows (null: ENOENT). Gives what the caller gets; null is an error.
   */
  askOriginalDestination(socket: KernelSocket, kernelAnswer: Endpoint | null): { readonly answer: Endpoint | null; readonly runs: readonly HookRun[] } {
    const family = isIpv4(socket.local.address) ? AF_INET : AF_INET6;
    const length = SOCKET_ADDRESS_BYTES[family];
    let state: OptionAnswer = {
      value: kernelAnswer === null ? new Uint8Array(length) : writeSocketAddress(kernelAnswer, family),
      length,
      result: kernelAnswer === null ? -ERRNO.ENOENT : 0,
    };
    const runs = this.#cgroupHooks(socket, 'cgroup_getsockopt').map((attachment): HookRun => {
      const before = state;
      const run = this.#run(attachment, socket, null, (memory) => mapSocketOption(memory, socket, { level: OPTION_LEVELS[family], name: SO_ORIGINAL_DST, ...before }));
      state = run.result;
      return { attachment, run };
    });
    return { answer: allAllow(runs) && state.result === 0 ? (readSocketAddress(state.value) ?? null) : null, runs };
  }

  /** getpeername(2): what the caller is told. */
  askPeerName(socket: KernelSocket): { readonly answer: Endpoint; readonly runs: readonly HookRun[] } {
    const hook = socket.family === AF_INET ? 'cgroup_inet4_getpeername' : 'cgroup_inet6_getpeername';
    const { address, runs } = this.#decideAddress(socket, hook, socket.remote, socket.family);
    return { answer: address, runs };
  }

  /** getsockname(2): what the caller is told. */
  askSocketName(socket: KernelSocket): { readonly answer: Endpoint; readonly runs: readonly HookRun[] } {
    const hook = socket.family === AF_INET ? 'cgroup_inet4_getsockname' : 'cgroup_inet6_getsockname';
    const { address, runs } = this.#decideAddress(socket, hook, socket.local, socket.family);
    return { answer: address, runs };
  }

  /**
   * Closes a socket: sock_release (inet_release), then sockops STATE where it asked for it; it leaves every sockhash and its
   * storage is freed.
   */
  close(socket: KernelSocket): readonly HookRun[] {
    const released = this.#cgroupHooks(socket, 'cgroup_inet_sock_release').map(
      (attachment): HookRun => ({ attachment, run: this.#run(attachment, socket, null, (memory) => mapNewSocket(memory, socket)) }),
    );
    const before = socket.state;
    socket.state = TCP_STATE.CLOSE;
    const runs = [...released, ...(wantsStateChanges(socket) ? this.#sockOps(socket, SOCK_OPS.STATE, [before, TCP_STATE.CLOSE]) : [])];
    for (const { target } of this.#attachments) {
      if (target.kind === 'map') {
        target.map.forget(socket);
      }
    }
    socket.storage.clear();
    this.#sockets.delete(socket);
    return runs;
  }

  #decideAddress(socket: KernelSocket, attachType: string, address: Endpoint, family: 2 | 10): DatagramDecision {
    const isBound = !isAnyAddress(socket.local.address);
    let current: AddressResult = { ...address, source: isBound ? socket.local.address : null };
    const runs = this.#cgroupHooks(socket, attachType).map((attachment): HookRun => {
      const { source, ...before } = current;
      const run = this.#run(attachment, socket, null, (memory) => mapSockAddr(memory, socket, before, family, attachType.endsWith('_sendmsg') ? source : null));
      current = run.result;
      return { attachment, run };
    });
    const { source, ...result } = current;
    return { allowed: allAllow(runs), address: result, source, runs };
  }

  #sockOps(socket: KernelSocket, operation: number, operationArguments: readonly number[] = []): readonly HookRun[] {
    return this.#cgroupHooks(socket, 'cgroup_sock_ops').map((attachment) => ({
      attachment,
      run: this.#run(attachment, socket, operation, (memory) => mapSockOps(memory, socket, operation, operationArguments)),
    }));
  }

  /** The programs of a hook in effective order: those of the socket's own cgroup first, then of each ancestor. */
  #cgroupHooks(socket: KernelSocket, attachType: string): Attachment[] {
    const line = socket.cgroup === null ? [] : this.#surroundings.cgroupLine(socket.cgroup);
    return line.flatMap((id) =>
      [...this.#attachments].filter(({ program, target }) => target.kind === 'cgroup' && target.id === id && program.attachType === attachType),
    );
  }

  #run<Result>(attachment: Attachment, socket: KernelSocket, operation: number | null, makeContext: (memory: AddressSpace) => Context<Result>): ProgramRun<Result> {
    const setting = {
      kernel: this.#helperKernel,
      task: socket.owner,
      attachedCgroupId: attachment.target.kind === 'cgroup' ? attachment.target.id : null,
      cpu: Number(socket.cookie % BigInt(this.#surroundings.cpus)),
      operation,
    };
    return runLoadedProgram(attachment.loaded, attachment.program, setting, makeContext);
  }

  #bind(socket: KernelSocket, address: Endpoint): number {
    if (socket.state !== TCP_STATE.CLOSE || socket.local.port !== 0) {
      return -ERRNO.EINVAL;
    }
    if (!this.#surroundings.isLocalAddress(socket.namespace, address.address)) {
      return -ERRNO.EADDRNOTAVAIL;
    }
    socket.local = address;
    return 0;
  }
}

/** A SYN takes one sequence number (RFC 9293, 3.4); they are 32 bits. */
function nextSequence(sequence: number): number {
  return (sequence + 1) >>> 0;
}

/** Each program of a cgroup hook can forbid (kernel/bpf/cgroup.c, bpf_prog_run_array_cg). */
function allAllow(runs: readonly HookRun[]): boolean {
  return runs.every(({ run }) => returnedValue(run) === 1n);
}

/** What a program returned; a program that faulted lets things be, as one that is not attached would. */
function returnedValue(run: ProgramRun<unknown>): bigint {
  return run.outcome.kind === 'returned' ? run.outcome.value : 1n;
}

interface MessageVerdict {
  readonly allowed: boolean;
  readonly redirect: KernelSocket | null;
}

function deliver({ allowed, redirect }: MessageVerdict, bytes: number): MessageVerdict {
  if (redirect !== null) {
    redirect.unreadBytes += bytes;
  }
  return { allowed, redirect };
}
