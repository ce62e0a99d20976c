import { closeSync, existsSync } from 'node:fs';
import { join } from 'node:path';
import { openLibbpf } from '../../agent/libbpf/library.ts';
import type { LabPod } from '../../agent/lab/pod.ts';
import { SIDECAR_IDENTITY } from '../../agent/lab/pod.ts';
import { ISTIO_PROFILE } from '../../agent/protocol/acceleration.ts';
import { DATAPATH_PROGRAMS } from '../../agent/protocol/datapath.ts';
import { toIpAddress } from '../../agent/protocol/ipAddress.ts';
import type { IpAddress, ProgramId } from '../../agent/protocol/scalars.ts';
import { connectInProcess } from '../../agent/protocol/node.ts';
import type { Node } from '../../agent/protocol/node.ts';
import { createAgentService } from '../../agent/service.ts';
import { dist } from '../../scripts/paths.mjs';
import { createLab } from '../lab/lab.ts';
import type { Lab } from '../lab/lab.ts';
import type { DatagramStep } from '../kernel/datagramClient.ts';
import { startDatagramClient, startDnsServer } from '../kernel/datagramPrograms.ts';
import { missingForKernel } from '../requirements.ts';
import type { Bench } from './bench.ts';

const OBJECT = join(dist, 'agent/meshpath.bpf.o');
const TURNS = 5;
const CONNECTIONS = 200;
const MESSAGES = 50;
const MESSAGE_BYTES = 64;
const PASSTHROUGH_SOURCE = ISTIO_PROFILE.passthroughSourceV6 ?? '::';
/** enum bpf_stats_type */
const BPF_STATS_RUN_TIME = 0;

/** What one run of each program costs, as the kernel itself measures it while statistics are on. */
export const benches: readonly Bench[] = Object.values(DATAPATH_PROGRAMS).map((name) => ({
  name: `one run of ${name}`,
  unit: 'ns',
  runs: TURNS,
  skip: missingForKernel() || (existsSync(OBJECT) ? false : `needs ${OBJECT} (npm run build)`),
  measure: async () => (await measureOnce()).map((costs) => ({ value: costOf(costs, name) })),
}));

/** Nanoseconds of a run by the name of the program. */
type Costs = ReadonlyMap<string, number>;

let measured: Promise<readonly Costs[]> | undefined;

/** All programs run in each turn, so that all of them are measured together. */
function measureOnce(): Promise<readonly Costs[]> {
  measured ??= measurePrograms();
  return measured;
}

async function measurePrograms(): Promise<readonly Costs[]> {
  const turns: Costs[] = [];
  while (turns.length < TURNS) {
    turns.push(await measureTurn());
  }
  return turns;
}

async function measureTurn(): Promise<Costs> {
  const statistics = enableStatistics();
  const lab = await createLab();
  const agent = connectInProcess(createAgentService({ objectPath: OBJECT, agentVersion: 'bench' }));
  try {
    await Promise.all(
      lab.pods.map(async (pod, index) => {
        await pod.run('ip', ['-6', 'address', 'add', `${ipv6Address(index)}/64`, 'dev', 'eth0', 'nodad']);
        await pod.run('ip', ['-6', 'address', 'add', `${PASSTHROUGH_SOURCE}/128`, 'dev', 'lo', 'nodad']);
      }),
    );
    const pods = lab.pods.map(({ enrolment: { cgroup, addresses } }, index) => ({ cgroup, addresses: [...addresses, ipv6Address(index)] }));
    const { programIds } = await agent.call('turnAccelerationOn', { profile: 'istio', pods });
    await talk(lab);
    await resolveNames(lab.pod(0));
    return await readCosts(agent, programIds);
  } finally {
    await agent.close();
    await lab.dispose();
    closeSync(statistics);
  }
}

function ipv6Address(pod: number): IpAddress {
  return toIpAddress(`fd00:77::${11 + pod}`);
}

/** Has the kernel measure programs for as long as the descriptor that it gives is open (BPF_ENABLE_STATS, Linux 5.8). */
function enableStatistics(): number {
  const { koffi, describe } = openLibbpf();
  const enable = koffi.load('libbpf.so.1').func('bpf_enable_stats', 'int', ['int']) as unknown as (type: number) => number;
  const result = enable(BPF_STATS_RUN_TIME);
  if (result < 0) {
    throw new Error(`statistics of BPF programs could not be enabled: ${describe(-result)}`);
  }
  return result;
}

/** Connections of both families, each with its sidecars. */
async function talk(lab: Lab): Promise<void> {
  const [client] = await Promise.all([
    lab.pod(0).startClient(),
    lab.pod(1).startServer({ address: '::', port: 8080 }),
    ...lab.pods.map((pod) => pod.startProxy({ listenAddress: '::', passthroughSourceV6: PASSTHROUGH_SOURCE })),
  ]);
  for (const address of [lab.pod(1).address, ipv6Address(1)]) {
    for (let index = 0; index < CONNECTIONS; index++) {
      const connection = await client.connect({ address, port: 8080 });
      await connection.measureRoundTrips(MESSAGE_BYTES, MESSAGES);
      // Programs ask for the peer, as proxies do for the original destination.
      await connection.describe();
      await connection.close();
    }
  }
}

/** Questions of both families, by sockets that are connected and by others. */
async function resolveNames(pod: LabPod): Promise<void> {
  const port = ISTIO_PROFILE.dnsPort ?? 0;
  await startDnsServer(pod, { identity: SIDECAR_IDENTITY, name: 'sidecar', addresses: ['127.0.0.1', '::1'], port, answer: '192.0.2.1' });
  const steps = ([[4, '10.77.0.53'], [6, 'fd00:77::53']] as const).flatMap(([family, address]): readonly DatagramStep[] => {
    const to = { address, port: 53 };
    const asks = Array.from({ length: CONNECTIONS }, (): readonly DatagramStep[] => [{ do: 'send', name: 'a', text: 'question', to }, { do: 'receive', name: 'a' }]).flat();
    return [{ do: 'socket', name: 'a', family }, ...asks, { do: 'connect', name: 'a', to }, { do: 'names', name: 'a' }, { do: 'close', name: 'a' }];
  });
  const failed = (await (await startDatagramClient(pod, steps)).results).find(({ error }) => error !== undefined);
  if (failed !== undefined) {
    throw new Error(`a question got no answer: ${failed.error ?? ''}`);
  }
}

async function readCosts(agent: Node, programIds: readonly ProgramId[]): Promise<Costs> {
  const own = (await agent.call('listPrograms', {})).filter(({ id }) => programIds.includes(id));
  return new Map(own.map(({ name, runCount, runTimeNanoseconds }) => [name, Number(runTimeNanoseconds) / Number(runCount)]));
}

function costOf(costs: Costs, name: string): number {
  const cost = costs.get(name);
  if (cost === undefined || Number.isNaN(cost)) {
    throw new Error(`the kernel counted no run of ${name}`);
  }
  return cost;
}
