import { compare32, compare64, compute32, compute64, convertBytes, signExtend32 } from './arithmetic.ts';
import { accessBytes, ALU, CLASS, JUMP, LOAD_IMMEDIATE_64, MODE, PSEUDO_CALL, PSEUDO_LOAD, SOURCE_REGISTER } from './instructions.ts';
import type { Instruction } from './instructions.ts';
import { ProgramFault } from './memory.ts';
import type { AddressSpace, FaultKind } from './memory.ts';

const STACK_BYTES = 512;
/** MAX_CALL_FRAMES of include/linux/bpf_verifier.h. */
const MAX_CALL_FRAMES = 8;
/** BPF_COMPLEXITY_LIMIT_INSNS of include/linux/bpf_verifier.h: no program that the kernel loads runs longer without loops. */
const DEFAULT_INSTRUCTION_LIMIT = 1_000_000;

const REGISTERS = 11;
const FRAME_POINTER = 10;
/** R1 to R5: the arguments, unknown after a call. */
const CALLER_SAVED = 0b0000_0011_1110;
/** R6 to R9: kept over a call. */
const CALLEE_SAVED = [6, 7, 8, 9] as const;

/** A function of the kernel: five arguments as unsigned 64-bit numbers, of which it takes as many as it has. */
export type Helper = (memory: AddressSpace, ...arguments_: [bigint, bigint, bigint, bigint, bigint]) => bigint;

export interface MachineOptions {
  readonly instructions: readonly Instruction[];
  readonly memory: AddressSpace;
  readonly helpers: ReadonlyMap<number, Helper>;
  /** The arguments in R1 and on. */
  readonly arguments: readonly bigint[];
  /** Gives the pointer that a 64-bit immediate load of this kind stands for. */
  readonly resolveLoad?: (kind: 'map' | 'map-value', index: number, offset: number) => bigint | undefined;
  readonly instructionLimit?: number;
  /** Called before every instruction with its index. */
  readonly observe?: (index: number) => void;
}

export interface MachineFault {
  readonly kind: FaultKind;
  /** What happened, one sentence. */
  readonly message: string;
  /** The index of the instruction. */
  readonly instruction: number;
}

export type RunResult =
  | { readonly kind: 'returned'; readonly value: bigint; readonly instructions: number }
  | { readonly kind: 'fault'; readonly fault: MachineFault; readonly instructions: number };

interface Frame {
  readonly returnTo: number;
  readonly saved: readonly bigint[];
  readonly savedKnown: number;
  readonly framePointer: bigint;
}

/**
 * Runs a program to its end: the whole instruction set of RFC 9669 (base64, base32, divmul, atomic), the additions of
 * cpu v4, load-acquire and store-release, and calls of functions of the same program. A program that does what the
 * kernel's verifier would not let it do stops with a fault; nothing is thrown.
 */
export function runProgram(options: MachineOptions): RunResult {
  return new Machine(options).run();
}

class Machine {
  readonly #options: MachineOptions;
  readonly #memory: AddressSpace;
  readonly #registers = new DataView(new ArrayBuffer(REGISTERS * 8));
  readonly #frames: Frame[] = [];
  /** Bit n: register n has been written. */
  #known = 1 << FRAME_POINTER;
  #next = 0;
  #executed = 0;

  constructor(options: MachineOptions) {
    this.#options = options;
    this.#memory = options.memory;
    options.arguments.forEach((value, index) => {
      this.#set(index + 1, value);
    });
    this.#registers.setBigUint64(FRAME_POINTER * 8, this.#newStack(), true);
  }

