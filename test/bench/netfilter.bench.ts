import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { build } from 'esbuild';
import type { Bench, Sample } from './bench.ts';
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

/** The engine as it is delivered: bundled, without what a loader of TypeScript adds to every function. */
function bundledFlows(): Promise<typeof netfilterFlows> {
  bundled ??= bundleFlows();
  return bundled;
}

async function bundleFlows(): Promise<typeof netfilterFlows> {
  const folder = mkdtempSync(join(tmpdir(), 'meshpath-bench-'));
  try {
    const outfile = join(folder, 'netfilterFlows.mjs');
    await build({ entryPoints: [join(import.meta.dirname, 'netfilterFlows.ts')], outfile, bundle: true, platform: 'node', format: 'esm', target: 'es2022', logLevel: 'error' });
    return (await import(pathToFileURL(outfile).href)) as typeof netfilterFlows;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function garbageCollector(): () => void {
  setFlagsFromString('--expose-gc');
  return runInNewContext('gc') as () => void;
}
