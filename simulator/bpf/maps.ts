import { toHexText } from '../../agent/protocol/scalars.ts';
import { MeshpathError } from '../../agent/protocol/errors.ts';
import type { MapDefinition } from './object.ts';
import type { KernelSocket } from './sockets.ts';

/** Error numbers of the kernel that maps and helpers give, as positive numbers (include/uapi/asm-generic/errno*.h). */
export const ERRNO = { ENOENT: 2, E2BIG: 7, EAGAIN: 11, EEXIST: 17, EINVAL: 22, ENOSPC: 28, EOPNOTSUPP: 95, EADDRNOTAVAIL: 99 } as const;

/** Flags of an update (include/uapi/linux/bpf.h). */
const UPDATE = { ANY: 0, NOEXIST: 1, EXIST: 2 } as const;

/** One entry as user space reads it: one value, or one for each CPU. */
export interface UserEntry {
  readonly key: Uint8Array;
  readonly values: readonly Uint8Array[];
}

/** A map of the simulated kernel. Keys and values have the sizes of its definition. */
export type BpfMap = HashMap | PrefixTrie | ArrayMap | SocketHash | SocketStorage | CgroupStorage | RingBuffer;

/** Makes an empty map. Throws NOT_SUPPORTED for a type that is not simulated. */
export function createMap(definition: MapDefinition, cpus: number): BpfMap {
  switch (definition.type) {
    case 'hash':
    case 'lru_hash':
      return new HashMap(definition);
    case 'lpm_trie':
      return new PrefixTrie(definition);
    case 'array':
      return new ArrayMap(definition, 1);
    case 'percpu_array':
      return new ArrayMap(definition, cpus);
    case 'sockhash':
      return new SocketHash(definition);
    case 'sk_storage':
      return new SocketStorage(definition);
    case 'cgroup_storage':
      return new CgroupStorage(definition);
    case 'ringbuf':
      return new RingBuffer(definition);
    default:
      throw new MeshpathError({
        code: 'NOT_SUPPORTED',
        message: `The map ${definition.name} cannot be simulated.`,
        reason: `Maps of type ${definition.type} are not part of the simulated kernel.`,
        remedy: 'Run the object on a Linux node, or use maps of type hash, lpm_trie, array, percpu_array, sockhash, sk_storage, cgroup_storage or ringbuf.',
      });
  }
}

/** BPF_MAP_TYPE_HASH and LRU_HASH (kernel/bpf/hashtab.c). */
export class HashMap {
  readonly kind = 'hash';
  readonly definition: MapDefinition;
  readonly #entries = new Map<string, { readonly key: Uint8Array; readonly value: Uint8Array }>();

  constructor(definition: MapDefinition) {
    this.definition = definition;
  }

  /** Gives the live bytes of a value. */
  lookup(key: Uint8Array): Uint8Array | undefined {
    const id = toHexText(key);
    const entry = this.#entries.get(id);
    if (entry !== undefined && this.definition.type === 'lru_hash') {
      this.#entries.delete(id);
      this.#entries.set(id, entry);
    }
    return entry?.value;
  }

  /** Sets a value; gives 0 or a negative errno. */
  update(key: Uint8Array, value: Uint8Array, flags: bigint): number {
    const id = toHexText(key);
    const known = this.#entries.get(id);
    const refused = refuseUpdate(flags, known !== undefined);
    if (refused !== 0) {
      return refused;
    }
    if (known === undefined && this.#entries.size >= this.definition.maxEntries) {
      const oldest = this.definition.type === 'lru_hash' ? this.#entries.keys().next().value : undefined;
      if (oldest === undefined) {
        return -ERRNO.E2BIG;
      }
      this.#entries.delete(oldest);
    }
    // A new value takes the place of the old one: who holds the old one keeps reading the old bytes.
    this.#entries.set(id, { key: key.slice(), value: value.slice() });
    return 0;
  }

  delete(key: Uint8Array): number {
    return this.#entries.delete(toHexText(key)) ? 0 : -ERRNO.ENOENT;
  }

  entries(): UserEntry[] {
    return [...this.#entries.values()].map((entry) => ({ key: entry.key, values: [entry.value] }));
  }
}

/** The length of a prefix in bits, in front of its bytes (struct bpf_lpm_trie_key). */
const PREFIX_LENGTH_BYTES = 4;

/** BPF_MAP_TYPE_LPM_TRIE (kernel/bpf/lpm_trie.c): look-ups find the longest prefix that the key begins with. */
export class PrefixTrie {
  readonly kind = 'lpm_trie';
  readonly definition: MapDefinition;
  readonly #maxBits: number;
  /** By the bits of the prefix as text, so that the same prefix is known whatever follows it in its bytes. */
  readonly #entries = new Map<string, { readonly key: Uint8Array; readonly value: Uint8Array }>();

