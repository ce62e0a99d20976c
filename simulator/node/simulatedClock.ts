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
