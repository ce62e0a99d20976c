import { closeSync, statSync } from 'node:fs';
import { uptime } from 'node:os';
import { join } from 'node:path';
import type { Btf } from '../protocol/btf.ts';
import {
  COUNTER_ENTRIES,
  DATAPATH_PROGRAMS,
  decodeConnection,
  decodeDecisionEvent,
  decodeQuestion,
  encodeControl,
  encodeNoPod,
  encodePod,
  encodePodOwner,
  encodeStoppedPod,
  isSameStructure,
  REWRITING_PROGRAMS,
  STOPPED,
  sumCounters,
} from '../protocol/datapath.ts';
import type { ConnectionState, CounterSums } from '../protocol/datapath.ts';
import { MeshpathError } from '../protocol/errors.ts';
import { isIpv4, mappedAddressBytes } from '../protocol/ipAddress.ts';
import type { DecisionCounters, DecisionEvents, LeavingPod, MeshProfile, PodEnrolment } from '../protocol/acceleration.ts';
import type { IpAddress, LinkId, MapId, ProgramId } from '../protocol/scalars.ts';
import { ATTACH_TYPE } from '../libbpf/bpfObject.ts';
import type { AttachType } from '../libbpf/bpfObject.ts';
import { createIntrospection } from '../libbpf/introspection.ts';
import type { Libbpf } from '../libbpf/library.ts';
import { deleteElement, lookupPerCpu, readHashEntries, replaceElement, updateElement } from '../libbpf/maps.ts';
import type { EntrySizes } from '../libbpf/maps.ts';
import { readRingBuffer } from '../libbpf/ringBuffer.ts';
import type { RingBufferReader } from '../libbpf/ringBuffer.ts';
import { attachError } from './attachError.ts';
import type { KeptPod, KeptRecord, KeptSet } from './keptSet.ts';
import { loadDatapath, openPinnedDatapath, pinDatapath } from './loadDatapath.ts';
import type { LoadedDatapath } from './loadDatapath.ts';
import { withCgroup } from './podCgroup.ts';

/** `connections` has 65,536 entries; the rest is for connections that are on their way while the limit is reached. */
const CONNECTION_LIMIT = 61_440n;

/** The programs of a pod, in the order in which they are attached: those that rewrite come last. */
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
const CONNECT_PROGRAMS: readonly (readonly [string, AttachType])[] = [
  [DATAPATH_PROGRAMS.connect, ATTACH_TYPE.cgroupInet4Connect],
  [DATAPATH_PROGRAMS.connect6, ATTACH_TYPE.cgroupInet6Connect],
];
/** Maps that the next version's programs share where their values are of the same form: they know pods and sockets, not connections. */
const SHARED_MAPS: readonly (readonly [map: string, structure: string])[] = [
  ['pods', 'pod'],
  ['socket_creators', 'socket_creator'],
];
/** Between a rewrite and its SYN, a connection is nowhere to be seen. */
export const UNSEEN_MILLISECONDS = 10;
/** How long an answer of a resolver may take: then those who asked ask again (resolv.conf(5), `timeout`). */
const ANSWER_MILLISECONDS = 5_000;

export interface DatapathOptions {
  readonly libbpf: Libbpf;
  /** Where the cgroup2 hierarchy is mounted. */
  readonly cgroupMount: string;
  readonly onDecisions: (decisions: DecisionEvents) => void;
}

/** What is loaded, and how. */
export interface DatapathSource {
  readonly object: Uint8Array;
  readonly profile: MeshProfile;
  readonly unreadLimit: bigint;
  /** As in DatapathSettings. */
  readonly eventLimit: number;
}

/** What the record of a kept set says of it beside its pods. */
export type SetDescription = Omit<KeptRecord, 'pods' | 'isReplaced'>;

/** A pod that programs are attached to. */
interface AttachedPod {
  readonly cgroupId: bigint;
  /** Descriptors by the names of the programs. */
  readonly links: Map<string, number>;
  enrolment: PodEnrolment;
  /** When it was withdrawn; null: it is on. */
  leave: { readonly at: number; readonly bootNanoseconds: bigint } | null;
}

