import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { mkdir, open, rename } from 'node:fs/promises';
import { join } from 'node:path';
import type { DoctorCheck } from '../../protocol/doctor.ts';
import { SELF_TEST_IDS } from '../../protocol/doctorChecks.ts';

/** Where results are kept until the next boot. Their file names begin with RECORD_PREFIX. */
export const RECORD_FOLDER = '/run/meshpath';
export const RECORD_PREFIX = 'self-tests-';
const MAX_RECORD_BYTES = 256 * 1024;
const RECORD_VERSION = 1;

/** What results hold for: another boot, kernel, object or version of the tests is tried anew. */
export interface SelfTestSubject {
  readonly kernelRelease: string;
  readonly agentVersion: string;
  readonly object: Uint8Array;
  readonly unreadLimit: bigint;
}

/** Gives the name of the file for results of this boot. */
export function recordName({ kernelRelease, agentVersion, object, unreadLimit }: SelfTestSubject, bootId = readBootId()): string {
  const objectHash = createHash('sha256').update(object).digest('hex');
  const key = JSON.stringify([RECORD_VERSION, bootId, kernelRelease, agentVersion, objectHash, String(unreadLimit), SELF_TEST_IDS]);
  return `${RECORD_PREFIX}${createHash('sha256').update(key).digest('hex').slice(0, 32)}.json`;
}

/**
 * Gives the results that were kept under this name; undefined where there are none, or where others than root and this user could have
 * written them.
 */
export async function readRecord(name: string, folder = RECORD_FOLDER): Promise<readonly DoctorCheck[] | undefined> {
  try {
    const file = await open(join(folder, name), 'r');
    try {
      const { uid, mode, size } = await file.stat();
      const isTrusted = (uid === 0 || uid === process.getuid?.()) && (mode & 0o022) === 0;
      return isTrusted && size <= MAX_RECORD_BYTES ? parseRecord(await file.readFile('utf8')) : undefined;
    } finally {
      await file.close();
    }
  } catch (error) {
    if (isRefusal(error)) {
      return undefined;
    }
    throw error;
  }
}

/** Keeps results for the agents to come. Where this user may not write there, each agent tries for itself. */
export async function writeRecord(name: string, checks: readonly DoctorCheck[], folder = RECORD_FOLDER): Promise<void> {
  try {
    await mkdir(folder, { recursive: true, mode: 0o755 });
    const temporary = join(folder, `${name}.${process.pid}`);
    const file = await open(temporary, 'w', 0o644);
    try {
      await file.writeFile(`${JSON.stringify({ version: RECORD_VERSION, checks })}\n`);
    } finally {
      await file.close();
    }
    await rename(temporary, join(folder, name));
  } catch (error) {
    if (!isRefusal(error)) {
      throw error;
    }
  }
}

/** A file that is not whole, or of another form, is as none. */
function parseRecord(text: string): readonly DoctorCheck[] | undefined {
  try {
    const record = JSON.parse(text) as { readonly version?: unknown; readonly checks?: unknown } | null;
    const checks = record?.version === RECORD_VERSION && Array.isArray(record.checks) ? (record.checks as Partial<DoctorCheck>[]) : [];
    const isWhole = SELF_TEST_IDS.every((id, index) => {
      const check = checks[index];
      return check?.id === id && typeof check.title === 'string' && typeof check.found === 'string' && (check.result === 'ok' || check.result === 'limited' || check.result === 'failed') && check.problem !== undefined;
    });
    return isWhole ? (checks as DoctorCheck[]) : undefined;
  } catch (error) {
    if (error instanceof SyntaxError) {
      return undefined;
    }
    throw error;
  }
}

function isRefusal(error: unknown): boolean {
  const code = (error as NodeJS.ErrnoException).code;
  return code === 'ENOENT' || code === 'EACCES' || code === 'EPERM' || code === 'EROFS' || code === 'ENOSPC' || code === 'ENOTDIR';
}

function readBootId(): string {
  return readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').trim();
}
