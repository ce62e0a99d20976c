import { createDecoder } from '../../agent/protocol/btfValues.ts';
import type { ValueDecoder } from '../../agent/protocol/btfValues.ts';
import { inputError, MeshpathError } from '../../agent/protocol/errors.ts';
import { MAX_PAGE_ENTRIES } from '../../agent/protocol/mapEntries.ts';
import type { MapEntry, MapPage, TypedBytes } from '../../agent/protocol/mapEntries.ts';
import type { MapEntriesParams } from '../../agent/protocol/methods.ts';
import { toHexText } from '../../agent/protocol/scalars.ts';
import type { RegisteredMap } from './objectRegistry.ts';

/** Gives entries of a map with keys and values decoded by the BTF of its object. */
export function readEntries({ map, datapath }: RegisteredMap, from: number, count: number): readonly MapEntry[] {
  const { keyType, valueType } = map.definition;
  const decodeKey = keyType === 0 ? null : createDecoder(datapath.btf, keyType);
  const decodeValue = valueType === 0 ? null : createDecoder(datapath.btf, valueType);
  return map
    .entries()
    .slice(from, from + count)
    .map((entry) => ({ key: typedBytes(entry.key, decodeKey), values: entry.values.map((value) => typedBytes(value, decodeValue)) }));
}

/**
 * Reads one page. Throws INPUT_INVALID where the limit is out of range or the cursor is none of this map, and
 * MAP_NOT_READABLE where the map's entries cannot be listed.
 */
export function readPage(registered: RegisteredMap, params: MapEntriesParams, readAt: string): MapPage {
  const { info, map } = registered;
  const { limit, cursor } = params;
  if (!Number.isInteger(limit) || limit < 1 || limit > MAX_PAGE_ENTRIES) {
    throw inputError(`A page of ${limit} entries cannot be read.`, `A page has 1 to ${MAX_PAGE_ENTRIES} entries.`, 'Ask for fewer entries and read on with the cursor of the page.');
  }
  if (!info.readable.ok) {
    throw new MeshpathError({
      code: 'MAP_NOT_READABLE',
      message: `The entries of the map ${info.name} cannot be read.`,
      reason: info.readable.reason,
      remedy: 'Look at its properties instead, or read it in the program that owns it.',
    });
  }
  const start = cursor === null ? 0 : parseCursor(cursor, info.id);
  const end = start + limit;
  return {
    mapId: info.id,
    entries: readEntries(registered, start, limit),
    nextCursor: end < map.entries().length ? `${info.id}.${end}` : null,
    changedDuringRead: false,
    readAt,
  };
}

function parseCursor(cursor: string, mapId: number): number {
  const match = /^(\d{1,10})\.(\d{1,8})$/.exec(cursor);
  if (match === null || Number(match[1]) !== mapId) {
    throw inputError('The cursor is not one of this map.', 'It was not given with a page of this map, or it was changed.', 'Read the map from its beginning, with the cursor null.');
  }
  return Number(match[2]);
}

function typedBytes(bytes: Uint8Array, decode: ValueDecoder | null): TypedBytes {
  return { bytes: toHexText(bytes), decoded: decode === null ? null : decode(bytes) };
}
