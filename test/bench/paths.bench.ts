import { once } from 'node:events';
import { createInterface } from 'node:readline';
import type { ChildProcessByStdio } from 'node:child_process';
import type { Readable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { ISTIO_PROFILE } from '../../agent/protocol/acceleration.ts';
import { createLab } from '../lab/lab.ts';
import type { Lab } from '../lab/lab.ts';
import { APPLICATION_IDENTITY, SIDECAR_IDENTITY } from '../../agent/lab/pod.ts';
import type { LabPod } from '../../agent/lab/pod.ts';
import { missingForKernel } from '../requirements.ts';
import { LabAcceleration } from '../soak/acceleration.ts';
import { median } from './bench.ts';
import type { Bench, Sample } from './bench.ts';
import type { PathClientParams, PathReport } from './programs/pathPlan.ts';

/**
 * Application, sidecar, sidecar, application: the same programs on the same pods under Istio's rules, with acceleration and
 * without (the baseline), in turns; and the two applications without sidecars, in turns with the same baseline.
 */

const PORT = 8_080;
const TURNS = 7;
/** Message sizes in bytes, and how many round trips and messages of a stream make a sample. */
const SIZES = [
  { bytes: 64, text: '64 B', rounds: 2_000, messages: 200_000 },
  { bytes: 1_024, text: '1 KiB', rounds: 2_000, messages: 150_000 },
  { bytes: 16_384, text: '16 KiB', rounds: 1_000, messages: 40_000 },
  { bytes: 65_536, text: '64 KiB', rounds: 500, messages: 12_000 },
] as const;
const SHORT_CONNECTIONS = 300;

type Path = 'direct' | 'iptables' | 'ebpf';

interface Cell {
  readonly name: string;
  readonly unit: Bench['unit'];
  readonly params: Pick<PathClientParams, 'plan' | 'connections' | 'warmUp'>;
  readonly toValue: (report: PathReport) => number;
}

const cells: readonly Cell[] = [
  ...SIZES.map(
    ({ bytes, text, rounds }): Cell => ({
      name: `round trip of ${text}`,
      unit: 'ns',
      params: { plan: { exercise: 'round-trips', bytes, count: rounds }, connections: 1, warmUp: 1 },
      toValue: ({ nanoseconds }) => median(nanoseconds),
    }),
  ),
  ...SIZES.map(
    ({ bytes, text, messages }): Cell => ({
      name: `one-way stream of ${text}`,
      unit: 'Gbit/s',
      params: { plan: { exercise: 'stream', bytes, count: messages }, connections: 1, warmUp: 0 },
      toValue: ({ nanoseconds }) => (8 * bytes * messages) / median(nanoseconds),
    }),
  ),
  {
    name: 'short connections',
    unit: '1/s',
    params: { plan: { exercise: 'round-trips', bytes: 64, count: 1 }, connections: SHORT_CONNECTIONS, warmUp: 50 },
    toValue: ({ nanoseconds }) => 1e9 / median(nanoseconds),
  },
];

export const benches: readonly Bench[] = cells.flatMap((cell) =>
  (['ebpf', 'direct'] as const).map((path) => ({
    name: `${cell.name}, ${path === 'ebpf' ? 'accelerated' : 'without sidecars'}`,
    unit: cell.unit,
    baseline: 'iptables',
    runs: TURNS,
    skip: missingForKernel(),
    measure: () => measureCell(cell, path),
  })),
);

async function measureCell(cell: Cell, path: Path): Promise<readonly Sample[]> {
  const stages: PathStage[] = [];
  try {
    const measured = await PathStage.open(path);
    stages.push(measured);
    const baseline = await PathStage.open('iptables');
    stages.push(baseline);
    const samples: Sample[] = [];
    for (let turn = 0; turn < TURNS; turn += 1) {
      samples.push({ value: cell.toValue(await measured.run(cell.params)), baseline: cell.toValue(await baseline.run(cell.params)) });
    }
    return samples;
  } finally {
    for (const stage of stages) {
      await stage.dispose();
    }
  }
}

/** Two pods with what a path needs, for any number of runs. */
class PathStage {
  readonly #lab: Lab;
  readonly #acceleration: LabAcceleration;

  private constructor(lab: Lab, acceleration: LabAcceleration) {
    this.#lab = lab;
    this.#acceleration = acceleration;
  }

  static async open(path: Path): Promise<PathStage> {
    const lab = await createLab({ rules: path === 'direct' ? 'none' : 'istio' });
    const stage = new PathStage(lab, new LabAcceleration(lab));
    try {
      const { outboundPort, inboundPort, passthroughSource } = ISTIO_PROFILE;
      await Promise.all([
        stage.#start(lab.pod(1), 'pathServer', [String(PORT)]),
        ...(path === 'direct'
          ? []
          : [
              stage.#start(lab.pod(0), 'pathSidecar', [String(outboundPort)], true),
              stage.#start(lab.pod(1), 'pathSidecar', [String(inboundPort), passthroughSource ?? ''], true),
            ]),
      ]);
      if (path === 'ebpf') {
        await stage.#acceleration.turnOn();
      }
      return stage;
    } catch (error) {
      await stage.dispose();
      throw error;
    }
  }

  async run(params: Cell['params']): Promise<PathReport> {
    const all: PathClientParams = { address: this.#lab.pod(1).address, port: PORT, ...params };
    const client = await startProgram(this.#lab.pod(0), 'pathClient', [JSON.stringify(all)], false);
    return JSON.parse(client.firstLine) as PathReport;
  }

  async dispose(): Promise<void> {
    await this.#acceleration.dispose();
    await this.#lab.dispose();
  }

  async #start(pod: LabPod, name: string, args: readonly string[], isSidecar = false): Promise<void> {
    await startProgram(pod, name, args, isSidecar);
  }
}

/** Starts a program and resolves with its first line; rejects with what it complained of if it ends without. The lab ends it. */
async function startProgram(pod: LabPod, name: string, args: readonly string[], isSidecar: boolean): Promise<{ readonly firstLine: string }> {
  const file = fileURLToPath(new URL(`programs/${name}.ts`, import.meta.url));
  const child: ChildProcessByStdio<null, Readable, Readable> = await pod.start([process.execPath, '--import', 'tsx', file, ...args], {
    identity: isSidecar ? SIDECAR_IDENTITY : APPLICATION_IDENTITY,
  });
  let complaint = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => (complaint = (complaint + text).slice(-4_000)));
  const lines = createInterface({ input: child.stdout });
  const closed = once(child, 'close').then(() => {
    throw new Error(`${name} ended: ${complaint}`);
  });
  closed.catch(() => undefined);
  const [firstLine] = (await Promise.race([once(lines, 'line'), closed])) as [string];
  return { firstLine };
}
