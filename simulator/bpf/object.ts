import { MeshpathError } from '../../agent/protocol/errors.ts';
import { parseBtf, resolveType, sizeOfType } from '../../agent/protocol/btf.ts';
import type { Btf, BtfMember, BtfType } from '../../agent/protocol/btf.ts';
import type { SourceLine } from '../../agent/protocol/trace.ts';
import { invalidObject, parseElf, SECTION_FLAG, SECTION_TYPE, SYMBOL_TYPE } from './elf.ts';
import type { ElfObject, ElfSection, ElfSymbol } from './elf.ts';
import { CLASS, decodeInstructions, INSTRUCTION_BYTES, JUMP, LOAD_IMMEDIATE_64, PSEUDO_CALL, PSEUDO_LOAD } from './instructions.ts';
import type { Instruction } from './instructions.ts';
import { parseBtfExtension } from './lineInfo.ts';
import type { InstructionLine } from './lineInfo.ts';
import { mapTypeName, programKind } from './programTypes.ts';
import { completeSectionTypes } from './sectionTypes.ts';

/** A map that an object defines. */
export interface MapDefinition {
  readonly name: string;
  /** The kernel's map type in lower case without prefix. */
  readonly type: string;
  readonly keyBytes: number;
  readonly valueBytes: number;
  readonly maxEntries: number;
  readonly flags: number;
  /** BTF type ids of key and value; 0 where there are none. */
  readonly keyType: number;
  readonly valueType: number;
  /** For `.rodata`, `.data` and `.bss`: the bytes to begin with. */
  readonly initial: Uint8Array | null;
}

/** A program with the functions that it calls, linked as libbpf does: its own code first. */
export interface ProgramDefinition {
  readonly name: string;
  readonly section: string;
  readonly type: string;
  readonly attachType: string | null;
  /** Loads of maps carry the index in `maps` of the object. */
  readonly instructions: readonly Instruction[];
  /** The bytes as they are linked; loads of maps carry the index of the map. */
  readonly bytes: Uint8Array;
  /** Indexes in the maps of the object that it uses, ascending. */
  readonly maps: readonly number[];
  /** Source lines by instruction, ascending. */
  readonly lines: readonly InstructionLine[];
}

export interface BpfObject {
  readonly programs: readonly ProgramDefinition[];
  readonly maps: readonly MapDefinition[];
  readonly license: string;
  /** Null where the object was compiled without -g. */
  readonly btf: Btf | null;
}

const RELOCATION = { LOAD_64: 1, CALL: 10 } as const;
const MAX_PROGRAM_INSTRUCTIONS = 1_000_000;
const MAX_MAP_ENTRIES = 16_777_216;
const MAX_ELEMENT_BYTES = 1_048_576;
const ARRAY_MAP = 'array';

/**
 * Reads a BPF object as clang writes it: programs, BTF-defined maps, data sections as maps, calls of functions of the
 * same object, and line information. Throws BPF_OBJECT_INVALID where it is malformed, LIMIT_EXCEEDED where it is too
 * large, NOT_SUPPORTED where it needs something that the virtual machine does not have (map definitions in the old
 * `maps` section, CO-RE relocations, kernel functions and variables).
 */
export function readBpfObject(bytes: Uint8Array): BpfObject {
  const elf = parseElf(bytes);
  const btfSection = findSection(elf, '.BTF');
  const extensionSection = findSection(elf, '.BTF.ext');
  if (findSection(elf, 'maps') !== undefined) {
    throw unsupported('It defines its maps in the section `maps`, which libbpf refuses since 1.0.', 'Define the maps in the section `.maps` (SEC(".maps")) and compile the object again.');
  }
  const btf = btfSection === undefined ? null : parseBtf(completeSectionTypes(elf, btfSection));
  const extension = btfSection === undefined || extensionSection === undefined ? undefined : parseBtfExtension(extensionSection.bytes, btfSection.bytes);
  if (extension !== undefined && extension.coreRelocations > 0) {
    throw unsupported(
      `It has ${extension.coreRelocations} CO-RE relocations: it reads structures of the kernel itself, which a simulated kernel does not have.`,
      'Give an object that uses only the contexts of include/uapi/linux/bpf.h, or run it on a Linux node.',
    );
  }
  const maps = readMaps(elf, btf);
  const linker = new Linker(elf, maps, new Map(extension?.sections.map((section) => [section.section, section.lines])));
  const license = findSection(elf, 'license');
  return {
    programs: linker.programs(),
    maps: maps.map((map) => map.definition),
    license: license === undefined ? '' : new TextDecoder().decode(license.bytes).replace(/\0.*$/s, ''),
    btf,
  };
}

