import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { MeshpathError } from '../../agent/protocol/errors.ts';
import type { NodeRuntime } from './remoteNodeRuntime.ts';

/** One file of the agent. */
export interface AgentFile {
  readonly name: string;
  /** Lower-case hexadecimal. */
  readonly sha256: string;
  readonly bytes: number;
  /** Where the file is for one kind of machine only: as Node.js names it. */
  readonly arch?: string;
  readonly libc?: string;
}

/** The agent as it travels with the extension. */
export interface AgentBundle {
  /** The local folder. */
  readonly folder: string;
  readonly version: string;
  /** Lower-case hexadecimal: names the folder on the node. */
  readonly contentHash: string;
  readonly files: readonly AgentFile[];
}

/** The program of the agent within its folder. */
export const AGENT_PROGRAM = 'agent.cjs';

const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$/;
const SHA256 = /^[0-9a-f]{64}$/;

/** Reads the agent's manifest.json; AGENT_START_FAILED where the extension was built without it or it is damaged. */
export async function readAgentBundle(folder: string): Promise<AgentBundle> {
  try {
    const manifest: unknown = JSON.parse(await readFile(join(folder, 'manifest.json'), 'utf8'));
    return { folder, ...parseManifest(manifest) };
  } catch (error) {
    throw new MeshpathError(
      {
        code: 'AGENT_START_FAILED',
        message: 'The agent that belongs to this extension is not complete.',
        reason: error instanceof Error ? error.message : String(error),
        remedy: 'Install the extension again; from the sources: npm run build.',
      },
      { cause: error },
    );
  }
}

function parseManifest(value: unknown): Omit<AgentBundle, 'folder'> {
  const { version, contentHash, files } = toRecord(value);
  if (typeof version !== 'string' || typeof contentHash !== 'string' || !SHA256.test(contentHash) || !Array.isArray(files)) {
    throw new TypeError('manifest.json has no version, contentHash and files');
  }
  return { version, contentHash, files: files.map(parseFile) };
}

function parseFile(value: unknown): AgentFile {
  const { name, sha256, bytes, arch, libc } = toRecord(value);
  if (typeof name !== 'string' || !NAME.test(name) || typeof sha256 !== 'string' || !SHA256.test(sha256) || typeof bytes !== 'number') {
    throw new TypeError('manifest.json names a file without name, sha256 and bytes');
  }
  return { name, sha256, bytes, ...(typeof arch === 'string' ? { arch } : {}), ...(typeof libc === 'string' ? { libc } : {}) };
}

function toRecord(value: unknown): Partial<Record<string, unknown>> {
  if (typeof value !== 'object' || value === null) {
    throw new TypeError('manifest.json is not an object');
  }
  return value;
}

/** Gives the files that this Node.js needs; AGENT_PLATFORM_UNSUPPORTED where there are none for its kind of machine. */
export function selectAgentFiles(bundle: AgentBundle, runtime: Pick<NodeRuntime, 'arch' | 'libc'>): AgentFile[] {
  const isNative = (file: AgentFile): boolean => file.arch !== undefined;
  const files = bundle.files.filter((file) => !isNative(file) || (file.arch === runtime.arch && (file.libc ?? runtime.libc) === runtime.libc));
  if (bundle.files.some(isNative) && !files.some(isNative)) {
    const kinds = [...new Set(bundle.files.filter(isNative).map((file) => `${file.arch ?? ''} (${file.libc ?? 'any'})`))];
    throw new MeshpathError({
      code: 'AGENT_PLATFORM_UNSUPPORTED',
      message: `The agent has no native library for this kind of machine: ${runtime.arch} with ${runtime.libc}.`,
      reason: `This build has them for ${kinds.join(', ')}.`,
      remedy: 'Use a Node.js of one of these kinds on the node, or build the extension with network access to npm.',
    });
  }
  return files;
}
