import { MeshpathError } from './errors.ts';

/**
 * BTF as programs and maps carry it (Documentation/bpf/btf.rst, include/uapi/linux/btf.h). It is untrusted: whoever
 * may load a program chooses its bytes. Everything that is read is checked against the limits below.
 */
export interface Btf {
  /** False where the bytes came from a big-endian machine; values that it describes have the same order. */
  readonly littleEndian: boolean;
  /** One more than the highest type id, the base of split BTF included. */
  readonly typeCount: number;
  /** Gives the type of an id; 0 is void. Throws BPF_OBJECT_INVALID where the id does not exist or the type is malformed. */
  readonly type: (id: number) => BtfType;
  /** Gives the ids of all types of this name, in ascending order. */
  readonly idsByName: (name: string) => readonly number[];
}

export interface BtfMember {
  readonly name: string;
  readonly type: number;
  readonly bitOffset: number;
  /** The width of a bitfield; 0 for a member that is none. */
  readonly bitfieldBits: number;
}

export interface BtfEnumerator {
  readonly name: string;
  readonly value: bigint;
}

export interface BtfSectionVariable {
  readonly type: number;
  readonly offset: number;
  readonly size: number;
}

export interface BtfParameter {
  readonly name: string;
  /** 0 with an empty name stands for `...`. */
  readonly type: number;
}

/** One type. `size` is in bytes; `type` is the id of the type that it is about. */
export type BtfType =
  | { readonly kind: 'void'; readonly name: '' }
  | {
      readonly kind: 'int';
      readonly name: string;
      readonly size: number;
      readonly signed: boolean;
      readonly boolean: boolean;
      /** Its width and place in its storage: bitfields of old compilers; else all of it. */
      readonly bits: number;
      readonly bitOffset: number;
    }
  | { readonly kind: 'pointer'; readonly name: string; readonly type: number }
  | { readonly kind: 'array'; readonly name: string; readonly type: number; readonly length: number }
  | { readonly kind: 'struct' | 'union'; readonly name: string; readonly size: number; readonly members: readonly BtfMember[] }
  | {
      readonly kind: 'enum';
      readonly name: string;
      readonly size: number;
      readonly signed: boolean;
      readonly enumerators: readonly BtfEnumerator[];
    }
  | { readonly kind: 'forward'; readonly name: string; readonly union: boolean }
  | { readonly kind: 'typedef' | 'volatile' | 'const' | 'restrict' | 'typeTag'; readonly name: string; readonly type: number }
  | { readonly kind: 'function'; readonly name: string; readonly type: number }
  | { readonly kind: 'prototype'; readonly name: string; readonly type: number; readonly parameters: readonly BtfParameter[] }
  | { readonly kind: 'variable'; readonly name: string; readonly type: number }
  | { readonly kind: 'section'; readonly name: string; readonly size: number; readonly variables: readonly BtfSectionVariable[] }
  | { readonly kind: 'float'; readonly name: string; readonly size: number }
  | { readonly kind: 'declarationTag'; readonly name: string; readonly type: number };

/** The most bytes of BTF that are read (the kernel's BTF_MAX_SIZE is 16 MiB). */
export const MAX_BTF_BYTES = 16 * 1024 * 1024;
/** The kernel's BTF_MAX_TYPE. */
const MAX_TYPES = 0x000f_ffff;
/** The kernel's MAX_RESOLVE_DEPTH. */
const MAX_DEPTH = 32;
/** The kernel's KSYM_NAME_LEN. */
const MAX_NAME_BYTES = 512;
/** The kernel keeps the first BPF_OBJ_NAME_LEN - 1 bytes of a map's name. */
const KERNEL_NAME_BYTES = 15;
const POINTER_BYTES = 8;

const MAGIC = 0xeb9f;
const HEADER_BYTES = 24;
const TYPE_BYTES = 12;