/** Gives the source line of an instruction of a program: that of the last line record at or before it. */
export function lineOfInstruction(program: ProgramDefinition, instruction: number): SourceLine | null {
  let low = 0;
  let high = program.lines.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((program.lines[middle]?.instruction ?? 0) <= instruction) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return program.lines[low - 1]?.source ?? null;
}

interface PlacedMap {
  readonly definition: MapDefinition;
  readonly section: number;
  /** Where its symbol lies in `.maps`; null for a data section, all of which is the map. */
  readonly offset: number | null;
}

function readMaps(elf: ElfObject, btf: Btf | null): PlacedMap[] {
  const section = findSection(elf, '.maps');
  const defined = section === undefined ? [] : readDefinedMaps(elf, section, btf);
  const data = elf.sections.filter(isDataSection).map(
    (data): PlacedMap => ({
      section: data.index,
      offset: null,
      definition: {
        name: data.name,
        type: ARRAY_MAP,
        keyBytes: 4,
        valueBytes: data.size,
        maxEntries: 1,
        flags: 0,
        keyType: 0,
        valueType: btf?.idsByName(data.name).find((id) => btf.type(id).kind === 'section') ?? 0,
        initial: data.type === SECTION_TYPE.NOBITS ? new Uint8Array(data.size) : data.bytes.slice(),
      },
    }),
  );
  return [...defined, ...data];
}

function isDataSection(section: ElfSection): boolean {
  const alloc = (section.flags & SECTION_FLAG.ALLOC) !== 0n && (section.flags & SECTION_FLAG.EXECUTABLE) === 0n;
  return alloc && section.size > 0 && /^\.(rodata|data|bss)(\..*)?$/.test(section.name);
}

function readDefinedMaps(elf: ElfObject, section: ElfSection, btf: Btf | null): PlacedMap[] {
  if (btf === null) {
    throw invalidObject('it defines maps in .maps but has no BTF, which describes them');
  }
  const symbols = elf.symbols.filter((symbol) => symbol.section === section.index && symbol.type === SYMBOL_TYPE.OBJECT);
  return symbols.map((symbol) => ({ section: section.index, offset: symbol.value, definition: defineMap(btf, symbol.name) }));
}

/** Reads a BTF-defined map: `__uint(name, n)` is a pointer to an array of n, `__type(name, T)` a pointer to T. */
function defineMap(btf: Btf, name: string): MapDefinition {
  const variable = btf.idsByName(name).map((id) => btf.type(id)).find((type) => type.kind === 'variable');
  const definition = variable?.kind === 'variable' ? resolveType(btf, variable.type).type : undefined;
  if (definition?.kind !== 'struct') {
    throw invalidObject(`BTF does not describe the map ${name}`);
  }
  const number = (member: string): number | undefined => memberNumber(btf, definition.members, member, name);
  const keyType = memberType(btf, definition.members, 'key');
  const valueType = memberType(btf, definition.members, 'value');
  const sizeOf = (type: number | undefined, explicit: string): number => (type === undefined ? undefined : sizeOfType(btf, type)) ?? number(explicit) ?? 0;
  const map: MapDefinition = {
    name,
    type: mapTypeName(number('type') ?? 0),
    keyBytes: sizeOf(keyType, 'key_size'),
    valueBytes: sizeOf(valueType, 'value_size'),
    maxEntries: number('max_entries') ?? 0,
    flags: number('map_flags') ?? 0,
    keyType: keyType ?? 0,
    valueType: valueType ?? 0,
    initial: null,
  };
  if (map.maxEntries > MAX_MAP_ENTRIES || map.keyBytes > MAX_ELEMENT_BYTES || map.valueBytes > MAX_ELEMENT_BYTES) {
    throw new MeshpathError({
      code: 'LIMIT_EXCEEDED',
      message: `The map ${name} is larger than the virtual machine takes.`,
      reason: `It asks for ${map.maxEntries} entries with keys of ${map.keyBytes} and values of ${map.valueBytes} bytes.`,
      remedy: `Ask for at most ${MAX_MAP_ENTRIES} entries and elements of ${MAX_ELEMENT_BYTES} bytes.`,
    });
  }
  return map;
}

