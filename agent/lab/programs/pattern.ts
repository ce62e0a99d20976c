/** A prime, so that no power of two of bytes lost or repeated lines up with the pattern again. */
const PERIOD = 1_048_573;

/** A stream of bytes in which a lost, repeated or moved piece shows. */
export interface Pattern {
  /** Gives `length` bytes of the stream from `offset` on, at most to the end of a period. */
  slice(offset: number, length: number): Uint8Array;
  /** Gives the index in `bytes` of the first one that is not the stream's at `offset`; -1 where all are. */
  findDifference(offset: number, bytes: Uint8Array): number;
}

/** Gives the stream of a seed: pseudo-random bytes (xorshift32), repeated. */
export function createPattern(seed: number): Pattern {
  const bytes = Buffer.alloc(PERIOD);
  let state = (seed ^ 0x9e37_79b9) | 1;
  for (let index = 0; index < PERIOD; index++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    bytes[index] = state >>> 24;
  }
  const slice = (offset: number, length: number): Buffer => {
    const start = offset % PERIOD;
    return bytes.subarray(start, Math.min(start + length, PERIOD));
  };
  return {
    slice,
    findDifference: (offset, actual) => {
      let done = 0;
      while (done < actual.length) {
        const wanted = slice(offset + done, actual.length - done);
        const got = actual.subarray(done, done + wanted.length);
        if (!wanted.equals(got)) {
          return done + wanted.findIndex((byte, index) => byte !== got[index]);
        }
        done += wanted.length;
      }
      return -1;
    },
  };
}
