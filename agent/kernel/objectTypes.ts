import { findMapTypes, typeName } from '../protocol/btf.ts';
import type { Btf } from '../protocol/btf.ts';
import { createDecoder } from '../protocol/btfValues.ts';
import type { ValueDecoder } from '../protocol/btfValues.ts';
import { MeshpathError } from '../protocol/errors.ts';
import type { RawMap, RawProgram } from '../libbpf/introspection.ts';
import type { BtfObjects } from './btfObjects.ts';

/** What BTF tells about the types of a map. */
export interface MapTyping {
  /** The full name, where a program's declaration has it. */
  readonly name: string | null;
  readonly keyType: string | null;
  readonly valueType: string | null;
  readonly decodeKey: ValueDecoder | null;
  readonly decodeValue: ValueDecoder | null;
}

/**
 * Finds the types of a map's keys and values: in the BTF that the kernel keeps for the map, else in the declaration of the map
 * in a program that uses it. `programBtfIds` are the BTF ids of those programs.
 */
export function typeMap(map: RawMap, programBtfIds: readonly number[], btfObjects: BtfObjects): MapTyping {
  const own = btfObjects.get(map.btfId);
  if (own !== undefined && (map.keyTypeId !== 0 || map.valueTypeId !== 0)) {
    return { name: declaredName(own, map), ...describe(own, map.keyTypeId, map.valueTypeId) };
  }
  for (const id of new Set(programBtfIds)) {
    const btf = btfObjects.get(id);
    const found = btf === undefined ? undefined : tolerant(() => findMapTypes(btf, map.name, { key: map.keyBytes, value: map.valueBytes }));
    if (btf !== undefined && found !== undefined) {
      return { name: found.name, ...describe(btf, found.key ?? 0, found.value ?? 0) };
    }
  }
  return { name: null, keyType: null, valueType: null, decodeKey: null, decodeValue: null };
}

/** Gives the full name of a program: that of its first function, where its BTF has it. */
export function fullProgramName(program: RawProgram, btfObjects: BtfObjects): string {
  const btf = btfObjects.get(program.btfId);
  if (btf === undefined || program.functionTypeId === 0) {
    return program.name;
  }
  const type = tolerant(() => btf.type(program.functionTypeId));
  return type?.kind === 'function' && type.name.startsWith(program.name) ? type.name : program.name;
}

function declaredName(btf: Btf, map: RawMap): string | null {
  return tolerant(() => findMapTypes(btf, map.name, { key: map.keyBytes, value: map.valueBytes }))?.name ?? null;
}

function describe(btf: Btf, key: number, value: number): Omit<MapTyping, 'name'> {
  const name = (id: number): string | null => (id === 0 ? null : (tolerant(() => typeName(btf, id)) ?? null));
  const decoder = (id: number): ValueDecoder | null => (id === 0 ? null : (tolerant(() => createDecoder(btf, id)) ?? null));
  return { keyType: name(key), valueType: name(value), decodeKey: decoder(key), decodeValue: decoder(value) };
}

/** BTF that contradicts itself tells nothing; the object is then shown without it. */
function tolerant<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch (error) {
    if (MeshpathError.is(error, 'BPF_OBJECT_INVALID')) {
      return undefined;
    }
    throw error;
  }
}
