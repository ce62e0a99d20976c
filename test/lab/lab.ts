import { randomBytes } from 'node:crypto';
import { rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { findCgroup2Mount } from '../../agent/kernel/cgroup2Mount.ts';
import { toIpAddress } from '../../agent/protocol/ipAddress.ts';
import type { CgroupPath, NamespaceId } from '../../agent/protocol/scalars.ts';
import { createCgroup, listCgroupProcesses, removeCgroup } from './cgroup2.ts';
import { runCommand } from './command.ts';
import { ISTIO_RULES } from './istioRules.ts';
import { LabPod } from './pod.ts';
import { buildPrograms } from './programProcess.ts';

/** What every name that a lab makes on the machine begins with. */
export const LAB_PREFIX = 'meshpath-lab-';

const MAX_PODS = 26;
const KILL_DEADLINE_MILLISECONDS = 10_000;

export interface LabOptions {
  /** How many pods; two where it is left out. */
  readonly pods?: number;
  /** Loaded with iptables-restore in every pod: Istio's default ones, none, or any text. */
  readonly rules?: 'istio' | 'none' | { readonly text: string };
  /** The first three bytes of the addresses, which exist in the lab's namespaces only: `10.77.0`. */
  readonly subnet?: string;
}

/** Pods on one bridge, and nothing outside of their own namespaces. */
export interface Lab {
  /** In the name of everything that it made: `meshpath-lab-<pid>-<random>`. */
  readonly id: string;
  /** The namespace of the bridge, with the address `<subnet>.1`. */
  readonly routerNamespaceName: string;
  readonly routerNamespaceId: NamespaceId;
  readonly pods: readonly LabPod[];
  /** Gives a pod by its place; throws a RangeError where there is none. */
  pod(index: number): LabPod;
  /** Ends every process in the lab and removes all that it made. Safe to call more than once. */
  dispose(): Promise<void>;
}

/**
 * Makes pods without Kubernetes: a network namespace each with a veth pair into a bridge in a namespace of its own, an
 * address, a default route, and a cgroup2 folder. Needs root. Where a step fails, all before it is undone.
 */
export async function createLab(options: LabOptions = {}): Promise<Lab> {
  const count = options.pods ?? 2;
  if (!Number.isInteger(count) || count < 1 || count > MAX_PODS) {
    throw new RangeError(`a lab has 1 to ${MAX_PODS} pods, not ${count}`);
  }
  const id = `${LAB_PREFIX}${process.pid}-${randomBytes(3).toString('hex')}`;
  const cleanup = new Cleanup();
  try {
    const programsFolder = await buildPrograms();
    cleanup.add(() => rm(programsFolder, { recursive: true, force: true }));
    const routerNamespaceName = `${id}-router`;
    await addNamespace(routerNamespaceName, cleanup);
    const subnet = options.subnet ?? '10.77.0';
    await ipBatch(routerNamespaceName, [
      'link set lo up',
      'link add bridge0 type bridge',
      `address add ${subnet}.1/24 dev bridge0`,
      'link set bridge0 up',
    ]);
    const mount = findCgroup2Mount();
    const labFolder = join(mount, id);
    cleanup.add(() => removeCgroup(labFolder));
    cleanup.add(() => killAll(labFolder));
    await createCgroup(labFolder);
    const pods: LabPod[] = [];
    for (let index = 0; index < count; index++) {
      pods.push(await addPod({ id, index, subnet, mount, routerNamespaceName, programsFolder, cleanup }));
    }
    const rules = rulesText(options.rules ?? 'istio');
    if (rules !== '') {
      await Promise.all(pods.map((pod) => pod.run('iptables-restore', [], rules)));
    }
    return {
      id,
      routerNamespaceName,
      routerNamespaceId: await readNamespaceId(routerNamespaceName),
      pods,
      pod: (index) => {
        const pod = pods[index];
        if (pod === undefined) {
          throw new RangeError(`the lab has no pod ${index}`);
        }
        return pod;
      },
      dispose: () => cleanup.run(),
    };
  } catch (error) {
    await cleanup.run();
    throw error;
  }
}

interface PodPlan {
  readonly id: string;
  readonly index: number;
  readonly subnet: string;
  readonly mount: string;
  readonly routerNamespaceName: string;
  readonly programsFolder: string;
  readonly cleanup: Cleanup;
}

async function addPod(plan: PodPlan): Promise<LabPod> {
  const name = `pod-${String.fromCharCode('a'.charCodeAt(0) + plan.index)}`;
  const namespaceName = `${plan.id}-${name}`;
  const address = `${plan.subnet}.${11 + plan.index}`;
  const device = `veth${plan.index}`;
  await addNamespace(namespaceName, plan.cleanup);
  await ipBatch(plan.routerNamespaceName, [
    `link add ${device} type veth peer name eth0 netns ${namespaceName}`,
    `link set ${device} master bridge0 up`,
  ]);
  await ipBatch(namespaceName, [
    'link set lo up',
    `address add ${address}/24 dev eth0`,
    'link set eth0 up',
    `route add default via ${plan.subnet}.1`,
  ]);
  const cgroup = `/${plan.id}/${name}`;
  const cgroupFolder = join(plan.mount, cgroup);
  await createCgroup(cgroupFolder);
  return new LabPod({
    name,
    namespaceName,
    namespaceId: await readNamespaceId(namespaceName),
    cgroup: cgroup as CgroupPath,
    cgroupFolder,
    addresses: [toIpAddress(address)],
    programsFolder: plan.programsFolder,
  });
}

async function addNamespace(name: string, cleanup: Cleanup): Promise<void> {
  await runCommand('ip', ['netns', 'add', name]);
  cleanup.add(async () => {
    await runCommand('ip', ['netns', 'delete', name]);
  });
}

async function ipBatch(namespaceName: string, lines: readonly string[]): Promise<void> {
  await runCommand('ip', ['-netns', namespaceName, '-batch', '-'], `${lines.join('\n')}\n`);
}

async function readNamespaceId(name: string): Promise<NamespaceId> {
  return String((await stat(`/run/netns/${name}`, { bigint: true })).ino) as NamespaceId;
}

function rulesText(rules: NonNullable<LabOptions['rules']>): string {
  if (typeof rules === 'object') {
    return rules.text;
  }
  return rules === 'istio' ? ISTIO_RULES : '';
}

/** Ends all processes of the lab's own cgroup and waits until the kernel has let go of them. */
async function killAll(labFolder: string): Promise<void> {
  const deadline = Date.now() + KILL_DEADLINE_MILLISECONDS;
  for (;;) {
    const processes = await listCgroupProcesses(labFolder);
    if (processes.length === 0) {
      return;
    }
    if (Date.now() > deadline) {
      throw new Error(`processes ${processes.join(', ')} of ${labFolder} did not end`);
    }
    processes.forEach(kill);
    await delay(5);
  }
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') {
      throw error;
    }
  }
}

/** Steps to undo, the last one first; all are tried, and what failed is told together. */
class Cleanup {
  readonly #steps: (() => Promise<void>)[] = [];

  add(step: () => Promise<void>): void {
    this.#steps.push(step);
  }

  async run(): Promise<void> {
    const errors: unknown[] = [];
    for (let step = this.#steps.pop(); step !== undefined; step = this.#steps.pop()) {
      await step().catch((error: unknown) => errors.push(error));
    }
    if (errors.length > 0) {
      throw new AggregateError(errors, `the lab could not be removed: ${errors.map(String).join('; ')}`);
    }
  }
}
