import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { dist } from '../../scripts/paths.mjs';
import { explain } from '../../simulator/explain/explain.ts';
import { parseFlowText } from '../../simulator/explain/flowText.ts';
import { createDemoSnapshot } from '../../simulator/mesh/demoWorld.ts';
import type { Bench, Sample } from './bench.ts';

const object = join(dist, 'bpf/meshpath.bpf.o');

/** What explaining one connection costs: both paths, the second by running the compiled programs. */
export const benches: readonly Bench[] = [
  {
    name: 'explaining a connection on both paths',
    unit: 'ms',
    runs: 15,
    skip: existsSync(object) ? false : 'needs dist/bpf/meshpath.bpf.o (npm run build)',
    measure: (): Promise<Sample> => {
      const snapshot = createDemoSnapshot();
      const flow = parseFlowText(snapshot, 'pod-a -> pod-b:8080');
      const programs = readFileSync(object);
      const started = performance.now();
      const explanation = explain(snapshot, flow, { object: programs });
      const value = performance.now() - started;
      if (explanation.sockops.legs.length === 0) {
        throw new Error('nothing was explained');
      }
      return Promise.resolve({ value });
    },
  },
];
