import type { LibraryHandle } from 'koffi';
import { MeshpathError } from '../protocol/errors.ts';
import { describeErrno } from './errno.ts';
import { loadKoffi, type Koffi } from './nativeKoffi.ts';

declare const pointerBrand: unique symbol;
/** The address of a C object that libbpf owns. */
export type Pointer<Name extends string> = bigint & { readonly [pointerBrand]: Name };

/** Memory that C reads or writes while the call runs. Numbers in it are in the byte order of the machine. */
export type Memory = Uint8Array | Uint32Array | BigUint64Array;

/**
 * The functions of libbpf that Meshpath calls, under their C names (bpf.h, libbpf.h). As in libbpf 1.x, functions that
 * give a number give a negative errno where they fail; functions that give a pointer give null and leave the errno
 * for `lastErrno`.
 */
export interface LibbpfFunctions {
  readonly bpf_object__open_mem: (bytes: Memory, size: number, options: BigUint64Array | null) => Pointer<'bpf_object'> | null;
  readonly bpf_object__load: (object: Pointer<'bpf_object'>) => number;
  readonly bpf_object__close: (object: Pointer<'bpf_object'>) => void;
  readonly bpf_object__find_map_by_name: (object: Pointer<'bpf_object'>, name: string) => Pointer<'bpf_map'> | null;
  readonly bpf_object__next_map: (object: Pointer<'bpf_object'>, previous: Pointer<'bpf_map'> | null) => Pointer<'bpf_map'> | null;
  readonly bpf_object__next_program: (object: Pointer<'bpf_object'>, previous: Pointer<'bpf_program'> | null) => Pointer<'bpf_program'> | null;
  readonly bpf_map__name: (map: Pointer<'bpf_map'>) => string;
  readonly bpf_map__reuse_fd: (map: Pointer<'bpf_map'>, fd: number) => number;
  readonly bpf_map__fd: (map: Pointer<'bpf_map'>) => number;
  readonly bpf_object__btf: (object: Pointer<'bpf_object'>) => Pointer<'btf'> | null;
  readonly btf__raw_data: (btf: Pointer<'btf'>, size: Uint32Array) => Pointer<'bytes'> | null;
  readonly bpf_map__initial_value: (map: Pointer<'bpf_map'>, size: BigUint64Array) => Pointer<'bytes'> | null;
  readonly bpf_map__set_initial_value: (map: Pointer<'bpf_map'>, bytes: Memory, size: number) => number;
  readonly bpf_program__name: (program: Pointer<'bpf_program'>) => string;
  readonly bpf_program__fd: (program: Pointer<'bpf_program'>) => number;

  readonly bpf_link_create: (programFd: number, targetFd: number, attachType: number, options: null) => number;
  readonly bpf_link_update: (linkFd: number, programFd: number, options: null) => number;
  readonly bpf_obj_pin: (fd: number, path: string) => number;
  readonly bpf_map_create: (type: number, name: string, keyBytes: number, valueBytes: number, maxEntries: number, options: null) => number;
  readonly bpf_prog_attach: (programFd: number, targetFd: number, attachType: number, flags: number) => number;
  readonly bpf_prog_query: (targetFd: number, attachType: number, queryFlags: number, attachFlags: Uint32Array, programIds: Uint32Array, count: Uint32Array) => number;

  readonly bpf_prog_get_next_id: (start: number, next: Uint32Array) => number;
  readonly bpf_map_get_next_id: (start: number, next: Uint32Array) => number;
  readonly bpf_btf_get_next_id: (start: number, next: Uint32Array) => number;
  readonly bpf_link_get_next_id: (start: number, next: Uint32Array) => number;
  readonly bpf_prog_get_fd_by_id: (id: number) => number;
  readonly bpf_map_get_fd_by_id: (id: number) => number;
  readonly bpf_btf_get_fd_by_id: (id: number) => number;
  readonly bpf_link_get_fd_by_id: (id: number) => number;
  readonly bpf_obj_get: (path: string) => number;
  readonly bpf_obj_get_info_by_fd: (fd: number, info: Memory, length: Uint32Array) => number;

  readonly bpf_map_lookup_elem: (fd: number, key: Memory, value: Memory) => number;
  readonly bpf_map_update_elem: (fd: number, key: Memory, value: Memory, flags: bigint) => number;
  readonly bpf_map_delete_elem: (fd: number, key: Memory) => number;
  readonly bpf_map_get_next_key: (fd: number, key: Memory | null, next: Memory) => number;
  readonly libbpf_num_possible_cpus: () => number;
  readonly bpf_map_lookup_batch: (fd: number, inBatch: Memory | null, outBatch: Memory, keys: Memory, values: Memory, count: Uint32Array, options: null) => number;

