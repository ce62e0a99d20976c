/** One figure to measure, with what it is compared to. */
export interface Bench {
  readonly name: string;
  readonly unit: 'bytes' | 'ns' | 'ms' | '1/s' | 'Gbit/s';
  /** What the baseline is, in a few words; undefined if there is nothing to compare to. */
  readonly baseline?: string;
  /** How many times it is measured; the medians count. */
  readonly runs: number;
  /** Why it cannot be measured on this machine; false if it can. */
  readonly skip: string | false;
  /**
   * Measures once, or several times where preparing it takes long. The baseline is measured in the same run, since the machine's
   * speed changes between runs.
   */
  readonly measure: () => Promise<Sample | readonly Sample[]>;
}

/** What one run gave, in the unit of its bench. */
export interface Sample {
  readonly value: number;
  readonly baseline?: number;
}

/** A figure as `npm run bench -- --json` writes it. */
export interface Figure {
  readonly name: string;
  readonly unit: Bench['unit'];
  /** The median. */
  readonly value: number;
  readonly baseline: number | null;
  readonly baselineName: string | null;
  /** value / baseline */
  readonly ratio: number | null;
  readonly runs: number;
  /** (largest - smallest) / median of the value */
  readonly spread: number;
}

/** Measures a bench as often as it asks for. */
export async function measureBench(bench: Bench): Promise<Figure> {
  const samples: Sample[] = [];
  while (samples.length < bench.runs) {
    samples.push(...[await bench.measure()].flat());
  }
  return summarizeSamples(bench, samples);
}

/** Gives the figure of a bench's samples. */
export function summarizeSamples(bench: Pick<Bench, 'name' | 'unit' | 'baseline'>, samples: readonly Sample[]): Figure {
  const values = samples.map(({ value }) => value);
  const baselines = samples.flatMap(({ baseline }) => (baseline === undefined ? [] : [baseline]));
  const value = median(values);
  const baseline = baselines.length === 0 ? null : median(baselines);
  return {
    name: bench.name,
    unit: bench.unit,
    value,
    baseline,
    baselineName: bench.baseline ?? null,
    ratio: baseline === null || baseline === 0 ? null : value / baseline,
    runs: samples.length,
    spread: value === 0 ? 0 : (Math.max(...values) - Math.min(...values)) / value,
  };
}

/** Gives the middle of some numbers, or the mean of the two in the middle; throws for none. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const upper = sorted[Math.floor(sorted.length / 2)];
  const lower = sorted[Math.ceil(sorted.length / 2) - 1];
  if (upper === undefined || lower === undefined) {
    throw new RangeError('there is no median of no numbers');
  }
  return (upper + lower) / 2;
}
