import { mkdir, readFile, readdir, rmdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

const EXIT_DEADLINE_MILLISECONDS = 10_000;

/** Makes a cgroup folder with its parents. */
export async function createCgroup(folder: string): Promise<void> {
  await mkdir(folder, { recursive: true });
}

/** Gives the ids of all processes in a cgroup folder and in those below it; none where the folder is gone. */
export async function listCgroupProcesses(folder: string): Promise<number[]> {
  const folders = await listCgroupFolders(folder);
  const lists = await Promise.all(folders.map((path) => readFile(join(path, 'cgroup.procs'), 'utf8').catch(ignoreMissing(''))));
  return lists.join('\n').split('\n').filter((line) => line !== '').map(Number);
}

/** Removes an empty cgroup folder with all below it, the deepest first; does nothing where it is gone. */
export async function removeCgroup(folder: string): Promise<void> {
  const folders = await listCgroupFolders(folder);
  for (const path of folders.reverse()) {
    await removeEmptyCgroup(path);
  }
}

/** A process that is about to end is in no list any more, and still keeps its cgroup (cgroup_is_populated, EBUSY). */
async function removeEmptyCgroup(path: string): Promise<void> {
  const deadline = Date.now() + EXIT_DEADLINE_MILLISECONDS;
  for (;;) {
    try {
      await rmdir(path).catch(ignoreMissing(undefined));
      return;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EBUSY' || Date.now() > deadline) {
        throw error;
      }
    }
    await delay(5);
  }
}

/** Gives a cgroup folder and all folders below it, parents first; none where it does not exist. */
async function listCgroupFolders(folder: string): Promise<string[]> {
  const info = await stat(folder).catch(ignoreMissing(undefined));
  if (info?.isDirectory() !== true) {
    return [];
  }
  const entries = await readdir(folder, { withFileTypes: true }).catch(ignoreMissing([]));
  const below = await Promise.all(
    entries.filter((entry) => entry.isDirectory()).map((entry) => listCgroupFolders(join(folder, entry.name))),
  );
  return [folder, ...below.flat()];
}

/** A cgroup can go at any moment: ENOENT and ENODEV (its files after it was removed) then mean that nothing is there. */
function ignoreMissing<Value>(value: Value): (error: unknown) => Value {
  return (error) => {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === 'ENOENT' || code === 'ENODEV') {
      return value;
    }
    throw error;
  };
}
