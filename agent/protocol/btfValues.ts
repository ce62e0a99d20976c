import { resolveType, sizeOfType, typeName } from './btf.ts';
import type { Btf, BtfMember, BtfType } from './btf.ts';
import { formatIpAddress } from './ipAddress.ts';
import type { DecodedField, DecodedValue } from './mapEntries.ts';
import { toHexText, toPortNumber } from './scalars.ts';

/** The most elements of one array that are shown; the others are counted. */
export const MAX_ARRAY_ELEMENTS = 256;
/** The most parts of one value that are decoded; what is beyond is shown as bytes. */
const MAX_PARTS = 4_096;
/** The deepest nesting that is decoded. */
const MAX_DEPTH = 32;
const MAX_SAFE = BigInt(Number.MAX_SAFE_INTEGER);
const MAX_PORT = 0xffff;

/** Decodes one value of a fixed type. */
export type ValueDecoder = (bytes: Uint8Array) => DecodedValue;

/**
 * Decodes the bytes of one value by its type. Numbers are read in the byte order of the BTF. Meaning comes from types
 * and names: `__be32 …addr` and `struct in6_addr` are addresses, `__be16` and fields named `…port` are ports.
 * Where the bytes are not as many as the type has, and for what BTF does not describe, gives `bytes`.
 * Throws BPF_OBJECT_INVALID where the BTF contradicts itself.
 */
export function decodeValue(btf: Btf, typeId: number, bytes: Uint8Array): DecodedValue {
  return createDecoder(btf, typeId)(bytes);
}

/** Like decodeValue for many values of one type: what the type means is found out once. */
export function createDecoder(btf: Btf, typeId: number): ValueDecoder {
  const size = sizeOfType(btf, typeId);
  const compile = new Compiler(btf);
  const part = compile.part(typeId, '');
  return (bytes) => {
    if (size === undefined || bytes.length !== size) {
      return { kind: 'bytes', value: toHexText(bytes) };
    }
    return part(bytes, { parts: MAX_PARTS, depth: MAX_DEPTH });
  };
}

/** What is left of the limits while one value is decoded. */
interface Budget {
  parts: number;
  depth: number;
}

/** Decodes one part from exactly its own bytes. */
type PartDecoder = (bytes: Uint8Array, budget: Budget) => DecodedValue;

const asBytes: PartDecoder = (bytes) => ({ kind: 'bytes', value: toHexText(bytes) });

/** Finds the decoder of each type of one BTF, once for each type and name of field. Members are compiled when they are first met. */
class Compiler {
  readonly #btf: Btf;
  readonly #utf8 = new TextDecoder('utf-8', { fatal: true });
  readonly #known = new Map<string, PartDecoder>();
  readonly #enumerators = new WeakMap<BtfType, ReadonlyMap<bigint, string>>();

  constructor(btf: Btf) {
    this.#btf = btf;
  }

  /** Gives the decoder of a type; `field` is the name of the member that has it, empty for none. */
  part(typeId: number, field: string): PartDecoder {
    const key = `${typeId}:${field}`;
    const known = this.#known.get(key);
    if (known !== undefined) {
      return known;
    }
    const made = this.#compile(typeId, field);
    this.#known.set(key, made);
    return made;
  }

  #compile(typeId: number, field: string): PartDecoder {
    const { id, type, typedefs } = resolveType(this.#btf, typeId);
    switch (type.kind) {
      case 'int':
        return this.#integer(type, typedefs, field);
      case 'pointer':
        return (bytes) => ({ kind: 'wide', value: `0x${this.#unsigned(bytes).toString(16)}` });
      case 'enum': {
        const names = this.#namesOf(type);
        return (bytes) => enumValue(this.#unsigned(bytes), type.size * 8, type.signed, names);
      }
      case 'array':
        return this.#array(type.type, type.length, field);
      case 'struct':
      case 'union':
        return isAddressStruct(type) ? decodeAddress : this.#structure(type.name === '' ? (typedefs[0] ?? typeName(this.#btf, id)) : typeName(this.#btf, id), type.members);
      case 'section':
        return this.#structure(
          type.name,
          type.variables.map((variable) => ({
            name: this.#btf.type(variable.type).name,
            type: variable.type,
            bitOffset: variable.offset * 8,
            bitfieldBits: 0,
          })),
        );
      default:
        return asBytes;
    }
  }

