import type { CgroupAttachment, CgroupInfo, LinkInfo, MapInfo, ObjectOwner, ProgramInfo } from '../../agent/protocol/kernelObjects.ts';
import { typeName } from '../../agent/protocol/btf.ts';
import type { CgroupPath, LinkId, MapId, ProgramId } from '../../agent/protocol/scalars.ts';
import { toUint64Text } from '../../agent/protocol/scalars.ts';
import type { Datapath } from '../bpf/datapath.ts';
import type { BpfMap } from '../bpf/maps.ts';
import type { ProgramDefinition } from '../bpf/object.ts';
import type { Attachment } from '../bpf/socketKernel.ts';
import { ancestors } from '../bpf/surroundings.ts';

/** A map of a node: its id, what it is, and the map itself. */
export interface RegisteredMap {
  readonly info: MapInfo;
  readonly map: BpfMap;
  readonly datapath: Datapath;
}

/** A program of somebody else that the simulated node shows: it belongs to the picture, and decides nothing here. */
interface ForeignProgram {
  readonly info: ProgramInfo;
  readonly attachType: string;
  readonly cgroup: CgroupPath;
}

const FIRST_ID = 20;
/** What the kernel calls the object that libbpf loaded from meshpath.bpf.o: the names of its data sections begin with it. */
const OBJECT_NAME = 'meshpath';
const MESHPATH: ObjectOwner = { kind: 'meshpath', processes: [], pins: [] };
const KERNEL: ObjectOwner = { kind: 'kernel', processes: [], pins: [] };
const NO_PREALLOCATION = 1;

/** Why entries of a map cannot be listed, by type. */
const UNREADABLE: Readonly<Record<string, string>> = {
  ringbuf: 'A ring buffer has no entries: whoever consumes it takes its records out.',
  sk_storage: 'Each entry belongs to a socket and can only be looked up by a descriptor of that socket.',
};

/** The programs, maps, links and attachments of a simulated node, with ids as a kernel counts them. */
export class ObjectRegistry {
  readonly #foreign: readonly ForeignProgram[];
  readonly #programs = new Map<Datapath, Map<ProgramDefinition, ProgramId>>();
  readonly #maps = new Map<BpfMap, MapId>();
  readonly #links = new Map<Attachment, LinkId>();
  readonly #loadedAt = new Map<Datapath, string>();
  #nextId = FIRST_ID;
  readonly #cgroups: readonly CgroupInfo[];

  /** `bootedAt` is when the programs that were there before were loaded, ISO 8601. */
  constructor(cgroups: readonly CgroupInfo[], bootedAt: string) {
    this.#cgroups = cgroups;
    this.#foreign = containerDevicePrograms(cgroups, bootedAt, () => this.#takeId());
  }

  /** Gives ids to what a datapath loaded. */
  add(datapath: Datapath, loadedAt: string): void {
    this.#loadedAt.set(datapath, loadedAt);
    this.#programs.set(datapath, new Map(datapath.loaded.object.programs.map((program) => [program, this.#takeId() as ProgramId])));
    for (const map of datapath.loaded.maps) {
      this.#maps.set(map, this.#takeId() as MapId);
    }
  }

  /** Frees what a datapath loaded. */
  remove(datapath: Datapath): void {
    this.#loadedAt.delete(datapath);
    this.#programs.delete(datapath);
    for (const map of datapath.loaded.maps) {
      this.#maps.delete(map);
    }
  }

  /** Says whether a datapath is there. */
  isLoaded(datapath: Datapath): boolean {
    return this.#programs.has(datapath);
  }

