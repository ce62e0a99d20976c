import { closeSync, readFileSync } from 'node:fs';
import { endianness } from 'node:os';
import { setImmediate as nextTurn } from 'node:timers/promises';

import { cancelledError } from '../protocol/errors.ts';
import type { AttachTarget, LinkInfo, MapInfo, ProgramInfo } from '../protocol/kernelObjects.ts';
import { toHexText, toUint64Text } from '../protocol/scalars.ts';
import type { CgroupPath, LinkId, MapId, NamespaceId, ProgramId } from '../protocol/scalars.ts';
import type { Introspection, ObjectKind, RawLink, RawMap, RawProgram } from '../libbpf/introspection.ts';
import type { BtfObjects } from './btfObjects.ts';
import { parseBpfFdinfo } from './fdinfo.ts';
import type { BpfFdinfo } from './fdinfo.ts';
import { attachTypeName, linkTypeName, mapFlagNames, mapTypeName, programTypeName } from './kernelNames.ts';
import { mapReadability } from './mapReadability.ts';
import type { ObjectOwners } from './objectOwners.ts';
import { fullProgramName, typeMap } from './objectTypes.ts';

/** An object with what the fdinfo of its descriptor adds. */
interface Found<Info> {
  readonly info: Info;
  readonly fdinfo: BpfFdinfo | undefined;
}

const LITTLE_ENDIAN = endianness() === 'LE';
/** How many objects are read before other work has its turn. */
const OBJECTS_PER_TURN = 200;
const NANOSECONDS_PER_MILLISECOND = 1_000_000n;

