import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { build } from 'esbuild';

/** Gives the module of a file of this folder as it is delivered: bundled, without what a loader of TypeScript adds to every function. */
export async function importBundled(file: string): Promise<unknown> {
  const folder = mkdtempSync(join(tmpdir(), 'meshpath-bench-'));
  try {
    const outfile = join(folder, 'bundled.mjs');
    await build({ entryPoints: [join(import.meta.dirname, file)], outfile, bundle: true, platform: 'node', format: 'esm', target: 'es2022', logLevel: 'error' });
    return (await import(pathToFileURL(outfile).href)) as unknown;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