  programs(): readonly ProgramInfo[] {
    return [
      ...this.#foreign.map(({ info }) => info),
      ...[...this.#programs].flatMap(([datapath, programs]) => [...programs].map(([program, id]) => this.#describeProgram(datapath, program, id))),
    ];
  }

  maps(): readonly RegisteredMap[] {
    return [...this.#programs.keys()].flatMap((datapath) => datapath.loaded.maps.map((map, index) => ({ map, datapath, info: this.#describeMap(datapath, map, index) })));
  }

  links(): readonly LinkInfo[] {
    return [...this.#programs.keys()].flatMap((datapath) =>
      datapath.attachments.map((attachment): LinkInfo => {
        const { target, program } = attachment;
        return {
          id: this.#linkId(attachment),
          type: target.kind === 'cgroup' ? 'cgroup' : 'sockmap',
          programId: this.#programId(datapath, program),
          attachType: program.attachType,
          target: target.kind === 'cgroup' ? { kind: 'cgroup', cgroupId: toUint64Text(target.id), path: target.path } : { kind: 'map', mapId: this.#mapId(target.map) },
          owner: MESHPATH,
        };
      }),
    );
  }

  /** The cgroups with the programs that run for each: its own first, then those of each cgroup above. */
  cgroups(): readonly CgroupInfo[] {
    const attachments = [...this.#foreignAttachments(), ...this.#ownAttachments()];
    return this.#cgroups.map((cgroup) => {
      const running = ancestors(cgroup.path).flatMap((path) => attachments.filter((attachment) => attachment.attachedTo === path));
      const counts = new Map<string, number>();
      return {
        ...cgroup,
        attachments: running.map((attachment): CgroupAttachment => {
          const order = counts.get(attachment.attachType) ?? 0;
          counts.set(attachment.attachType, order + 1);
          return { ...attachment, order };
        }),
      };
    });
  }

  /** The ids of what a datapath loaded and attached. */
  idsOf(datapath: Datapath): { readonly programIds: readonly ProgramId[]; readonly mapIds: readonly MapId[]; readonly linkIds: readonly LinkId[] } {
    return {
      programIds: [...(this.#programs.get(datapath)?.values() ?? [])],
      mapIds: datapath.loaded.maps.map((map) => this.#mapId(map)),
      linkIds: datapath.attachments.map((attachment) => this.#linkId(attachment)),
    };
  }

  #describeProgram(datapath: Datapath, program: ProgramDefinition, id: ProgramId): ProgramInfo {
    return {
      id,
      name: program.name,
      type: program.type,
      tag: tagOf(program.bytes),
      loadedAt: this.#loadedAt.get(datapath) ?? '',
      loadedByUid: 0,
      mapIds: program.maps.flatMap((index) => {
        const map = datapath.loaded.maps[index];
        return map === undefined ? [] : [this.#mapId(map)];
      }),
      btfId: null,
      instructionCount: program.instructions.length,
      jitedBytes: 0,
      memoryBytes: null,
      runCount: toUint64Text(0n),
      runTimeNanoseconds: toUint64Text(0n),
      gplCompatible: datapath.loaded.object.license.includes('GPL'),
      owner: MESHPATH,
    };
  }

  #describeMap(datapath: Datapath, map: BpfMap, index: number): MapInfo {
    const { definition } = map;
    const { btf } = datapath;
    const name = (type: number): string | null => (type === 0 ? null : typeName(btf, type));
    const reason = UNREADABLE[definition.type];
    const users = [...(this.#programs.get(datapath) ?? [])].filter(([program]) => program.maps.includes(index));
    return {
      id: this.#mapId(map),
      name: definition.name.startsWith('.') ? `${OBJECT_NAME}${definition.name}` : definition.name,
      type: definition.type,
      keyBytes: definition.keyBytes,
      valueBytes: definition.valueBytes,
      maxEntries: definition.maxEntries,
      flags: (definition.flags & NO_PREALLOCATION) === 0 ? [] : ['no_prealloc'],
      btfId: null,
      keyType: name(definition.keyType),
      valueType: name(definition.valueType),
      memoryBytes: null,
      frozen: definition.name.startsWith('.rodata'),
      readable: reason === undefined ? { ok: true } : { ok: false, reason },
      programIds: users.map(([, id]) => id),
      owner: MESHPATH,
    };
  }

  #foreignAttachments(): CgroupAttachment[] {
    return this.#foreign.map(({ info, attachType, cgroup }) => ({
      attachType, programId: info.id, programName: info.name, linkId: null, attachedTo: cgroup, mode: 'multi', order: 0,
    }));
  }

  #ownAttachments(): CgroupAttachment[] {
    return [...this.#programs.keys()].flatMap((datapath) =>
      datapath.attachments.flatMap((attachment): CgroupAttachment[] => {
        const { target, program } = attachment;
        return target.kind !== 'cgroup'
          ? []
          : [
              {
                attachType: program.attachType ?? program.type,
                programId: this.#programId(datapath, program),
                programName: program.name,
                linkId: this.#linkId(attachment),
                attachedTo: target.path,
                mode: 'multi',
                order: 0,
              },
            ];
      }),
    );
  }

  #programId(datapath: Datapath, program: ProgramDefinition): ProgramId {
    const id = this.#programs.get(datapath)?.get(program);
    if (id === undefined) {
      throw new RangeError(`${program.name} is not loaded on this node`);
    }
    return id;
  }

  #mapId(map: BpfMap): MapId {
    const id = this.#maps.get(map);
    if (id === undefined) {
      throw new RangeError(`the map ${map.definition.name} is not on this node`);
    }
    return id;
  }

  #linkId(attachment: Attachment): LinkId {
    const known = this.#links.get(attachment);
    const id = known ?? (this.#takeId() as LinkId);
    this.#links.set(attachment, id);
    return id;
  }

  #takeId(): number {
    const id = this.#nextId;
    this.#nextId += 1;
    return id;
  }
}

/** Container runtimes attach a program without a name to each container's cgroup that says which devices it may use. */
function containerDevicePrograms(cgroups: readonly CgroupInfo[], loadedAt: string, takeId: () => number): ForeignProgram[] {
  const containers = cgroups.filter((cgroup) => cgroup.path.split('/').length > 3);
  return containers.map((cgroup) => ({
    attachType: 'cgroup_device',
    cgroup: cgroup.path,
    info: {
      id: takeId() as ProgramId,
      name: '',
      type: 'cgroup_device',
      tag: tagOf(new TextEncoder().encode(cgroup.path)),
      loadedAt,
      loadedByUid: 0,
      mapIds: [],
      btfId: null,
      instructionCount: 53,
      jitedBytes: 0,
      memoryBytes: 4_096,
      runCount: toUint64Text(0n),
      runTimeNanoseconds: toUint64Text(0n),
      gplCompatible: true,
      owner: KERNEL,
    },
  }));
}

/** The tag of a program of the simulated kernel: 64 bits of FNV-1a. A Linux kernel takes a cryptographic hash. */
function tagOf(bytes: Uint8Array): string {
  let hash = 0xcbf2_9ce4_8422_2325n;
  for (const byte of bytes) {
    hash = BigInt.asUintN(64, (hash ^ BigInt(byte)) * 0x100_0000_01b3n);
  }
  return hash.toString(16).padStart(16, '0');
}
