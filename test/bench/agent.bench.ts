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
import type { Bench, Sample } from './bench.ts';

const CLI = join(dist, 'cli.cjs');
const OBJECT = join(dist, 'agent/meshpath.bpf.o');
const MESSAGE_BYTES = 64;
const ROUNDS = 2_000;
const WARM_UP_ROUNDS = 500;
const CONNECTIONS = 200;

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
  {
    name: `round trip of ${MESSAGE_BYTES} bytes through two sidecars (Node.js proxies), accelerated`,
    unit: 'ms',
    baseline: "Istio's iptables rules",
    runs: 5,
    skip: missing(OBJECT),
    measure: () => compare(measureRoundTrip),
  },
  {
    name: 'opening a connection through two sidecars (Node.js proxies) until the first byte is back, accelerated',
    unit: 'ms',
    baseline: "Istio's iptables rules",
    runs: 5,
    skip: missing(OBJECT),
    measure: () => compare(measureOpening),
  },
];

type Client = Awaited<ReturnType<Lab['pods'][number]['startClient']>>;

/** Measures under iptables and accelerated, each in pods of its own, so that neither meets conntrack entries of the other. */
async function compare(measure: (client: Client, lab: Lab) => Promise<number>): Promise<Sample> {
  const measureInLab = (prepare: (lab: Lab) => Promise<unknown>): Promise<number> =>
    withLab(async (lab) => {
      const [, , , client] = await Promise.all([
        lab.pod(1).startServer({ port: 8080 }),
        lab.pod(0).startProxy(),
        lab.pod(1).startProxy(),
        lab.pod(0).startClient(),
      ]);
      await prepare(lab);
      return measure(client, lab);
    });
  return {
    baseline: await measureInLab(() => Promise.resolve()),
    value: await withAgent((agent) => measureInLab((lab) => turnOn(agent, lab))),
  };
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
