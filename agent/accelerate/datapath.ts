import { closeSync } from 'node:fs';
import { uptime } from 'node:os';
import {
  COUNTER_ENTRIES,
  DATAPATH_PROGRAMS,
  decodeConnection,
  decodeDecisionEvent,
  decodeQuestion,
  encodeConnectionSwitchedOff,
  encodeNoPod,
  encodePod,
  encodePodOwner,
  encodeSwitch,
  sumCounters,
} from '../protocol/datapath.ts';
import type { ConnectionState, CounterSums } from '../protocol/datapath.ts';
import { isIpv4, mappedAddressBytes } from '../protocol/ipAddress.ts';
import type { DecisionCounters, DecisionEvents, MeshProfile, PodEnrolment } from '../protocol/acceleration.ts';
import type { LinkId, MapId, ProgramId } from '../protocol/scalars.ts';
import { ATTACH_TYPE } from '../libbpf/bpfObject.ts';
import type { AttachType } from '../libbpf/bpfObject.ts';
import { createIntrospection } from '../libbpf/introspection.ts';
import type { Libbpf } from '../libbpf/library.ts';
import { deleteElement, lookupElement, lookupPerCpu, readHashEntries, replaceElement, updateElement } from '../libbpf/maps.ts';
import type { EntrySizes, HashEntry } from '../libbpf/maps.ts';
import { readRingBuffer } from '../libbpf/ringBuffer.ts';
import type { RingBufferReader } from '../libbpf/ringBuffer.ts';
import { attachError } from './attachError.ts';
import { loadDatapath } from './loadDatapath.ts';
import type { LoadedDatapath } from './loadDatapath.ts';
import { withCgroup } from './podCgroup.ts';

/** `connections` has 65,536 entries; the rest is for connections that are on their way while the limit is reached. */
const CONNECTION_LIMIT = 61_440n;

/** Programs of a pod that do not rewrite, in the order in which they are attached: all that a rewritten connection needs. */
const SUPPORTING_PROGRAMS: readonly (readonly [string, AttachType])[] = [
  [DATAPATH_PROGRAMS.create, ATTACH_TYPE.cgroupInetSockCreate],
  [DATAPATH_PROGRAMS.sockops, ATTACH_TYPE.cgroupSockOps],
  [DATAPATH_PROGRAMS.getsockopt, ATTACH_TYPE.cgroupGetsockopt],
  [DATAPATH_PROGRAMS.getpeername, ATTACH_TYPE.cgroupInet4Getpeername],
  [DATAPATH_PROGRAMS.getpeername6, ATTACH_TYPE.cgroupInet6Getpeername],
  [DATAPATH_PROGRAMS.getsockname, ATTACH_TYPE.cgroupInet4Getsockname],
  [DATAPATH_PROGRAMS.getsockname6, ATTACH_TYPE.cgroupInet6Getsockname],
  [DATAPATH_PROGRAMS.receive, ATTACH_TYPE.cgroupUdp4Recvmsg],
  [DATAPATH_PROGRAMS.receive6, ATTACH_TYPE.cgroupUdp6Recvmsg],
  [DATAPATH_PROGRAMS.release, ATTACH_TYPE.cgroupInetSockRelease],
  // They take no question before the pod is described and after its addresses are forgotten, and mark answers all the time.
  [DATAPATH_PROGRAMS.send, ATTACH_TYPE.cgroupUdp4Sendmsg],
  [DATAPATH_PROGRAMS.send6, ATTACH_TYPE.cgroupUdp6Sendmsg],
];
/** Programs of a pod that rewrite. */
const CONNECT_PROGRAMS: readonly (readonly [string, AttachType])[] = [
  [DATAPATH_PROGRAMS.connect, ATTACH_TYPE.cgroupInet4Connect],
  [DATAPATH_PROGRAMS.connect6, ATTACH_TYPE.cgroupInet6Connect],
];

