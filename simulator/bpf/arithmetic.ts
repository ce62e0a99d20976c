import { ALU, JUMP } from './instructions.ts';

const INT32_MIN = -0x8000_0000;

/** Gives the low 32 bits of a number as unsigned. */
function toUnsigned32(value: number): number {
  return value >>> 0;
}

/** Sign-extends the low `bits` bits (8, 16 or 32) of a number to 32 bits. */
export function signExtend32(value: number, bits: number): number {
  const shift = 32 - bits;
  return bits === 32 ? value | 0 : (value << shift) >> shift;
}

/**
 * Computes a 32-bit ALU operation (RFC 9669, 4.1) and gives the unsigned result, or undefined where there is no such
 * operation. `offset` 1 makes division and modulo signed; 8 or 16 makes MOV sign-extending. Division by zero gives 0,
 * modulo by zero the dividend, shifts use the low five bits.
 */
export function compute32(operation: number, left: number, right: number, offset: number): number | undefined {
  switch (operation) {
    case ALU.ADD:
      return toUnsigned32(left + right);
    case ALU.SUB:
      return toUnsigned32(left - right);
    case ALU.MUL:
      return toUnsigned32(Math.imul(left, right));
    case ALU.DIV:
      return offset === 1 ? divideSigned32(left | 0, right | 0) : right === 0 ? 0 : Math.floor((left >>> 0) / (right >>> 0));
    case ALU.MOD:
      return offset === 1 ? moduloSigned32(left | 0, right | 0) : right === 0 ? left >>> 0 : (left >>> 0) % (right >>> 0);
    case ALU.OR:
      return toUnsigned32(left | right);
    case ALU.AND:
      return toUnsigned32(left & right);
    case ALU.XOR:
      return toUnsigned32(left ^ right);
    case ALU.LSH:
      return toUnsigned32(left << (right & 31));
    case ALU.RSH:
      return left >>> (right & 31);
    case ALU.ARSH:
      return toUnsigned32((left | 0) >> (right & 31));
    case ALU.NEG:
      return toUnsigned32(-left);
    case ALU.MOV:
      return toUnsigned32(offset === 0 ? right : signExtend32(right, offset));
    default:
      return undefined;
  }
}

/** Like compute32 with 64 bits: operands are unsigned, the result may lie outside of 64 bits and is to be cut to them. */
export function compute64(operation: number, left: bigint, right: bigint, offset: number): bigint | undefined {
  switch (operation) {
    case ALU.ADD:
      return left + right;
    case ALU.SUB:
      return left - right;
    case ALU.MUL:
      return left * right;
    case ALU.DIV:
      if (right === 0n) {
        return 0n;
      }
      return offset === 1 ? BigInt.asIntN(64, left) / BigInt.asIntN(64, right) : left / right;
    case ALU.MOD:
      if (right === 0n) {
        return left;
      }
      return offset === 1 ? BigInt.asIntN(64, left) % BigInt.asIntN(64, right) : left % right;
    case ALU.OR:
      return left | right;
    case ALU.AND:
      return left & right;
    case ALU.XOR:
      return left ^ right;
    case ALU.LSH:
      return left << (right & 63n);
    case ALU.RSH:
      return left >> (right & 63n);
    case ALU.ARSH:
      return BigInt.asIntN(64, left) >> (right & 63n);
    case ALU.NEG:
      return -left;
    case ALU.MOV:
      return offset === 0 ? right : BigInt.asIntN(offset, right);
    default:
      return undefined;
  }
}

/** Compares two 32-bit numbers as a JMP32 instruction does; undefined where there is no such comparison. */
export function compare32(operation: number, left: number, right: number): boolean | undefined {
  return compareOrdered(operation, left >>> 0, right >>> 0, left | 0, right | 0, (left & right) !== 0);
}

/** Compares two unsigned 64-bit numbers as a JMP instruction does; undefined where there is no such comparison. */
export function compare64(operation: number, left: bigint, right: bigint): boolean | undefined {
  const signed = operation === JUMP.JSGT || operation === JUMP.JSGE || operation === JUMP.JSLT || operation === JUMP.JSLE;
  return compareOrdered(
    operation,
    left,
    right,
    signed ? BigInt.asIntN(64, left) : 0n,
    signed ? BigInt.asIntN(64, right) : 0n,
    operation === JUMP.JSET && (left & right) !== 0n,
  );
}

/** Keeps the low `bits` bits and turns their bytes around where `swap` says so (RFC 9669, 4.2). */
export function convertBytes(value: bigint, bits: number, swap: boolean): bigint {
  let rest = BigInt.asUintN(bits, value);
  if (!swap) {
    return rest;
  }
  let swapped = 0n;
  for (let done = 0; done < bits; done += 8) {
    swapped = (swapped << 8n) | (rest & 0xffn);
    rest >>= 8n;
  }
  return swapped;
}

function divideSigned32(left: number, right: number): number {
  if (right === 0) {
    return 0;
  }
  return toUnsigned32(left === INT32_MIN && right === -1 ? INT32_MIN : Math.trunc(left / right));
}

function moduloSigned32(left: number, right: number): number {
  return toUnsigned32(right === 0 ? left : left % right);
}

function compareOrdered<Value extends number | bigint>(
  operation: number,
  left: Value,
  right: Value,
  signedLeft: Value,
  signedRight: Value,
  common: boolean,
): boolean | undefined {
  switch (operation) {
    case JUMP.JEQ:
      return left === right;
    case JUMP.JNE:
      return left !== right;
    case JUMP.JGT:
      return left > right;
    case JUMP.JGE:
      return left >= right;
    case JUMP.JLT:
      return left < right;
    case JUMP.JLE:
      return left <= right;
    case JUMP.JSET:
      return common;
    case JUMP.JSGT:
      return signedLeft > signedRight;
    case JUMP.JSGE:
      return signedLeft >= signedRight;
    case JUMP.JSLT:
      return signedLeft < signedRight;
    case JUMP.JSLE:
      return signedLeft <= signedRight;
    default:
      return undefined;
  }
}
