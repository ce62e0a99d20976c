import { createHash } from 'node:crypto';
import { copyFile, mkdir, readFile, readdir, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const here = dirname(fileURLToPath(import.meta.url));

/**
 * Builds a small agent with the real server half of the protocol and a manifest, as the build does, into `folder`.
 * `protocolVersion` and `marker` make agents of other versions. It says its own process id and argument in the
 * machine name of its description, so that tests can look for it.
 */
export async function buildSampleAgent(folder: string, variant: { readonly protocolVersion?: number; readonly marker?: string } = {}): Promise<void> {
  await mkdir(folder, { recursive: true });
  await build({
    entryPoints: [join(here, 'sampleAgentProgram.ts')],
    outfile: join(folder, 'agent.cjs'),
    bundle: true,
    platform: 'node',
    target: 'node20',
    format: 'cjs',
    logLevel: 'error',
    define: { PROTOCOL: JSON.stringify(variant.protocolVersion ?? 1), MARKER: JSON.stringify(variant.marker ?? 'sample') },
  });
  const natives = await copyNativeLibraries(folder);
  const names = (await readdir(folder)).filter((name) => /\.(cjs|node)$/.test(name)).sort();
  const files = await Promise.all(
    names.map(async (name) => {
      const content = await readFile(join(folder, name));
      return { name, sha256: createHash('sha256').update(content).digest('hex'), bytes: content.length, ...natives.get(name) };
    }),
  );
  const contentHash = createHash('sha256').update(files.map(({ name, sha256 }) => `${sha256}  ${name}\n`).join('')).digest('hex');
  await writeFile(join(folder, 'manifest.json'), JSON.stringify({ version: '0.0.1', files, contentHash }));
}

/** The libraries of this machine's kind stand for those of every kind. */
async function copyNativeLibraries(folder: string): Promise<Map<string, { arch: string; libc: string }>> {
  const koffi = createRequire(import.meta.url).resolve(`@koromix/koffi-linux-${process.arch}/package.json`);
  const natives = new Map<string, { arch: string; libc: string }>();
  for (const [libc, name] of [['glibc', 'linux'], ['musl', 'musl']] as const) {
    const file = `koffi-linux-${process.arch}-${libc}.node`;
    await copyFile(join(dirname(koffi), `${name}_${process.arch}`, 'koffi.node'), join(folder, file));
    natives.set(file, { arch: process.arch, libc });
  }
  return natives;
}