/** The kinds by their number in include/uapi/linux/btf.h, with the bytes that follow the type and each of its `vlen` elements. */
const KINDS: Readonly<Record<number, { readonly fixed: number; readonly element: number }>> = {
  1: { fixed: 4, element: 0 }, // int
  2: { fixed: 0, element: 0 }, // pointer
  3: { fixed: 12, element: 0 }, // array
  4: { fixed: 0, element: 12 }, // struct
  5: { fixed: 0, element: 12 }, // union
  6: { fixed: 0, element: 8 }, // enum
  7: { fixed: 0, element: 0 }, // forward
  8: { fixed: 0, element: 0 }, // typedef
  9: { fixed: 0, element: 0 }, // volatile
  10: { fixed: 0, element: 0 }, // const
  11: { fixed: 0, element: 0 }, // restrict
  12: { fixed: 0, element: 0 }, // function: vlen is its linkage
  13: { fixed: 0, element: 8 }, // prototype
  14: { fixed: 4, element: 0 }, // variable
  15: { fixed: 0, element: 12 }, // section
  16: { fixed: 0, element: 0 }, // float
  17: { fixed: 4, element: 0 }, // declaration tag
  18: { fixed: 0, element: 0 }, // type tag
  19: { fixed: 0, element: 12 }, // enum64
};

/** A Btf with what split BTF on top of it needs to know. */
interface ParsedBtf extends Btf {
  readonly stringBytes: number;
  readonly string: (offset: number) => string;
}

/**
 * Parses raw BTF: the bytes of /sys/kernel/btf/*, of a `.BTF` section, or of bpf_btf_info.btf.
 * `base` is what split BTF (of kernel modules) builds upon: its types and strings come first.
 * Types are decoded when they are asked for; what is checked here is the frame of all of them.
 * Throws BPF_OBJECT_INVALID where the bytes are not BTF, LIMIT_EXCEEDED where they are too many.
 */
export function parseBtf(bytes: Uint8Array, base?: Btf): Btf {
  if (bytes.length > MAX_BTF_BYTES) {
    throw new MeshpathError({
      code: 'LIMIT_EXCEEDED',
      message: 'The type information (BTF) is too large to be read.',
      reason: `It has ${bytes.length} bytes; the kernel and Meshpath take up to ${MAX_BTF_BYTES}.`,
      remedy: 'Rebuild the object that carries it; the values are shown as bytes until then.',
    });
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < HEADER_BYTES) {
    throw invalid(`it has ${bytes.length} bytes and a header needs ${HEADER_BYTES}`);
  }
  const littleEndian = view.getUint16(0, true) === MAGIC;
  if (!littleEndian && view.getUint16(0, false) !== MAGIC) {
    throw invalid('it does not begin with the magic number 0xeb9f');
  }
  const word = (at: number): number => view.getUint32(at, littleEndian);
  if (view.getUint8(2) !== 1) {
    throw invalid(`its version is ${view.getUint8(2)} and only 1 is known`);
  }
  const headerBytes = word(4);
  const types = { start: headerBytes + word(8), length: word(12) };
  const strings = { start: headerBytes + word(16), length: word(20) };
  if (headerBytes < HEADER_BYTES) {
    throw invalid(`its header says that it has ${headerBytes} bytes`);
  }
  for (const [what, section] of [['types', types], ['strings', strings]] as const) {
    if (section.start + section.length > bytes.length) {
      throw invalid(`its ${what} end at byte ${section.start + section.length} of ${bytes.length}`);
    }
  }

  const parsedBase = base === undefined ? undefined : asParsed(base);
  const firstString = parsedBase?.stringBytes ?? 0;
  const firstType = parsedBase?.typeCount ?? 1;
  const offsets = frameTypes(view, littleEndian, types, firstType);
  const stringSection = bytes.subarray(strings.start, strings.start + strings.length);
  const decodeText = new TextDecoder('utf-8', { fatal: false });

  const names = new Map<number, string>();
  const string = (offset: number): string => {
    const known = names.get(offset);
    if (known !== undefined) {
      return known;
    }
    const name = readName(offset);
    names.set(offset, name);
    return name;
  };
  const readName = (offset: number): string => {
    if (parsedBase !== undefined && offset < firstString) {
      return parsedBase.string(offset);
    }
    const start = offset - firstString;
    if (offset === 0) {
      return '';
    }
    if (start >= stringSection.length) {
      throw invalid(`a name is at byte ${offset} of strings that end at ${firstString + stringSection.length}`);
    }
    const end = stringSection.subarray(start, start + MAX_NAME_BYTES).indexOf(0);
    if (end < 0) {
      throw invalid(`the name at byte ${offset} does not end within ${MAX_NAME_BYTES} bytes`);
    }
    return decodeText.decode(stringSection.subarray(start, start + end));
  };

  const typeCount = firstType + offsets.length;
  const decoded = new Map<number, BtfType>();
  const type = (id: number): BtfType => {
    if (id === 0) {
      return VOID;
    }
    if (parsedBase !== undefined && id < firstType) {
      return parsedBase.type(id);
    }
    const known = decoded.get(id);
    if (known !== undefined) {
      return known;
    }
    const at = offsets[id - firstType];
    if (at === undefined) {
      throw invalid(`it has no type ${id}`);
    }
    const made = decodeType(word, string, at);
    decoded.set(id, made);
    return made;
  };

  let byName: Map<string, number[]> | undefined;
  const idsByName = (name: string): readonly number[] => {
    if (byName === undefined) {
      byName = new Map();
      for (const [index, at] of offsets.entries()) {
        const nameOffset = word(at);
        if (nameOffset !== 0) {
          const key = string(nameOffset);
          const ids = byName.get(key);
          if (ids === undefined) {
            byName.set(key, [firstType + index]);
          } else {
            ids.push(firstType + index);
          }
        }
      }
    }
    return [...(parsedBase?.idsByName(name) ?? []), ...(byName.get(name) ?? [])];
  };

  const parsed: ParsedBtf = { littleEndian, typeCount, type, idsByName, string, stringBytes: firstString + strings.length };
  return parsed;
}