/**
 * One loaded set of programs and maps, and the pods that it serves. Unless it is kept, all of it hangs on file descriptors of
 * this process: whatever ends the process detaches it, and the kernel frees the programs when the last accelerated socket
 * closes. Pods that are withdrawn keep what their connections need until the last of them closes.
 */
export class Datapath {
  readonly #libbpf: Libbpf;
  readonly #cgroupMount: string;
  readonly #loaded: LoadedDatapath;
  readonly #pods: AttachedPod[] = [];
  readonly #events: RingBufferReader;
  #kept: { readonly set: KeptSet; readonly description: SetDescription } | null = null;
  #isReplaced = false;
  #lost: number;

  private constructor(options: DatapathOptions, loaded: LoadedDatapath) {
    const { object } = loaded;
    this.#libbpf = options.libbpf;
    this.#cgroupMount = options.cgroupMount;
    this.#loaded = loaded;
    // What was lost before somebody listened is no news.
    this.#lost = this.#readCounters().lost;
    this.#events = readRingBuffer(options.libbpf, object.mapFd('events'), (records) => {
      const events = records.flatMap((record) => decodeDecisionEvent(object.btf, record) ?? []);
      options.onDecisions({ events, lost: this.#takeLost() });
    });
  }

  /**
   * Loads the programs for a profile; nothing is attached to a pod yet. `previous` is the datapath that this one is to take the
   * place of. Throws BPF_OBJECT_INVALID, BPF_LOAD_FAILED, BPF_ATTACH_FAILED, CAPABILITY_MISSING.
   */
  static load(options: DatapathOptions, { object, profile, unreadLimit, eventLimit }: DatapathSource, previous?: Datapath): Datapath {
    const settings = { profile, unreadLimit, eventLimit, connectionLimit: CONNECTION_LIMIT };
    const loaded = loadDatapath(options.libbpf, object, settings, previous === undefined ? undefined : (btf) => previous.#mapsToShare(btf));
    try {
      return new Datapath(options, loaded);
    } catch (error) {
      loaded.close();
      throw error;
    }
  }

  /**
   * Takes over what another agent has pinned. `isInterrupted`: one set was about to take the place of another, and links of pods
   * that are on may be in either. Throws KEPT_UNREADABLE, BPF_OBJECT_INVALID.
   */
  static adopt(options: DatapathOptions, set: KeptSet, { pods, isReplaced, ...description }: KeptRecord, isInterrupted: boolean): Datapath {
    const loaded = openPinnedDatapath(options.libbpf, set);
    let datapath: Datapath;
    try {
      datapath = new Datapath(options, loaded);
    } catch (error) {
      loaded.close();
      throw error;
    }
    datapath.#kept = { set, description };
    datapath.#isReplaced = isReplaced;
    datapath.#adoptPods(pods, isInterrupted);
    return datapath;
  }

  /** The pods for which it is on. */
  get pods(): readonly PodEnrolment[] {
    return this.#pods.filter(({ leave }) => leave === null).map(({ enrolment }) => enrolment);
  }

  /** Pods that were withdrawn and are still attached. */
  get leaving(): readonly LeavingPod[] {
    const pods = this.#pods.filter(({ leave }) => leave !== null);
    const connections = pods.length === 0 ? [] : this.#readConnections();
    return pods.map((pod) => ({ cgroup: pod.enrolment.cgroup, openConnections: connections.filter((connection) => isOf(connection, pod)).length }));
  }

  /** The links to pods and to the sockhash. */
  get linkCount(): number {
    return this.#pods.reduce((sum, { links }) => sum + links.size, this.#loaded.messageLinkFd === null ? 0 : 1);
  }

  get isKept(): boolean {
    return this.#kept !== null;
  }

  /** The name of the folder of what is pinned; null where it is not kept. */
  get keptName(): string | null {
    return this.#kept?.set.name ?? null;
  }

  /** Whether another one has taken its place, and it only sees its connections to their end. */
  get isReplaced(): boolean {
    return this.#isReplaced;
  }

  /**
   * Attaches the programs to pods: to all or, where one fails, to none. First comes what a rewritten connection needs, on
   * both of its sides, then what rewrites. A pod that is leaving takes back what it has. Throws CGROUP_NOT_FOUND,
   * BPF_ATTACH_EXCLUSIVE, BPF_ATTACH_FAILED, BPFFS_MISSING, LIMIT_EXCEEDED.
   */
  attach(enrolments: readonly PodEnrolment[]): void {
    const joining: AttachedPod[] = [];
    try {
      for (const enrolment of enrolments) {
        joining.push(this.#takeBack(enrolment) ?? this.#add(enrolment));
      }
      this.#writeRecord();
      this.#attachPrograms(joining, SUPPORTING_PROGRAMS);
      for (const pod of joining) {
        this.#describePod(pod);
      }
      this.#writeControl();
      this.#attachPrograms(joining, CONNECT_PROGRAMS);
    } catch (error) {
      const hasRewritten = joining.some(({ links }) => CONNECT_PROGRAMS.some(([program]) => links.has(program)));
      this.#withdraw(joining);
      if (!hasRewritten) {
        this.settle({ waits: false });
      }
      throw error;
    }
  }

  /**
   * Stops the rewriting for some pods, so that no new connection of or to them is taken, and the redirecting of the messages that
   * they send and get; answers go on. Handshakes that are under way are still accepted: a client may keep its last ACK until
   * it sends something. Gives how many accelerated connections are open that had not been stopped before.
   */
  withdraw(cgroups: ReadonlySet<string>): number {
    const stopped = new Set(this.#pods.filter(({ leave }) => leave !== null).map(({ cgroupId }) => cgroupId));
    const pods = this.#pods.filter(({ enrolment, leave }) => leave === null && cgroups.has(enrolment.cgroup));
    this.#withdraw(pods);
    // Whoever turns off is told before of what was decided until then.
    this.#events.drain();
    return this.#connectionsOf(pods).filter(
      ({ isAccelerated, connectingCgroupId, acceptingCgroupId }) => isAccelerated && !stopped.has(connectingCgroupId) && !stopped.has(acceptingCgroupId),
    ).length;
  }

  /**
   * Detaches from pods that were withdrawn and have no connection any more; `waits`: not from those that were withdrawn a
   * moment ago. Gives whether something changed.
   */
  settle({ waits }: { readonly waits: boolean }): boolean {
    const now = performance.now();
    const due = this.#pods.filter(({ leave }) => leave !== null && (!waits || now - leave.at >= UNSEEN_MILLISECONDS));
    if (due.length === 0) {
      return false;
    }
    const connections = this.#readConnections();
    const asking = this.#readAsking();
    const done = due.filter((pod) => !asking.has(pod.cgroupId) && !connections.some((connection) => isOf(connection, pod)));
    this.#detach(done);
    return done.length > 0;
  }

  /** Withdraws pods whose cgroup is gone: the kernel has detached the programs. Gives those that were on. */
  withdrawGone(): readonly PodEnrolment[] {
    const gone = this.#pods.filter((pod) => pod.leave === null && !this.#hasCgroup(pod));
    this.#withdraw(gone);
    return gone.map(({ enrolment }) => enrolment);
  }

  /** Says whether some rewritten connection of the pods that are leaving is not through yet: not accepted, or not asked about. */
  hasPending(): boolean {
    return this.#connectionsOf(this.#pods.filter(({ leave }) => leave !== null)).some(({ isPending }) => isPending);
  }

  /** Says whether a UDP socket of the pods that are leaving waits for an answer of the sidecar's resolver. */
  hasOpenQuestions(): boolean {
    const pods = this.#pods.filter(({ leave }) => leave !== null);
    const asking = pods.length === 0 ? new Set() : this.#readAsking();
    return pods.some(({ cgroupId }) => asking.has(cgroupId));
  }

  /**
   * Takes the place of another datapath for all pods for which that is on: what answers is attached beside it, then each
   * program that rewrites is exchanged for the new one in one step (BPF_LINK_UPDATE), so that every connection meets one of the
   * two. The other sees its connections to their end. Gives whether it was without a gap: where the two do not share the map of the pods,
   * the old program has to go before the new one comes. Can be called again after it was interrupted.
   */
  takeOver(previous: Datapath): boolean {
    const isGapless = this.#mapId('pods') === previous.#mapId('pods');
    const pods = previous.#pods.filter(({ leave }) => leave === null);
    const joining = pods.map(({ enrolment }) => this.#takeBack(enrolment) ?? this.#pods.find((pod) => pod.enrolment.cgroup === enrolment.cgroup) ?? this.#add(enrolment));
    this.#writeRecord();
    this.#attachPrograms(joining, SUPPORTING_PROGRAMS);
    for (const pod of joining) {
      this.#describePod(pod);
    }
    this.#writeControl();
    for (const pod of joining) {
      const from = pods.find(({ cgroupId }) => cgroupId === pod.cgroupId);
      for (const [program] of CONNECT_PROGRAMS) {
        if (from?.links.has(program) === true && isGapless) {
          this.#exchange(previous, from, pod, program);
        } else if (from !== undefined) {
          previous.#closeLink(from, program);
        }
      }
    }
    this.#attachPrograms(joining, CONNECT_PROGRAMS);
    previous.#isReplaced = true;
    previous.#withdraw(pods);
    previous.#writeControl();
    previous.#writeRecord();
    return isGapless;
  }

  /** Pins everything, so that it stays when this process ends. Throws BPFFS_MISSING, LIMIT_EXCEEDED. */
  keep(set: KeptSet, description: SetDescription): void {
    try {
      set.writeRecord(this.#describeRecord(description));
      pinDatapath(this.#loaded, set);
      for (const isRewriting of [false, true]) {
        for (const { cgroupId, links } of this.#pods) {
          for (const [program, fd] of links) {
            if (REWRITING_PROGRAMS.includes(program) === isRewriting) {
              set.pinLink(cgroupId, program, fd);
            }
          }
        }
      }
      set.complete();
    } catch (error) {
      set.remove();
      throw error;
    }
    this.#kept = { set, description };
  }

  /** Removes its pins: from now on it ends with this process. */
  unkeep(): void {
    this.#kept?.set.remove();
    this.#kept = null;
  }

  /** Gives how often each decision was made since the programs were loaded. */
  countDecisions(): DecisionCounters {
    return this.#readCounters().reasons;
  }

  /** Gives the kernel's ids of what is loaded and attached. */
  describe(): { readonly programIds: readonly ProgramId[]; readonly mapIds: readonly MapId[]; readonly linkIds: readonly LinkId[] } {
    const introspection = createIntrospection(this.#libbpf);
    const { messageLinkFd, object } = this.#loaded;
    const links = [...(messageLinkFd === null ? [] : [messageLinkFd]), ...this.#pods.flatMap((pod) => [...pod.links.values()])];
    return {
      programIds: object.programNames.map((name) => introspection.programInfo(object.programFd(name)).id as ProgramId),
      mapIds: object.mapNames.map((name) => introspection.mapInfo(object.mapFd(name)).id as MapId),
      linkIds: links.map((fd) => introspection.linkInfo(fd).id as LinkId),
    };
  }

  /** Detaches and closes everything, also what is pinned; events that are still there are handed on. */
  close(): void {
    this.unkeep();
    this.release();
  }

  /** Closes everything of this process; what is pinned goes on. */
  release(): void {
    // What rewrites goes first.
    for (const isRewriting of [true, false]) {
      for (const { links } of this.#pods) {
        for (const [program, fd] of [...links].reverse()) {
          if (REWRITING_PROGRAMS.includes(program) === isRewriting) {
            closeSync(fd);
            links.delete(program);
          }
        }
      }
    }
    this.#pods.splice(0);
    this.#events.close();
    this.#loaded.close();
    this.#kept?.set.close();
    this.#kept = null;
  }

  /** Gives the maps that another version, which has this type information, can share. */
  #mapsToShare(btf: Btf): ReadonlyMap<string, number> {
    const { object } = this.#loaded;
    return new Map(SHARED_MAPS.filter(([, structure]) => isSameStructure(object.btf, btf, structure)).map(([name]) => [name, object.mapFd(name)]));
  }

  #add(enrolment: PodEnrolment): AttachedPod {
    const cgroupId = withCgroup(this.#cgroupMount, enrolment.cgroup, ({ id }) => id);
    const pod: AttachedPod = { enrolment, cgroupId, links: new Map(), leave: null };
    this.#pods.push(pod);
    return pod;
  }

  /** Gives a pod that is leaving as one that is on again; undefined where there is none of this cgroup. */
  #takeBack(enrolment: PodEnrolment): AttachedPod | undefined {
    const pod = this.#pods.find((candidate) => candidate.leave !== null && candidate.enrolment.cgroup === enrolment.cgroup && this.#hasCgroup(candidate));
    if (pod !== undefined) {
      pod.enrolment = enrolment;
      pod.leave = null;
    }
    return pod;
  }

  #adoptPods(pods: readonly KeptPod[], isInterrupted: boolean): void {
    const set = this.#kept?.set;
    if (set === undefined) {
      return;
    }
    const known = new Map(pods.map((pod) => [pod.cgroupId, pod]));
    for (const name of set.list('pods')) {
      const cgroupId = /^\d{1,20}$/.test(name) ? BigInt(name) : 0n;
      const pod = known.get(cgroupId);
      const links = new Map(set.list('pods', name).map((program) => [program, set.openPin('pods', name, program)]));
      if (pod !== undefined) {
        // Somebody ended while it was being turned on: it is not.
        const isComplete = isInterrupted || (links.has(DATAPATH_PROGRAMS.connect) && links.has(DATAPATH_PROGRAMS.sockops));
        const enrolment = { cgroup: pod.cgroup, addresses: pod.addresses };
        this.#pods.push({ enrolment, cgroupId, links, leave: pod.isLeaving || !isComplete ? leaveNow() : null });
      }
    }
    // Addresses are written down after the record and deleted after the rewriting has ended: some may be left of pods that are not here.
    this.#pods.filter(({ leave }) => leave !== null).forEach((pod) => {
      this.#closeConnectLinks(pod);
    });
    this.#forgetAddresses(pods.filter(({ cgroupId }) => !this.#pods.some((pod) => pod.cgroupId === cgroupId && pod.leave === null)).flatMap(({ addresses }) => addresses));
    this.#writeControl();
    this.#writeRecord();
  }

  #attachPrograms(pods: readonly AttachedPod[], programs: readonly (readonly [string, AttachType])[]): void {
    for (const pod of pods) {
      for (const [program, attachType] of programs) {
        if (!pod.links.has(program)) {
          this.#attachProgram(pod, program, attachType);
        }
      }
    }
  }

  #attachProgram(pod: AttachedPod, program: string, attachType: AttachType): void {
    const { functions } = this.#libbpf;
    const { cgroup } = pod.enrolment;
    const result = withCgroup(this.#cgroupMount, cgroup, ({ fd }) => functions.bpf_link_create(this.#loaded.object.programFd(program), fd, attachType, null));
    if (result < 0) {
      throw attachError(this.#libbpf, this.#cgroupMount, { program, attachType, cgroup, errno: -result });
    }
    pod.links.set(program, result);
    this.#kept?.set.pinLink(pod.cgroupId, program, result);
  }

  /** Makes the link of the previous version's program one of this version's. */
  #exchange(previous: Datapath, from: AttachedPod, to: AttachedPod, program: string): void {
    const fd = from.links.get(program);
    if (fd === undefined) {
      return;
    }
    const result = this.#libbpf.functions.bpf_link_update(fd, this.#loaded.object.programFd(program), null);
    if (result < 0) {
      throw new MeshpathError({
        code: 'BPF_ATTACH_FAILED',
        message: 'The kernel refused to exchange a program.',
        reason: `Updating the link of ${program} at ${to.enrolment.cgroup} failed with ${this.#libbpf.describe(-result)}.`,
        remedy: 'Upgrade again; or turn acceleration off and on again.',
      });
    }
    if (this.#kept !== null && previous.#kept !== null) {
      this.#kept.set.takeLink(previous.#kept.set, to.cgroupId, program);
    } else {
      previous.#kept?.set.unpinLink(from.cgroupId, program);
    }
    from.links.delete(program);
    to.links.set(program, fd);
  }

  #withdraw(pods: readonly AttachedPod[]): void {
    if (pods.length === 0) {
      return;
    }
    // In this order: without its addresses the pod's connections to itself would be taken for ones to elsewhere.
    for (const pod of pods) {
      this.#closeConnectLinks(pod);
      pod.leave = leaveNow();
    }
    this.#forgetAddresses(pods.flatMap(({ enrolment }) => enrolment.addresses));
    for (const pod of pods) {
      pod.leave = leaveNow();
    }
    this.#writeControl();
    this.#writeRecord();
  }

