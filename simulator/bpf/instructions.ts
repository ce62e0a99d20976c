/** One instruction of the BPF instruction set (RFC 9669, 3). A 64-bit immediate load takes two places of 8 bytes. */
export interface Instruction {
  /** The whole first byte: class, operation or mode, source or size. */
  readonly opcode: number;
  readonly destination: number;
  readonly source: number;
  /** Signed 16 bits. */
  readonly offset: number;
  /** Signed 32 bits. */
  readonly immediate: number;
}

export const INSTRUCTION_BYTES = 8;

/** Instruction classes, the low three bits of the opcode. */
export const CLASS = { LD: 0, LDX: 1, ST: 2, STX: 3, ALU: 4, JMP: 5, JMP32: 6, ALU64: 7 } as const;

/** Operations of ALU and ALU64, the high four bits of the opcode. */
export const ALU = {
  ADD: 0x00, SUB: 0x10, MUL: 0x20, DIV: 0x30, OR: 0x40, AND: 0x50, LSH: 0x60, RSH: 0x70,
  NEG: 0x80, MOD: 0x90, XOR: 0xa0, MOV: 0xb0, ARSH: 0xc0, END: 0xd0,
} as const;

/** Operations of JMP and JMP32. */
export const JUMP = {
  JA: 0x00, JEQ: 0x10, JGT: 0x20, JGE: 0x30, JSET: 0x40, JNE: 0x50, JSGT: 0x60, JSGE: 0x70,
  CALL: 0x80, EXIT: 0x90, JLT: 0xa0, JLE: 0xb0, JSLT: 0xc0, JSLE: 0xd0,
} as const;

/** Modes of loads and stores, the high three bits of the opcode. */
export const MODE = { IMM: 0x00, MEM: 0x60, MEMSX: 0x80, ATOMIC: 0xc0 } as const;

/** The bit of the opcode that says that the second operand is a register. */
export const SOURCE_REGISTER = 0x08;

/** The opcode of a 64-bit immediate load. */
export const LOAD_IMMEDIATE_64 = 0x18;

/** What the source register of a 64-bit immediate load says about the immediate (RFC 9669, 5.4). */
export const PSEUDO_LOAD = { NUMBER: 0, MAP: 1, MAP_VALUE: 2 } as const;

/** What the source register of a call says about the immediate (RFC 9669, 4.3). */
export const PSEUDO_CALL = { HELPER: 0, LOCAL: 1 } as const;

/** Gives the width in bytes of a load or store: 1, 2, 4 or 8. */
export function accessBytes(opcode: number): 1 | 2 | 4 | 8 {
  switch (opcode & 0x18) {
    case 0x00:
      return 4;
    case 0x08:
      return 2;
    case 0x10:
      return 1;
    default:
      return 8;
  }
}

/** Decodes little-endian instructions (the form of objects for `bpfel`); bytes that do not fill an instruction are left out. */
export function decodeInstructions(bytes: Uint8Array): Instruction[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return Array.from({ length: Math.floor(bytes.byteLength / INSTRUCTION_BYTES) }, (_, index) => {
    const at = index * INSTRUCTION_BYTES;
    const registers = view.getUint8(at + 1);
    return {
      opcode: view.getUint8(at),
      destination: registers & 0x0f,
      source: registers >> 4,
      offset: view.getInt16(at + 2, true),
      immediate: view.getInt32(at + 4, true),
    };
  });
}