  run(): RunResult {
    const { instructions, observe, instructionLimit = DEFAULT_INSTRUCTION_LIMIT } = this.#options;
    let current = 0;
    try {
      for (;;) {
        current = this.#next;
        const instruction = instructions[current];
        if (instruction === undefined) {
          throw new ProgramFault('jump-invalid', `execution left the program at instruction ${current}`);
        }
        if (this.#executed >= instructionLimit) {
          throw new ProgramFault('too-many-instructions', `the program did not end within ${instructionLimit} instructions`);
        }
        observe?.(current);
        this.#executed += 1;
        this.#next = current + 1;
        if (this.#execute(instruction)) {
          return { kind: 'returned', value: this.#get(0), instructions: this.#executed };
        }
      }
    } catch (error) {
      if (!(error instanceof ProgramFault)) {
        throw error;
      }
      return { kind: 'fault', fault: { kind: error.kind, message: error.message, instruction: current }, instructions: this.#executed };
    }
  }

  /** Executes one instruction; true where it ended the program. */
  #execute(instruction: Instruction): boolean {
    const { opcode } = instruction;
    switch (opcode & 0x07) {
      case CLASS.ALU64:
        this.#compute64(instruction);
        return false;
      case CLASS.ALU:
        this.#compute32(instruction);
        return false;
      case CLASS.JMP:
      case CLASS.JMP32:
        return this.#jump(instruction);
      case CLASS.LD:
        this.#loadImmediate(instruction);
        return false;
      case CLASS.LDX:
        this.#load(instruction);
        return false;
      default:
        this.#store(instruction);
        return false;
    }
  }

  #compute64(instruction: Instruction): void {
    const { opcode, destination, offset } = instruction;
    const operation = opcode & 0xf0;
    if (operation === ALU.END) {
      this.#swap(instruction, true);
      return;
    }
    const right = operation === ALU.NEG ? 0n : this.#operand64(instruction);
    const left = operation === ALU.MOV ? 0n : this.#get(destination);
    requireOffset(instruction, operation, operation === ALU.MOV ? [0, 8, 16, 32] : [0, 1]);
    const result = compute64(operation, left, right, offset);
    if (result === undefined) {
      throw invalidInstruction(instruction);
    }
    this.#set(destination, BigInt.asUintN(64, result));
  }

