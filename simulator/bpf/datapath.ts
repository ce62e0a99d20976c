import type { DecisionEvent, MeshProfile, TurnOffReport } from '../../agent/protocol/acceleration.ts';
import type { Btf } from '../../agent/protocol/btf.ts';
import {
  DATAPATH_PROGRAMS,
  decodeConnection,
  decodeDecisionEvent,
  encodeConnectionSwitchedOff,
  encodePod,
  encodePodOwner,
  encodeProfileEntries,
  encodeSettings,
  encodeSwitch,
  sumCounters,
} from '../../agent/protocol/datapath.ts';
import type { CounterSums } from '../../agent/protocol/datapath.ts';
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

type MapOfKind<Kind extends BpfMap['kind']> = Extract<BpfMap, { kind: Kind }>;

/** Meshpath's programs and maps, loaded for one mesh profile into a simulated kernel; pods come and go. */
export class Datapath {
  readonly profile: MeshProfile;
  readonly loaded: LoadedObject;
  readonly btf: Btf;
  readonly #kernel: SocketKernel;
  readonly #pods = new Map<CgroupPath, { readonly pod: EnrolledPod; readonly detach: readonly (() => void)[]; readonly attachments: readonly Attachment[] }>();
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
    return [...this.#pods.values()].map(({ pod }) => pod);
  }

  /** Every attachment that is in force: sk_msg first, then those of each pod. */
  get attachments(): readonly Attachment[] {
    return [this.#messageAttachment, ...[...this.#pods.values()].flatMap((entry) => entry.attachments)];
  }

  /** Attaches the programs to a pod's cgroup and writes down its addresses. */
  enrol(pod: EnrolledPod): void {
    const storage = this.#map('pods', 'cgroup_storage');
    storage.attach(pod.cgroupId);
    storage.find(pod.cgroupId)?.set(encodePod(this.btf, pod.cgroupId, pod.addresses.find(isIpv4), pod.addresses.find((address) => !isIpv4(address))));
    const addresses = this.#map('pod_addresses', 'hash');
    for (const address of pod.addresses) {
      addresses.update(mappedAddressBytes(address), encodePodOwner(this.btf, pod.cgroupId, address, pod.addresses), 0n);
    }
    const programs = this.loaded.object.programs.filter((program) => program.attachType?.startsWith('cgroup_') === true);
    const attachments = programs.map(
      (program): Attachment => ({ loaded: this.loaded, program, target: { kind: 'cgroup', path: pod.cgroup, id: pod.cgroupId } }),
    );
    this.#pods.set(pod.cgroup, { pod, attachments, detach: attachments.map((attachment) => this.#kernel.attach(attachment)) });
  }

  /**
   * Detaches from a pod's cgroup: its accelerated connections go on over plain TCP. Gives how many attachments there
   * were, and how many accelerated connections were open.
   */
  withdraw(cgroup: CgroupPath): TurnOffReport {
    const entry = this.#pods.get(cgroup);
    if (entry === undefined) {
      return { detachedLinks: 0, remainingConnections: 0 };
    }
    const addresses = this.#map('pod_addresses', 'hash');
    for (const address of entry.pod.addresses) {
      addresses.delete(mappedAddressBytes(address));
    }
    const remainingConnections = this.#switchOffConnections(entry.pod.cgroupId);
    for (const detach of entry.detach) {
      detach();
    }
    this.#map('pods', 'cgroup_storage').detach(entry.pod.cgroupId);
    this.#pods.delete(cgroup);
    return { detachedLinks: entry.detach.length, remainingConnections };
  }

  /** Switches off, so that no message is redirected any more, and detaches everything. */
  dispose(): TurnOffReport {
    const control = this.#map('control', 'array');
    const current = control.lookup(CONTROL_KEY);
    if (current !== undefined) {
      control.update(CONTROL_KEY, encodeSwitch(this.btf, current, true), 0n);
    }
    const reports = [...this.#pods.keys()].map((cgroup) => this.withdraw(cgroup));
    this.#detachMessage();
    return {
      detachedLinks: reports.reduce((sum, report) => sum + report.detachedLinks, 1),
      remainingConnections: reports.reduce((sum, report) => sum + report.remainingConnections, 0),
    };
  }

  /** Switches off the redirecting for the connections of one pod; gives how many there were. */
  #switchOffConnections(cgroupId: bigint): number {
    const connections = this.#map('connections', 'hash');
    let count = 0;
    for (const { key, values } of connections.entries()) {
      const [value = new Uint8Array(0)] = values;
      const state = decodeConnection(this.btf, value);
      if (state.isAccelerated && (state.connectingCgroupId === cgroupId || state.acceptingCgroupId === cgroupId)) {
        connections.update(key, encodeConnectionSwitchedOff(this.btf, value), 0n);
        count += 1;
      }
    }
    return count;
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

function isKind<Kind extends BpfMap['kind']>(map: BpfMap, kind: Kind): map is MapOfKind<Kind> {
  return map.kind === kind;
}