  readonly ring_buffer__new: (mapFd: number, callback: bigint, context: null, options: null) => Pointer<'ring_buffer'> | null;
  readonly ring_buffer__epoll_fd: (buffer: Pointer<'ring_buffer'>) => number;
  readonly ring_buffer__consume: (buffer: Pointer<'ring_buffer'>) => number;
  readonly ring_buffer__free: (buffer: Pointer<'ring_buffer'>) => void;
}

/** C declarations of LibbpfFunctions: result type, parameter types. */
const DECLARATIONS: { readonly [Name in keyof LibbpfFunctions]: readonly [string, readonly string[]] } = {
  bpf_object__open_mem: ['void *', ['void *', 'size_t', 'void *']],
  bpf_object__load: ['int', ['void *']],
  bpf_object__close: ['void', ['void *']],
  bpf_object__find_map_by_name: ['void *', ['void *', 'str']],
  bpf_object__next_map: ['void *', ['void *', 'void *']],
  bpf_object__next_program: ['void *', ['void *', 'void *']],
  bpf_map__name: ['str', ['void *']],
  bpf_map__reuse_fd: ['int', ['void *', 'int']],
  bpf_map__fd: ['int', ['void *']],
  bpf_object__btf: ['void *', ['void *']],
  btf__raw_data: ['void *', ['void *', 'void *']],
  bpf_map__initial_value: ['void *', ['void *', 'void *']],
  bpf_map__set_initial_value: ['int', ['void *', 'void *', 'size_t']],
  bpf_program__name: ['str', ['void *']],
  bpf_program__fd: ['int', ['void *']],

  bpf_link_create: ['int', ['int', 'int', 'int', 'void *']],
  bpf_link_update: ['int', ['int', 'int', 'void *']],
  bpf_obj_pin: ['int', ['int', 'str']],
  bpf_map_create: ['int', ['int', 'str', 'uint32_t', 'uint32_t', 'uint32_t', 'void *']],
  bpf_prog_attach: ['int', ['int', 'int', 'int', 'uint32_t']],
  bpf_prog_query: ['int', ['int', 'int', 'uint32_t', 'void *', 'void *', 'void *']],

  bpf_prog_get_next_id: ['int', ['uint32_t', 'void *']],
  bpf_map_get_next_id: ['int', ['uint32_t', 'void *']],
  bpf_btf_get_next_id: ['int', ['uint32_t', 'void *']],
  bpf_link_get_next_id: ['int', ['uint32_t', 'void *']],
  bpf_prog_get_fd_by_id: ['int', ['uint32_t']],
  bpf_map_get_fd_by_id: ['int', ['uint32_t']],
  bpf_btf_get_fd_by_id: ['int', ['uint32_t']],
  bpf_link_get_fd_by_id: ['int', ['uint32_t']],
  bpf_obj_get: ['int', ['str']],
  bpf_obj_get_info_by_fd: ['int', ['int', 'void *', 'void *']],

  bpf_map_lookup_elem: ['int', ['int', 'void *', 'void *']],
  bpf_map_update_elem: ['int', ['int', 'void *', 'void *', 'uint64_t']],
  bpf_map_delete_elem: ['int', ['int', 'void *']],
  bpf_map_get_next_key: ['int', ['int', 'void *', 'void *']],
  libbpf_num_possible_cpus: ['int', []],
  bpf_map_lookup_batch: ['int', ['int', 'void *', 'void *', 'void *', 'void *', 'void *', 'void *']],

  ring_buffer__new: ['void *', ['int', 'void *', 'void *', 'void *']],
  ring_buffer__epoll_fd: ['int', ['void *']],
  ring_buffer__consume: ['int', ['void *']],
  ring_buffer__free: ['void', ['void *']],
};

/** libbpf as this process has it open. */
export interface Libbpf {
  /** `v1.1` */
  readonly version: string;
  readonly functions: LibbpfFunctions;
  readonly koffi: Koffi;
  /** The errno of the call before; only after a function that gave null. */
  readonly lastErrno: () => number;
  /** Describes a positive errno: `EPERM (Operation not permitted)`. */
  readonly describe: (errno: number) => string;
  /** Gives what libbpf had to say since the last call (verifier logs), at most MAX_MESSAGE_CHARACTERS of its end. */
  readonly takeMessages: () => string;
}