  #compute32(instruction: Instruction): void {
    const { opcode, destination, offset } = instruction;
    const operation = opcode & 0xf0;
    if (operation === ALU.END) {
      this.#swap(instruction, false);
      return;
    }
    const right = operation === ALU.NEG ? 0 : this.#operand32(instruction);
    const left = operation === ALU.MOV ? 0 : this.#get32(destination);
    requireOffset(instruction, operation, operation === ALU.MOV ? [0, 8, 16] : [0, 1]);
    const result = compute32(operation, left, right, offset);
    if (result === undefined) {
      throw invalidInstruction(instruction);
    }
    this.#set32(destination, result);
  }

  /** Byte swaps: class ALU converts to little or big endian, class ALU64 swaps always (RFC 9669, 4.2). */
  #swap(instruction: Instruction, always: boolean): void {
    const { destination, immediate, opcode } = instruction;
    if (immediate !== 16 && immediate !== 32 && immediate !== 64) {
      throw invalidInstruction(instruction);
    }
    const toBigEndian = (opcode & SOURCE_REGISTER) !== 0;
    if (always && toBigEndian) {
      throw invalidInstruction(instruction);
    }
    this.#set(destination, convertBytes(this.#get(destination), immediate, always || toBigEndian));
  }

  #jump(instruction: Instruction): boolean {
    const { opcode, offset, immediate, destination } = instruction;
    const operation = opcode & 0xf0;
    const wide = (opcode & 0x07) === CLASS.JMP;
    switch (operation) {
      case JUMP.JA:
        if ((opcode & SOURCE_REGISTER) !== 0) {
          throw invalidInstruction(instruction);
        }
        this.#next += wide ? offset : immediate;
        return false;
      case JUMP.CALL:
        if (!wide) {
          throw invalidInstruction(instruction);
        }
        this.#call(instruction);
        return false;
      case JUMP.EXIT:
        if (!wide || (opcode & SOURCE_REGISTER) !== 0) {
          throw invalidInstruction(instruction);
        }
        return this.#leave();
      default: {
        const taken = wide
          ? compare64(operation, this.#get(destination), this.#operand64(instruction))
          : compare32(operation, this.#get32(destination), this.#operand32(instruction));
        if (taken === undefined) {
          throw invalidInstruction(instruction);
        }
        if (taken) {
          this.#next += offset;
        }
        return false;
      }
    }
  }

  #call(instruction: Instruction): void {
    const { opcode, source, immediate, destination } = instruction;
    if ((opcode & SOURCE_REGISTER) !== 0) {
      // CALLX: the number of the helper is in a register.
      this.#callHelper(Number(BigInt.asIntN(32, this.#get(destination))));
      return;
    }
    if (source === PSEUDO_CALL.HELPER) {
      this.#callHelper(immediate);
      return;
    }
    if (source !== PSEUDO_CALL.LOCAL) {
      throw new ProgramFault('helper-unknown', 'call of a kernel function by its BTF id (kfunc), which the virtual machine does not model');
    }
    if (this.#frames.length + 1 >= MAX_CALL_FRAMES) {
      throw new ProgramFault('call-too-deep', `more than ${MAX_CALL_FRAMES} functions call each other`);
    }
    this.#frames.push({
      returnTo: this.#next,
      saved: CALLEE_SAVED.map((register) => this.#registers.getBigUint64(register * 8, true)),
      savedKnown: this.#known & 0b11_1100_0000,
      framePointer: this.#registers.getBigUint64(FRAME_POINTER * 8, true),
    });
    this.#known &= CALLER_SAVED | (1 << FRAME_POINTER);
    this.#registers.setBigUint64(FRAME_POINTER * 8, this.#newStack(), true);
    this.#next += immediate;
  }

  /** Ends a function; true where it was the program itself. */
  #leave(): boolean {
    const result = this.#get(0);
    const frame = this.#frames.pop();
    if (frame === undefined) {
      return true;
    }
    this.#memory.unmap(this.#registers.getBigUint64(FRAME_POINTER * 8, true));
    CALLEE_SAVED.forEach((register, index) => {
      this.#registers.setBigUint64(register * 8, frame.saved[index] ?? 0n, true);
    });
    this.#registers.setBigUint64(FRAME_POINTER * 8, frame.framePointer, true);
    this.#known = frame.savedKnown | (1 << FRAME_POINTER);
    this.#set(0, result);
    this.#next = frame.returnTo;
    return false;
  }

  #callHelper(number: number): void {
    const helper = this.#options.helpers.get(number);
    if (helper === undefined) {
      throw new ProgramFault('helper-unknown', `call of helper ${number}, which this kind of program does not have in the virtual machine`);
    }
    const argument = (register: number): bigint => ((this.#known & (1 << register)) === 0 ? 0n : this.#registers.getBigUint64(register * 8, true));
    const result = helper(this.#memory, argument(1), argument(2), argument(3), argument(4), argument(5));
    this.#known &= ~CALLER_SAVED;
    this.#set(0, BigInt.asUintN(64, result));
  }

  #loadImmediate(instruction: Instruction): void {
    const { opcode, destination, source, immediate } = instruction;
    const second = this.#options.instructions[this.#next];
    if (opcode !== LOAD_IMMEDIATE_64 || second?.opcode !== 0) {
      throw invalidInstruction(instruction);
    }
    this.#next += 1;
    if (source === PSEUDO_LOAD.NUMBER) {
      this.#set(destination, (BigInt(second.immediate >>> 0) << 32n) | BigInt(immediate >>> 0));
      return;
    }
    const kind = source === PSEUDO_LOAD.MAP ? 'map' : source === PSEUDO_LOAD.MAP_VALUE ? 'map-value' : undefined;
    const pointer = kind === undefined ? undefined : this.#options.resolveLoad?.(kind, immediate, second.immediate);
    if (pointer === undefined) {
      throw invalidInstruction(instruction);
    }
    this.#set(destination, pointer);
  }

  #load(instruction: Instruction): void {
    const { opcode, destination, source, offset } = instruction;
    const mode = opcode & 0xe0;
    const size = accessBytes(opcode);
    if (mode !== MODE.MEM && (mode !== MODE.MEMSX || size === 8)) {
      throw invalidInstruction(instruction);
    }
    this.#require(source);
    const low = this.#registers.getUint32(source * 8, true);
    const high = this.#registers.getUint32(source * 8 + 4, true);
    if (size === 8) {
      this.#set(destination, this.#memory.load64(high, low, offset));
      return;
    }
    const value = this.#memory.load(high, low, offset, size);
    if (mode === MODE.MEMSX) {
      this.#set(destination, BigInt.asUintN(64, BigInt(signExtend32(value, size * 8))));
      return;
    }
    this.#set32(destination, value);
  }

  #store(instruction: Instruction): void {
    const { opcode, destination, source, offset, immediate } = instruction;
    const fromRegister = (opcode & 0x07) === CLASS.STX;
    const mode = opcode & 0xe0;
    if (mode === MODE.ATOMIC && fromRegister) {
      this.#atomic(instruction);
      return;
    }
    if (mode !== MODE.MEM) {
      throw invalidInstruction(instruction);
    }
    const size = accessBytes(opcode);
    this.#require(destination);
    if (fromRegister) {
      this.#require(source);
    }
    const low = this.#registers.getUint32(destination * 8, true);
    const high = this.#registers.getUint32(destination * 8 + 4, true);
    if (size === 8) {
      this.#memory.store64(high, low, offset, fromRegister ? this.#get(source) : BigInt(immediate));
      return;
    }
    this.#memory.store(high, low, offset, size, fromRegister ? this.#get32(source) : immediate);
  }

  /** Atomic operations (RFC 9669, 5.3), and load-acquire and store-release of Linux 6.15. */
  #atomic(instruction: Instruction): void {
    const { opcode, destination, source, offset, immediate } = instruction;
    const size = accessBytes(opcode);
    if (immediate === ATOMIC.LOAD_ACQUIRE) {
      this.#set(destination, this.#read(source, offset, size));
      return;
    }
    if (immediate === ATOMIC.STORE_RELEASE) {
      this.#write(destination, offset, size, this.#get(source));
      return;
    }
    if (size !== 4 && size !== 8) {
      throw invalidInstruction(instruction);
    }
    this.#require(destination);
    if (((this.#registers.getUint32(destination * 8, true) + offset) & (size - 1)) !== 0) {
      throw new ProgramFault('misaligned-atomic', `atomic access of ${size} bytes at an address that is not a multiple of ${size}`);
    }
    const operand = BigInt.asUintN(size * 8, this.#get(source));
    const old = this.#read(destination, offset, size);
    if (immediate === ATOMIC.COMPARE_EXCHANGE) {
      this.#write(destination, offset, size, old === BigInt.asUintN(size * 8, this.#get(0)) ? operand : old);
      this.#set(0, old);
      return;
    }
    const result = computeAtomic(immediate, old, operand);
    if (result === undefined) {
      throw invalidInstruction(instruction);
    }
    this.#write(destination, offset, size, result);
    if ((immediate & ATOMIC.FETCH) !== 0) {
      this.#set(source, old);
    }
  }

  #read(register: number, offset: number, size: 1 | 2 | 4 | 8): bigint {
    this.#require(register);
    const low = this.#registers.getUint32(register * 8, true);
    const high = this.#registers.getUint32(register * 8 + 4, true);
    return size === 8 ? this.#memory.load64(high, low, offset) : BigInt(this.#memory.load(high, low, offset, size));
  }

  #write(register: number, offset: number, size: 1 | 2 | 4 | 8, value: bigint): void {
    this.#require(register);
    const low = this.#registers.getUint32(register * 8, true);
    const high = this.#registers.getUint32(register * 8 + 4, true);
    if (size === 8) {
      this.#memory.store64(high, low, offset, value);
    } else {
      this.#memory.store(high, low, offset, size, Number(value & 0xffff_ffffn));
    }
  }

  #operand64(instruction: Instruction): bigint {
    return (instruction.opcode & SOURCE_REGISTER) === 0 ? BigInt.asUintN(64, BigInt(instruction.immediate)) : this.#get(instruction.source);
  }

  #operand32(instruction: Instruction): number {
    return (instruction.opcode & SOURCE_REGISTER) === 0 ? instruction.immediate : this.#get32(instruction.source);
  }

  #require(register: number): void {
    if (register >= REGISTERS) {
      throw new ProgramFault('instruction-invalid', `there is no register R${register}`);
    }
    if ((this.#known & (1 << register)) === 0) {
      throw new ProgramFault('uninitialised-register', `read of R${register}, which holds nothing yet`);
    }
  }

  #get(register: number): bigint {
    this.#require(register);
    return this.#registers.getBigUint64(register * 8, true);
  }

  #get32(register: number): number {
    this.#require(register);
    return this.#registers.getUint32(register * 8, true);
  }

  #set(register: number, value: bigint): void {
    if (register >= FRAME_POINTER) {
      throw new ProgramFault('instruction-invalid', register === FRAME_POINTER ? 'write of R10, the frame pointer, which is read-only' : `there is no register R${register}`);
    }
    this.#registers.setBigUint64(register * 8, value, true);
    this.#known |= 1 << register;
  }

  #set32(register: number, value: number): void {
    if (register >= FRAME_POINTER) {
      throw new ProgramFault('instruction-invalid', register === FRAME_POINTER ? 'write of R10, the frame pointer, which is read-only' : `there is no register R${register}`);
    }
    this.#registers.setUint32(register * 8, value, true);
    this.#registers.setUint32(register * 8 + 4, 0, true);
    this.#known |= 1 << register;
  }

  /** Maps the stack of a new frame and gives the pointer to its end, where R10 points. */
  #newStack(): bigint {
    const bytes = new Uint8Array(STACK_BYTES);
    const base = this.#memory.map({
      name: `the stack of frame ${this.#frames.length}`,
      bytes,
      meaning: { kind: 'stack' },
      writable: [[0, STACK_BYTES]],
      written: new Uint8Array(STACK_BYTES),
    });
    return base + BigInt(STACK_BYTES);
  }
}

