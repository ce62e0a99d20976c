import { readFileSync } from 'node:fs';
import { constants } from 'node:os';
import { setImmediate as nextTurn } from 'node:timers/promises';

import { cancelledError, inputError, MeshpathError } from '../protocol/errors.ts';
import { MAX_PAGE_ENTRIES } from '../protocol/mapEntries.ts';
import type { MapEntry, MapPage, TypedBytes } from '../protocol/mapEntries.ts';
import { parseHexText, toHexText } from '../protocol/scalars.ts';
import type { HexText, MapId } from '../protocol/scalars.ts';
import type { ValueDecoder } from '../protocol/btfValues.ts';
import type { RawMap } from '../libbpf/introspection.ts';
import type { Libbpf } from '../libbpf/library.ts';
import { mapTypeName } from './kernelNames.ts';
import type { MapTyping } from './objectTypes.ts';

const { ENOENT, ENOSPC, EINVAL, EOPNOTSUPP } = constants.errno;
const ENOTSUPP = 524;
/** Map types with a batch lookup that needs no more memory than the entries themselves (kernel/bpf/hashtab.c, arraymap.c, lpm_trie.c). */
const BATCH_TYPES: ReadonlySet<string> = new Set(['hash', 'lru_hash', 'percpu_hash', 'lru_percpu_hash', 'array', 'percpu_array', 'lpm_trie']);
const BUCKET_TYPES: ReadonlySet<string> = new Set(['hash', 'lru_hash', 'percpu_hash', 'lru_percpu_hash']);
/** Values of these are rounded up to 8 bytes, one for each possible CPU. */
const PER_CPU_TYPES: ReadonlySet<string> = new Set(['percpu_hash', 'percpu_array', 'lru_percpu_hash', 'percpu_cgroup_storage']);
/** Raw bytes of a page; in hexadecimal and decoded it is several times as much, and still far below a frame. */
const MAX_PAGE_BYTES = 4 * 1024 * 1024;
const ENTRIES_PER_TURN = 1_000;
/** Keys that a cursor carries, so that reading goes on where the last of them was deleted meanwhile. */
const CURSOR_KEYS = 8;
const MAX_CURSOR_CHARACTERS = 16_384;
const MAX_RESTARTS = 3;

/** Where the next page begins. Written as JSON in base64url; it says nothing that the caller could not know. */
type Cursor =
  /** Batches: the kernel's own token, and how many entries behind it were given already. */
  | { readonly map: number; readonly batch: string | null; readonly skip: number }
  /** Key by key: the keys given last, latest first. */
  | { readonly map: number; readonly keys: readonly string[]; readonly restarts: number };

/** Entries as the kernel gives them: all keys one behind the other, and all values. */
interface RawEntries {
  readonly count: number;
  readonly keys: Uint8Array;
  readonly values: Uint8Array;
}

interface RawPage {
  readonly entries: RawEntries;
  readonly next: Cursor | null;
  readonly changed: boolean;
}

/**
 * Reads one page of a map: at most `limit` entries (fewer where values are large) from `cursor` on.
 * Batch lookups walk over a hash bucket by bucket, so that an entry which is there all the time is given exactly once.
 * Key by key (sockets, devices) an entry may be given twice or left out where the map changes; the page then says so.
 * Throws MAP_NOT_READABLE, INPUT_INVALID (a cursor that is not of this map), CANCELLED.
 */
export async function readMapPage(
  libbpf: Libbpf,
  fd: number,
  map: RawMap,
  typing: MapTyping,
  request: { readonly cursor: string | null; readonly limit: number },
  signal: AbortSignal,
): Promise<MapPage> {
  if (!Number.isInteger(request.limit) || request.limit < 1 || request.limit > MAX_PAGE_ENTRIES) {
    throw inputError(
      `A page of ${request.limit} entries cannot be read.`,
      `A page has 1 to ${MAX_PAGE_ENTRIES} entries.`,
      'Ask for fewer entries and read on with the cursor of the page.',
    );
  }
  const type = mapTypeName(map.type);
  const cpus = PER_CPU_TYPES.has(type) ? possibleCpus() : 1;
  const valueBytes = PER_CPU_TYPES.has(type) ? Math.ceil(map.valueBytes / 8) * 8 * cpus : map.valueBytes;
  const limit = Math.max(1, Math.min(request.limit, Math.floor(MAX_PAGE_BYTES / (map.keyBytes + valueBytes + 1))));
  const reader = new MapReader(libbpf, fd, map, valueBytes, signal);
  const start = request.cursor === null ? null : parseCursor(request.cursor, map);
  const page = await reader.read(start, limit, BUCKET_TYPES.has(type), BATCH_TYPES.has(type));
  const entries = await describeEntries(page.entries, map, { valueBytes, cpus }, typing, () => {
    reader.checkCancelled();
  });
  return {
    mapId: map.id as MapId,
    entries,
    nextCursor: page.next === null ? null : Buffer.from(JSON.stringify(page.next)).toString('base64url'),
    changedDuringRead: page.changed,
    readAt: new Date().toISOString(),
  };
}