  constructor(definition: MapDefinition) {
    this.definition = definition;
    this.#maxBits = (definition.keyBytes - PREFIX_LENGTH_BYTES) * 8;
  }

  /** Gives the live bytes of the value of the longest prefix; a prefix longer than the key's own length is none of it. */
  lookup(key: Uint8Array): Uint8Array | undefined {
    const bits = this.#bits(key);
    for (let length = bits?.length ?? -1; length >= 0; length -= 1) {
      const entry = this.#entries.get(bits?.slice(0, length) ?? '');
      if (entry !== undefined) {
        return entry.value;
      }
    }
    return undefined;
  }

  /** Sets a value; gives 0 or a negative errno. */
  update(key: Uint8Array, value: Uint8Array, flags: bigint): number {
    const bits = this.#bits(key);
    if (bits === undefined) {
      return -ERRNO.EINVAL;
    }
    const known = this.#entries.has(bits);
    const refused = refuseUpdate(flags, known);
    if (refused !== 0) {
      return refused;
    }
    if (!known && this.#entries.size >= this.definition.maxEntries) {
      return -ERRNO.ENOSPC;
    }
    this.#entries.set(bits, { key: key.slice(), value: value.slice() });
    return 0;
  }

  delete(key: Uint8Array): number {
    const bits = this.#bits(key);
    if (bits === undefined) {
      return -ERRNO.EINVAL;
    }
    return this.#entries.delete(bits) ? 0 : -ERRNO.ENOENT;
  }

  entries(): UserEntry[] {
    return [...this.#entries.values()].map((entry) => ({ key: entry.key, values: [entry.value] }));
  }

  /** The prefix as a text of zeros and ones; undefined where it is longer than the bytes of the key. */
  #bits(key: Uint8Array): string | undefined {
    const length = new DataView(key.buffer, key.byteOffset).getUint32(0, true);
    const text = Array.from(key.subarray(PREFIX_LENGTH_BYTES), (byte) => byte.toString(2).padStart(8, '0')).join('');
    return length > this.#maxBits ? undefined : text.slice(0, length);
  }
}

/** BPF_MAP_TYPE_ARRAY and PERCPU_ARRAY (kernel/bpf/arraymap.c): keys are 32-bit indexes, every entry exists. */
export class ArrayMap {
  readonly kind = 'array';
  readonly definition: MapDefinition;
  /** One row of bytes for each CPU; one row where all CPUs share. */
  readonly #rows: readonly Uint8Array[];
  /** The same bytes for the same element each time, so that a program gets the same pointer. */
  readonly #elements = new Map<number, Uint8Array>();

  constructor(definition: MapDefinition, rows: number) {
    this.definition = definition;
    const { initial } = definition;
    this.#rows = Array.from({ length: rows }, () => initial?.slice() ?? new Uint8Array(definition.valueBytes * definition.maxEntries));
  }

