import type { DecisionEvent, LeavingPod, MeshProfile } from '../../agent/protocol/acceleration.ts';
import type { Btf } from '../../agent/protocol/btf.ts';
import {
  DATAPATH_PROGRAMS,
  decodeConnection,
  decodeDecisionEvent,
  encodeControl,
  encodePod,
  encodePodOwner,
  encodeProfileEntries,
  encodeSettings,
  encodeStoppedPod,
  REWRITING_PROGRAMS,
  STOPPED,
  sumCounters,
} from '../../agent/protocol/datapath.ts';
import type { ConnectionState, CounterSums } from '../../agent/protocol/datapath.ts';
import { MeshpathError } from '../../agent/protocol/errors.ts';
import { isIpv4, mappedAddressBytes } from '../../agent/protocol/ipAddress.ts';
import type { CgroupPath, IpAddress } from '../../agent/protocol/scalars.ts';
import { loadObject, mapNamed, programNamed } from './loadedObject.ts';
import type { LoadedObject } from './loadedObject.ts';
import type { BpfMap } from './maps.ts';
import { invalidObject } from './elf.ts';
import type { BpfObject } from './object.ts';
import type { Attachment, SocketKernel } from './socketKernel.ts';

/** A pod as the programs know it. */
export interface EnrolledPod {
  readonly cgroup: CgroupPath;
  readonly cgroupId: bigint;
  readonly addresses: readonly IpAddress[];
}

/** The limits that the programs run with unless somebody sets others. */
const UNREAD_LIMIT = 1n << 20n;
const CONNECTION_LIMIT = 61_440n;
const CONTROL_KEY = new Uint8Array(4);

/** A program at the cgroup of a pod. */
interface PodAttachment {
  readonly attachment: Attachment;
  readonly detach: () => void;
}

interface PodEntry {
  readonly pod: EnrolledPod;
  readonly attached: PodAttachment[];
  isLeaving: boolean;
}

type MapOfKind<Kind extends BpfMap['kind']> = Extract<BpfMap, { kind: Kind }>;

/** Meshpath's programs and maps, loaded for one mesh profile into a simulated kernel; pods come and go. */
export class Datapath {
  readonly profile: MeshProfile;
  readonly loaded: LoadedObject;
  readonly btf: Btf;
  readonly #kernel: SocketKernel;
  readonly #pods = new Map<CgroupPath, PodEntry>();
  readonly #messageAttachment: Attachment;
  readonly #detachMessage: () => void;

  /**
   * Loads `object`, which must be Meshpath's own (else BPF_OBJECT_INVALID), with the settings of `profile`, and attaches
   * its sk_msg program to its sockhash.
   */
  constructor(object: BpfObject, profile: MeshProfile, kernel: SocketKernel, cpus: number) {
    const { btf } = object;
    const section = object.maps.find((map) => map.name === '.rodata')?.initial;
    if (btf === null || section === undefined || section === null) {
      throw invalidObject('it has no type information (BTF) or no configuration (.rodata)');
    }
    const settings = encodeSettings(btf, section, { profile, unreadLimit: UNREAD_LIMIT, connectionLimit: CONNECTION_LIMIT, eventLimit: 0, hasNetnsCookie: true });
    this.profile = profile;
    this.btf = btf;
    this.#kernel = kernel;
    this.loaded = loadObject(object, { cpus, contents: new Map([['.rodata', settings]]) });
    for (const { map, key, value } of encodeProfileEntries(btf, profile)) {
      this.#map(map, map === 'ranges' ? 'lpm_trie' : 'hash').update(key, value, 0n);
    }
    this.#messageAttachment = {
      loaded: this.loaded,
      program: programNamed(this.loaded, DATAPATH_PROGRAMS.message),
      target: { kind: 'map', map: this.#map('sockets', 'sockhash') },
    };
    this.#detachMessage = kernel.attach(this.#messageAttachment);
  }

