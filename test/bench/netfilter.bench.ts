import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import type { Bench, Sample } from './bench.ts';
import { importBundled } from './bundled.ts';
import type * as netfilterFlows from './netfilterFlows.ts';

const LARGE_RULES = join(import.meta.dirname, '../../../shared/data/rulesets/tum_4848.rules');
const skipLarge = existsSync(LARGE_RULES) ? false : 'needs a large rule set (../shared/data/rulesets/tum_4848.rules)';
const CONNECTIONS = 100_000;

/** First packets of connections a second: their whole way through rules, conntrack, NAT and routing to a socket or out of the node. */
export const benches: readonly Bench[] = [
  {
    name: "netfilter: first packets on Istio's default rules, verdicts only",
    unit: '1/s',
    baseline: 'with a whole trace',
    runs: 7,
    skip: false,
    measure: async (): Promise<Sample> => (await bundledFlows()).measureIstio(),
  },
  {
    name: 'netfilter: first packets on 4,848 rules, verdicts only',
    unit: '1/s',
    baseline: 'from rule to rule, without an index',
    runs: 3,
    skip: skipLarge,
    measure: async (): Promise<Sample> => (await bundledFlows()).measureLarge(LARGE_RULES),
  },
  {
    name: 'netfilter: memory of 100,000 conntrack entries',
    unit: 'bytes',
    runs: 3,
    skip: false,
    measure: async (): Promise<Sample> => ({ value: (await bundledFlows()).measureMemory(CONNECTIONS, garbageCollector()) }),
  },
];

let bundled: Promise<typeof netfilterFlows> | undefined;

function bundledFlows(): Promise<typeof netfilterFlows> {
  bundled ??= importBundled('netfilterFlows.ts') as Promise<typeof netfilterFlows>;
  return bundled;
}

function garbageCollector(): () => void {
  setFlagsFromString('--expose-gc');
  return runInNewContext('gc') as () => void;
}
