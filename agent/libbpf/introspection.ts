import { closeSync } from 'node:fs';
import { constants, endianness } from 'node:os';

import { MeshpathError } from '../protocol/errors.ts';
import { MAX_BTF_BYTES } from '../protocol/btf.ts';
import { errnoName } from './errno.ts';
import type { Libbpf } from './library.ts';

/** struct bpf_prog_info, as far as it is used. */
export interface RawProgram {
  readonly type: number;
  readonly id: number;
  readonly tag: Uint8Array;
  readonly jitedBytes: number;
  readonly translatedBytes: number;
  /** CLOCK_BOOTTIME when it was loaded. */
  readonly loadedBootNanoseconds: bigint;
  readonly uid: number;
  readonly mapIds: readonly number[];
  readonly name: string;
  readonly gplCompatible: boolean;
  readonly btfId: number;
  /** The BTF id of the first function, which is the program itself; 0 where there is none. */
  readonly functionTypeId: number;
  readonly runTimeNanoseconds: bigint;
  readonly runCount: bigint;
}

/** struct bpf_map_info, as far as it is used. */
export interface RawMap {
  readonly type: number;
  readonly id: number;
  readonly keyBytes: number;
  readonly valueBytes: number;
  readonly maxEntries: number;
  readonly flags: number;
  readonly name: string;
  readonly btfId: number;
  readonly keyTypeId: number;
  readonly valueTypeId: number;
}

/** struct bpf_link_info: the head, and the union behind it as it is. */
export interface RawLink {
  readonly type: number;
  readonly id: number;
  readonly programId: number;
  /** The union, from byte 16 of the structure on; numbers in it are in the order of the machine. */
  readonly details: DataView;
}

/** The answer to BPF_PROG_QUERY. */
export interface AttachedPrograms {
  /** In the order in which they run. */
  readonly programIds: readonly number[];
  /** BPF_F_ALLOW_OVERRIDE (1), BPF_F_ALLOW_MULTI (2), or 0: exclusive. */
  readonly flags: number;
}

export type ObjectKind = 'program' | 'map' | 'link' | 'btf';

/** Asks the kernel about all BPF objects. Descriptors that `open` gives belong to the caller. */
export interface Introspection {
  /** Gives the ids of all objects of a kind, ascending. Throws CAPABILITY_MISSING without CAP_SYS_ADMIN. */
  readonly listIds: (kind: ObjectKind) => readonly number[];
  /** Opens an object; undefined where it is gone. Throws CAPABILITY_MISSING. */
  readonly open: (kind: ObjectKind, id: number) => number | undefined;
  readonly programInfo: (fd: number) => RawProgram;
  readonly mapInfo: (fd: number) => RawMap;
  readonly linkInfo: (fd: number) => RawLink;
  readonly btfBytes: (fd: number) => Uint8Array;
  /**
   * Gives the programs at a cgroup: those of it alone, or with `effective` all that run for it.
   * Undefined where the kernel does not know the attach type or does not answer for it.
   */
  readonly queryCgroup: (cgroupFd: number, attachType: number, effective: boolean) => AttachedPrograms | undefined;
  /** Opens what is pinned at a path; undefined where it is no BPF object or may not be read. */
  readonly openPin: (path: string) => number | undefined;
}

const { EAGAIN, EACCES, EINTR, EINVAL, ENOENT, ENOSPC, EPERM } = constants.errno;
const LITTLE_ENDIAN = endianness() === 'LE';
const INFO_BYTES = 256;
const FUNC_INFO_BYTES = 8;
const LINK_UNION_OFFSET = 16;
const MAX_OBJECTS = 100_000;
/** The kernel's BPF_CGROUP_MAX_PROGS is 64 for each cgroup; a chain of ancestors may add up. */
const MAX_QUERY_PROGRAMS = 1_024;
const BPF_F_QUERY_EFFECTIVE = 1;

