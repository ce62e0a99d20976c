import { readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { createLab } from '../lab/lab.ts';
import { missingForKernel } from '../requirements.ts';
import { LabAcceleration } from '../soak/acceleration.ts';
import type { Bench } from './bench.ts';

const CONNECTIONS = 1_000;
const AT_A_TIME = 50;
const PORT = 8_080;
/** The kernel frees sockets of the connections before a while after they closed (RCU). */
const SETTLE_MILLISECONDS = 1_000;

/** What the kernel takes for one open connection of two applications through two sidecars (six sockets), beside its maps, which are there from the start. */
export const benches: readonly Bench[] = [
  {
    name: 'kernel memory of an open connection, accelerated',
    unit: 'bytes',
    baseline: 'iptables',
    runs: 5,
    skip: missingForKernel(),
    measure: async () => ({ value: await measureMemory(true), baseline: await measureMemory(false) }),
  },
];

async function measureMemory(isAccelerated: boolean): Promise<number> {
  const lab = await createLab({ rules: 'istio' });
  const acceleration = new LabAcceleration(lab);
  try {
    const [client] = await Promise.all([lab.pod(0).startClient(), lab.pod(1).startServer({ port: PORT }), ...lab.pods.map((pod) => pod.startProxy())]);
    if (isAccelerated) {
      await acceleration.turnOn();
    }
    const open = async (): Promise<void> => {
      const connection = await client.connect({ address: lab.pod(1).address, port: PORT });
      await connection.exchange(64);
    };
    // What the first ones cost once: caches, pages of the programs.
    await Promise.all(Array.from({ length: AT_A_TIME }, open));
    await delay(SETTLE_MILLISECONDS);
    const before = readKernelMemory();
    for (let opened = 0; opened < CONNECTIONS; opened += AT_A_TIME) {
      await Promise.all(Array.from({ length: AT_A_TIME }, open));
    }
    await delay(SETTLE_MILLISECONDS);
    return (readKernelMemory() - before) / CONNECTIONS;
  } finally {
    await acceleration.dispose();
    await lab.dispose();
  }
}

/** Gives the bytes of slabs and of memory of each processor (proc_meminfo(5)). */
function readKernelMemory(): number {
  const text = readFileSync('/proc/meminfo', 'utf8');
  return ['Slab', 'Percpu'].reduce((sum, name) => sum + 1_024 * Number(new RegExp(`^${name}:\\s+(\\d+) kB$`, 'm').exec(text)?.[1] ?? 0), 0);
}