function memberNumber(btf: Btf, members: readonly BtfMember[], member: string, map: string): number | undefined {
  const type = pointedType(btf, members, member);
  if (type === undefined) {
    return undefined;
  }
  if (type.type.kind !== 'array') {
    throw invalidObject(`the field ${member} of the map ${map} is not a number`);
  }
  return type.type.length;
}

function memberType(btf: Btf, members: readonly BtfMember[], member: string): number | undefined {
  return pointedType(btf, members, member)?.id;
}

function pointedType(btf: Btf, members: readonly BtfMember[], member: string): { readonly id: number; readonly type: BtfType } | undefined {
  const found = members.find((candidate) => candidate.name === member);
  const pointer = found === undefined ? undefined : resolveType(btf, found.type).type;
  return pointer?.kind === 'pointer' ? { id: pointer.type, type: resolveType(btf, pointer.type).type } : undefined;
}

interface CodeFunction {
  readonly symbol: ElfSymbol;
  /** Instructions from the start of the section, and how many. */
  readonly start: number;
  readonly length: number;
}

/** Joins the code of a program with that of the functions that it calls, and resolves what it refers to. */
class Linker {
  readonly #elf: ElfObject;
  readonly #maps: readonly PlacedMap[];
  readonly #lines: ReadonlyMap<string, readonly InstructionLine[]>;

  constructor(elf: ElfObject, maps: readonly PlacedMap[], lines: ReadonlyMap<string, readonly InstructionLine[]>) {
    this.#elf = elf;
    this.#maps = maps;
    this.#lines = lines;
  }

  programs(): ProgramDefinition[] {
    return this.#elf.sections.filter(isCode).flatMap((section) => {
      // Functions of .text are not programs: others call them.
      if (section.name === '.text') {
        return [];
      }
      const kind = programKind(section.name);
      if (kind === undefined) {
        throw unsupported(`Its section ${section.name} is of a program type that the virtual machine does not have.`, 'Give an object with programs for sockets: cgroup/connect4, sockops, sk_msg and the like.');
      }
      return this.#functions(section)
        .filter(({ symbol }) => symbol.binding !== 0)
        .map((main): ProgramDefinition => ({ name: main.symbol.name, section: section.name, ...kind, ...this.#link(section, main) }));
    });
  }

  #functions(section: ElfSection): CodeFunction[] {
    return this.#elf.symbols
      .filter((symbol) => symbol.section === section.index && symbol.type === SYMBOL_TYPE.FUNCTION)
      .map((symbol) => {
        if (symbol.value % INSTRUCTION_BYTES !== 0 || symbol.size % INSTRUCTION_BYTES !== 0 || symbol.value + symbol.size > section.bytes.length) {
          throw invalidObject(`the function ${symbol.name} lies outside of its section`);
        }
        return { symbol, start: symbol.value / INSTRUCTION_BYTES, length: symbol.size / INSTRUCTION_BYTES };
      });
  }

  #link(section: ElfSection, main: CodeFunction): Pick<ProgramDefinition, 'instructions' | 'bytes' | 'maps' | 'lines'> {
    const parts: { readonly section: ElfSection; readonly code: CodeFunction; readonly at: number }[] = [{ section, code: main, at: 0 }];
    const used = new Set<number>();
    const lines: InstructionLine[] = [];
    let total = main.length;
    const placeOf = (target: ElfSection, instruction: number, caller: string): number => {
      const known = parts.find((part) => part.section === target && part.code.start === instruction);
      if (known !== undefined) {
        return known.at;
      }
      const code = this.#functions(target).find((candidate) => candidate.start === instruction);
      if (code === undefined) {
        throw invalidObject(`${caller} calls instruction ${instruction} of ${target.name}, where no function begins`);
      }
      const at = total;
      total += code.length;
      if (total > MAX_PROGRAM_INSTRUCTIONS) {
        throw invalidObject(`the program ${main.symbol.name} has more than ${MAX_PROGRAM_INSTRUCTIONS} instructions`);
      }
      parts.push({ section: target, code, at });
      return at;
    };
    const chunks: Uint8Array[] = [];
    // Linking a function may add those that it calls to the end of the list.
    for (const part of parts) {
      chunks.push(this.#linkFunction(part, used, placeOf));
      const { start, length } = part.code;
      for (const line of this.#lines.get(part.section.name) ?? []) {
        if (line.instruction >= start && line.instruction < start + length) {
          lines.push({ instruction: line.instruction - start + part.at, source: line.source });
        }
      }
    }
    const bytes = new Uint8Array(total * INSTRUCTION_BYTES);
    let at = 0;
    for (const chunk of chunks) {
      bytes.set(chunk, at);
      at += chunk.length;
    }
    return { bytes, instructions: decodeInstructions(bytes), maps: [...used].sort((left, right) => left - right), lines };
  }