/** Gives the type that typedefs, const, volatile, restrict and tags stand for, with the names of the typedefs on the way. */
export function resolveType(btf: Btf, id: number): { readonly id: number; readonly type: BtfType; readonly typedefs: readonly string[] } {
  const typedefs: string[] = [];
  let current = id;
  for (let depth = 0; depth < MAX_DEPTH; depth += 1) {
    const type = btf.type(current);
    if (type.kind === 'typedef') {
      typedefs.push(type.name);
    }
    if (!isModifier(type) && type.kind !== 'variable') {
      return { id: current, type, typedefs };
    }
    current = type.type;
  }
  throw tooDeep(id);
}

/** Gives the size of a type in bytes; undefined for one that has none (void, functions, forward declarations). */
export function sizeOfType(btf: Btf, id: number): number | undefined {
  let factor = 1;
  let current = id;
  for (let depth = 0; depth < MAX_DEPTH; depth += 1) {
    const { type } = resolveType(btf, current);
    switch (type.kind) {
      case 'int':
      case 'struct':
      case 'union':
      case 'enum':
      case 'section':
      case 'float':
        return factor * type.size;
      case 'pointer':
        return factor * POINTER_BYTES;
      case 'array':
        factor *= type.length;
        current = type.type;
        break;
      default:
        return undefined;
    }
  }
  throw tooDeep(id);
}

/** Gives a type as C writes it without a declarator: `struct connection_key`, `__u32`, `const char *`, `__be32[4]`. */
export function typeName(btf: Btf, id: number): string {
  return nameAtDepth(btf, id, 0);
}

export interface MapTypes {
  /** The name as the source declares it: the kernel keeps 15 bytes. */
  readonly name: string;
  readonly key: number | null;
  readonly value: number | null;
}

/**
 * Finds how a program's object declares a map: the variable of this name in the section `.maps` is a struct whose
 * members `key` and `value` point to the types (libbpf's BTF-defined maps). The kernel keeps no BTF for sockmap,
 * sockhash and a few more, so that this is the only way to their types.
 * `name` is the kernel's name of the map, cut at 15 bytes; types whose sizes are not those of the map are left out.
 * Gives undefined where no declaration fits, or more than one does.
 */
export function findMapTypes(btf: Btf, name: string, sizes: { readonly key: number; readonly value: number }): MapTypes | undefined {
  const found: MapTypes[] = [];
  for (const sectionId of btf.idsByName('.maps')) {
    const section = btf.type(sectionId);
    if (section.kind !== 'section') {
      continue;
    }
    for (const variable of section.variables) {
      const declared = btf.type(variable.type);
      if (declared.kind !== 'variable' || !isKernelNameOf(name, declared.name)) {
        continue;
      }
      const { type } = resolveType(btf, declared.type);
      if (type.kind === 'struct') {
        found.push({
          name: declared.name,
          key: memberTarget(btf, type.members, 'key', sizes.key),
          value: memberTarget(btf, type.members, 'value', sizes.value),
        });
      }
    }
  }
  return found.length === 1 ? found[0] : undefined;
}

