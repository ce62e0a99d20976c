import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { findCgroup2Mount } from '../kernel/cgroup2Mount.ts';
import { MeshpathError } from '../protocol/errors.ts';
import { isRunning } from './processIdentity.ts';
import { listCgroupProcesses, removeCgroup } from './cgroupFolders.ts';
import { runCommand } from './command.ts';
import { readLabRecord } from './labRecord.ts';
import { LAB_PREFIX, labFolder, labId, labIdOfNamespace, LABS_FOLDER, NAMESPACES_FOLDER } from './labNames.ts';

const KILL_DEADLINE_MILLISECONDS = 10_000;
const KILL_PAUSE_MILLISECONDS = 5;

/** What there is of a lab on this machine. */
export interface LabRemains {
  readonly name: string;
  /** `up`: it stays until it is taken down. `owned`: a running process makes or uses it. `left`: nobody's any more. */
  readonly state: 'up' | 'owned' | 'left';
  /** Names under /run/netns. */
  readonly namespaces: readonly string[];
  /** The absolute folder of its cgroup; null where there is none. */
  readonly cgroupFolder: string | null;
  readonly processes: readonly number[];
  /** Where it is written down; null where it is not. */
  readonly folder: string | null;
}

/** Lists every lab of which anything is on this machine: what runs, and what crashed half-way left. */
export async function findLabs(): Promise<readonly LabRemains[]> {
  const mount = cgroupMount();
  const [namespaces, cgroups, folders] = await Promise.all([listFolder(NAMESPACES_FOLDER), mount === null ? Promise.resolve<string[]>([]) : listFolder(mount), listFolder(LABS_FOLDER)]);
  const ids = new Set([
    ...namespaces.flatMap((name) => labIdOfNamespace(name) ?? []),
    ...cgroups.filter((name) => name.startsWith(LAB_PREFIX)),
    ...folders.map((name) => `${LAB_PREFIX}${name}`),
  ]);
  return Promise.all(
    [...ids].sort().map(async (id) => {
      const name = id.slice(LAB_PREFIX.length);
      const cgroupFolder = mount !== null && cgroups.includes(id) ? join(mount, id) : null;
      return {
        name,
        state: await stateOf(name),
        namespaces: namespaces.filter((candidate) => labIdOfNamespace(candidate) === id),
        cgroupFolder,
        processes: cgroupFolder === null ? [] : await listCgroupProcesses(cgroupFolder),
        folder: folders.includes(name) ? labFolder(id) : null,
      };
    }),
  );
}

/** Lists what labs left that are nobody's any more: their maker ended before they were complete, or without removing them. */
export async function findLabLeftovers(): Promise<readonly LabRemains[]> {
  return (await findLabs()).filter(({ state }) => state === 'left');
}

/**
 * Ends every process of a lab and removes all that it made, complete or not: cgroups, network namespaces with their devices, and
 * what is written down. Does nothing where nothing is left, so that it can be called again. All is tried; throws LAB_FAILED with
 * what could not be removed.
 */
export async function removeLab(name: string): Promise<void> {
  const id = labId(name);
  const mount = cgroupMount();
  const failures: unknown[] = [];
  const attempt = async (step: () => Promise<void>): Promise<void> => {
    await step().catch((error: unknown) => failures.push(error));
  };
  if (mount !== null) {
    const folder = join(mount, id);
    await attempt(() => endProcesses(folder));
    await attempt(() => removeCgroup(folder));
  }
  for (const namespace of (await listFolder(NAMESPACES_FOLDER)).filter((candidate) => labIdOfNamespace(candidate) === id)) {
    await attempt(async () => {
      await runCommand('ip', ['netns', 'delete', namespace]);
    });
  }
  if (failures.length > 0) {
    throw new MeshpathError(
      {
        code: 'LAB_FAILED',
        message: `The lab ${name} could not be removed completely.`,
        reason: failures.map((failure) => (failure instanceof MeshpathError ? failure.reason : String(failure))).join('; ').slice(0, 1_000),
        remedy: 'Take it down again as root; what was removed already does no harm.',
      },
      { cause: new AggregateError(failures) },
    );
  }
  // Last, so that a lab of which something is left is still found by name.
  await rm(labFolder(id), { recursive: true, force: true });
}

async function stateOf(name: string): Promise<LabRemains['state']> {
  const record = await readLabRecord(name).catch(() => undefined);
  if (record === undefined) {
    return 'left';
  }
  if (record.owner === null) {
    return 'up';
  }
  return isRunning(record.owner) ? 'owned' : 'left';
}

/** Ends every process of a lab and waits until they are gone. */
export async function endLabProcesses(name: string): Promise<void> {
  const mount = cgroupMount();
  if (mount !== null) {
    await endProcesses(join(mount, labId(name)));
  }
}

/** Ends all processes of a cgroup by their ids and waits until the kernel has let go of them. */
async function endProcesses(folder: string): Promise<void> {
  const deadline = Date.now() + KILL_DEADLINE_MILLISECONDS;
  for (;;) {
    const processes = await listCgroupProcesses(folder);
    if (processes.length === 0) {
      return;
    }
    if (Date.now() > deadline) {
      throw new Error(`processes ${processes.join(', ')} of ${folder} did not end`);
    }
    processes.forEach(endProcess);
    await delay(KILL_PAUSE_MILLISECONDS);
  }
}

function endProcess(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') {
      throw error;
    }
  }
}

/** Without cgroup2 no lab was made; what else there may be is looked for all the same. */
function cgroupMount(): string | null {
  try {
    return findCgroup2Mount();
  } catch (error) {
    if (MeshpathError.is(error, 'CGROUP2_MISSING')) {
      return null;
    }
    throw error;
  }
}

async function listFolder(folder: string): Promise<string[]> {
  return readdir(folder).catch((error: unknown) => {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') {
      return [];
    }
    throw error;
  });
}
