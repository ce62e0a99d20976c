import { readdir } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { findCgroup2Mount } from '../../agent/kernel/cgroup2Mount.ts';
import { findProgramHolders } from '../../scripts/leftovers.mjs';
import { listCgroupProcesses } from '../../agent/lab/cgroupFolders.ts';
import { runCommand } from '../../agent/lab/command.ts';
import { LAB_PREFIX } from '../../agent/lab/labNames.ts';

const PROGRAM_PREFIX = 'meshpath_';
const FREE_DEADLINE_MILLISECONDS = 10_000;

/** What a run left on the machine. */
export interface Leftovers {
  /** Names under /run/netns. */
  readonly namespaces: readonly string[];
  /** Names of folders at the root of the cgroup2 hierarchy. */
  readonly cgroups: readonly string[];
  /** Processes in those cgroups. */
  readonly processes: readonly number[];
  /** `meshpath_sk_msg (id 17)` */
  readonly programs: readonly string[];
}

/** Whose leftovers to look for: other runs may be going on at the same time on the machine. */
export interface LeftoverScope {
  /** Only of this lab; of all that this process made where it is left out. */
  readonly labId?: string;
  /** Processes that loaded programs; this one where it is left out. */
  readonly holders?: readonly number[];
  /**
   * The ids of all programs that were loaded, as AccelerationInfo has them: these count whoever holds them. Where they are not
   * known, every program that nobody holds counts, though it may be of another run that is about to end.
   */
  readonly programIds?: readonly number[];
}

/** Lists what labs and the datapath left on the machine: namespaces, cgroups, processes in them, and BPF programs. */
export async function listLeftovers(scope: LeftoverScope = {}): Promise<Leftovers> {
  const prefix = scope.labId ?? `${LAB_PREFIX}${process.pid}-`;
  const mount = findCgroup2Mount();
  const cgroups = (await readdir(mount)).filter((name) => name.startsWith(prefix));
  const processes = (await Promise.all(cgroups.map((name) => listCgroupProcesses(join(mount, name))))).flat();
  return {
    namespaces: await listNamespaces(prefix),
    cgroups: cgroups.map((name) => basename(name)),
    processes,
    programs: await listPrograms(scope),
  };
}

/**
 * Resolves once nothing is left; rejects with an Error that names what is after ten seconds. It waits because the kernel
 * frees programs only when the last reader is through with them.
 */
export async function waitForNothingLeft(scope: LeftoverScope = {}): Promise<void> {
  const deadline = Date.now() + FREE_DEADLINE_MILLISECONDS;
  for (;;) {
    const leftovers = await listLeftovers(scope);
    if (Object.values(leftovers).every((list: readonly unknown[]) => list.length === 0)) {
      return;
    }
    if (Date.now() > deadline) {
      throw new Error(`left on the machine: ${JSON.stringify(leftovers)}`);
    }
    await delay(100);
  }
}

async function listNamespaces(prefix: string): Promise<string[]> {
  const names = await readdir('/run/netns').catch((error: unknown) => {
    // The folder comes with the first namespace that is ever named.
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') {
      return [];
    }
    throw error;
  });
  return names.filter((name) => name.startsWith(prefix));
}

async function listPrograms({ holders = [process.pid], programIds }: LeftoverScope): Promise<string[]> {
  const programs = JSON.parse(await runCommand('bpftool', ['--json', 'prog', 'show'])) as readonly {
    readonly id: number;
    readonly name?: string;
  }[];
  const pidsOf = findProgramHolders();
  return programs
    .filter(({ id, name = '' }) => {
      const pids = pidsOf.get(id) ?? [];
      const isLoaded = programIds === undefined ? pids.length === 0 : programIds.includes(id);
      return name.startsWith(PROGRAM_PREFIX) && (isLoaded || pids.some((pid) => holders.includes(Number(pid))));
    })
    .map(({ id, name = '' }) => `${name} (id ${id})`);
}