/** Reads every object of a kind; objects that go away meanwhile are left out. Throws CAPABILITY_MISSING, CANCELLED. */
export async function readAll<Info>(
  introspection: Introspection,
  kind: ObjectKind,
  read: (fd: number) => Info,
  signal: AbortSignal,
): Promise<Found<Info>[]> {
  const found: Found<Info>[] = [];
  for (const [index, id] of introspection.listIds(kind).entries()) {
    if (index % OBJECTS_PER_TURN === OBJECTS_PER_TURN - 1) {
      await nextTurn();
    }
    if (signal.aborted) {
      throw cancelledError(`Listing the ${kind}s`);
    }
    const fd = introspection.open(kind, id);
    if (fd === undefined) {
      continue;
    }
    try {
      found.push({ info: read(fd), fdinfo: parseBpfFdinfo(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8')) });
    } finally {
      closeSync(fd);
    }
  }
  return found;
}

/** Gives programs as the protocol shows them. */
export function describePrograms(found: readonly Found<RawProgram>[], owners: ObjectOwners, btfObjects: BtfObjects): ProgramInfo[] {
  const bootMilliseconds = bootTime();
  return found.map(({ info, fdinfo }) => ({
    id: info.id as ProgramId,
    name: fullProgramName(info, btfObjects),
    type: programTypeName(info.type),
    tag: toHexText(info.tag),
    loadedAt: new Date(bootMilliseconds + Number(info.loadedBootNanoseconds / NANOSECONDS_PER_MILLISECOND)).toISOString(),
    loadedByUid: info.uid,
    mapIds: info.mapIds as MapId[],
    btfId: info.btfId === 0 ? null : info.btfId,
    instructionCount: info.translatedBytes / 8,
    jitedBytes: info.jitedBytes,
    memoryBytes: fdinfo?.memoryBytes ?? null,
    runCount: toUint64Text(info.runCount),
    runTimeNanoseconds: toUint64Text(info.runTimeNanoseconds),
    gplCompatible: info.gplCompatible,
    owner: owners.ofProgram(info.id),
  }));
}

/** Gives maps as the protocol shows them; `programs` tell who uses them, and their types where the kernel keeps none. */
export function describeMaps(
  found: readonly Found<RawMap>[],
  programs: readonly RawProgram[],
  owners: ObjectOwners,
  btfObjects: BtfObjects,
): MapInfo[] {
  const users = programsByMap(programs);
  return found.map(({ info, fdinfo }) => {
    const using = users.get(info.id) ?? [];
    const typing = typeMap(info, using.map(({ btfId }) => btfId), btfObjects);
    return {
      id: info.id as MapId,
      name: typing.name ?? info.name,
      type: mapTypeName(info.type),
      keyBytes: info.keyBytes,
      valueBytes: info.valueBytes,
      maxEntries: info.maxEntries,
      flags: mapFlagNames(info.flags),
      btfId: info.btfId === 0 ? null : info.btfId,
      keyType: typing.keyType,
      valueType: typing.valueType,
      memoryBytes: fdinfo?.memoryBytes ?? null,
      frozen: fdinfo?.frozen ?? false,
      readable: mapReadability(info),
      programIds: using.map(({ id }) => id as ProgramId),
      owner: owners.ofMap(info.id),
    };
  });
}

/** Gives the programs that use each map. */
function programsByMap(programs: readonly RawProgram[]): ReadonlyMap<number, readonly RawProgram[]> {
  const users = new Map<number, RawProgram[]>();
  for (const program of programs) {
    for (const mapId of program.mapIds) {
      const known = users.get(mapId);
      if (known === undefined) {
        users.set(mapId, [program]);
      } else {
        known.push(program);
      }
    }
  }
  return users;
}

/** Gives links as the protocol shows them; `cgroupPath` finds the path of a cgroup id. */
export function describeLinks(
  found: readonly Found<RawLink>[],
  owners: ObjectOwners,
  cgroupPath: (id: bigint) => CgroupPath | null,
): LinkInfo[] {
  return found.map(({ info }) => ({
    id: info.id as LinkId,
    type: linkTypeName(info.type),
    programId: info.programId as ProgramId,
    ...describeAttachment(info, cgroupPath),
    owner: owners.ofLink(info.id, info.programId),
  }));
}

/** Reads the union of struct bpf_link_info (include/uapi/linux/bpf.h). */
export function describeAttachment(
  link: RawLink,
  cgroupPath: (id: bigint) => CgroupPath | null,
): Pick<LinkInfo, 'attachType' | 'target'> {
  const u32 = (at: number): number => link.details.getUint32(at, LITTLE_ENDIAN);
  const device = (): AttachTarget => ({ kind: 'device', interfaceIndex: u32(0), name: null });
  const type = linkTypeName(link.type);
  switch (type) {
    case 'cgroup': {
      const id = link.details.getBigUint64(0, LITTLE_ENDIAN);
      return { attachType: attachTypeName(u32(8)), target: { kind: 'cgroup', cgroupId: toUint64Text(id), path: cgroupPath(id) } };
    }
    case 'sockmap':
      return { attachType: attachTypeName(u32(4)), target: { kind: 'map', mapId: u32(0) as MapId } };
    case 'netns':
      return { attachType: attachTypeName(u32(4)), target: { kind: 'namespace', namespace: String(u32(0)) as NamespaceId } };
    case 'struct_ops':
      return { attachType: 'struct_ops', target: { kind: 'map', mapId: u32(0) as MapId } };
    case 'xdp':
      return { attachType: 'xdp', target: device() };
    case 'tcx':
    case 'netkit':
      return { attachType: attachTypeName(u32(4)), target: device() };
    case 'netfilter':
      return { attachType: 'netfilter', target: { kind: 'other', text: `protocol family ${u32(0)}, hook ${u32(4)}, priority ${link.details.getInt32(8, LITTLE_ENDIAN)}` } };
    case 'tracing':
      return { attachType: attachTypeName(u32(0)), target: { kind: 'other', text: `BTF object ${u32(4)}, type ${u32(8)}` } };
    default:
      return { attachType: null, target: { kind: 'other', text: `a link of ${type}` } };
  }
}

/** When the machine booted, by the clock that counts suspended time too (as load_time does), in milliseconds since 1970. */
function bootTime(): number {
  return Date.now() - Number(readFileSync('/proc/uptime', 'utf8').split(' ')[0]) * 1_000;
}
