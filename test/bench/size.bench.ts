import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { makePackage, sizeLimit } from '../../scripts/package.mjs';
import { dist } from '../../scripts/paths.mjs';
import type { Bench } from './bench.ts';

/** What is delivered, minified: the bench script builds it so. The baseline of a bundle is itself compressed, as it travels. */
const bundles = ['extension.cjs', 'connected.cjs', 'cli.cjs', 'simulator.js', 'agent/agent.cjs', 'agent/meshpath.bpf.o', ...listPages()];

function listPages(): string[] {
  const folder = join(dist, 'webviews');
  return existsSync(folder) ? readdirSync(folder).filter((name) => name.endsWith('.js')).map((name) => `webviews/${name}`) : [];
}

/** Sizes of what is delivered. */
export const benches: readonly Bench[] = [
  ...bundles.map(
    (name): Bench => ({
      name: `size of ${name}`,
      unit: 'bytes',
      baseline: 'compressed by gzip',
      runs: 1,
      skip: existsSync(join(dist, name)) ? false : `needs dist/${name} (npm run build)`,
      measure: () => {
        const content = readFileSync(join(dist, name));
        return Promise.resolve({ value: content.length, baseline: gzipSync(content).length });
      },
    }),
  ),
  {
    name: 'size of the VSIX',
    unit: 'bytes',
    baseline: 'limit',
    runs: 1,
    skip: false,
    measure: async () => ({ value: statSync(await makePackage({ build: false })).size, baseline: sizeLimit }),
  },
];
