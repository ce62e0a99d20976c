import { parseBtf } from '../protocol/btf.ts';
import type { Btf } from '../protocol/btf.ts';
import { MeshpathError } from '../protocol/errors.ts';
import type { Libbpf, Pointer } from './library.ts';
import { loadError } from './loadError.ts';

/** Attach types (enum bpf_attach_type) of the programs that Meshpath attaches. */
export const ATTACH_TYPE = {
  cgroupInetSockCreate: 2,
  cgroupSockOps: 3,
  skMsgVerdict: 7,
  cgroupInet4Connect: 10,
  cgroupInet6Connect: 11,
  cgroupUdp4Sendmsg: 14,
  cgroupUdp6Sendmsg: 15,
  cgroupUdp4Recvmsg: 19,
  cgroupUdp6Recvmsg: 20,
  cgroupGetsockopt: 21,
  cgroupInet4Getpeername: 29,
  cgroupInet6Getpeername: 30,
  cgroupInet4Getsockname: 31,
  cgroupInet6Getsockname: 32,
  cgroupInetSockRelease: 34,
} as const;
export type AttachType = (typeof ATTACH_TYPE)[keyof typeof ATTACH_TYPE];

/** A loaded object. Its descriptors belong to it and end with `close`; what is attached or used by sockets lives on. */
export interface BpfObject {
  /** The type information of the object. */
  readonly btf: Btf;
  readonly programFd: (name: string) => number;
  readonly mapFd: (name: string) => number;
  readonly programNames: readonly string[];
  readonly mapNames: readonly string[];
  readonly close: () => void;
}

export interface ObjectOptions {
  /** The name that internal maps begin with: `meshpath` makes `meshpath.rodata`. */
  readonly name: string;
  /** Gives the contents of `.rodata`, as many bytes as `initial`, which are what the object has there. */
  readonly readOnlyData: (initial: Uint8Array, btf: Btf) => Uint8Array;
  /** Maps, by their names, that are there already and are to be used instead of new ones. */
  readonly reusedMaps?: ((btf: Btf) => ReadonlyMap<string, number>) | undefined;
}

/**
 * Opens an ELF object from memory, sets its read-only data and loads its maps and programs into the kernel.
 * Throws BPF_OBJECT_INVALID, CAPABILITY_MISSING or BPF_LOAD_FAILED (with the end of the verifier's log).
 */
export function loadBpfObject(libbpf: Libbpf, bytes: Uint8Array, options: ObjectOptions): BpfObject {
  const { functions } = libbpf;
  libbpf.takeMessages();
  const object = openObject(libbpf, bytes, options.name);
  try {
    const btf = parseBtf(readBtf(libbpf, object));
    setReadOnlyData(libbpf, object, btf, options);
    for (const [name, fd] of options.reusedMaps?.(btf) ?? []) {
      reuseMap(libbpf, object, name, fd);
    }
    const result = functions.bpf_object__load(object);
    if (result < 0) {
      throw loadError(-result, libbpf.describe(-result), libbpf.takeMessages());
    }
    const programs = listPrograms(libbpf, object);
    const maps = listMaps(libbpf, object);
    return {
      btf,
      programFd: (name) => find(programs, name, 'program'),
      mapFd: (name) => find(maps, name, 'map'),
      programNames: [...programs.keys()],
      mapNames: [...maps.keys()],
      close: () => functions.bpf_object__close(object),
    };
  } catch (error) {
    functions.bpf_object__close(object);
    throw error;
  }
}

function openObject(libbpf: Libbpf, bytes: Uint8Array, name: string): Pointer<'bpf_object'> {
  // struct bpf_object_open_opts: size_t sz; const char *object_name; what follows is optional by sz.
  const nameText = Buffer.from(`${name}\0`);
  const openOptions = BigUint64Array.of(16n, libbpf.koffi.address(nameText));
  const object = libbpf.functions.bpf_object__open_mem(bytes, bytes.length, openOptions);
  if (object === null) {
    throw invalidObject(`${libbpf.describe(libbpf.lastErrno())} ${libbpf.takeMessages()}`.trim());
  }
  return object;
}

function readBtf({ functions, koffi }: Libbpf, object: Pointer<'bpf_object'>): Uint8Array {
  const btf = functions.bpf_object__btf(object);
  const size = new Uint32Array(1);
  const data = btf === null ? null : functions.btf__raw_data(btf, size);
  if (data === null) {
    throw invalidObject('The object has no type information (BTF).');
  }
  return koffi.decode(data, 'uint8_t', size[0] ?? 0) as Uint8Array;
}

function setReadOnlyData({ functions, koffi, describe }: Libbpf, object: Pointer<'bpf_object'>, btf: Btf, { name, readOnlyData }: ObjectOptions): void {
  const map = functions.bpf_object__find_map_by_name(object, `${name}.rodata`);
  const size = new BigUint64Array(1);
  const initial = map === null ? null : functions.bpf_map__initial_value(map, size);
  if (map === null || initial === null) {
    throw invalidObject('The object has no read-only data.');
  }
  const bytes = readOnlyData(koffi.decode(initial, 'uint8_t', Number(size[0])) as Uint8Array, btf);
  const result = functions.bpf_map__set_initial_value(map, bytes, bytes.length);
  if (result < 0) {
    throw invalidObject(`Setting the read-only data failed with ${describe(-result)}.`);
  }
}

function reuseMap({ functions, describe }: Libbpf, object: Pointer<'bpf_object'>, name: string, fd: number): void {
  const map = functions.bpf_object__find_map_by_name(object, name);
  const result = map === null ? null : functions.bpf_map__reuse_fd(map, fd);
  if (result === null || result < 0) {
    throw invalidObject(`Using the map ${name} that is there ${result === null ? 'is not possible: the object has none' : `failed with ${describe(-result)}`}.`);
  }
}

function listPrograms({ functions }: Libbpf, object: Pointer<'bpf_object'>): ReadonlyMap<string, number> {
  const programs = new Map<string, number>();
  for (let program = functions.bpf_object__next_program(object, null); program !== null; program = functions.bpf_object__next_program(object, program)) {
    programs.set(functions.bpf_program__name(program), functions.bpf_program__fd(program));
  }
  return programs;
}

function listMaps({ functions }: Libbpf, object: Pointer<'bpf_object'>): ReadonlyMap<string, number> {
  const maps = new Map<string, number>();
  for (let map = functions.bpf_object__next_map(object, null); map !== null; map = functions.bpf_object__next_map(object, map)) {
    maps.set(functions.bpf_map__name(map), functions.bpf_map__fd(map));
  }
  return maps;
}

function find(descriptors: ReadonlyMap<string, number>, name: string, kind: string): number {
  const fd = descriptors.get(name);
  if (fd === undefined) {
    throw invalidObject(`The object has no ${kind} ${name}.`);
  }
  return fd;
}

function invalidObject(reason: string): MeshpathError {
  return new MeshpathError({
    code: 'BPF_OBJECT_INVALID',
    message: "Meshpath's BPF object cannot be used.",
    reason,
    remedy: 'Install Meshpath again: the file meshpath.bpf.o is damaged or of another version.',
  });
}
