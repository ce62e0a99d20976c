import { mkdir, open, readFile, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { MeshpathError } from '../protocol/errors.ts';
import type { LabPath, LabSidecar } from '../protocol/lab.ts';
import type { CgroupPath, IpAddress, NamespaceId } from '../protocol/scalars.ts';
import { labFolder, labId, LABS_FOLDER } from './labNames.ts';
import type { ProcessIdentity } from './processIdentity.ts';

const RECORD_FILE = 'lab.json';
const RECORD_VERSION = 1;
const MAX_RECORD_CHARACTERS = 1024 * 1024;

/** A process that was started in a pod to stay. */
export interface RecordedProcess {
  readonly role: string;
  readonly process: ProcessIdentity;
}

/** A pod as it is found again. */
export interface RecordedPod {
  readonly name: string;
  readonly namespaceName: string;
  readonly namespaceId: NamespaceId;
  readonly cgroup: CgroupPath;
  readonly address: IpAddress;
  readonly processes: readonly RecordedProcess[];
}

/** What is written down about a lab, for whoever meets it next. */
export interface LabRecord {
  readonly version: typeof RECORD_VERSION;
  readonly name: string;
  readonly since: string;
  /** The process that makes it, or that it ends with; null: it stays until it is taken down. */
  readonly owner: ProcessIdentity | null;
  /** What it was made for; null where its owner knows. */
  readonly setting: LabSetting | null;
  readonly pods: readonly RecordedPod[];
}

export interface LabSetting {
  readonly profile: string;
  readonly path: LabPath;
  readonly sidecar: LabSidecar;
}

/**
 * Takes the name of a lab: of all that try at the same time, one gets it. Throws LAB_EXISTS, and CAPABILITY_MISSING where labs may not
 * be written down.
 */
export async function claimLabName(name: string, owner: ProcessIdentity): Promise<void> {
  const folder = labFolder(labId(name));
  try {
    await mkdir(LABS_FOLDER, { recursive: true, mode: 0o755 });
    await mkdir(folder, { mode: 0o755 });
  } catch (error) {
    throw claimError(name, error as NodeJS.ErrnoException);
  }
  await writeLabRecord({ name, since: new Date().toISOString(), owner, setting: null, pods: [] });
}

/** Writes down what there is of a lab now, as one step. */
export async function writeLabRecord(record: Omit<LabRecord, 'version'>): Promise<void> {
  const path = join(labFolder(labId(record.name)), RECORD_FILE);
  const file = await open(`${path}.new`, 'w', 0o644);
  try {
    await file.writeFile(`${JSON.stringify({ version: RECORD_VERSION, ...record } satisfies LabRecord)}\n`);
  } finally {
    await file.close();
  }
  await rename(`${path}.new`, path);
}

/** Reads what is written down about a lab; undefined where there is nothing. Throws LAB_FAILED where it cannot be understood. */
export async function readLabRecord(name: string): Promise<LabRecord | undefined> {
  const path = join(labFolder(labId(name)), RECORD_FILE);
  const text = await readFile(path, 'utf8').catch((error: unknown) => {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') {
      return undefined;
    }
    throw error;
  });
  if (text === undefined) {
    return undefined;
  }
  const record = parseRecord(text);
  if (record?.name !== name) {
    throw new MeshpathError({
      code: 'LAB_FAILED',
      message: `What is written down about the lab ${name} cannot be understood.`,
      reason: `${path} is not of the form that this version of Meshpath writes.`,
      remedy: `Take the lab down (meshpath lab down --name ${name}) and make it anew.`,
    });
  }
  return record;
}

/** The file belongs to root and is written by Meshpath alone; another version may have written it. */
function parseRecord(text: string): LabRecord | undefined {
  if (text.length > MAX_RECORD_CHARACTERS) {
    return undefined;
  }
  try {
    const record = JSON.parse(text) as Partial<LabRecord> | null;
    const isKnown = record?.version === RECORD_VERSION && typeof record.name === 'string' && typeof record.since === 'string' && Array.isArray(record.pods) && record.setting !== undefined && record.owner !== undefined;
    return isKnown ? (record as LabRecord) : undefined;
  } catch (error) {
    if (error instanceof SyntaxError) {
      return undefined;
    }
    throw error;
  }
}

function claimError(name: string, error: NodeJS.ErrnoException): unknown {
  if (error.code === 'EEXIST') {
    return labExistsError(name, `${labFolder(labId(name))} is there: it is up, is being made, or was left by something that crashed.`);
  }
  if (error.code === 'EACCES' || error.code === 'EPERM' || error.code === 'EROFS') {
    return new MeshpathError(
      {
        code: 'CAPABILITY_MISSING',
        message: 'This user may not make a lab.',
        reason: error.message,
        remedy: 'Connect as root, or as a user whom sudo lets run the agent as root.',
      },
      { cause: error },
    );
  }
  return error;
}

/** The error for a name that another lab has. */
export function labExistsError(name: string, reason: string): MeshpathError {
  return new MeshpathError({
    code: 'LAB_EXISTS',
    message: `There is a lab ${name} on this node already.`,
    reason,
    remedy: `Use it, take it down (meshpath lab down --name ${name}), or give the new one another name.`,
  });
}