class MapReader {
  readonly #libbpf: Libbpf;
  readonly #fd: number;
  readonly #map: RawMap;
  readonly #valueBytes: number;
  readonly #signal: AbortSignal;

  constructor(libbpf: Libbpf, fd: number, map: RawMap, valueBytes: number, signal: AbortSignal) {
    this.#libbpf = libbpf;
    this.#fd = fd;
    this.#map = map;
    this.#valueBytes = valueBytes;
    this.#signal = signal;
  }

  async read(start: Cursor | null, limit: number, hasBuckets: boolean, hasBatches: boolean): Promise<RawPage> {
    if (hasBatches && (start === null || 'batch' in start)) {
      const page = this.#readBatches(start, limit, hasBuckets);
      if (page !== undefined) {
        return page;
      }
    }
    return this.#readKeys(start !== null && 'keys' in start ? start : null, limit);
  }

  checkCancelled(): void {
    if (this.#signal.aborted) {
      throw cancelledError('Reading the map');
    }
  }

  /** Undefined where this kernel has no batch lookup for this type. */
  #readBatches(start: Extract<Cursor, { batch: unknown }> | null, limit: number, hasBuckets: boolean): RawPage | undefined {
    const skip = start?.skip ?? 0;
    const token = start?.batch ?? null;
    // A bucket is given whole or not at all: where one does not fit, there must be more room.
    for (let room = limit + skip; ; room *= 2) {
      this.checkCancelled();
      const batch = this.#lookupBatch(token, room);
      if (batch === 'no-room') {
        continue;
      }
      if (batch === undefined) {
        return undefined;
      }
      const count = Math.max(0, Math.min(limit, batch.count - skip));
      const entries = {
        count,
        keys: batch.keys.subarray(skip * this.#map.keyBytes, (skip + count) * this.#map.keyBytes),
        values: batch.values.subarray(skip * this.#valueBytes, (skip + count) * this.#valueBytes),
      };
      const isWhole = skip + limit >= batch.count;
      const next: Cursor | null = isWhole
        ? batch.next === null
          ? null
          : { map: this.#map.id, batch: batch.next, skip: 0 }
        : { map: this.#map.id, batch: token, skip: skip + limit };
      return { entries, next, changed: hasBuckets && this.#hasChanged(token, room, batch) };
    }
  }

  /** Reads the same place once more: other keys mean that entries came or went while it was read. */
  #hasChanged(token: string | null, room: number, before: RawEntries): boolean {
    const again = this.#lookupBatch(token, room);
    return again === undefined || again === 'no-room' || Buffer.compare(again.keys, before.keys) !== 0;
  }

  #lookupBatch(token: string | null, room: number): (RawEntries & { next: string | null }) | 'no-room' | undefined {
    const { keyBytes } = this.#map;
    const keys = new Uint8Array(room * keyBytes);
    const values = new Uint8Array(room * this.#valueBytes);
    const count = Uint32Array.of(room);
    // Hashes take a bucket number of 4 bytes, the others a key.
    const out = new Uint8Array(Math.max(4, keyBytes));
    const input = token === null ? null : parseHexText(token);
    const result = this.#libbpf.functions.bpf_map_lookup_batch(this.#fd, input, out, keys, values, count, null);
    if (result === -ENOSPC) {
      return 'no-room';
    }
    if (result === -ENOTSUPP || result === -EINVAL || result === -EOPNOTSUPP) {
      return undefined;
    }
    if (result < 0 && result !== -ENOENT) {
      throw this.#failure(-result);
    }
    const found = count[0] ?? 0;
    return {
      count: found,
      keys: keys.subarray(0, found * keyBytes),
      values: values.subarray(0, found * this.#valueBytes),
      next: result === -ENOENT ? null : toHexText(out),
    };
  }

  async #readKeys(start: Extract<Cursor, { keys: unknown }> | null, limit: number): Promise<RawPage> {
    const { functions } = this.#libbpf;
    const { keyBytes } = this.#map;
    const keys = new Uint8Array(limit * keyBytes);
    const values = new Uint8Array(limit * this.#valueBytes);
    let count = 0;
    const entries = (): RawEntries => ({ count, keys: keys.subarray(0, count * keyBytes), values: values.subarray(0, count * this.#valueBytes) });
    const given = (start?.keys ?? []).map(parseHexText);
    let restarts = start?.restarts ?? 0;
    let changed = false;
    let previous: Uint8Array | null = null;
    if (given.length > 0) {
      // A key that is gone would make the kernel begin anew: go on behind the latest one that is still there.
      const found = given.findIndex((key) => this.#lookup(key) !== undefined);
      changed = found !== 0;
      previous = given[found] ?? null;
      restarts += previous === null ? 1 : 0;
      if (restarts > MAX_RESTARTS) {
        return { entries: entries(), next: null, changed: true };
      }
    }
    for (let steps = 0; count < limit; steps += 1) {
      if (steps % ENTRIES_PER_TURN === ENTRIES_PER_TURN - 1) {
        await nextTurn();
        this.checkCancelled();
      }
      const key = new Uint8Array(keyBytes);
      const result = functions.bpf_map_get_next_key(this.#fd, previous, key);
      if (result === -ENOENT) {
        return { entries: entries(), next: null, changed };
      }
      if (result < 0) {
        throw this.#failure(-result);
      }
      if (steps > limit + this.#map.maxEntries) {
        // Entries come and go faster than they are read.
        return { entries: entries(), next: null, changed: true };
      }
      previous = key;
      const value = this.#lookup(key);
      // Arrays have a key for every place, also for those that hold nothing.
      if (value !== undefined && !given.some((known) => Buffer.compare(known, key) === 0)) {
        keys.set(key, count * keyBytes);
        values.set(value, count * this.#valueBytes);
        count += 1;
      }
    }
    const latest = Array.from({ length: Math.min(CURSOR_KEYS, count) }, (_, index) => toHexText(keys.subarray((count - 1 - index) * keyBytes, (count - index) * keyBytes)));
    return { entries: entries(), next: { map: this.#map.id, keys: latest, restarts }, changed };
  }

  #lookup(key: Uint8Array): Uint8Array | undefined {
    const value = new Uint8Array(this.#valueBytes);
    const result = this.#libbpf.functions.bpf_map_lookup_elem(this.#fd, key, value);
    if (result === -ENOENT) {
      return undefined;
    }
    if (result < 0) {
      throw this.#failure(-result);
    }
    return value;
  }

  #failure(errno: number): MeshpathError {
    return new MeshpathError({
      code: 'MAP_NOT_READABLE',
      message: `The entries of the map ${this.#map.id} cannot be read.`,
      reason: `The kernel answers ${this.#libbpf.describe(errno)} for a map of the type ${mapTypeName(this.#map.type)}.`,
      remedy: 'Look at its properties instead, or read it in the program that owns it.',
    });
  }
}

async function describeEntries(
  raw: RawEntries,
  map: RawMap,
  layout: { readonly valueBytes: number; readonly cpus: number },
  typing: MapTyping,
  checkCancelled: () => void,
): Promise<MapEntry[]> {
  // One conversion for the whole page is many times faster than one for each entry.
  const describeKey = describer(raw.keys, typing.decodeKey);
  const describeValue = describer(raw.values, typing.decodeValue);
  const stride = layout.valueBytes / layout.cpus;
  const entries: MapEntry[] = [];
  for (let index = 0; index < raw.count; index += 1) {
    if (index % ENTRIES_PER_TURN === ENTRIES_PER_TURN - 1) {
      await nextTurn();
      checkCancelled();
    }
    const values: TypedBytes[] = [];
    for (let cpu = 0; cpu < layout.cpus; cpu += 1) {
      values.push(describeValue(index * layout.valueBytes + cpu * stride, map.valueBytes));
    }
    entries.push({ key: describeKey(index * map.keyBytes, map.keyBytes), values });
  }
  return entries;
}

/** Gives the function that describes a part of these bytes. */
function describer(bytes: Uint8Array, decode: ValueDecoder | null): (start: number, length: number) => TypedBytes {
  const hex = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('hex');
  return (start, length) => ({
    bytes: hex.slice(start * 2, (start + length) * 2) as HexText,
    decoded: decode === null ? null : decode(bytes.subarray(start, start + length)),
  });
}

function parseCursor(text: string, map: RawMap): Cursor {
  const wrong = inputError(
    'The cursor is not one of this map.',
    'It was not given with a page of this map, or it was changed.',
    'Read the map from its beginning, with the cursor null.',
  );
  if (text.length > MAX_CURSOR_CHARACTERS) {
    throw wrong;
  }
  let value: unknown;
  try {
    value = JSON.parse(Buffer.from(text, 'base64url').toString('utf8'));
  } catch {
    throw wrong;
  }
  if (typeof value !== 'object' || value === null || !('map' in value) || value.map !== map.id) {
    throw wrong;
  }
  const isHex = (hex: unknown, bytes: number): hex is string => typeof hex === 'string' && hex.length === bytes * 2 && /^[0-9a-f]*$/.test(hex);
  if ('batch' in value && 'skip' in value) {
    const { batch, skip } = value;
    if ((batch === null || isHex(batch, Math.max(4, map.keyBytes))) && typeof skip === 'number' && Number.isInteger(skip) && skip >= 0 && skip <= map.maxEntries) {
      return { map: map.id, batch, skip };
    }
  }
  if ('keys' in value && Array.isArray(value.keys) && 'restarts' in value) {
    const keys: unknown[] = value.keys;
    const { restarts } = value;
    if (keys.length <= CURSOR_KEYS && keys.every((key) => isHex(key, map.keyBytes)) && typeof restarts === 'number' && restarts >= 0 && restarts <= MAX_RESTARTS) {
      return { map: map.id, keys, restarts };
    }
  }
  throw wrong;
}

/** How many CPUs there can be: the kernel gives a value for each of these, running or not. */
function possibleCpus(): number {
  const list = readFileSync('/sys/devices/system/cpu/possible', 'utf8').trim();
  return list
    .split(',')
    .map((range) => range.split('-').map(Number))
    .reduce((sum, [first = 0, last = first]) => sum + last - first + 1, 0);
}