  lookup(key: Uint8Array, cpu = 0): Uint8Array | undefined {
    const index = new DataView(key.buffer, key.byteOffset).getUint32(0, true);
    const { valueBytes, maxEntries } = this.definition;
    const row = this.#rows.length === 1 ? 0 : cpu;
    const place = row * maxEntries + index;
    const element = index < maxEntries ? (this.#elements.get(place) ?? this.#rows[row]?.subarray(index * valueBytes, (index + 1) * valueBytes)) : undefined;
    if (element !== undefined) {
      this.#elements.set(place, element);
    }
    return element;
  }

  update(key: Uint8Array, value: Uint8Array, flags: bigint, cpu = 0): number {
    const place = this.lookup(key, cpu);
    if (place === undefined) {
      return flags > 2n ? -ERRNO.EINVAL : -ERRNO.E2BIG;
    }
    const refused = refuseUpdate(flags, true);
    if (refused === 0) {
      place.set(value);
    }
    return refused;
  }

  delete(): number {
    return -ERRNO.EINVAL;
  }

  entries(): UserEntry[] {
    return Array.from({ length: this.definition.maxEntries }, (_, index) => {
      const key = new Uint8Array(4);
      new DataView(key.buffer).setUint32(0, index, true);
      return { key, values: this.#rows.map((_row, cpu) => this.lookup(key, cpu) ?? new Uint8Array(0)) };
    });
  }
}

/** BPF_MAP_TYPE_SOCKHASH (net/core/sock_map.c). User space reads the cookies of its sockets. */
export class SocketHash {
  readonly kind = 'sockhash';
  readonly definition: MapDefinition;
  readonly #entries = new Map<string, { readonly key: Uint8Array; readonly socket: KernelSocket }>();

  constructor(definition: MapDefinition) {
    this.definition = definition;
  }

  find(key: Uint8Array): KernelSocket | undefined {
    return this.#entries.get(toHexText(key))?.socket;
  }

  /** Puts a socket in; gives 0 or a negative errno. */
  insert(key: Uint8Array, socket: KernelSocket, flags: bigint): number {
    const id = toHexText(key);
    const known = this.#entries.has(id);
    const refused = refuseUpdate(flags, known);
    if (refused !== 0) {
      return refused;
    }
    if (!known && this.#entries.size >= this.definition.maxEntries) {
      return -ERRNO.E2BIG;
    }
    this.#entries.set(id, { key: key.slice(), socket });
    return 0;
  }

  delete(key: Uint8Array): number {
    return this.#entries.delete(toHexText(key)) ? 0 : -ERRNO.ENOENT;
  }

  /** Takes a socket out wherever it is, as its close does. */
  forget(socket: KernelSocket): void {
    for (const [id, entry] of this.#entries) {
      if (entry.socket === socket) {
        this.#entries.delete(id);
      }
    }
  }

  sockets(): KernelSocket[] {
    return [...this.#entries.values()].map((entry) => entry.socket);
  }

  entries(): UserEntry[] {
    return [...this.#entries.values()].map((entry) => {
      const value = new Uint8Array(this.definition.valueBytes);
      if (value.length === 8) {
        new DataView(value.buffer).setBigUint64(0, entry.socket.cookie, true);
      }
      return { key: entry.key, values: [value] };
    });
  }
}

/** BPF_MAP_TYPE_SK_STORAGE (net/core/bpf_sk_storage.c): the values live with the sockets. */
export class SocketStorage {
  readonly kind = 'sk_storage';
  readonly definition: MapDefinition;

  constructor(definition: MapDefinition) {
    this.definition = definition;
  }

  /** User space cannot walk socket storage: it would need a file descriptor of each socket. */
  entries(): UserEntry[] {
    return [];
  }
}

/** BPF_MAP_TYPE_CGROUP_STORAGE (kernel/bpf/local_storage.c): a value for each cgroup that a program is attached to. */
export class CgroupStorage {
  readonly kind = 'cgroup_storage';
  readonly definition: MapDefinition;
  readonly #values = new Map<bigint, Uint8Array>();

  constructor(definition: MapDefinition) {
    this.definition = definition;
  }

  /** Makes the value of a cgroup, as attaching a program that uses this map does. */
  attach(cgroupId: bigint): void {
    if (!this.#values.has(cgroupId)) {
      this.#values.set(cgroupId, new Uint8Array(this.definition.valueBytes));
    }
  }

  detach(cgroupId: bigint): void {
    this.#values.delete(cgroupId);
  }

  find(cgroupId: bigint): Uint8Array | undefined {
    return this.#values.get(cgroupId);
  }

  entries(): UserEntry[] {
    return [...this.#values].map(([cgroupId, value]) => {
      const key = new Uint8Array(this.definition.keyBytes);
      new DataView(key.buffer).setBigUint64(0, cgroupId, true);
      return { key, values: [value] };
    });
  }
}

/** Each record of a ring buffer has a header of 8 bytes and begins at a multiple of 8 (kernel/bpf/ringbuf.c). */
const RINGBUF_HEADER_BYTES = 8;

/** BPF_MAP_TYPE_RINGBUF (kernel/bpf/ringbuf.c). */
export class RingBuffer {
  readonly kind = 'ringbuf';
  readonly definition: MapDefinition;
  readonly #records: Uint8Array[] = [];
  #usedBytes = 0;

  constructor(definition: MapDefinition) {
    this.definition = definition;
  }

  /** Gives room for a record, or undefined where there is none left. */
  reserve(length: number): Uint8Array | undefined {
    const needed = recordBytes(length);
    if (this.#usedBytes + needed > this.definition.maxEntries) {
      return undefined;
    }
    this.#usedBytes += needed;
    return new Uint8Array(length);
  }

  submit(record: Uint8Array): void {
    this.#records.push(record);
  }

  discard(record: Uint8Array): void {
    this.#usedBytes -= recordBytes(record.length);
  }

  /** Takes out all records, oldest first, as a consumer in user space does. */
  drain(): Uint8Array[] {
    this.#usedBytes = 0;
    return this.#records.splice(0);
  }

  /** A ring buffer has no entries: user space consumes its records. */
  entries(): UserEntry[] {
    return [];
  }
}

function recordBytes(length: number): number {
  return Math.ceil((length + RINGBUF_HEADER_BYTES) / 8) * 8;
}

function refuseUpdate(flags: bigint, exists: boolean): number {
  if (flags > BigInt(UPDATE.EXIST)) {
    return -ERRNO.EINVAL;
  }
  if (exists && flags === BigInt(UPDATE.NOEXIST)) {
    return -ERRNO.EEXIST;
  }
  return !exists && flags === BigInt(UPDATE.EXIST) ? -ERRNO.ENOENT : 0;
}
