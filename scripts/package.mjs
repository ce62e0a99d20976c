import { existsSync, mkdirSync, readFileSync, readdirSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { build } from './build.mjs';
import { dist, root } from './paths.mjs';
import { isProgram, run } from './run.mjs';

/** The largest VSIX that may be made, in bytes. koffi's four native libraries are about half of what it is. */
export const sizeLimit = 4 * 1024 * 1024;

/** What the extension loads at run time, relative to it: a package without one of these is broken. */
const loaded = [
  'package.json',
  'LICENSE',
  'THIRD_PARTY_NOTICES',
  'dist/extension.cjs',
  'dist/connected.cjs',
  'dist/bpf/meshpath.bpf.o',
  'dist/agent/agent.cjs',
  'dist/agent/lab.cjs',
  'dist/agent/selfTests.cjs',
  'dist/agent/manifest.json',
  'dist/agent/meshpath.bpf.o',
  'dist/agent/koffi-linux-x64-glibc.node',
];

/** What it has besides: what people read, native libraries for more machines, and pictures that the code names. */
const also = /^(README\.md|CHANGELOG\.md|bpf\/LICENSE\.[\w.-]+|dist\/agent\/koffi-linux-\w+-\w+\.node|media\/panels\/[\w-]+\.svg)$/;

/**
 * Makes the VSIX. One for every platform: the native libraries in it are the agent's.
 * @param {{ build: boolean }} options `build`: build minified first; without, what dist/ has is packed
 * @returns {Promise<string>} its path
 */
export async function makePackage(options) {
  if (options.build) {
    await build({ minify: true, watch: false });
  }
  writeFileSync(join(root, 'THIRD_PARTY_NOTICES'), makeNotices());
  const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  const folder = join(root, 'artifacts');
  mkdirSync(folder, { recursive: true });
  const vsix = join(folder, `${manifest.name}-${manifest.version}.vsix`);
  const vsce = join(root, 'node_modules/@vscode/vsce/vsce');
  const packed = await run(process.execPath, [
    ...[vsce, 'package', '--no-dependencies', '--allow-missing-repository', '--out', vsix],
    // The pictures of README.md are not in the package, and have no address elsewhere.
    '--no-rewrite-relative-links',
  ]);
  if (packed.code !== 0) {
    throw new Error(`vsce failed\n${packed.stdout}${packed.stderr}`);
  }
  const listed = await run(process.execPath, [vsce, 'ls', '--no-dependencies']);
  checkContents(listed.stdout.split('\n').filter((line) => line !== ''), manifest);
  const size = statSync(vsix).size;
  if (options.build && size > sizeLimit) {
    throw new Error(`${vsix} has ${String(size)} bytes, more than the limit of ${String(sizeLimit)}`);
  }
  return vsix;
}

/**
 * Throws if the package lacks something that is loaded at run time, or has what does not belong in it.
 * @param {readonly string[]} files
 * @param {any} manifest
 */
function checkContents(files, manifest) {
  const pages = existsSync(join(dist, 'webviews')) ? readdirSync(join(dist, 'webviews')).filter((name) => !name.endsWith('.map')) : [];
  const wanted = [...loaded, ...pages.map((name) => `dist/webviews/${name}`), ...namedInManifest(manifest)];
  const missing = wanted.filter((name) => !files.includes(name));
  const strange = files.filter((name) => !wanted.includes(name) && !also.test(name));
  if (missing.length > 0 || strange.length > 0) {
    throw new Error(`The package lacks ${JSON.stringify(missing)} and should not have ${JSON.stringify(strange)}`);
  }
}

/**
 * Gives every file that the manifest names: icons, pictures and pages of walkthroughs.
 * @param {unknown} value
 * @returns {string[]}
 */
function namedInManifest(value) {
  if (typeof value === 'string') {
    return /^(\.\/)?media\/\S+\.(svg|png|md)$/.test(value) ? [value.replace(/^\.\//, '')] : [];
  }
  return typeof value === 'object' && value !== null ? Object.values(value).flatMap(namedInManifest) : [];
}

/** Gives the licences of every package whose code is in a bundle, read from esbuild's report and the packages themselves. */
function makeNotices() {
  const meta = JSON.parse(readFileSync(join(dist, 'meta.json'), 'utf8'));
  const names = Object.keys(meta.inputs).flatMap((input) => /(?:^|\/)node_modules\/((?:@[^/]+\/)?[^/]+)\/(?!.*node_modules\/)/.exec(input)?.[1] ?? []);
  // koffi's native libraries travel beside the bundles.
  const packages = [...new Set([...names, 'koffi'])].sort().map((name) => describePackage(name));
  return `Meshpath contains code of these packages.\n\n${packages.join(`\n${'─'.repeat(80)}\n\n`)}`;
}

/** @param {string} name */
function describePackage(name) {
  const folder = join(root, 'node_modules', name);
  const manifest = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'));
  const license = readdirSync(folder).find((file) => /^(licen[cs]e|copying)/i.test(file));
  if (license === undefined && manifest.license === undefined) {
    throw new Error(`${name} in ${dirname(folder)} states no licence`);
  }
  const text = license === undefined ? `(no licence text in the package)\n` : readFileSync(join(folder, license), 'utf8');
  return `${name} ${String(manifest.version)} (${String(manifest.license)})\n\n${text.trim()}\n`;
}

if (isProgram(import.meta.url)) {
  const vsix = await makePackage({ build: true });
  console.log(`${vsix}: ${(statSync(vsix).size / 1024 / 1024).toFixed(2)} MiB (limit ${String(sizeLimit / 1024 / 1024)} MiB)`);
}