export interface DatapathOptions {
  readonly libbpf: Libbpf;
  readonly object: Uint8Array;
  readonly profile: MeshProfile;
  readonly unreadLimit: bigint;
  readonly eventLimit: number;
  /** Where the cgroup2 hierarchy is mounted. */
  readonly cgroupMount: string;
  readonly onDecisions: (decisions: DecisionEvents) => void;
}

/** A pod that the programs are attached to. */
interface AttachedPod {
  readonly enrolment: PodEnrolment;
  readonly cgroupId: bigint;
  readonly linkFds: number[];
}

/**
 * One loaded set of programs and maps, and the pods that it serves. All of it hangs on file descriptors of this process:
 * whatever ends the process detaches it, and the kernel frees the programs when the last accelerated socket closes.
 */
export class Datapath {
  readonly #libbpf: Libbpf;
  readonly #cgroupMount: string;
  readonly #loaded: LoadedDatapath;
  readonly #pods: AttachedPod[] = [];
  readonly #events: RingBufferReader;
  #lost = 0;

  private constructor(options: DatapathOptions, loaded: LoadedDatapath) {
    const { object } = loaded;
    this.#libbpf = options.libbpf;
    this.#cgroupMount = options.cgroupMount;
    this.#loaded = loaded;
    this.#events = readRingBuffer(options.libbpf, object.mapFd('events'), (records) => {
      const events = records.flatMap((record) => decodeDecisionEvent(object.btf, record) ?? []);
      options.onDecisions({ events, lost: this.#takeLost() });
    });
  }

  /**
   * Loads the programs for a profile; nothing is attached to a pod yet.
   * Throws BPF_OBJECT_INVALID, BPF_LOAD_FAILED, BPF_ATTACH_FAILED, CAPABILITY_MISSING.
   */
  static load(options: DatapathOptions): Datapath {
    const loaded = loadDatapath(options.libbpf, options.object, { profile: options.profile, unreadLimit: options.unreadLimit, connectionLimit: CONNECTION_LIMIT, eventLimit: options.eventLimit });
    try {
      return new Datapath(options, loaded);
    } catch (error) {
      loaded.close();
      throw error;
    }
  }

  get pods(): readonly PodEnrolment[] {
    return this.#pods.map(({ enrolment }) => enrolment);
  }

