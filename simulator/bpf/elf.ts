import { MeshpathError } from '../../agent/protocol/errors.ts';

/** A section of an object file with its bytes (empty for those that take none). */
export interface ElfSection {
  readonly index: number;
  readonly name: string;
  readonly type: number;
  readonly flags: bigint;
  /** The bytes that it has in memory; for SHT_NOBITS more than `bytes`. */
  readonly size: number;
  readonly bytes: Uint8Array;
  readonly link: number;
  readonly info: number;
}

export interface ElfSymbol {
  readonly name: string;
  /** STT_NOTYPE 0, STT_OBJECT 1, STT_FUNC 2, STT_SECTION 3. */
  readonly type: number;
  /** STB_LOCAL 0, STB_GLOBAL 1, STB_WEAK 2. */
  readonly binding: number;
  /** The index of its section; 0 where another object would have to define it. */
  readonly section: number;
  readonly value: number;
  readonly size: number;
}

export interface ElfRelocation {
  /** Where in the section that it applies to. */
  readonly offset: number;
  readonly type: number;
  readonly symbol: ElfSymbol;
}

export interface ElfObject {
  readonly sections: readonly ElfSection[];
  readonly symbols: readonly ElfSymbol[];
  /** The relocations of each section that has some, by its index. */
  readonly relocations: ReadonlyMap<number, readonly ElfRelocation[]>;
}

export const SECTION_TYPE = { PROGBITS: 1, SYMTAB: 2, STRTAB: 3, RELA: 4, NOBITS: 8, REL: 9 } as const;
export const SECTION_FLAG = { WRITE: 1n, ALLOC: 2n, EXECUTABLE: 4n } as const;
export const SYMBOL_TYPE = { NONE: 0, OBJECT: 1, FUNCTION: 2, SECTION: 3 } as const;

/** The largest object that is read. */
const MAX_OBJECT_BYTES = 16 * 1024 * 1024;
const MAX_SECTIONS = 4_096;
const MAX_SYMBOLS = 65_536;
const MAX_RELOCATIONS = 262_144;
const MAX_NAME_BYTES = 4_096;
/** What .bss may ask for: it costs no byte of the file. */
const MAX_SECTION_MEMORY = 64 * 1024 * 1024;

const HEADER_BYTES = 64;
const SECTION_HEADER_BYTES = 64;
const SYMBOL_BYTES = 24;
const REL_BYTES = 16;
const EM_BPF = 247;
const ET_REL = 1;

/**
 * Reads a relocatable BPF object: ELF64, little-endian, machine EM_BPF, relocations without addends (ELF-64 Object File
 * Format, version 1.5). The bytes are untrusted: every offset and count is checked.
 * Throws BPF_OBJECT_INVALID where they are not such an object, LIMIT_EXCEEDED where a limit is passed.
 */
export function parseElf(file: Uint8Array): ElfObject {
  if (file.length > MAX_OBJECT_BYTES) {
    throw limitError(`it has ${file.length} bytes, the most that is read is ${MAX_OBJECT_BYTES}`);
  }
  // A copy that is a plain Uint8Array: slice() of Node's Buffer shares its bytes with the caller.
  const bytes = new Uint8Array(file);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  checkHeader(bytes, view);
  const sections = readSections(bytes, view);
  const symbolTable = sections.find((section) => section.type === SECTION_TYPE.SYMTAB);
  const symbols = symbolTable === undefined ? [] : readSymbols(symbolTable, sections);
  return { sections, symbols, relocations: readRelocations(sections, symbols) };
}

/** The error for bytes that are no BPF object that can be read. */
export function invalidObject(reason: string): MeshpathError {
  return new MeshpathError({
    code: 'BPF_OBJECT_INVALID',
    message: 'The file is not a BPF object that Meshpath can read.',
    reason,
    remedy: 'Compile it with clang -O2 -g -target bpfel -c and give the .o file.',
  });
}

function limitError(reason: string): MeshpathError {
  return new MeshpathError({
    code: 'LIMIT_EXCEEDED',
    message: 'The BPF object is larger than Meshpath reads.',
    reason,
    remedy: 'Give an object of ordinary size: the programs of one data path, without an embedded file system or kernel image.',
  });
}

function checkHeader(bytes: Uint8Array, view: DataView): void {
  if (bytes.length < HEADER_BYTES) {
    throw invalidObject(`it has ${bytes.length} bytes and an ELF header needs ${HEADER_BYTES}`);
  }
  if (view.getUint32(0, false) !== 0x7f45_4c46) {
    throw invalidObject('it does not begin with the ELF magic number');
  }
  if (view.getUint8(4) !== 2 || view.getUint8(5) !== 1) {
    throw invalidObject('it is not a 64-bit little-endian ELF file');
  }
  const type = view.getUint16(16, true);
  const machine = view.getUint16(18, true);
  if (type !== ET_REL || machine !== EM_BPF) {
    throw invalidObject(`it is of ELF type ${type} for machine ${machine}; a BPF object is of type ${ET_REL} for machine ${EM_BPF}`);
  }
}