  #integer(type: Extract<BtfType, { kind: 'int' }>, typedefs: readonly string[], field: string): PartDecoder {
    if (type.bits !== type.size * 8) {
      return (bytes) => integerValue(extractBits(bytes, type.bitOffset, type.bits, this.#btf.littleEndian), type.bits, type);
    }
    const networkOrder = typedefs.some((name) => name === '__be16' || name === '__be32' || name === '__be64');
    if (networkOrder && type.size === 4 && isAddressName(field)) {
      return decodeAddress;
    }
    if (networkOrder && type.size === 2 && !isOtherNetworkField(field)) {
      return (bytes) => ({ kind: 'port', value: toPortNumber(smallNumber(bytes, false)) });
    }
    const isLittle = this.#btf.littleEndian && !networkOrder;
    if (!networkOrder && isPortName(field) && (type.size === 2 || type.size === 4) && !type.boolean) {
      return (bytes) => {
        const value = smallNumber(bytes, isLittle);
        return value <= MAX_PORT ? { kind: 'port', value: toPortNumber(value) } : { kind: 'number', value };
      };
    }
    if (type.size <= 4 && !type.boolean) {
      // Most of what maps hold: worth its own way around big numbers.
      const shift = 32 - type.size * 8;
      return type.signed
        ? (bytes) => ({ kind: 'number', value: (smallNumber(bytes, isLittle) << shift) >> shift })
        : (bytes) => ({ kind: 'number', value: smallNumber(bytes, isLittle) });
    }
    return (bytes) => integerValue(wideNumber(bytes, isLittle), type.size * 8, type);
  }

  #namesOf(type: Extract<BtfType, { kind: 'enum' }>): ReadonlyMap<bigint, string> {
    let names = this.#enumerators.get(type);
    if (names === undefined) {
      names = new Map(type.enumerators.map((enumerator) => [enumerator.value, enumerator.name]));
      this.#enumerators.set(type, names);
    }
    return names;
  }