  /**
   * Attaches the programs to pods: to all or, where one fails, to none. First comes what a rewritten connection needs, on
   * both of its sides, then what rewrites. Throws CGROUP_NOT_FOUND, BPF_ATTACH_EXCLUSIVE, BPF_ATTACH_FAILED.
   */
  attach(enrolments: readonly PodEnrolment[]): void {
    const added: AttachedPod[] = [];
    try {
      for (const enrolment of enrolments) {
        const pod = withCgroup(this.#cgroupMount, enrolment.cgroup, ({ id }) => ({ enrolment, cgroupId: id, linkFds: [] }));
        added.push(pod);
        for (const [program, attachType] of SUPPORTING_PROGRAMS) {
          this.#attachProgram(pod, program, attachType);
        }
      }
      for (const pod of added) {
        this.#describePod(pod);
      }
      for (const pod of added) {
        for (const [program, attachType] of CONNECT_PROGRAMS) {
          this.#attachProgram(pod, program, attachType);
        }
      }
    } catch (error) {
      added.reverse().forEach((pod) => {
        closeConnectLinks(pod);
        this.#forgetAddresses(pod);
        closeLinks(pod);
        this.#forgetPod(pod);
      });
      throw error;
    }
    this.#pods.push(...added);
  }

  /** Stops the rewriting and the redirecting for all pods, at once; answers about connections go on. */
  switchOff(): void {
    const fd = this.#loaded.object.mapFd('control');
    const key = new Uint8Array(4);
    const { valueBytes } = this.#sizesOf(fd);
    const current = lookupElement(this.#libbpf, fd, key, valueBytes) ?? new Uint8Array(valueBytes);
    updateElement(this.#libbpf, fd, key, encodeSwitch(this.#loaded.object.btf, current, true));
  }

  /**
   * Stops the rewriting for some pods, so that no new connection of or to them is taken; answers go on. Handshakes that
   * are under way are still accepted: a client may keep its last ACK until it sends something.
   */
  withdraw(cgroups: ReadonlySet<string>): void {
    this.#select(cgroups).forEach((pod) => {
      // In this order: without its addresses the pod's connections to itself would be taken for ones to elsewhere.
      closeConnectLinks(pod);
      this.#forgetAddresses(pod);
    });
  }

  /**
   * Says whether some rewritten connection of these pods is not through yet: not accepted, or not asked about. One that
   * nobody has accepted yet may be to any pod.
   */
  hasPending(cgroups: ReadonlySet<string>): boolean {
    return this.#connectionsOf(this.#select(cgroups)).some(({ state }) => state.isPending);
  }

  /**
   * Says whether a UDP socket of these pods waits for an answer of the sidecar's resolver, to a question that is not older
   * than this: the answer would not be told to come from whom was asked.
   */
  hasOpenQuestions(cgroups: ReadonlySet<string>, oldestMilliseconds: number): boolean {
    const ids = new Set(this.#select(cgroups).map(({ cgroupId }) => cgroupId));
    const fd = this.#loaded.object.mapFd('questions');
    const oldest = BigInt(Math.round((uptime() * 1_000 - oldestMilliseconds) * 1_000_000));
    return readHashEntries(this.#libbpf, fd, this.#sizesOf(fd))
      .map(({ value }) => decodeQuestion(this.#loaded.object.btf, value))
      .some(({ cgroupId, askedBootNanoseconds }) => ids.has(cgroupId) && askedBootNanoseconds > oldest);
  }

  /**
   * Detaches the programs from pods that were withdrawn. Their accelerated connections go on over plain TCP.
   * Gives how many links were closed, and how many accelerated connections were still open.
   */
  detach(cgroups: ReadonlySet<string>): { readonly detachedLinks: number; readonly remainingConnections: number } {
    const leaving = this.#select(cgroups);
    const remaining = this.#connectionsOf(leaving).filter(({ state }) => state.isAccelerated);
    for (const { key, value } of remaining) {
      replaceElement(this.#libbpf, this.#loaded.object.mapFd('connections'), key, encodeConnectionSwitchedOff(this.#loaded.object.btf, value));
    }
    const detachedLinks = leaving.length * (SUPPORTING_PROGRAMS.length + CONNECT_PROGRAMS.length);
    leaving.forEach(closeLinks);
    leaving.forEach((pod) => {
      this.#forgetPod(pod);
    });
    this.#pods.splice(0, this.#pods.length, ...this.#pods.filter((pod) => !leaving.includes(pod)));
    return { detachedLinks, remainingConnections: remaining.length };
  }

  /** Gives how often each decision was made since the programs were loaded. */
  countDecisions(): DecisionCounters {
    return this.#readCounters().reasons;
  }

  /** Gives the kernel's ids of what is loaded and attached. */
  describe(): { readonly programIds: readonly ProgramId[]; readonly mapIds: readonly MapId[]; readonly linkIds: readonly LinkId[] } {
    const introspection = createIntrospection(this.#libbpf);
    const { messageLinkFd } = this.#loaded;
    const links = [...(messageLinkFd === null ? [] : [messageLinkFd]), ...this.#pods.flatMap(({ linkFds }) => linkFds)];
    return {
      programIds: this.#loaded.object.programNames.map((name) => introspection.programInfo(this.#loaded.object.programFd(name)).id as ProgramId),
      mapIds: this.#loaded.object.mapNames.map((name) => introspection.mapInfo(this.#loaded.object.mapFd(name)).id as MapId),
      linkIds: links.map((fd) => introspection.linkInfo(fd).id as LinkId),
    };
  }

  /** Closes everything; events that are still there are handed on. Gives how many links were closed. */
  close(): number {
    this.#pods.splice(0).forEach(closeLinks);
    this.#events.close();
    this.#loaded.close();
    return this.#loaded.messageLinkFd === null ? 0 : 1;
  }

  #attachProgram({ enrolment, linkFds }: AttachedPod, program: string, attachType: AttachType): void {
    const { functions } = this.#libbpf;
    const result = withCgroup(this.#cgroupMount, enrolment.cgroup, ({ fd }) =>
      functions.bpf_link_create(this.#loaded.object.programFd(program), fd, attachType, null),
    );
    if (result < 0) {
      throw attachError(this.#libbpf, this.#cgroupMount, { program, attachType, cgroup: enrolment.cgroup, errno: -result });
    }
    linkFds.push(result);
  }

  #describePod({ enrolment, cgroupId }: AttachedPod): void {
    const { btf } = this.#loaded.object;
    for (const address of enrolment.addresses) {
      updateElement(this.#libbpf, this.#loaded.object.mapFd('pod_addresses'), mappedAddressBytes(address), encodePodOwner(btf, cgroupId, address, enrolment.addresses));
    }
    const source6 = enrolment.addresses.find((address) => !isIpv4(address));
    replaceElement(this.#libbpf, this.#loaded.object.mapFd('pods'), podKey(cgroupId), encodePod(btf, cgroupId, enrolment.addresses.find(isIpv4), source6));
  }

  #forgetAddresses({ enrolment }: AttachedPod): void {
    for (const address of enrolment.addresses) {
      deleteElement(this.#libbpf, this.#loaded.object.mapFd('pod_addresses'), mappedAddressBytes(address));
    }
  }

  #forgetPod({ cgroupId }: AttachedPod): void {
    replaceElement(this.#libbpf, this.#loaded.object.mapFd('pods'), podKey(cgroupId), encodeNoPod(this.#loaded.object.btf));
  }

  #select(cgroups: ReadonlySet<string>): AttachedPod[] {
    return this.#pods.filter(({ enrolment }) => cgroups.has(enrolment.cgroup));
  }

  #connectionsOf(pods: readonly AttachedPod[]): (HashEntry & { readonly state: ConnectionState })[] {
    const ids = new Set(pods.map(({ cgroupId }) => cgroupId));
    const fd = this.#loaded.object.mapFd('connections');
    return readHashEntries(this.#libbpf, fd, this.#sizesOf(fd))
      .map((entry) => ({ ...entry, state: decodeConnection(this.#loaded.object.btf, entry.value) }))
      .filter(({ state }) => state.acceptingCgroupId === 0n || ids.has(state.connectingCgroupId) || ids.has(state.acceptingCgroupId));
  }

  #sizesOf(fd: number): EntrySizes {
    return createIntrospection(this.#libbpf).mapInfo(fd);
  }

  #readCounters(): CounterSums {
    const fd = this.#loaded.object.mapFd('counters');
    const { valueBytes } = this.#sizesOf(fd);
    const keys = Array.from({ length: COUNTER_ENTRIES }, (_, index) => new Uint8Array(Uint32Array.of(index).buffer));
    return sumCounters(keys.map((key) => lookupPerCpu(this.#libbpf, fd, key, valueBytes)));
  }

  #takeLost(): number {
    const { lost } = this.#readCounters();
    const news = lost - this.#lost;
    this.#lost = lost;
    return news;
  }
}

/** The key of `pods`: struct bpf_cgroup_storage_key, or its first member alone, in the byte order of the machine. */
function podKey(cgroupId: bigint): Uint8Array {
  return new Uint8Array(BigUint64Array.of(cgroupId).buffer);
}

/** Detaches what rewrites, which was attached last. */
function closeConnectLinks({ linkFds }: AttachedPod): void {
  linkFds.splice(SUPPORTING_PROGRAMS.length).forEach((fd) => {
    closeSync(fd);
  });
}

function closeLinks(pod: AttachedPod): void {
  closeConnectLinks(pod);
  for (const fd of pod.linkFds.splice(0).reverse()) {
    closeSync(fd);
  }
}