function isKernelNameOf(kernelName: string, declared: string): boolean {
  return kernelName === declared || (kernelName.length === KERNEL_NAME_BYTES && declared.startsWith(kernelName));
}

function memberTarget(btf: Btf, members: readonly BtfMember[], name: string, size: number): number | null {
  const member = members.find((candidate) => candidate.name === name);
  if (member === undefined) {
    return null;
  }
  const { type } = resolveType(btf, member.type);
  return type.kind === 'pointer' && sizeOfType(btf, type.type) === size ? type.type : null;
}

const VOID: BtfType = { kind: 'void', name: '' };

function isModifier(type: BtfType): type is Extract<BtfType, { kind: 'typedef' | 'volatile' | 'const' | 'restrict' | 'typeTag' }> {
  return (
    type.kind === 'typedef' || type.kind === 'volatile' || type.kind === 'const' || type.kind === 'restrict' || type.kind === 'typeTag'
  );
}

function nameAtDepth(btf: Btf, id: number, depth: number): string {
  if (depth > MAX_DEPTH) {
    throw tooDeep(id);
  }
  const type = btf.type(id);
  switch (type.kind) {
    case 'void':
      return 'void';
    case 'struct':
    case 'union':
    case 'enum':
      return `${type.kind} ${type.name === '' ? '{…}' : type.name}`;
    case 'forward':
      return `${type.union ? 'union' : 'struct'} ${type.name}`;
    case 'pointer': {
      const target = nameAtDepth(btf, type.type, depth + 1);
      if (btf.type(type.type).kind === 'prototype') {
        return target.replace('(', '(*)(');
      }
      return target.endsWith('*') ? `${target}*` : `${target} *`;
    }
    case 'array': {
      const element = nameAtDepth(btf, type.type, depth + 1);
      const inner = btf.type(type.type).kind === 'array' ? element.indexOf('[') : element.length;
      return `${element.slice(0, inner)}[${type.length}]${element.slice(inner)}`;
    }
    case 'const':
    case 'volatile':
    case 'restrict': {
      const target = nameAtDepth(btf, type.type, depth + 1);
      return target.endsWith('*') ? `${target} ${type.kind}` : `${type.kind} ${target}`;
    }
    case 'typeTag':
    case 'variable':
      return nameAtDepth(btf, type.type, depth + 1);
    case 'prototype':
      return `${nameAtDepth(btf, type.type, depth + 1)} (…)`;
    default:
      return type.name;
  }
}

function asParsed(btf: Btf): ParsedBtf {
  if ('string' in btf && 'stringBytes' in btf) {
    return btf as ParsedBtf;
  }
  throw new TypeError('the base of split BTF must come from parseBtf');
}

/** Walks over all types once and gives the byte offset of each. */
function frameTypes(
  view: DataView,
  littleEndian: boolean,
  section: { readonly start: number; readonly length: number },
  firstType: number,
): number[] {
  const offsets: number[] = [];
  const end = section.start + section.length;
  let at = section.start;
  while (at < end) {
    if (at + TYPE_BYTES > end) {
      throw invalid(`type ${firstType + offsets.length} ends behind the types`);
    }
    const info = view.getUint32(at + 4, littleEndian);
    const number = kindNumber(info);
    const kind = KINDS[number];
    if (kind === undefined) {
      throw invalid(`type ${firstType + offsets.length} is of the unknown kind ${number}`);
    }
    if (firstType + offsets.length > MAX_TYPES) {
      throw invalid(`it has more than ${MAX_TYPES} types`);
    }
    offsets.push(at);
    at += TYPE_BYTES + kind.fixed + kind.element * elementCount(info);
  }
  if (at !== end) {
    throw invalid(`type ${firstType + offsets.length - 1} ends behind the types`);
  }
  return offsets;
}

function kindNumber(info: number): number {
  return (info >>> 24) & 0x1f;
}

