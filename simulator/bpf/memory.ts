import type { KernelSocket } from './sockets.ts';
import type { BpfMap } from './maps.ts';

/** Why a program was stopped. The kernel's verifier would have refused most of these before the program ever ran. */
export type FaultKind =
  | 'null-pointer'
  | 'not-a-pointer'
  | 'out-of-bounds'
  | 'read-only'
  | 'uninitialised-register'
  | 'uninitialised-stack'
  | 'misaligned-atomic'
  | 'instruction-invalid'
  | 'jump-invalid'
  | 'helper-unknown'
  | 'helper-argument'
  | 'call-too-deep'
  | 'too-many-instructions';

/** Thrown inside of the machine where a program must stop; the machine turns it into a result. */
export class ProgramFault extends Error {
  readonly kind: FaultKind;

  constructor(kind: FaultKind, message: string) {
    super(message);
    this.name = 'ProgramFault';
    this.kind = kind;
  }
}

/** What a region of memory is, so that helpers can tell whether they were given what they need. */
export type RegionMeaning =
  | { readonly kind: 'stack' }
  | { readonly kind: 'context' }
  | { readonly kind: 'bytes' }
  | { readonly kind: 'map'; readonly map: BpfMap }
  | { readonly kind: 'map-value'; readonly map: BpfMap }
  | { readonly kind: 'socket'; readonly socket: KernelSocket }
  | { readonly kind: 'ringbuf-record'; readonly map: BpfMap };

/** Bytes that a program may reach through a pointer, and nothing around them. */
export interface Region {
  /** For people: `stack of frame 0`, `value of map connections`. */
  readonly name: string;
  readonly bytes: Uint8Array;
  readonly meaning: RegionMeaning;
  /** The byte ranges `[from, to)` that may be written. */
  readonly writable: readonly (readonly [from: number, to: number])[];
  /** One byte for each byte that was written; null where everything counts as written. */
  readonly written: Uint8Array | null;
}

interface MappedRegion extends Region {
  readonly view: DataView;
}

/** The high 32 bits of the first region's pointers; below are numbers that no region has. */
const FIRST_REGION = 0x0001_0000;
/** Where a region begins in the low 32 bits: room on both sides, so that a pointer past the end still names its region. */
const REGION_BASE = 0x4000_0000;
const NULL_PAGE = 4_096;
const WORD = 0x1_0000_0000;

/**
 * The memory that one run of a program can reach. A pointer is a 64-bit number: the high half names a region, the low
 * half an offset in it. Whatever a program computes, it can reach bytes of these regions and nothing else.
 */
export class AddressSpace {
  readonly #regions: (MappedRegion | null)[] = [];
  readonly #bases = new Map<Uint8Array, bigint>();
  /** How often the program wrote to its context: what it writes there is what it decides. */
  contextWrites = 0;

  /** Adds a region and gives the pointer to its first byte; the same bytes are only added once. */
  map(region: Region): bigint {
    const known = this.#bases.get(region.bytes);
    if (known !== undefined) {
      return known;
    }
    const { bytes } = region;
    const high = FIRST_REGION + this.#regions.length;
    this.#regions.push({ ...region, view: new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength) });
    const base = BigInt(high) * BigInt(WORD) + BigInt(REGION_BASE);
    this.#bases.set(bytes, base);
    return base;
  }

  /** Takes a region away: pointers into it fault from now on. */
  unmap(pointer: bigint): void {
    const index = Number(pointer >> 32n) - FIRST_REGION;
    const region = this.#regions[index];
    if (region !== undefined && region !== null) {
      this.#bases.delete(region.bytes);
      this.#regions[index] = null;
    }
  }

  /** Gives the region that a pointer points to and the offset in it; faults where it is none. */
  resolve(pointer: bigint): { readonly region: Region; readonly offset: number } {
    const { region, offset } = this.#locate(Number(pointer >> 32n), Number(pointer & 0xffff_ffffn), 0);
    return { region, offset };
  }

  /** Gives a copy of `length` bytes that must all have been written. */
  readBytes(pointer: bigint, length: number): Uint8Array {
    const { region, offset } = this.#access(Number(pointer >> 32n), Number(pointer & 0xffff_ffffn), 0, length);
    requireWritten(region, offset, length);
    return region.bytes.slice(offset, offset + length);
  }

