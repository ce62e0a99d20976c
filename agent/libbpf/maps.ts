import { constants } from 'node:os';
import { MeshpathError } from '../protocol/errors.ts';
import type { Libbpf } from './library.ts';

const { EINTR, ENOENT } = constants.errno;
const BPF_EXIST = 2n;
const PER_CPU_ALIGNMENT = 8;
const BATCH_ENTRIES = 1_024;
/** In front of a batch the kernel puts where to go on: four bytes for hash maps, a key for others. */
const BATCH_POSITION_BYTES = 64;

/** Sizes of the keys and values of a map, bytes. */
export interface EntrySizes {
  readonly keyBytes: number;
  readonly valueBytes: number;
}

export interface HashEntry {
  readonly key: Uint8Array;
  readonly value: Uint8Array;
}

/** Gives the value of a key of a map that is not per CPU; undefined where there is none. Throws INTERNAL. */
export function lookupElement(libbpf: Libbpf, fd: number, key: Uint8Array, valueBytes: number): Uint8Array | undefined {
  const value = new Uint8Array(valueBytes);
  const result = libbpf.functions.bpf_map_lookup_elem(fd, key, value);
  if (result === -ENOENT) {
    return undefined;
  }
  check(libbpf, 'BPF_MAP_LOOKUP_ELEM', result);
  return value;
}

/**
 * Gives the values of a key of a per-CPU map, one for each possible CPU; none where there is no such key. The kernel writes
 * each to a multiple of eight bytes (kernel/bpf/hashtab.c, bpf_percpu_hash_copy). Throws INTERNAL.
 */
export function lookupPerCpu(libbpf: Libbpf, fd: number, key: Uint8Array, valueBytes: number): Uint8Array[] {
  const stride = Math.ceil(valueBytes / PER_CPU_ALIGNMENT) * PER_CPU_ALIGNMENT;
  const count = libbpf.functions.libbpf_num_possible_cpus();
  const values = lookupElement(libbpf, fd, key, stride * count);
  return values === undefined ? [] : Array.from({ length: count }, (_, cpu) => values.subarray(cpu * stride, cpu * stride + valueBytes));
}

/** Writes the value of a key, whether there is one or not. Throws INTERNAL. */
export function updateElement(libbpf: Libbpf, fd: number, key: Uint8Array, value: Uint8Array): void {
  check(libbpf, 'BPF_MAP_UPDATE_ELEM', libbpf.functions.bpf_map_update_elem(fd, key, value, 0n));
}

/** Writes the value of a key that there is; gives false where there is none (any more). Throws INTERNAL. */
export function replaceElement(libbpf: Libbpf, fd: number, key: Uint8Array, value: Uint8Array): boolean {
  const result = libbpf.functions.bpf_map_update_elem(fd, key, value, BPF_EXIST);
  if (result !== -ENOENT) {
    check(libbpf, 'BPF_MAP_UPDATE_ELEM', result);
  }
  return result !== -ENOENT;
}

/** Deletes a key; gives false where there was none. Throws INTERNAL. */
export function deleteElement(libbpf: Libbpf, fd: number, key: Uint8Array): boolean {
  const result = libbpf.functions.bpf_map_delete_elem(fd, key);
  if (result !== -ENOENT) {
    check(libbpf, 'BPF_MAP_DELETE_ELEM', result);
  }
  return result !== -ENOENT;
}

/** Gives all entries of a hash map; those that come or go meanwhile may be among them or not. Throws INTERNAL. */
export function readHashEntries(libbpf: Libbpf, fd: number, sizes: EntrySizes): HashEntry[] {
  const keys = new Uint8Array(BATCH_ENTRIES * sizes.keyBytes);
  const values = new Uint8Array(BATCH_ENTRIES * sizes.valueBytes);
  const count = new Uint32Array(1);
  const found: HashEntry[] = [];
  let position: Uint8Array | null = null;
  for (;;) {
    const next = new Uint8Array(BATCH_POSITION_BYTES);
    count[0] = BATCH_ENTRIES;
    const result = libbpf.functions.bpf_map_lookup_batch(fd, position, next, keys, values, count, null);
    if (result === -EINTR) {
      continue;
    }
    if (result !== -ENOENT) {
      check(libbpf, 'BPF_MAP_LOOKUP_BATCH', result);
    }
    for (let index = 0; index < count[0]; index += 1) {
      found.push({
        key: keys.slice(index * sizes.keyBytes, (index + 1) * sizes.keyBytes),
        value: values.slice(index * sizes.valueBytes, (index + 1) * sizes.valueBytes),
      });
    }
    if (result === -ENOENT) {
      return found;
    }
    position = next;
  }
}

function check(libbpf: Libbpf, what: string, result: number): void {
  if (result >= 0) {
    return;
  }
  throw new MeshpathError({
    code: 'INTERNAL',
    message: 'The kernel refused an operation on a map of Meshpath.',
    reason: `${what} failed with ${libbpf.describe(-result)}.`,
    remedy: 'Turn acceleration off and on again; report what the Meshpath output channel shows.',
  });
}
