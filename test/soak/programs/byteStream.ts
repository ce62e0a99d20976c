import { createPattern } from '../../../agent/lab/programs/pattern.ts';

/** The first of these of every connection's stream; the rest is the pattern. */
export const REQUEST_HEADER_BYTES = 12;
export const RESPONSE_HEADER_BYTES = 8;
const MAGIC = 0x6d70_7468;

/** One stream for all: a connection's is where its seed says. */
const pattern = createPattern(1);

export type Direction = 'request' | 'response';

/** The bytes of one direction of one connection: a header, and a piece of the pattern that its seed chooses. */
export class ByteStream {
  readonly length: number;
  readonly #header: Buffer;
  readonly #offset: number;

  constructor(direction: Direction, seed: number, header: Buffer, payloadBytes: number) {
    this.#header = header;
    this.#offset = Math.imul(seed, direction === 'request' ? 0x9e37_79b1 : 0x85eb_ca6b) >>> 0;
    this.length = header.length + payloadBytes;
  }

  /** Gives bytes of the stream from `position` on: `length` of them or fewer, at least one before the end. */
  slice(position: number, length: number): Uint8Array {
    const wanted = Math.min(length, this.length - position);
    if (position >= this.#header.length) {
      return pattern.slice(this.#offset + position, wanted);
    }
    const fromHeader = this.#header.subarray(position, position + wanted);
    const rest = wanted - fromHeader.length;
    return rest === 0 ? fromHeader : Buffer.concat([fromHeader, pattern.slice(this.#offset + this.#header.length, rest)]);
  }

  /** Gives the place in the stream of the first of `bytes` that is not the stream's from `position` on; -1 where all are. */
  findDifference(position: number, bytes: Uint8Array): number {
    const inHeader = Math.min(bytes.length, Math.max(0, this.#header.length - position));
    for (let index = 0; index < inHeader; index += 1) {
      if (bytes[index] !== this.#header[position + index]) {
        return position + index;
      }
    }
    if (position + bytes.length > this.length) {
      return this.length;
    }
    const difference = pattern.findDifference(this.#offset + position + inHeader, bytes.subarray(inHeader));
    return difference < 0 ? -1 : position + inHeader + difference;
  }
}

/** Gives the client's header: its seed, and the seed that a server that speaks first told; 0 for none. */
export function requestHeader(seed: number, greetedSeed: number): Buffer {
  const header = Buffer.alloc(REQUEST_HEADER_BYTES);
  header.writeUInt32BE(MAGIC, 0);
  header.writeUInt32BE(seed, 4);
  header.writeUInt32BE(greetedSeed, 8);
  return header;
}

/** Gives the server's header: the client's seed, or its own where it speaks first. */
export function responseHeader(seed: number): Buffer {
  const header = Buffer.alloc(RESPONSE_HEADER_BYTES);
  header.writeUInt32BE(MAGIC, 0);
  header.writeUInt32BE(seed, 4);
  return header;
}

/** Reads the seed from a header; null where it is none. */
export function readHeaderSeed(header: Buffer): number | null {
  return header.readUInt32BE(0) === MAGIC ? header.readUInt32BE(4) : null;
}
