import { SECTION_TYPE } from './elf.ts';
import type { ElfObject, ElfSection } from './elf.ts';

const HEADER_BYTES = 24;
const TYPE_BYTES = 12;
const KIND_SECTION = 15;
/** Bytes that follow a type, and for each of its elements, by kind (include/uapi/linux/btf.h). */
const FIXED_BYTES: Readonly<Record<number, number>> = { 1: 4, 3: 12, 14: 4, 17: 4 };
const ELEMENT_BYTES: Readonly<Record<number, number>> = { 4: 12, 5: 12, 6: 8, 13: 8, [KIND_SECTION]: 12, 19: 12 };
/** R_BPF_64_ABS32 and R_BPF_64_NODYLD32: 32 bits, the addend in place. */
const RELOCATIONS_32 = new Set([3, 4]);

/**
 * Gives `.BTF` as libbpf hands it to the kernel: clang leaves the offsets of variables in their section to relocations,
 * and the sizes of sections at 0 (libbpf.c, btf_fixup_datasec). Malformed BTF is given back as it is.
 */
export function completeSectionTypes(elf: ElfObject, section: ElfSection): Uint8Array {
  const bytes = section.bytes.slice();
  const view = new DataView(bytes.buffer);
  for (const relocation of elf.relocations.get(section.index) ?? []) {
    if (RELOCATIONS_32.has(relocation.type) && relocation.offset + 4 <= bytes.length) {
      view.setUint32(relocation.offset, view.getUint32(relocation.offset, true) + relocation.symbol.value, true);
    }
  }
  if (bytes.length < HEADER_BYTES) {
    return bytes;
  }
  const header = view.getUint32(4, true);
  const end = Math.min(bytes.length, header + view.getUint32(8, true) + view.getUint32(12, true));
  const strings = header + view.getUint32(16, true);
  for (let at = header + view.getUint32(8, true); at + TYPE_BYTES <= end; ) {
    const info = view.getUint32(at + 4, true);
    const kind = (info >>> 24) & 0x1f;
    if (kind === KIND_SECTION) {
      const name = readText(bytes, strings + view.getUint32(at, true));
      const named = elf.sections.find((candidate) => candidate.name === name && (candidate.type === SECTION_TYPE.PROGBITS || candidate.type === SECTION_TYPE.NOBITS));
      if (named !== undefined) {
        view.setUint32(at + 8, named.size, true);
      }
    }
    at += TYPE_BYTES + (FIXED_BYTES[kind] ?? 0) + (info & 0xffff) * (ELEMENT_BYTES[kind] ?? 0);
  }
  return bytes;
}

function readText(bytes: Uint8Array, start: number): string {
  const end = bytes.indexOf(0, start);
  return end === -1 ? '' : new TextDecoder().decode(bytes.subarray(start, end));
}