  #linkFunction(
    part: { readonly section: ElfSection; readonly code: CodeFunction; readonly at: number },
    used: Set<number>,
    placeOf: (section: ElfSection, instruction: number, caller: string) => number,
  ): Uint8Array {
    const { section, code } = part;
    const start = code.start * INSTRUCTION_BYTES;
    const bytes = section.bytes.slice(start, start + code.length * INSTRUCTION_BYTES);
    const view = new DataView(bytes.buffer);
    const relocations = new Map((this.#elf.relocations.get(section.index) ?? []).map((relocation) => [relocation.offset - start, relocation]));
    const instructions = decodeInstructions(bytes);
    for (const [index, instruction] of instructions.entries()) {
      const at = index * INSTRUCTION_BYTES;
      const relocation = relocations.get(at);
      if (relocation?.symbol.section === 0) {
        throw unsupported(`It uses ${relocation.symbol.name}, which the kernel would have to provide (a kernel function, variable or configuration value).`, 'Give an object that needs nothing but helpers and its own maps.');
      }
      if (isLocalCall(instruction)) {
        const target = relocation === undefined ? section : this.#elf.sections[relocation.symbol.section];
        if (target === undefined || (relocation !== undefined && relocation.type !== RELOCATION.CALL)) {
          throw invalidObject(`a call of ${code.symbol.name} has a relocation that is none of calls`);
        }
        const callee = relocation === undefined ? code.start + index + instruction.immediate + 1 : relocation.symbol.value / INSTRUCTION_BYTES + instruction.immediate + 1;
        view.setInt32(at + 4, placeOf(target, callee, code.symbol.name) - (part.at + index) - 1, true);
      } else if (relocation !== undefined) {
        if (instruction.opcode !== LOAD_IMMEDIATE_64 || relocation.type !== RELOCATION.LOAD_64) {
          throw unsupported(`Its function ${code.symbol.name} has a relocation of type ${relocation.type}, which is not one of maps, data or calls.`, 'Compile it with clang -O2 -g -target bpfel.');
        }
        const map = this.#findMap(relocation.symbol, code.symbol.name);
        used.add(map.index);
        view.setUint8(at + 1, instruction.destination | ((map.wholeSection ? PSEUDO_LOAD.MAP_VALUE : PSEUDO_LOAD.MAP) << 4));
        view.setInt32(at + 4, map.index, true);
        view.setInt32(at + 12, map.wholeSection ? relocation.symbol.value + instruction.immediate : 0, true);
      }
    }
    return bytes;
  }

  #findMap(symbol: ElfSymbol, from: string): { readonly index: number; readonly wholeSection: boolean } {
    const index = this.#maps.findIndex((map) => map.section === symbol.section && (map.offset === null || map.offset === symbol.value));
    const map = this.#maps[index];
    if (map === undefined) {
      const section = this.#elf.sections[symbol.section]?.name ?? 'a section that does not exist';
      throw unsupported(`Its function ${from} takes the address of something in ${section}, which is neither a map nor data.`, 'Callbacks given to helpers (bpf_loop, bpf_for_each_map_elem) are not simulated: give an object without them.');
    }
    return { index, wholeSection: map.offset === null };
  }
}

function isCode(section: ElfSection): boolean {
  return section.type === SECTION_TYPE.PROGBITS && (section.flags & SECTION_FLAG.EXECUTABLE) !== 0n && section.bytes.length > 0;
}

function isLocalCall(instruction: Instruction): boolean {
  return instruction.opcode === (CLASS.JMP | JUMP.CALL) && instruction.source === PSEUDO_CALL.LOCAL;
}

function findSection(elf: ElfObject, name: string): ElfSection | undefined {
  return elf.sections.find((section) => section.name === name);
}

function unsupported(reason: string, remedy: string): MeshpathError {
  return new MeshpathError({ code: 'NOT_SUPPORTED', message: 'The BPF object cannot run in the virtual machine.', reason, remedy });
}
