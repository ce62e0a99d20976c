/** Nanoseconds that pass between two things that happen in a simulated kernel. */
const NANOSECONDS_PER_EVENT = 1_000n;
const NANOSECONDS_PER_MILLISECOND = 1_000_000n;
/** How long the simulated machine has been up when the simulation starts. */
const UPTIME_NANOSECONDS = 3_600_000_000_000n;

/** The time of a simulated node: it passes only when something happens, so that the same calls give the same times. */
export class SimulatedClock {
  readonly #bootMilliseconds: number;
  #bootNanoseconds = UPTIME_NANOSECONDS;

  /** `start` is the time at the start, ISO 8601. */
  constructor(start: string) {
    this.#bootMilliseconds = Date.parse(start) - Number(UPTIME_NANOSECONDS / NANOSECONDS_PER_MILLISECOND);
  }

  /** Nanoseconds since boot; each reading is a little later than the one before. */
  readonly bootNanoseconds = (): bigint => {
    this.#bootNanoseconds += NANOSECONDS_PER_EVENT;
    return this.#bootNanoseconds;
  };

  /** Lets time pass. */
  advance(milliseconds: number): void {
    this.#bootNanoseconds += BigInt(milliseconds) * NANOSECONDS_PER_MILLISECOND;
  }

  /** The time of day, ISO 8601. */
  now(): string {
    return new Date(this.#bootMilliseconds + Number(this.#bootNanoseconds / NANOSECONDS_PER_MILLISECOND)).toISOString();
  }
}

/** Gives a generator of unsigned 32-bit numbers, the same for the same seed (the 32-bit mixer of SplitMix). */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x9e37_79b9) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 16), 0x85eb_ca6b);
    mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2_ae35);
    return (mixed ^ (mixed >>> 16)) >>> 0;
  };
}