/** The operations of an atomic instruction, in its immediate. */
const ATOMIC = {
  ADD: 0x00, OR: 0x40, AND: 0x50, XOR: 0xa0, FETCH: 0x01, EXCHANGE: 0xe1, COMPARE_EXCHANGE: 0xf1, LOAD_ACQUIRE: 0x100, STORE_RELEASE: 0x110,
} as const;

function computeAtomic(operation: number, old: bigint, operand: bigint): bigint | undefined {
  switch (operation) {
    case ATOMIC.ADD:
    case ATOMIC.ADD | ATOMIC.FETCH:
      return old + operand;
    case ATOMIC.OR:
    case ATOMIC.OR | ATOMIC.FETCH:
      return old | operand;
    case ATOMIC.AND:
    case ATOMIC.AND | ATOMIC.FETCH:
      return old & operand;
    case ATOMIC.XOR:
    case ATOMIC.XOR | ATOMIC.FETCH:
      return old ^ operand;
    case ATOMIC.EXCHANGE:
      return operand;
    default:
      return undefined;
  }
}

/** The offset of an ALU instruction means something for DIV, MOD and register MOV only. */
function requireOffset(instruction: Instruction, operation: number, meaningful: readonly number[]): void {
  const used = operation === ALU.DIV || operation === ALU.MOD || (operation === ALU.MOV && (instruction.opcode & SOURCE_REGISTER) !== 0);
  if (!(used ? meaningful : [0]).includes(instruction.offset)) {
    throw invalidInstruction(instruction);
  }
}

function invalidInstruction(instruction: Instruction): ProgramFault {
  return new ProgramFault(
    'instruction-invalid',
    `opcode 0x${instruction.opcode.toString(16).padStart(2, '0')} with source ${instruction.source}, offset ${instruction.offset} and immediate ${instruction.immediate} is no instruction that the virtual machine knows`,
  );
}