  /** Writes bytes. */
  writeBytes(pointer: bigint, bytes: Uint8Array): void {
    const { region, offset } = this.#access(Number(pointer >> 32n), Number(pointer & 0xffff_ffffn), 0, bytes.length);
    requireWritable(region, offset, bytes.length);
    region.bytes.set(bytes, offset);
    region.written?.fill(1, offset, offset + bytes.length);
  }

  /** Loads 1, 2 or 4 bytes, little-endian, from the pointer with these halves plus `displacement`. */
  load(high: number, low: number, displacement: number, size: 1 | 2 | 4): number {
    const { region, offset } = this.#access(high, low, displacement, size);
    requireWritten(region, offset, size);
    switch (size) {
      case 1:
        return region.view.getUint8(offset);
      case 2:
        return region.view.getUint16(offset, true);
      case 4:
        return region.view.getUint32(offset, true);
    }
  }

  /** Loads 8 bytes, little-endian. */
  load64(high: number, low: number, displacement: number): bigint {
    const { region, offset } = this.#access(high, low, displacement, 8);
    requireWritten(region, offset, 8);
    return region.view.getBigUint64(offset, true);
  }

  /** Stores the low `size` bytes of `value`, little-endian. */
  store(high: number, low: number, displacement: number, size: 1 | 2 | 4, value: number): void {
    const { region, offset } = this.#access(high, low, displacement, size);
    this.#noteWrite(region, offset, size);
    switch (size) {
      case 1:
        region.view.setUint8(offset, value);
        break;
      case 2:
        region.view.setUint16(offset, value, true);
        break;
      case 4:
        region.view.setUint32(offset, value, true);
        break;
    }
    region.written?.fill(1, offset, offset + size);
  }

  /** Stores 8 bytes, little-endian. */
  store64(high: number, low: number, displacement: number, value: bigint): void {
    const { region, offset } = this.#access(high, low, displacement, 8);
    this.#noteWrite(region, offset, 8);
    region.view.setBigUint64(offset, value, true);
    region.written?.fill(1, offset, offset + 8);
  }

  #noteWrite(region: Region, offset: number, length: number): void {
    requireWritable(region, offset, length);
    if (region.meaning.kind === 'context') {
      this.contextWrites += 1;
    }
  }

  #access(high: number, low: number, displacement: number, length: number): { readonly region: MappedRegion; readonly offset: number } {
    const place = this.#locate(high, low, displacement);
    const { region, offset } = place;
    if (offset < 0 || offset + length > region.bytes.length) {
      const where = offset < 0 ? `${-offset} bytes before it` : `at offset ${offset}`;
      throw new ProgramFault('out-of-bounds', `access of ${length} bytes ${where} in ${region.name}, which has ${region.bytes.length} bytes`);
    }
    return place;
  }

  #locate(high: number, low: number, displacement: number): { readonly region: MappedRegion; readonly offset: number } {
    const region = this.#regions[high - FIRST_REGION];
    if (region === undefined) {
      if (high === 0 && low + displacement < NULL_PAGE) {
        throw new ProgramFault('null-pointer', `access through a null pointer (${low + displacement} bytes from it): the program did not test what it was given`);
      }
      throw new ProgramFault('not-a-pointer', `access through the number 0x${(BigInt(high) * BigInt(WORD) + BigInt(low)).toString(16)}, which is no pointer`);
    }
    if (region === null) {
      throw new ProgramFault('not-a-pointer', 'access through a pointer to memory that was given back');
    }
    return { region, offset: low + displacement - REGION_BASE };
  }
}

function requireWritten(region: Region, offset: number, length: number): void {
  if (region.written === null) {
    return;
  }
  const gap = region.written.subarray(offset, offset + length).indexOf(0);
  if (gap !== -1) {
    throw new ProgramFault('uninitialised-stack', `read of ${region.name} at offset ${offset + gap}, which was never written`);
  }
}

function requireWritable(region: Region, offset: number, length: number): void {
  if (!region.writable.some(([from, to]) => from <= offset && offset + length <= to)) {
    throw new ProgramFault('read-only', `write of ${length} bytes at offset ${offset} of ${region.name}, which may not be written there`);
  }
}