  /** Detaches from pods that have no connections. */
  #detach(pods: readonly AttachedPod[]): void {
    if (pods.length === 0) {
      return;
    }
    for (const pod of pods) {
      for (const program of [...pod.links.keys()].reverse()) {
        this.#closeLink(pod, program);
      }
      this.#kept?.set.removePod(pod.cgroupId);
      if (!this.#isReplaced) {
        replaceElement(this.#libbpf, this.#loaded.object.mapFd('pods'), podKey(pod.cgroupId), encodeNoPod(this.#loaded.object.btf));
      }
    }
    this.#pods.splice(0, this.#pods.length, ...this.#pods.filter((pod) => !pods.includes(pod)));
    this.#writeControl();
    this.#writeRecord();
  }

  #closeConnectLinks(pod: AttachedPod): void {
    for (const [program] of CONNECT_PROGRAMS) {
      this.#closeLink(pod, program);
    }
  }

  #closeLink(pod: AttachedPod, program: string): void {
    const fd = pod.links.get(program);
    if (fd !== undefined) {
      this.#kept?.set.unpinLink(pod.cgroupId, program);
      closeSync(fd);
      pod.links.delete(program);
    }
  }

  #describePod({ enrolment, cgroupId }: AttachedPod): void {
    const { btf } = this.#loaded.object;
    for (const address of enrolment.addresses) {
      updateElement(this.#libbpf, this.#loaded.object.mapFd('pod_addresses'), mappedAddressBytes(address), encodePodOwner(btf, cgroupId, address, enrolment.addresses));
    }
    const source6 = enrolment.addresses.find((address) => !isIpv4(address));
    replaceElement(this.#libbpf, this.#loaded.object.mapFd('pods'), podKey(cgroupId), encodePod(btf, cgroupId, enrolment.addresses.find(isIpv4), source6));
  }

  #forgetAddresses(addresses: readonly IpAddress[]): void {
    const taken = new Set<string>(this.#pods.filter(({ leave }) => leave === null).flatMap(({ enrolment }) => enrolment.addresses));
    for (const address of addresses.filter((candidate) => !taken.has(candidate))) {
      deleteElement(this.#libbpf, this.#loaded.object.mapFd('pod_addresses'), mappedAddressBytes(address));
    }
  }

  /** Says who is stopped: pods that are leaving, unless their new connections are another datapath's; and whether all are. */
  #writeControl(): void {
    const { object } = this.#loaded;
    const stopped = this.#isReplaced ? [] : this.#pods.filter(({ leave }) => leave !== null);
    const stoppedFd = object.mapFd('stopped_pods');
    const wanted = new Set(stopped.map(({ cgroupId }) => cgroupId));
    for (const id of wanted) {
      updateElement(this.#libbpf, stoppedFd, encodeStoppedPod(id), STOPPED);
    }
    for (const { key } of readHashEntries(this.#libbpf, stoppedFd, this.#sizesOf(stoppedFd))) {
      if (!wanted.has(new DataView(key.buffer, key.byteOffset).getBigUint64(0, true))) {
        deleteElement(this.#libbpf, stoppedFd, key);
      }
    }
    const isOff = stopped.length > 0 && stopped.length === this.#pods.length;
    updateElement(this.#libbpf, object.mapFd('control'), new Uint8Array(4), encodeControl(object.btf, isOff, wanted.size));
  }

  #writeRecord(): void {
    if (this.#kept !== null) {
      this.#kept.set.writeRecord(this.#describeRecord(this.#kept.description));
    }
  }

  #describeRecord(description: SetDescription): KeptRecord {
    return {
      ...description,
      isReplaced: this.#isReplaced,
      pods: this.#pods.map(({ enrolment, cgroupId, leave }) => ({ ...enrolment, cgroupId, isLeaving: leave !== null })),
    };
  }

  #hasCgroup({ enrolment, cgroupId }: AttachedPod): boolean {
    return statSync(join(this.#cgroupMount, enrolment.cgroup), { bigint: true, throwIfNoEntry: false })?.ino === cgroupId;
  }

  #connectionsOf(pods: readonly AttachedPod[]): ConnectionState[] {
    return pods.length === 0 ? [] : this.#readConnections().filter((connection) => pods.some((pod) => isOf(connection, pod)));
  }

  #readConnections(): ConnectionState[] {
    const fd = this.#loaded.object.mapFd('connections');
    return readHashEntries(this.#libbpf, fd, this.#sizesOf(fd)).map(({ value }) => decodeConnection(this.#loaded.object.btf, value));
  }

  /**
   * Gives the ids of the cgroups of UDP sockets that asked the sidecar's resolver within the last ANSWER_MILLISECONDS: without the
   * programs, its answer would not be told to come from whom was asked.
   */
  #readAsking(): ReadonlySet<bigint> {
    const fd = this.#loaded.object.mapFd('questions');
    const oldest = BigInt(Math.round((uptime() * 1_000 - ANSWER_MILLISECONDS) * 1_000_000));
    const questions = readHashEntries(this.#libbpf, fd, this.#sizesOf(fd)).map(({ value }) => decodeQuestion(this.#loaded.object.btf, value));
    return new Set(questions.filter(({ askedBootNanoseconds }) => askedBootNanoseconds > oldest).map(({ cgroupId }) => cgroupId));
  }

  #mapId(name: string): number {
    return createIntrospection(this.#libbpf).mapInfo(this.#loaded.object.mapFd(name)).id;
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

/** Says whether a connection is of a pod. One that nobody has accepted yet may be to any pod that was on when it was opened. */
function isOf(connection: ConnectionState, { cgroupId, leave }: AttachedPod): boolean {
  const { connectingCgroupId, acceptingCgroupId, isPending, openedBootNanoseconds } = connection;
  return connectingCgroupId === cgroupId || acceptingCgroupId === cgroupId || (acceptingCgroupId === 0n && isPending && leave !== null && openedBootNanoseconds <= leave.bootNanoseconds);
}

/** Now; the clock of the programs (CLOCK_BOOTTIME) is read in hundredths of a second, rounded down, hence one more. */
function leaveNow(): { readonly at: number; readonly bootNanoseconds: bigint } {
  return { at: performance.now(), bootNanoseconds: BigInt(Math.ceil((uptime() + 0.01) * 1_000) + UNSEEN_MILLISECONDS) * 1_000_000n };
}
