import type { Bench } from './bench.ts';
import { importBundled } from './bundled.ts';
import type * as ruleReading from './ruleReading.ts';

export const benches: readonly Bench[] = [
  { name: 'reading 5,000 rules', unit: 'ms', runs: 25, skip: false, measure: async () => ({ value: (await bundledReading()).measureReading() }) },
  { name: 'reading and writing 5,000 rules', unit: 'ms', runs: 15, skip: false, measure: async () => ({ value: (await bundledReading()).measureReadingAndWriting() }) },
];

let bundled: Promise<typeof ruleReading> | undefined;

function bundledReading(): Promise<typeof ruleReading> {
  bundled ??= importBundled('ruleReading.ts') as Promise<typeof ruleReading>;
  return bundled;
}