interface SectionHeader {
  readonly nameOffset: number;
  readonly type: number;
  readonly flags: bigint;
  readonly offset: number;
  readonly size: number;
  readonly link: number;
  readonly info: number;
}

function readSections(bytes: Uint8Array, view: DataView): ElfSection[] {
  const start = Number(view.getBigUint64(40, true));
  const entryBytes = view.getUint16(58, true);
  const count = view.getUint16(60, true);
  const namesIndex = view.getUint16(62, true);
  if (count > MAX_SECTIONS) {
    throw limitError(`it has ${count} sections, the most that are read are ${MAX_SECTIONS}`);
  }
  if (entryBytes !== SECTION_HEADER_BYTES || start + count * SECTION_HEADER_BYTES > bytes.length) {
    throw invalidObject('its section headers lie outside of the file');
  }
  const headers = Array.from({ length: count }, (_, index): SectionHeader => {
    const at = start + index * SECTION_HEADER_BYTES;
    return {
      nameOffset: view.getUint32(at, true),
      type: view.getUint32(at + 4, true),
      flags: view.getBigUint64(at + 8, true),
      offset: Number(view.getBigUint64(at + 24, true)),
      size: Number(view.getBigUint64(at + 32, true)),
      link: view.getUint32(at + 40, true),
      info: view.getUint32(at + 44, true),
    };
  });
  const contents = headers.map((header, index) => sectionBytes(bytes, header, index));
  const names = contents[namesIndex];
  if (names === undefined) {
    throw invalidObject('it has no table of section names');
  }
  return headers.map((header, index) => ({
    index,
    name: readName(names, header.nameOffset),
    type: header.type,
    flags: header.flags,
    size: header.size,
    bytes: contents[index] ?? new Uint8Array(0),
    link: header.link,
    info: header.info,
  }));
}

function sectionBytes(bytes: Uint8Array, header: SectionHeader, index: number): Uint8Array {
  if (header.type === 0 || header.type === SECTION_TYPE.NOBITS) {
    if (header.size > MAX_SECTION_MEMORY) {
      throw limitError(`section ${index} asks for ${header.size} bytes of memory, the most is ${MAX_SECTION_MEMORY}`);
    }
    return new Uint8Array(0);
  }
  if (header.offset + header.size > bytes.length) {
    throw invalidObject(`section ${index} lies outside of the file`);
  }
  return bytes.subarray(header.offset, header.offset + header.size);
}

function readSymbols(table: ElfSection, sections: readonly ElfSection[]): ElfSymbol[] {
  const names = sections[table.link]?.bytes;
  const count = Math.floor(table.bytes.length / SYMBOL_BYTES);
  if (names === undefined) {
    throw invalidObject('its symbol table has no table of names');
  }
  if (count > MAX_SYMBOLS) {
    throw limitError(`it has ${count} symbols, the most that are read are ${MAX_SYMBOLS}`);
  }
  const view = new DataView(table.bytes.buffer, table.bytes.byteOffset, table.bytes.byteLength);
  return Array.from({ length: count }, (_, index) => {
    const at = index * SYMBOL_BYTES;
    const info = view.getUint8(at + 4);
    return {
      name: readName(names, view.getUint32(at, true)),
      type: info & 0x0f,
      binding: info >> 4,
      section: view.getUint16(at + 6, true),
      value: Number(view.getBigUint64(at + 8, true)),
      size: Number(view.getBigUint64(at + 16, true)),
    };
  });
}

function readRelocations(sections: readonly ElfSection[], symbols: readonly ElfSymbol[]): Map<number, readonly ElfRelocation[]> {
  const relocations = new Map<number, readonly ElfRelocation[]>();
  let total = 0;
  for (const section of sections) {
    if (section.type === SECTION_TYPE.RELA) {
      throw invalidObject(`section ${section.name} has relocations with addends, which BPF objects do not have`);
    }
    if (section.type !== SECTION_TYPE.REL) {
      continue;
    }
    const count = Math.floor(section.bytes.length / REL_BYTES);
    total += count;
    if (total > MAX_RELOCATIONS) {
      throw limitError(`it has more than ${MAX_RELOCATIONS} relocations`);
    }
    const view = new DataView(section.bytes.buffer, section.bytes.byteOffset, section.bytes.byteLength);
    const list = Array.from({ length: count }, (_, index): ElfRelocation => {
      const at = index * REL_BYTES;
      const symbol = symbols[view.getUint32(at + 12, true)];
      if (symbol === undefined) {
        throw invalidObject(`a relocation of section ${section.name} names a symbol that does not exist`);
      }
      return { offset: Number(view.getBigUint64(at, true)), type: view.getUint32(at + 8, true), symbol };
    });
    relocations.set(section.info, [...(relocations.get(section.info) ?? []), ...list]);
  }
  return relocations;
}

function readName(table: Uint8Array, offset: number): string {
  const end = table.indexOf(0, offset);
  if (offset >= table.length || end === -1 || end - offset > MAX_NAME_BYTES) {
    throw invalidObject('a name lies outside of its table or is too long');
  }
  return new TextDecoder().decode(table.subarray(offset, end));
}