  get pods(): readonly EnrolledPod[] {
    return [...this.#pods.values()].filter(({ isLeaving }) => !isLeaving).map(({ pod }) => pod);
  }

  /** Pods that were withdrawn and of which some connection is open still. */
  get leaving(): readonly LeavingPod[] {
    return [...this.#pods.values()].filter(({ isLeaving }) => isLeaving).map(({ pod }) => ({ cgroup: pod.cgroup, openConnections: this.#connectionsOf(pod).length }));
  }

  /** Every attachment that is in force: sk_msg first, then those of each pod. */
  get attachments(): readonly Attachment[] {
    return [this.#messageAttachment, ...[...this.#pods.values()].flatMap(({ attached }) => attached.map(({ attachment }) => attachment))];
  }

  /** Attaches the programs to a pod's cgroup and writes down its addresses. One that is leaving takes back what is attached still. */
  enrol(pod: EnrolledPod): void {
    const storage = this.#map('pods', 'cgroup_storage');
    const attached = this.#pods.get(pod.cgroup)?.attached ?? [];
    if (attached.length === 0) {
      storage.attach(pod.cgroupId);
    }
    storage.find(pod.cgroupId)?.set(encodePod(this.btf, pod.cgroupId, pod.addresses.find(isIpv4), pod.addresses.find((address) => !isIpv4(address))));
    const addresses = this.#map('pod_addresses', 'hash');
    for (const address of pod.addresses) {
      addresses.update(mappedAddressBytes(address), encodePodOwner(this.btf, pod.cgroupId, address, pod.addresses), 0n);
    }
    this.#pods.set(pod.cgroup, { pod, attached, isLeaving: false });
    this.#map('stopped_pods', 'hash').delete(encodeStoppedPod(pod.cgroupId));
    this.#writeControl();
    for (const program of this.loaded.object.programs) {
      const isAttached = attached.some(({ attachment }) => attachment.program === program);
      if (program.attachType?.startsWith('cgroup_') === true && !isAttached) {
        const attachment: Attachment = { loaded: this.loaded, program, target: { kind: 'cgroup', path: pod.cgroup, id: pod.cgroupId } };
        attached.push({ attachment, detach: this.#kernel.attach(attachment) });
      }
    }
  }

  /**
   * Takes no new connection of a pod, nor one to it, and redirects no message of those that it has. What they need stays attached
   * until `settle` finds none. Gives how many accelerated connections are open that had not been stopped before.
   */
  withdraw(cgroup: CgroupPath): number {
    const entry = this.#pods.get(cgroup);
    if (entry === undefined || entry.isLeaving) {
      return 0;
    }
    detachAll(entry.attached, ({ program }) => REWRITING_PROGRAMS.includes(program.name));
    const addresses = this.#map('pod_addresses', 'hash');
    for (const address of entry.pod.addresses) {
      addresses.delete(mappedAddressBytes(address));
    }
    const stopped = new Set([...this.#pods.values()].filter(({ isLeaving }) => isLeaving).map(({ pod }) => pod.cgroupId));
    entry.isLeaving = true;
    this.#map('stopped_pods', 'hash').update(encodeStoppedPod(entry.pod.cgroupId), STOPPED, 0n);
    this.#writeControl();
    return this.#connectionsOf(entry.pod).filter(
      ({ isAccelerated, connectingCgroupId, acceptingCgroupId }) => isAccelerated && !stopped.has(connectingCgroupId) && !stopped.has(acceptingCgroupId),
    ).length;
  }

  /** Detaches from pods that were withdrawn and have no connection any more. */
  settle(): void {
    for (const [cgroup, { pod, attached, isLeaving }] of this.#pods) {
      if (isLeaving && this.#connectionsOf(pod).length === 0) {
        detachAll(attached, () => true);
        this.#map('pods', 'cgroup_storage').detach(pod.cgroupId);
        this.#map('stopped_pods', 'hash').delete(encodeStoppedPod(pod.cgroupId));
        this.#pods.delete(cgroup);
        this.#writeControl();
      }
    }
  }

  /** Detaches everything, whatever connections are open. */
  dispose(): void {
    for (const { attached } of this.#pods.values()) {
      detachAll(attached, () => true);
    }
    this.#pods.clear();
    this.#detachMessage();
  }

  #writeControl(): void {
    const pods = [...this.#pods.values()];
    const stopped = pods.filter(({ isLeaving }) => isLeaving).length;
    this.#map('control', 'array').update(CONTROL_KEY, encodeControl(this.btf, stopped === pods.length, stopped), 0n);
  }

  #connectionsOf({ cgroupId }: EnrolledPod): ConnectionState[] {
    return this.#map('connections', 'hash')
      .entries()
      .map(({ values: [value = new Uint8Array(0)] }) => decodeConnection(this.btf, value))
      .filter((state) => state.connectingCgroupId === cgroupId || state.acceptingCgroupId === cgroupId);
  }

  /** Takes the events out of the ring buffer, oldest first. */
  drainEvents(): readonly DecisionEvent[] {
    return this.#map('events', 'ringbuf')
      .drain()
      .flatMap((record) => decodeDecisionEvent(this.btf, record) ?? []);
  }

  /** How often each reason was counted, and how many events were lost. */
  counters(): CounterSums {
    return sumCounters(this.#map('counters', 'array').entries().map((entry) => entry.values));
  }

  #map<Kind extends BpfMap['kind']>(name: string, kind: Kind): MapOfKind<Kind> {
    const map = mapNamed(this.loaded, name);
    if (!isKind(map, kind)) {
      throw new MeshpathError({
        code: 'BPF_OBJECT_INVALID',
        message: `The map ${name} of the BPF object is not what this version of Meshpath works with.`,
        reason: `It is of type ${map.definition.type}.`,
        remedy: 'Build the object again (npm run build) or install this version of Meshpath again.',
      });
    }
    return map;
  }
}

function detachAll(attached: PodAttachment[], isWanted: (attachment: Attachment) => boolean): void {
  for (const one of attached.filter(({ attachment }) => isWanted(attachment))) {
    one.detach();
    attached.splice(attached.indexOf(one), 1);
  }
}

function isKind<Kind extends BpfMap['kind']>(map: BpfMap, kind: Kind): map is MapOfKind<Kind> {
  return map.kind === kind;
}
