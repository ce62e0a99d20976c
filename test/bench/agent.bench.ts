import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { connectInProcess } from '../../agent/protocol/node.ts';
import type { Node } from '../../agent/protocol/node.ts';
import { createAgentService } from '../../agent/service.ts';
import { dist } from '../../scripts/paths.mjs';
import { createLab } from '../lab/lab.ts';
import type { Lab } from '../lab/lab.ts';
import { missingForKernel } from '../requirements.ts';
import { median } from './bench.ts';
import type { Bench } from './bench.ts';

const CLI = join(dist, 'cli.cjs');
const OBJECT = join(dist, 'agent/meshpath.bpf.o');
const MESSAGE_BYTES = 64;
const ROUNDS = 2_000;
const WARM_UP_ROUNDS = 500;
const CONNECTIONS = 200;

/** How two pods talk to each other. The sidecars are Node.js proxies. */
const MODES = {
  direct: 'no mesh at all',
  iptables: "through two sidecars by Istio's iptables rules",
  accelerated: 'through two sidecars, accelerated',
} as const;
type Mode = keyof typeof MODES;
const PAIRS: readonly { readonly mode: Mode; readonly baseline: Mode }[] = [
  { mode: 'accelerated', baseline: 'iptables' },
  { mode: 'accelerated', baseline: 'direct' },
  { mode: 'iptables', baseline: 'direct' },
];

const runFile = promisify(execFile);

/** What the agent and the command line take, on the real kernel, in a lab of two pods. */
export const benches: readonly Bench[] = [
  {
    name: 'command line: --version',
    unit: 'ms',
    baseline: 'Node.js that does nothing',
    runs: 9,
    skip: existsSync(CLI) ? false : 'needs dist/cli.cjs (npm run build)',
    measure: async () => ({
      baseline: await timed(() => runFile(process.execPath, ['-e', '0'])),
      value: await timed(() => runFile(process.execPath, [CLI, '--version'])),
    }),
  },
  {
    name: 'command line: list all maps',
    unit: 'ms',
    baseline: 'Node.js that does nothing',
    runs: 9,
    skip: missing(CLI),
    measure: async () => ({
      baseline: await timed(() => runFile(process.execPath, ['-e', '0'])),
      value: await timed(() => runFile(process.execPath, [CLI, 'maps', '--json'])),
    }),
  },
  {
    name: 'turn acceleration on for two pods',
    unit: 'ms',
    baseline: 'turn it off again',
    runs: 9,
    skip: missing(OBJECT),
    measure: () =>
      withLab((lab) =>
        withAgent(async (agent) => ({
          value: await timed(() => turnOn(agent, lab)),
          baseline: await timed(() => agent.call('turnAccelerationOff', { cgroups: null })),
        })),
      ),
  },
  ...PAIRS.flatMap(({ mode, baseline }): Bench[] => [
    {
      name: `round trip of ${MESSAGE_BYTES} bytes, ${MODES[mode]}`,
      unit: 'ms',
      baseline: MODES[baseline],
      runs: 5,
      skip: missing(OBJECT),
      measure: async () => ({ baseline: await measureIn(baseline, measureRoundTrip), value: await measureIn(mode, measureRoundTrip) }),
    },
    {
      name: `opening a connection until the first byte is back, ${MODES[mode]}`,
      unit: 'ms',
      baseline: MODES[baseline],
      runs: 5,
      skip: missing(OBJECT),
      measure: async () => ({ baseline: await measureIn(baseline, measureOpening), value: await measureIn(mode, measureOpening) }),
    },
  ]),
];

type Client = Awaited<ReturnType<Lab['pods'][number]['startClient']>>;

/** Measures in pods of their own, so that no mode meets conntrack entries of another. */
async function measureIn(mode: Mode, measure: (client: Client, lab: Lab) => Promise<number>): Promise<number> {
  const lab = await createLab({ rules: mode === 'direct' ? 'none' : 'istio' });
  try {
    const proxies = mode === 'direct' ? [] : lab.pods.map((pod) => pod.startProxy());
    const [client] = await Promise.all([lab.pod(0).startClient(), lab.pod(1).startServer({ port: 8080 }), ...proxies]);
    return mode === 'accelerated' ? await withAgent(async (agent) => turnOn(agent, lab).then(() => measure(client, lab))) : await measure(client, lab);
  } finally {
    await lab.dispose();
  }
}

async function measureRoundTrip(client: Client, lab: Lab): Promise<number> {
  const connection = await client.connect({ address: lab.pod(1).address, port: 8080 });
  await connection.measureRoundTrips(MESSAGE_BYTES, WARM_UP_ROUNDS);
  const durations = await connection.measureRoundTrips(MESSAGE_BYTES, ROUNDS);
  await connection.close();
  return median(durations);
}

async function measureOpening(client: Client, lab: Lab): Promise<number> {
  const durations: number[] = [];
  for (let index = 0; index < CONNECTIONS; index++) {
    durations.push(
      await timed(async () => {
        const connection = await client.connect({ address: lab.pod(1).address, port: 8080 });
        await connection.exchange(1);
        await connection.close();
      }),
    );
  }
  return median(durations);
}

function turnOn(agent: Node, lab: Lab): Promise<unknown> {
  return agent.call('turnAccelerationOn', { profile: 'istio', pods: lab.pods.map(({ enrolment }) => enrolment) });
}

async function withLab<Result>(use: (lab: Lab) => Promise<Result>): Promise<Result> {
  const lab = await createLab();
  try {
    return await use(lab);
  } finally {
    await lab.dispose();
  }
}

async function withAgent<Result>(use: (agent: Node) => Promise<Result>): Promise<Result> {
  const agent = connectInProcess(createAgentService({ objectPath: OBJECT, agentVersion: 'bench' }));
  try {
    return await use(agent);
  } finally {
    await agent.close();
  }
}

async function timed(what: () => Promise<unknown>): Promise<number> {
  const start = performance.now();
  await what();
  return performance.now() - start;
}

function missing(file: string): string | false {
  const problem = missingForKernel();
  return problem === false && !existsSync(file) ? `needs ${file} (npm run build)` : problem;
}
