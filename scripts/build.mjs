import { createHash } from 'node:crypto';
import { chmodSync, copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { basename, join, relative } from 'node:path';
import { parseArgs } from 'node:util';
import { dist, root } from './paths.mjs';
import { isProgram } from './run.mjs';

/**
 * How to build. `minify`: for a package; `watch`: build again at every change, until interrupted.
 * @typedef {{ minify: boolean, watch: boolean }} BuildOptions
 */

/**
 * Builds everything into dist/: the bundles, the BPF object, the agent's folder with its native libraries and manifest, and
 * dist/meta.json with the size of each bundle.
 * @param {BuildOptions} options
 */
export async function build(options) {
  const esbuild = await import('esbuild');
  const bundles = listBundles(options);
  if (options.watch) {
    await finishAgent();
    for (const bundle of bundles) {
      const context = await esbuild.context({ ...bundle, logLevel: 'info' });
      await context.watch();
    }
    console.log('Watching for changes. Ctrl+C ends it.');
    return;
  }
  rmSync(dist, { recursive: true, force: true });
  mkdirSync(dist, { recursive: true });
  // All are tried, so that one failure does not hide another.
  const results = await Promise.allSettled(bundles.map((bundle) => esbuild.build(bundle)));
  await finishAgent();
  const failures = results.flatMap((result) => (result.status === 'rejected' ? [result.reason] : []));
  writeMeta(results.flatMap((result) => (result.status === 'fulfilled' ? [result.value.metafile] : [])));
  if (failures.length > 0) {
    throw new AggregateError(failures, `${String(failures.length)} bundles could not be built`);
  }
  chmodSync(join(dist, 'cli.cjs'), 0o755);
}

/**
 * @param {BuildOptions} options
 * @returns {(import('esbuild').BuildOptions & { metafile: true })[]}
 */
function listBundles({ minify }) {
  /** @satisfies {import('esbuild').BuildOptions} */
  const common = {
    absWorkingDir: root,
    bundle: true,
    minify,
    sourcemap: minify ? false : 'linked',
    legalComments: 'none',
    logLevel: 'warning',
    metafile: /** @type {const} */ (true),
  };
  /** @satisfies {import('esbuild').BuildOptions} */
  const onNode = {
    ...common,
    platform: 'node',
    target: 'node20',
    format: 'cjs',
    // Where a module runs both bundled and not, it asks for __dirname first.
    logOverride: { 'empty-import-meta': 'silent' },
    plugins: [noNativeCode],
  };
  const pages = listPages();
  return [
    { ...onNode, entryPoints: ['extension/extension.ts'], outfile: 'dist/extension.cjs', external: ['vscode'], plugins: [noNativeCode, loadConnectedLater] },
    { ...onNode, entryPoints: ['extension/connected.ts'], outfile: 'dist/connected.cjs' },
    { ...onNode, entryPoints: ['agent/main.ts'], outfile: 'dist/agent/agent.cjs' },
    { ...onNode, entryPoints: ['agent/lab/programs/main.ts'], outfile: 'dist/agent/lab.cjs' },
    { ...onNode, entryPoints: ['agent/doctor/selfTests/main.ts'], outfile: 'dist/agent/selfTests.cjs' },
    { ...onNode, entryPoints: ['cli/main.ts'], outfile: 'dist/cli.cjs', banner: { js: '#!/usr/bin/env node' } },
    { ...common, platform: 'browser', target: 'es2022', format: 'esm', entryPoints: ['simulator/browser.ts'], outfile: 'dist/simulator.js' },
    { ...common, platform: 'browser', target: 'es2022', format: 'iife', entryPoints: pages, outdir: 'dist/webviews', loader: { '.css': 'css' } },
  ];
}

/** Every page of the webviews: the scripts (and their styles) directly in extension/webviews/app that are named after a page. */
function listPages() {
  const folder = 'extension/webviews/app';
  return readdirSync(join(root, folder))
    .filter((name) => /\.page\.(m?ts|css)$/.test(name))
    .map((name) => `${folder}/${name}`);
}

/**
 * Leaves what only connecting needs (SSH, the simulator, explaining) out of the extension's own bundle, so that VS Code
 * does not have to read it when it starts.
 * @type {import('esbuild').Plugin}
 */
const loadConnectedLater = {
  name: 'load-connected-later',
  setup(builder) {
    builder.onResolve({ filter: /\/connected\.ts$/ }, ({ kind }) => (kind === 'dynamic-import' ? { path: './connected.cjs', external: true } : undefined));
  },
};

/**
 * Keeps native code out of the bundles: the optional native parts of ssh2 answer as if they were not installed, for which ssh2 has
 * JavaScript. koffi is no part of a bundle: the agent loads its native library from beside it.
 * @type {import('esbuild').Plugin}
 */
const noNativeCode = {
  name: 'no-native-code',
  setup(builder) {
    builder.onResolve({ filter: /\.node$|^cpu-features$/ }, ({ path }) => ({ path, namespace: 'left-out' }));
    builder.onLoad({ filter: /.*/, namespace: 'left-out' }, () => ({ loader: 'js', contents: `throw new Error('left out of the bundle');` }));
  },
};

/** The machines that the agent runs on, and the folders of their two libraries in koffi's packages. */
const koffiPlatforms = /** @type {const} */ ([
  { arch: 'x64', folders: { glibc: 'linux_x64', musl: 'musl_x64' } },
  { arch: 'arm64', folders: { glibc: 'linux_arm64', musl: 'musl_arm64' } },
]);

/** Puts what the agent needs beside it: the BPF object and koffi's libraries; then the manifest of all of it. */
async function finishAgent() {
  const folder = join(dist, 'agent');
  mkdirSync(folder, { recursive: true });
  const { compileBpf } = await import('./compileBpf.mjs');
  await compileBpf(join(dist, 'bpf'));
  copyFileSync(join(dist, 'bpf/meshpath.bpf.o'), join(folder, 'meshpath.bpf.o'));
  const { koffiPackage } = await import('./koffiPackage.mjs');
  /** @type {Map<string, { arch: string, libc: string }>} */
  const natives = new Map();
  for (const { arch, folders } of koffiPlatforms) {
    const source = await koffiPackage(arch);
    if (source === undefined) {
      console.log(`No native library for nodes of the ${arch} kind in this build: the npm registry could not be reached.`);
      continue;
    }
    for (const [libc, sub] of Object.entries(folders)) {
      const name = `koffi-linux-${arch}-${libc}.node`;
      copyFileSync(join(source, sub, 'koffi.node'), join(folder, name));
      natives.set(name, { arch, libc });
    }
  }
  writeManifest(folder, natives);
}

/**
 * Writes agent/manifest.json: what an installed agent consists of. The content hash names the folder that it is installed in.
 * @param {string} folder
 * @param {ReadonlyMap<string, { arch: string, libc: string }>} natives
 */
function writeManifest(folder, natives) {
  const files = readdirSync(folder)
    .filter((name) => /\.(cjs|o|node)$/.test(name))
    .sort()
    .map((name) => {
      const content = readFileSync(join(folder, name));
      return { name, sha256: createHash('sha256').update(content).digest('hex'), bytes: content.length, ...natives.get(name) };
    });
  const contentHash = createHash('sha256').update(files.map(({ name, sha256 }) => `${sha256}  ${name}\n`).join('')).digest('hex');
  const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  writeFileSync(join(folder, 'manifest.json'), `${JSON.stringify({ version, files, contentHash }, null, 2)}\n`);
}

/** @param {import('esbuild').Metafile[]} metafiles */
function writeMeta(metafiles) {
  const merged = { inputs: {}, outputs: {} };
  for (const { inputs, outputs } of metafiles) {
    Object.assign(merged.inputs, inputs);
    Object.assign(merged.outputs, outputs);
  }
  writeFileSync(join(dist, 'meta.json'), JSON.stringify(merged));
}

/** Gives every file of dist with its size in bytes, source maps and reports left out. */
export function listBuilt() {
  if (!existsSync(dist)) {
    return [];
  }
  return readdirSync(dist, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && !entry.name.endsWith('.map') && entry.name !== 'meta.json')
    .map((entry) => join(entry.parentPath, entry.name))
    .map((path) => ({ name: relative(dist, path), bytes: statSync(path).size }))
    .sort((a, b) => a.name.localeCompare(b.name));
}

if (isProgram(import.meta.url)) {
  const { values } = parseArgs({ options: { minify: { type: 'boolean', default: false }, watch: { type: 'boolean', default: false } } });
  const started = performance.now();
  const failure = await build(values).then(
    () => undefined,
    (/** @type {unknown} */ error) => error,
  );
  if (failure !== undefined) {
    // esbuild has told its errors where they are; anything else comes with its stack.
    console.error(failure instanceof AggregateError ? failure.message : failure);
    process.exitCode = 1;
  } else if (!values.watch) {
    for (const { name, bytes } of listBuilt()) {
      console.log(`${(bytes / 1024).toFixed(1).padStart(9)} KiB  ${name}`);
    }
    console.log(`Built ${basename(dist)}/ in ${((performance.now() - started) / 1000).toFixed(1)} s.`);
  }
}
