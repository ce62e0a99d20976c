import { randomBytes } from 'node:crypto';
import { open, rename, rm, stat } from 'node:fs/promises';
import { MeshpathError } from '../agent/protocol/errors.ts';
import { MAX_FRAME_BYTES } from '../agent/protocol/methods.ts';
import { SNAPSHOT_FORMAT, SNAPSHOT_VERSION } from '../agent/protocol/snapshot.ts';
import type { Snapshot } from '../agent/protocol/snapshot.ts';
import { escapeText } from './text/escape.ts';

/** The members of a snapshot that are arrays; a document without one of them is none. */
const LISTS = ['namespaces', 'pods', 'cgroups', 'accelerations', 'omissions'] as const;

/** Writes a snapshot to a file that only its owner can read: as a whole, or not at all. */
export async function writeSnapshotFile(path: string, snapshot: Snapshot): Promise<void> {
  const temporary = `${path}.${process.pid}-${randomBytes(3).toString('hex')}.part`;
  try {
    const file = await open(temporary, 'wx', 0o600);
    try {
      await file.writeFile(`${JSON.stringify(snapshot, null, 2)}\n`);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw fileError(`The snapshot could not be written to ${escapeText(path)}.`, error, 'Choose a folder that you can write to.');
  }
}

/**
 * Reads a snapshot from a file; throws a MeshpathError: INPUT_INVALID where it cannot be read, LIMIT_EXCEEDED where it is
 * too long, SNAPSHOT_INVALID where it is no snapshot of this version.
 */
export async function readSnapshotFile(path: string): Promise<Snapshot> {
  const text = await readTextFile(path);
  try {
    return checkSnapshot(JSON.parse(text));
  } catch (error) {
    throw error instanceof MeshpathError ? error : invalidSnapshot(`it is not JSON: ${(error as Error).message}`);
  }
}

async function readTextFile(path: string): Promise<string> {
  try {
    const { size } = await stat(path);
    if (size > MAX_FRAME_BYTES) {
      throw new MeshpathError({
        code: 'LIMIT_EXCEEDED',
        message: 'The snapshot is too long.',
        reason: `It has ${size} bytes; ${MAX_FRAME_BYTES} are read at most.`,
        remedy: 'Take a snapshot of a node with less on it, or cut the contents of maps out of the file.',
      });
    }
    const file = await open(path, 'r');
    try {
      return await file.readFile('utf8');
    } finally {
      await file.close();
    }
  } catch (error) {
    throw error instanceof MeshpathError ? error : fileError(`The snapshot ${escapeText(path)} could not be read.`, error, 'Check the name of the file and who may read it.');
  }
}

function checkSnapshot(document: unknown): Snapshot {
  if (typeof document !== 'object' || document === null || !('format' in document) || document.format !== SNAPSHOT_FORMAT) {
    throw invalidSnapshot(`its "format" is not "${SNAPSHOT_FORMAT}".`);
  }
  if (!('formatVersion' in document) || document.formatVersion !== SNAPSHOT_VERSION) {
    throw invalidSnapshot(`its "formatVersion" is not ${SNAPSHOT_VERSION}: another version of Meshpath wrote it.`);
  }
  const members = document as Readonly<Record<string, unknown>>;
  const missing = LISTS.find((name) => !Array.isArray(members[name]));
  if (missing !== undefined) {
    throw invalidSnapshot(`it has no list "${missing}".`);
  }
  return document as Snapshot;
}

function invalidSnapshot(reason: string): MeshpathError {
  return new MeshpathError({
    code: 'SNAPSHOT_INVALID',
    message: 'The file is not a snapshot that can be used.',
    reason: `It is no snapshot: ${escapeText(reason)}`,
    remedy: 'Take one with meshpath snapshot --output FILE.',
  });
}

function fileError(message: string, cause: unknown, remedy: string): MeshpathError {
  return new MeshpathError(
    { code: 'INPUT_INVALID', message, reason: cause instanceof Error ? cause.message : String(cause), remedy },
    { cause },
  );
}
