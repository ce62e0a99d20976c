import { closeSync, existsSync } from 'node:fs';
import { join } from 'node:path';
import { openLibbpf } from '../../agent/libbpf/library.ts';
import { DATAPATH_PROGRAMS } from '../../agent/protocol/datapath.ts';
import type { ProgramId } from '../../agent/protocol/scalars.ts';
import { connectInProcess } from '../../agent/protocol/node.ts';
import type { Node } from '../../agent/protocol/node.ts';
import { createAgentService } from '../../agent/service.ts';
import { dist } from '../../scripts/paths.mjs';
import { createLab } from '../lab/lab.ts';
import type { Lab } from '../lab/lab.ts';
import { missingForKernel } from '../requirements.ts';
import type { Bench } from './bench.ts';

const OBJECT = join(dist, 'agent/meshpath.bpf.o');
const CONNECTIONS = 200;
const MESSAGES = 50;
const MESSAGE_BYTES = 64;
/** enum bpf_stats_type */
const BPF_STATS_RUN_TIME = 0;

/** What one run of each program costs, as the kernel itself measures it while statistics are on. */
export const benches: readonly Bench[] = Object.values(DATAPATH_PROGRAMS).map((name) => ({
  name: `one run of ${name}`,
  unit: 'ns',
  runs: 5,
  skip: missingForKernel() || (existsSync(OBJECT) ? false : `needs ${OBJECT} (npm run build)`),
  measure: async () => ({ value: await measureProgram(name) }),
}));

async function measureProgram(name: string): Promise<number> {
  const statistics = enableStatistics();
  const lab = await createLab();
  const agent = connectInProcess(createAgentService({ objectPath: OBJECT, agentVersion: 'bench' }));
  try {
    const { programIds } = await agent.call('turnAccelerationOn', { profile: 'istio', pods: lab.pods.map(({ enrolment }) => enrolment) });
    await talk(lab);
    return await readCost(agent, programIds, name);
  } finally {
    await agent.close();
    await lab.dispose();
    closeSync(statistics);
  }
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

async function talk(lab: Lab): Promise<void> {
  const [client] = await Promise.all([lab.pod(0).startClient(), lab.pod(1).startServer({ port: 8080 }), ...lab.pods.map((pod) => pod.startProxy())]);
  for (let index = 0; index < CONNECTIONS; index++) {
    const connection = await client.connect({ address: lab.pod(1).address, port: 8080 });
    await connection.measureRoundTrips(MESSAGE_BYTES, MESSAGES);
    // Programs ask for the peer, as proxies do for the original destination.
    await connection.describe();
    await connection.close();
  }
}

async function readCost(agent: Node, programIds: readonly ProgramId[], name: string): Promise<number> {
  const program = (await agent.call('listPrograms', {})).find((candidate) => programIds.includes(candidate.id) && candidate.name === name);
  const runs = Number(program?.runCount ?? 0);
  if (program === undefined || runs === 0) {
    throw new Error(`the kernel counted no run of ${name}`);
  }
  return Number(program.runTimeNanoseconds) / runs;
}