function elementCount(info: number): number {
  return info & 0xffff;
}

/** Decodes the type at byte `at`; frameTypes has checked that all of its bytes are there. */
function decodeType(word: (at: number) => number, string: (offset: number) => string, at: number): BtfType {
  const info = word(at + 4);
  const name = string(word(at));
  const third = word(at + 8);
  const flag = info >>> 31 === 1;
  const data = at + TYPE_BYTES;
  const count = elementCount(info);
  const elements = <T>(bytes: number, read: (element: number) => T): T[] =>
    Array.from({ length: count }, (_, index) => read(data + index * bytes));
  const number = kindNumber(info);
  switch (number) {
    case 1: {
      const encoding = word(data);
      const bits = encoding & 0xff;
      if (third < 1 || third > 16 || bits < 1 || bits + ((encoding >>> 16) & 0xff) > third * 8) {
        throw invalid(`the integer '${name}' has ${third} bytes and ${bits} bits`);
      }
      return {
        kind: 'int',
        name,
        size: third,
        signed: (encoding & 0x0100_0000) !== 0,
        boolean: (encoding & 0x0400_0000) !== 0,
        bits,
        bitOffset: (encoding >>> 16) & 0xff,
      };
    }
    case 2:
      return { kind: 'pointer', name, type: third };
    case 3:
      return { kind: 'array', name, type: word(data), length: word(data + 8) };
    case 4:
    case 5:
      return {
        kind: number === 4 ? 'struct' : 'union',
        name,
        size: third,
        members: elements(12, (element) => {
          const offset = word(element + 8);
          return {
            name: string(word(element)),
            type: word(element + 4),
            bitOffset: flag ? offset & 0x00ff_ffff : offset,
            bitfieldBits: flag ? offset >>> 24 : 0,
          };
        }),
      };
    case 6:
      return {
        kind: 'enum',
        name,
        size: enumSize(name, third),
        signed: flag,
        enumerators: elements(8, (element) => {
          const value = word(element + 4);
          return { name: string(word(element)), value: BigInt(flag ? value | 0 : value) };
        }),
      };
    case 7:
      return { kind: 'forward', name, union: flag };
    case 8:
      return { kind: 'typedef', name, type: third };
    case 9:
      return { kind: 'volatile', name, type: third };
    case 10:
      return { kind: 'const', name, type: third };
    case 11:
      return { kind: 'restrict', name, type: third };
    case 12:
      return { kind: 'function', name, type: third };
    case 13:
      return {
        kind: 'prototype',
        name,
        type: third,
        parameters: elements(8, (element) => ({ name: string(word(element)), type: word(element + 4) })),
      };
    case 14:
      return { kind: 'variable', name, type: third };
    case 15:
      return {
        kind: 'section',
        name,
        size: third,
        variables: elements(12, (element) => ({ type: word(element), offset: word(element + 4), size: word(element + 8) })),
      };
    case 16:
      return { kind: 'float', name, size: third };
    case 17:
      return { kind: 'declarationTag', name, type: third };
    case 18:
      return { kind: 'typeTag', name, type: third };
    default:
      return {
        kind: 'enum',
        name,
        size: enumSize(name, third),
        signed: flag,
        enumerators: elements(12, (element) => {
          const value = (BigInt(word(element + 8)) << 32n) | BigInt(word(element + 4));
          return { name: string(word(element)), value: flag ? BigInt.asIntN(64, value) : value };
        }),
      };
  }
}

function enumSize(name: string, size: number): number {
  if (size !== 1 && size !== 2 && size !== 4 && size !== 8) {
    throw invalid(`the enum '${name}' has ${size} bytes`);
  }
  return size;
}

function invalid(reason: string): MeshpathError {
  return new MeshpathError({
    code: 'BPF_OBJECT_INVALID',
    message: 'The type information (BTF) cannot be read.',
    reason: `${reason[0]?.toUpperCase() ?? ''}${reason.slice(1)}.`,
    remedy: 'Rebuild the object that carries it with a current clang and libbpf; its values are shown as bytes until then.',
  });
}

function tooDeep(id: number): MeshpathError {
  return invalid(`type ${id} leads through more than ${MAX_DEPTH} other types`);
}
