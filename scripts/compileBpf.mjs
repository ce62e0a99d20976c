import { createHash } from 'node:crypto';
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { isAbsolute, join } from 'node:path';
import { parseArgs } from 'node:util';
import { root } from './paths.mjs';
import { findCommand, isProgram, output } from './run.mjs';

const OBJECT_NAME = 'meshpath.bpf.o';
/** The oldest clang whose BPF code the programs are known to work with. */
const OLDEST_CLANG = 13;

/** The object that is kept in the repository, for machines without clang. */
export const prebuiltObject = join(root, 'bpf/prebuilt', OBJECT_NAME);
const prebuiltRecord = join(root, 'bpf/prebuilt/meshpath.bpf.txt');

/**
 * What a build of the object depends on: `compiler` is clang's own name and version, `sources` and `headers` are hashes of
 * the files of bpf/ and of the system's headers that they include.
 * @typedef {{ compiler: string, sources: string, headers: string }} BpfInputs
 */

/**
 * Compiles bpf/meshpath.bpf.c to `meshpath.bpf.o` in a folder. Where there is no clang, or no header of libbpf, the object kept
 * in the repository is taken and a notice printed. The object is little-endian and for every machine of that order.
 * @param {string} folder
 */
export async function compileBpf(folder) {
  mkdirSync(folder, { recursive: true });
  const target = join(folder, OBJECT_NAME);
  const missing = await missingForBpf();
  if (missing !== undefined) {
    console.log(`${missing}: taking bpf/prebuilt/${OBJECT_NAME}. To compile it: sudo apt-get install clang libbpf-dev`);
    copyFileSync(prebuiltObject, target);
    return;
  }
  await output('clang', [...compilerOptions(), '-o', target]);
}

/**
 * Tells why the object cannot be compiled here; undefined if it can.
 * @returns {Promise<string | undefined>}
 */
export async function missingForBpf() {
  if (findCommand('clang') === undefined) {
    return 'There is no clang';
  }
  const version = Number(/version (\d+)/.exec(await compilerName())?.[1]);
  if (!(version >= OLDEST_CLANG)) {
    return `clang ${version} is older than ${OLDEST_CLANG}`;
  }
  return existsSync('/usr/include/bpf/bpf_helpers.h') ? undefined : 'There are no headers of libbpf';
}

/**
 * Gives what a build on this machine would depend on.
 * @returns {Promise<BpfInputs>}
 */
export async function currentInputs() {
  const rule = await output('clang', [...compilerOptions(), '-M']);
  const headers = rule.replaceAll('\\\n', ' ').split(/\s+/).filter((path) => isAbsolute(path));
  return { compiler: await compilerName(), sources: sourcesHash(), headers: hashFiles(headers.sort()) };
}

/** Gives the hash of the files of bpf/ that the object is made of. */
export function sourcesHash() {
  const folder = join(root, 'bpf');
  const names = readdirSync(folder).filter((name) => /\.[ch]$/.test(name));
  return hashFiles(names.sort().map((name) => join(folder, name)));
}

/**
 * Gives what the object in the repository was made of.
 * @returns {BpfInputs}
 */
export function prebuiltInputs() {
  const lines = readFileSync(prebuiltRecord, 'utf8').trim().split('\n');
  const fields = Object.fromEntries(lines.map((line) => /** @type {const} */ ([line.slice(0, line.indexOf(': ')), line.slice(line.indexOf(': ') + 2)])));
  return { compiler: fields['compiler'] ?? '', sources: fields['sources'] ?? '', headers: fields['headers'] ?? '' };
}

async function compilerName() {
  return (await output('clang', ['--version'])).split('\n')[0] ?? '';
}

function compilerOptions() {
  // Debian keeps the headers of the machine (asm/types.h) apart; clang looks there only for its own target.
  const folders = ['x86_64-linux-gnu', 'aarch64-linux-gnu'].map((name) => `/usr/include/${name}`).filter((path) => existsSync(path));
  return [
    ...['-target', 'bpfel', '-mcpu=v3', '-O2', '-g', '-Wall', '-Wextra', '-Werror'],
    // The same object wherever the repository is.
    '-fdebug-compilation-dir=.',
    ...folders.slice(0, 1).flatMap((path) => ['-isystem', path]),
    ...['-c', 'bpf/meshpath.bpf.c'],
  ];
}

/** @param {readonly string[]} paths */
function hashFiles(paths) {
  const hash = createHash('sha256');
  for (const path of paths) {
    hash.update(readFileSync(path));
  }
  return hash.digest('hex');
}

async function updatePrebuilt() {
  const missing = await missingForBpf();
  if (missing !== undefined) {
    throw new Error(missing);
  }
  await output('clang', [...compilerOptions(), '-o', prebuiltObject]);
  const inputs = await currentInputs();
  writeFileSync(prebuiltRecord, Object.entries(inputs).map(([name, value]) => `${name}: ${value}\n`).join(''));
}

if (isProgram(import.meta.url)) {
  const { values } = parseArgs({ options: { prebuilt: { type: 'boolean', default: false } } });
  await (values.prebuilt ? updatePrebuilt() : compileBpf(join(root, 'dist/bpf')));
}
