import type { SourceLine } from '../../agent/protocol/trace.ts';
import { invalidObject } from './elf.ts';

/** What `.BTF.ext` says about one section: which source line each instruction comes from. */
export interface SectionLines {
  readonly section: string;
  /** In ascending order of `instruction`, which counts from the start of the section. */
  readonly lines: readonly InstructionLine[];
}

export interface InstructionLine {
  readonly instruction: number;
  readonly source: SourceLine;
}

export interface BtfExtension {
  readonly sections: readonly SectionLines[];
  /** How many CO-RE relocations libbpf would have to apply against the node's own BTF. */
  readonly coreRelocations: number;
}

const MAGIC = 0xeb9f;
const HEADER_BYTES = 24;
const LINE_BYTES = 16;
const MAX_LINES = 1_000_000;

/**
 * Reads `.BTF.ext` (Documentation/bpf/btf.rst, 4.2): line information and the count of CO-RE relocations.
 * `btf` is the `.BTF` section, whose strings it uses. Throws BPF_OBJECT_INVALID where it is malformed.
 */
export function parseBtfExtension(bytes: Uint8Array, btf: Uint8Array): BtfExtension {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < HEADER_BYTES || view.getUint16(0, true) !== MAGIC) {
    throw invalidObject('its .BTF.ext does not begin with a header');
  }
  const headerBytes = view.getUint32(4, true);
  const strings = btfStrings(btf);
  const part = (at: number): Uint8Array => {
    if (headerBytes < at + 8) {
      return new Uint8Array(0);
    }
    const start = headerBytes + view.getUint32(at, true);
    const length = view.getUint32(at + 4, true);
    if (start + length > bytes.length) {
      throw invalidObject('a part of its .BTF.ext lies outside of the section');
    }
    return bytes.subarray(start, start + length);
  };
  const sections = records(part(16)).map(
    (group): SectionLines => ({
      section: strings(group.sectionName),
      lines: group.records
        .map((record): InstructionLine => {
          if (record.byteLength < LINE_BYTES) {
            throw invalidObject('a line record of its .BTF.ext is too short');
          }
          return {
            instruction: record.getUint32(0, true) / 8,
            source: { file: strings(record.getUint32(4, true)), line: record.getUint32(12, true) >>> 10, text: strings(record.getUint32(8, true)).trim() },
          };
        })
        .sort((left, right) => left.instruction - right.instruction),
    }),
  );
  const coreRelocations = records(part(24)).reduce((sum, group) => sum + group.records.length, 0);
  return { sections, coreRelocations };
}

interface RecordGroup {
  readonly sectionName: number;
  readonly records: readonly DataView[];
}

/** The common form of all parts: the size of a record, then for each section its name, a count and the records. */
function records(bytes: Uint8Array): RecordGroup[] {
  if (bytes.length === 0) {
    return [];
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < 4) {
    throw invalidObject('a part of its .BTF.ext is too short');
  }
  const recordBytes = view.getUint32(0, true);
  if (recordBytes < 8) {
    throw invalidObject(`a part of its .BTF.ext has records of ${recordBytes} bytes`);
  }
  const groups: RecordGroup[] = [];
  let total = 0;
  for (let at = 4; at < bytes.length; ) {
    if (at + 8 > bytes.length) {
      throw invalidObject('a part of its .BTF.ext ends within a section');
    }
    const count = view.getUint32(at + 4, true);
    const start = at + 8;
    total += count;
    if (total > MAX_LINES || start + count * recordBytes > bytes.length) {
      throw invalidObject('a part of its .BTF.ext has more records than bytes');
    }
    groups.push({
      sectionName: view.getUint32(at, true),
      records: Array.from({ length: count }, (_, index) => new DataView(bytes.buffer, bytes.byteOffset + start + index * recordBytes, recordBytes)),
    });
    at = start + count * recordBytes;
  }
  return groups;
}

function btfStrings(btf: Uint8Array): (offset: number) => string {
  if (btf.length < HEADER_BYTES) {
    throw invalidObject('it has .BTF.ext without .BTF');
  }
  const view = new DataView(btf.buffer, btf.byteOffset, btf.byteLength);
  const start = view.getUint32(4, true) + view.getUint32(16, true);
  const table = btf.subarray(start, start + view.getUint32(20, true));
  const decoder = new TextDecoder();
  return (offset) => {
    const end = table.indexOf(0, offset);
    if (offset >= table.length || end === -1) {
      throw invalidObject('a string of its .BTF.ext lies outside of the table of strings');
    }
    return decoder.decode(table.subarray(offset, end));
  };
}
