import { randomBytes } from 'node:crypto';
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { createLab as createAgentLab } from '../../agent/lab/lab.ts';
import type { Lab } from '../../agent/lab/lab.ts';
import { generateIstioSidecarRules, ISTIO_INJECTED } from '../../simulator/mesh/istioSidecar.ts';

export type { Lab };

const PROGRAM_SOURCE = fileURLToPath(new URL('../../agent/lab/programs/main.ts', import.meta.url));
/** Within the project, from where the programs find koffi. */
const PROGRAM_FOLDER = fileURLToPath(new URL('../../.cache/lab/', import.meta.url));

export interface LabOptions {
  /** How many pods; two where it is left out. */
  readonly pods?: number;
  /** Loaded with iptables-restore in every pod: Istio's default ones, none, or any text. */
  readonly rules?: 'istio' | 'none' | { readonly text: string };
  /** The first three bytes of the addresses. */
  readonly subnet?: string;
}

/** Makes a lab that is this process's own, with the programs as the sources have them. Whoever has it disposes of it. */
export async function createLab({ pods = 2, rules = 'istio', subnet }: LabOptions = {}): Promise<Lab> {
  return createAgentLab({
    name: `${process.pid}-${randomBytes(3).toString('hex')}`,
    pods,
    rules: typeof rules === 'object' ? rules.text : rules === 'istio' ? generateIstioSidecarRules(ISTIO_INJECTED).ipv4 : null,
    programPath: await buildLabProgram(),
    ...(subnet === undefined ? {} : { subnet }),
  });
}

/** Bundles the programs that run in pods and gives the file, which stays for the next time. */
export async function buildLabProgram(): Promise<string> {
  const { outputFiles } = await build({
    entryPoints: [PROGRAM_SOURCE],
    bundle: true,
    write: false,
    platform: 'node',
    format: 'cjs',
    target: 'node20',
    logLevel: 'silent',
    logOverride: { 'empty-import-meta': 'silent' },
  });
  const text = outputFiles[0]?.text ?? '';
  const path = `${PROGRAM_FOLDER}lab.cjs`;
  await mkdir(PROGRAM_FOLDER, { recursive: true });
  const present = await readFile(path, 'utf8').catch(() => '');
  if (present !== text) {
    // As one step: another test may be about to start it.
    const own = `${path}.${process.pid}`;
    await writeFile(own, text);
    await rename(own, path);
  }
  return path;
}