/** Where distributions put libbpf 1.x; the first is what ld.so knows. */
const LIBRARY_NAMES = [
  'libbpf.so.1',
  '/usr/lib64/libbpf.so.1',
  '/usr/lib/x86_64-linux-gnu/libbpf.so.1',
  '/usr/lib/aarch64-linux-gnu/libbpf.so.1',
  '/usr/lib/libbpf.so.1',
  '/usr/local/lib64/libbpf.so.1',
  '/usr/local/lib/libbpf.so.1',
];
const OLD_LIBRARY_NAMES = ['libbpf.so.0', '/usr/lib64/libbpf.so.0'];
const LIBBPF_WARN = 0;
const MAX_MESSAGE_BYTES = 1024 * 1024;
const MAX_MESSAGE_CHARACTERS = 16_384;
const INSTALL_REMEDY =
  'Install libbpf 1.0 or newer: `sudo apt-get install libbpf1` (Debian, Ubuntu), `sudo dnf install libbpf` (Fedora, RHEL), `sudo apk add libbpf` (Alpine).';

let opened: Libbpf | undefined;

/**
 * Opens libbpf; once for a process, later calls give the same. libbpf 1.x raises RLIMIT_MEMLOCK itself where the kernel
 * (before 5.11) charges BPF memory to it.
 * Throws LIBBPF_MISSING or LIBBPF_TOO_OLD.
 */
export function openLibbpf(): Libbpf {
  opened ??= open(loadKoffi());
  return opened;
}

function open(koffi: Koffi): Libbpf {
  const library = loadFirst(koffi, LIBRARY_NAMES);
  if (library instanceof Error) {
    throw missingError(loadFirst(koffi, OLD_LIBRARY_NAMES) instanceof Error ? undefined : 'libbpf.so.0', library);
  }
  const version = (library.func('libbpf_version_string', 'str', []) as unknown as () => string)();
  const functions: Record<string, unknown> = {};
  for (const [name, [result, parameters]] of Object.entries(DECLARATIONS)) {
    try {
      functions[name] = library.func(name, result, [...parameters]);
    } catch (error) {
      throw missingError(`${version} without ${name}`, error);
    }
  }
  // libbpf and C library are in one address space: the program itself gives the symbols of its C library.
  const libc = koffi.load(null);
  const strerror = libc.func('strerror', 'str', ['int']) as unknown as (errno: number) => string;
  const takeMessages = captureMessages(koffi, library, libc);
  return {
    version,
    functions: functions as unknown as LibbpfFunctions,
    koffi,
    lastErrno: () => koffi.errno(),
    describe: (errno) => describeErrno(errno, strerror),
    takeMessages,
  };
}

function loadFirst(koffi: Koffi, names: readonly string[]): LibraryHandle | Error {
  let failure = new Error('no name to try');
  for (const [index, name] of names.entries()) {
    try {
      return koffi.load(name);
    } catch (error) {
      if (index === 0 && error instanceof Error) {
        failure = error;
      }
    }
  }
  return failure;
}

function missingError(found: string | undefined, cause: unknown): MeshpathError {
  return new MeshpathError(
    {
      code: found === undefined ? 'LIBBPF_MISSING' : 'LIBBPF_TOO_OLD',
      message: found === undefined ? 'libbpf is not installed on this node.' : 'The libbpf of this node is too old.',
      reason: `${found === undefined ? 'libbpf.so.1 was not found' : `found ${found}, and 1.0 is the oldest that works`}: ${cause instanceof Error ? cause.message : String(cause)}`,
      remedy: INSTALL_REMEDY,
    },
    { cause },
  );
}

/**
 * Takes what libbpf prints (libbpf_set_print). The last parameter is a va_list, which is passed as a pointer on x86-64
 * (System V ABI: an array) and on arm64 (AAPCS64: a structure above 16 bytes), so that it can be handed on to vsnprintf.
 */
function captureMessages(koffi: Koffi, library: LibraryHandle, libc: LibraryHandle): () => string {
  const vsnprintf = libc.func('vsnprintf', 'int', ['void *', 'size_t', 'void *', 'void *']) as unknown as (
    buffer: Uint8Array,
    size: number,
    format: bigint,
    args: bigint,
  ) => number;
  const setPrint = library.func('libbpf_set_print', 'void *', ['void *']) as unknown as (callback: bigint) => bigint | null;
  const buffer = Buffer.alloc(MAX_MESSAGE_BYTES);
  let messages = '';
  const print = (level: number, format: bigint, args: bigint): number => {
    if (level !== LIBBPF_WARN) {
      return 0;
    }
    const length = Math.min(Math.max(vsnprintf(buffer, buffer.length, format, args), 0), buffer.length - 1);
    messages = (messages + buffer.toString('utf8', 0, length)).slice(-MAX_MESSAGE_CHARACTERS);
    return length;
  };
  setPrint(koffi.register(print, koffi.pointer(koffi.proto('int', ['int', 'void *', 'void *']))));
  return () => {
    const taken = messages;
    messages = '';
    return taken;
  };
}
