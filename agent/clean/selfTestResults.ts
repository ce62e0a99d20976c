import { readdir, rm, rmdir } from 'node:fs/promises';
import { join } from 'node:path';
import { RECORD_FOLDER, RECORD_PREFIX } from '../doctor/selfTests/selfTestRecord.ts';
import type { Leftover } from '../protocol/clean.ts';
import { toMeshpathError } from '../protocol/errors.ts';

/** Finds, and removes unless `isDryRun`, the results of self-tests that the doctor keeps until the next boot: the next agent tries anew. */
export async function cleanSelfTestResults(isDryRun: boolean, folder = RECORD_FOLDER): Promise<readonly Leftover[]> {
  const names = (await readdir(folder).catch(ignoreMissing)).filter((name) => name.startsWith(RECORD_PREFIX));
  if (names.length === 0) {
    return [];
  }
  const item = { kind: 'self-test-results', where: folder, what: `Results of the doctor's self-tests, kept until the next boot: ${names.length} ${names.length === 1 ? 'file' : 'files'}.` } as const;
  try {
    if (!isDryRun) {
      await Promise.all(names.map((name) => rm(join(folder, name), { force: true })));
      await rmdir(folder).catch(ignoreInUse);
    }
    return [{ ...item, isRemoved: !isDryRun, problem: null }];
  } catch (error) {
    return [{ ...item, isRemoved: false, problem: toMeshpathError(error).toJSON() }];
  }
}

function ignoreMissing(error: unknown): string[] {
  if ((error as NodeJS.ErrnoException).code === 'ENOENT') {
    return [];
  }
  throw error;
}

/** Labs that are up have a folder there too. */
function ignoreInUse(error: unknown): void {
  const { code } = error as NodeJS.ErrnoException;
  if (code !== 'ENOTEMPTY' && code !== 'EEXIST' && code !== 'ENOENT') {
    throw error;
  }
}
