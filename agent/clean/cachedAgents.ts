import { readdir, readFile, rm } from 'node:fs/promises';
import { homedir } from 'node:os';
import { basename, dirname, isAbsolute, join } from 'node:path';
import type { Leftover } from '../protocol/clean.ts';
import { toMeshpathError } from '../protocol/errors.ts';

const AGENTS_PATH = 'meshpath/agent';
/** Agents are installed by the hash of their contents. */
const CONTENT_HASH = /^[0-9a-f]{16,64}$/;

/**
 * Finds, and removes unless `isDryRun`, the files of agents of other versions that no process runs from. `ownFolder` is that
 * of the running agent: where it was installed by Meshpath, those beside it are looked at, else those in this user's folder
 * of cached files.
 */
export async function cleanCachedAgents(ownFolder: string, isDryRun: boolean): Promise<readonly Leftover[]> {
  const parent = dirname(ownFolder);
  const folder = parent.endsWith(`/${AGENTS_PATH}`) && CONTENT_HASH.test(basename(ownFolder)) ? parent : join(cacheFolder(), AGENTS_PATH);
  const names = (await readdir(folder).catch(ignoreMissing)).filter((name) => CONTENT_HASH.test(name) && join(folder, name) !== ownFolder);
  const commands = names.length === 0 ? [] : await readCommands();
  const unused = names.map((name) => join(folder, name)).filter((path) => !commands.some((command) => command.includes(`${path}/`)));
  return Promise.all(
    unused.map(async (path): Promise<Leftover> => {
      const item = { kind: 'cached-agent', where: path, what: 'The files of an agent of another version, which no process runs from.' } as const;
      try {
        if (!isDryRun) {
          await rm(path, { recursive: true, force: true });
        }
        return { ...item, isRemoved: !isDryRun, problem: null };
      } catch (error) {
        return { ...item, isRemoved: false, problem: toMeshpathError(error).toJSON() };
      }
    }),
  );
}

function cacheFolder(): string {
  const configured = process.env['XDG_CACHE_HOME'] ?? '';
  return isAbsolute(configured) ? configured : join(homedir(), '.cache');
}

/** The command lines of all processes; of those that end meanwhile none. */
async function readCommands(): Promise<readonly string[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
  return Promise.all(pids.map((pid) => readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')));
}

function ignoreMissing(error: unknown): string[] {
  if ((error as NodeJS.ErrnoException).code === 'ENOENT') {
    return [];
  }
  throw error;
}