  #array(elementId: number, length: number, field: string): PartDecoder {
    const { type, typedefs } = resolveType(this.#btf, elementId);
    if (type.kind === 'int' && type.name === 'char' && type.size === 1) {
      return (bytes) => this.#text(bytes);
    }
    if (typedefs.includes('__be32') && length === 4 && isAddressName(field)) {
      return decodeAddress;
    }
    const size = sizeOfType(this.#btf, elementId);
    if (size === undefined || size === 0) {
      return asBytes;
    }
    if (type.kind === 'int' && size === 1 && !type.boolean) {
      return asBytes;
    }
    const element = this.part(elementId, field);
    return (bytes, budget) => {
      const shown = Math.min(length, MAX_ARRAY_ELEMENTS);
      const elements: DecodedValue[] = [];
      while (elements.length < shown && budget.parts > 0) {
        budget.parts -= 1;
        elements.push(element(bytes.subarray(elements.length * size, (elements.length + 1) * size), budget));
      }
      return { kind: 'array', elements, omitted: length - elements.length };
    };
  }

  #structure(name: string, members: readonly BtfMember[]): PartDecoder {
    const fields: FieldDecoder[] = [];
    return (bytes, budget) => {
      if (budget.depth === 0 || budget.parts < members.length) {
        return asBytes(bytes, budget);
      }
      budget.depth -= 1;
      budget.parts -= members.length;
      const decoded: DecodedField[] = [];
      for (const [index, member] of members.entries()) {
        const field = (fields[index] ??= this.#field(member));
        // A member that reaches over the end of its struct is malformed BTF: the bytes are shown.
        decoded.push({ name: member.name, value: (field.end > bytes.length ? asBytes : field.decode)(bytes, budget) });
      }
      budget.depth += 1;
      return { kind: 'struct', typeName: name, fields: decoded };
    };
  }

  #field(member: BtfMember): FieldDecoder {
    const { name, type: typeId, bitOffset, bitfieldBits } = member;
    if (bitfieldBits > 0 || bitOffset % 8 !== 0) {
      return this.#bitfield(member);
    }
    const start = bitOffset / 8;
    const size = sizeOfType(this.#btf, typeId) ?? 0;
    const part = this.part(typeId, name);
    return { end: start + size, decode: (bytes, budget) => part(bytes.subarray(start, start + size), budget) };
  }

  #bitfield({ type: typeId, bitOffset, bitfieldBits }: BtfMember): FieldDecoder {
    const { type } = resolveType(this.#btf, typeId);
    const bits = bitfieldBits > 0 ? bitfieldBits : type.kind === 'int' ? type.bits : 0;
    const end = Math.ceil((bitOffset + bits) / 8);
    const read = (bytes: Uint8Array): bigint => extractBits(bytes, bitOffset, bits, this.#btf.littleEndian);
    if (type.kind === 'int') {
      return { end, decode: (bytes) => integerValue(read(bytes), bits, type) };
    }
    if (type.kind === 'enum') {
      const names = this.#namesOf(type);
      return { end, decode: (bytes) => enumValue(read(bytes), bits, type.signed, names) };
    }
    return { end, decode: (bytes, budget) => asBytes(bytes.subarray(Math.floor(bitOffset / 8), end), budget) };
  }

  #unsigned(bytes: Uint8Array): bigint {
    return wideNumber(bytes, this.#btf.littleEndian);
  }

  #text(bytes: Uint8Array): DecodedValue {
    const end = bytes.indexOf(0);
    try {
      return { kind: 'text', value: this.#utf8.decode(end < 0 ? bytes : bytes.subarray(0, end)) };
    } catch {
      // Bytes that are not UTF-8 are no text to show.
      return { kind: 'bytes', value: toHexText(bytes) };
    }
  }
}

interface FieldDecoder {
  /** The byte behind its last one. */
  readonly end: number;
  readonly decode: PartDecoder;
}

const decodeAddress: PartDecoder = (bytes) => ({ kind: 'address', value: formatIpAddress(bytes) });

function isAddressStruct(type: Extract<BtfType, { kind: 'struct' | 'union' }>): boolean {
  return (
    ((type.name === 'in6_addr' || type.name === 'ip_address') && type.size === 16) || (type.name === 'in_addr' && type.size === 4)
  );
}

function isAddressName(field: string): boolean {
  return (
    /^(?:.*_)?[sd]?(?:addr(?:ess)?|ip[46]?)(?:_.*|\d)?$/.test(field) ||
    /[a-z](?:Addr|Address|Ip[46]?)$/.test(field) ||
    /^(?:src|dst|source|destination|local|remote|original)$/.test(field)
  );
}

function isPortName(field: string): boolean {
  return /(?:^|_)(?:[sdlr]|src|dst|dest)?port$|[a-z]Port$/.test(field);
}

/** Fields of protocol headers in network order that hold something else than a port. */
function isOtherNetworkField(field: string): boolean {
  return /proto|len|(?:^|_)id$|off|check|csum|flags|tci|vlan|win|urg|family|type/i.test(field);
}

function integerValue(raw: bigint, bits: number, type: { readonly signed: boolean; readonly boolean: boolean }): DecodedValue {
  if (type.boolean && raw <= 1n) {
    return { kind: 'boolean', value: raw === 1n };
  }
  const value = type.signed ? BigInt.asIntN(bits, raw) : raw;
  return bits <= 32 ? { kind: 'number', value: Number(value) } : { kind: 'wide', value: value.toString() };
}

function enumValue(raw: bigint, bits: number, signed: boolean, names: ReadonlyMap<bigint, string>): DecodedValue {
  const value = signed ? BigInt.asIntN(bits, raw) : raw;
  if (value > MAX_SAFE || value < -MAX_SAFE) {
    return { kind: 'wide', value: value.toString() };
  }
  return { kind: 'enum', value: Number(value), name: names.get(value) ?? null };
}

/** Gives `bits` bits from bit `offset` on: bit 0 is the lowest of byte 0 (little endian), or its highest (big endian). */
function extractBits(bytes: Uint8Array, offset: number, bits: number, isLittleEndian: boolean): bigint {
  const first = Math.floor(offset / 8);
  const end = Math.ceil((offset + bits) / 8);
  const part = bytes.subarray(first, end);
  const shift = isLittleEndian ? offset - first * 8 : end * 8 - (offset + bits);
  return BigInt.asUintN(bits, wideNumber(part, isLittleEndian) >> BigInt(shift));
}

/** Reads up to 4 bytes. */
function smallNumber(bytes: Uint8Array, isLittleEndian: boolean): number {
  let value = 0;
  for (let index = 0; index < bytes.length; index += 1) {
    value = value * 256 + (bytes[isLittleEndian ? bytes.length - 1 - index : index] ?? 0);
  }
  return value;
}

/** Reads any number of bytes, 4 at a time. */
function wideNumber(bytes: Uint8Array, isLittleEndian: boolean): bigint {
  let value = 0n;
  for (let done = 0; done < bytes.length; done += 4) {
    const count = Math.min(4, bytes.length - done);
    const part = isLittleEndian ? bytes.subarray(bytes.length - done - count, bytes.length - done) : bytes.subarray(done, done + count);
    value = (value << BigInt(count * 8)) | BigInt(smallNumber(part, isLittleEndian));
  }
  return value;
}