/** Gives the introspection of this machine through libbpf. */
export function createIntrospection(libbpf: Libbpf): Introspection {
  const { functions, koffi } = libbpf;
  const nextId = {
    program: functions.bpf_prog_get_next_id,
    map: functions.bpf_map_get_next_id,
    link: functions.bpf_link_get_next_id,
    btf: functions.bpf_btf_get_next_id,
  };
  const fdById = {
    program: functions.bpf_prog_get_fd_by_id,
    map: functions.bpf_map_get_fd_by_id,
    link: functions.bpf_link_get_fd_by_id,
    btf: functions.bpf_btf_get_fd_by_id,
  };

  const fail = (what: string, errno: number): MeshpathError => {
    const reason = `${what} failed with ${libbpf.describe(errno)}.`;
    return errno === EPERM || errno === EACCES
      ? new MeshpathError({
          code: 'CAPABILITY_MISSING',
          message: 'The kernel does not let this user look at BPF objects.',
          reason,
          remedy: 'Connect as root or with sudo: reading BPF objects needs CAP_SYS_ADMIN (and CAP_BPF from Linux 5.8 on).',
        })
      : new MeshpathError({
          code: 'KERNEL_UNSUITABLE',
          message: 'The kernel did not answer a question about its BPF objects.',
          reason,
          remedy: `Look at the kernel's log for ${errnoName(errno)}; the object may have been removed meanwhile: try again.`,
        });
  };

  const readInfo = (fd: number, what: string, prepare?: (view: DataView) => void): DataView => {
    const bytes = new Uint8Array(INFO_BYTES);
    const view = new DataView(bytes.buffer);
    prepare?.(view);
    const result = functions.bpf_obj_get_info_by_fd(fd, bytes, Uint32Array.of(INFO_BYTES));
    if (result < 0) {
      throw fail(`BPF_OBJ_GET_INFO_BY_FD for a ${what}`, -result);
    }
    return view;
  };
  const u32 = (view: DataView, at: number): number => view.getUint32(at, LITTLE_ENDIAN);
  const u64 = (view: DataView, at: number): bigint => view.getBigUint64(at, LITTLE_ENDIAN);
  const name = (view: DataView, at: number): string => {
    const bytes = new Uint8Array(view.buffer, at, 16);
    const end = bytes.indexOf(0);
    return new TextDecoder().decode(end < 0 ? bytes : bytes.subarray(0, end));
  };

  const readProgram = (fd: number, mapRoom: number): RawProgram => {
    const maps = new Uint32Array(mapRoom);
    const functionInfo = new Uint8Array(FUNC_INFO_BYTES);
    const view = readInfo(fd, 'program', (info) => {
      info.setUint32(52, mapRoom, LITTLE_ENDIAN);
      info.setBigUint64(56, koffi.address(maps), LITTLE_ENDIAN);
      info.setUint32(132, FUNC_INFO_BYTES, LITTLE_ENDIAN);
      info.setBigUint64(136, koffi.address(functionInfo), LITTLE_ENDIAN);
      info.setUint32(144, 1, LITTLE_ENDIAN);
    });
    const mapCount = u32(view, 52);
    if (mapCount > mapRoom) {
      return readProgram(fd, mapCount);
    }
    return {
      type: u32(view, 0),
      id: u32(view, 4),
      tag: new Uint8Array(view.buffer.slice(8, 16)),
      jitedBytes: u32(view, 16),
      translatedBytes: u32(view, 20),
      loadedBootNanoseconds: u64(view, 40),
      uid: u32(view, 48),
      mapIds: [...maps.subarray(0, mapCount)],
      name: name(view, 64),
      gplCompatible: ((LITTLE_ENDIAN ? u32(view, 84) : u32(view, 84) >>> 31) & 1) === 1,
      btfId: u32(view, 128),
      functionTypeId: u32(view, 144) > 0 ? new DataView(functionInfo.buffer).getUint32(4, LITTLE_ENDIAN) : 0,
      runTimeNanoseconds: u64(view, 192),
      runCount: u64(view, 200),
    };
  };

  return {
    listIds: (kind) => {
      const ids: number[] = [];
      const next = new Uint32Array(1);
      for (let id = 0; ids.length < MAX_OBJECTS; ids.push(id)) {
        const result = nextId[kind](id, next);
        if (result === -ENOENT) {
          break;
        }
        if (result < 0) {
          throw fail(`Listing the ${kind}s`, -result);
        }
        id = next[0] ?? 0;
      }
      return ids;
    },
    open: (kind, id) => {
      for (;;) {
        const fd = fdById[kind](id);
        if (fd >= 0) {
          return fd;
        }
        if (fd === -ENOENT) {
          return undefined;
        }
        if (fd !== -EAGAIN && fd !== -EINTR) {
          throw fail(`Opening the ${kind} ${id}`, -fd);
        }
      }
    },
    programInfo: (fd) => readProgram(fd, 64),
    mapInfo: (fd) => {
      const view = readInfo(fd, 'map');
      return {
        type: u32(view, 0),
        id: u32(view, 4),
        keyBytes: u32(view, 8),
        valueBytes: u32(view, 12),
        maxEntries: u32(view, 16),
        flags: u32(view, 20),
        name: name(view, 24),
        btfId: u32(view, 64),
        keyTypeId: u32(view, 68),
        valueTypeId: u32(view, 72),
      };
    },
    linkInfo: (fd) => {
      const view = readInfo(fd, 'link');
      return {
        type: u32(view, 0),
        id: u32(view, 4),
        programId: u32(view, 8),
        details: new DataView(view.buffer, LINK_UNION_OFFSET),
      };
    },
    btfBytes: (fd) => {
      const size = u32(readInfo(fd, 'BTF object'), 8);
      if (size > MAX_BTF_BYTES) {
        throw fail('Reading BTF that is too large', EINVAL);
      }
      const bytes = new Uint8Array(size);
      readInfo(fd, 'BTF object', (info) => {
        info.setBigUint64(0, koffi.address(bytes), LITTLE_ENDIAN);
        info.setUint32(8, size, LITTLE_ENDIAN);
      });
      return bytes;
    },
    queryCgroup: (cgroupFd, attachType, effective) => {
      const flags = new Uint32Array(1);
      const count = new Uint32Array(1);
      for (let room = 64; room <= MAX_QUERY_PROGRAMS; room *= 4) {
        const ids = new Uint32Array(room);
        count[0] = room;
        const result = functions.bpf_prog_query(cgroupFd, attachType, effective ? BPF_F_QUERY_EFFECTIVE : 0, flags, ids, count);
        if (result >= 0) {
          return { programIds: [...ids.subarray(0, count[0])], flags: flags[0] ?? 0 };
        }
        if (result === -EPERM || result === -EACCES) {
          throw fail('BPF_PROG_QUERY', -result);
        }
        if (result !== -ENOSPC) {
          return undefined;
        }
      }
      return undefined;
    },
    openPin: (path) => {
      const fd = functions.bpf_obj_get(path);
      return fd < 0 ? undefined : fd;
    },
  };
}

/** Calls `use` with the descriptor and closes it, whatever happens. */
export function withDescriptor<T>(fd: number, use: (fd: number) => T): T {
  try {
    return use(fd);
  } finally {
    closeSync(fd);
  }
}
