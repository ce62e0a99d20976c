import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { cache, root } from './paths.mjs';
import { run } from './run.mjs';

/**
 * Gives the folder of koffi's native libraries for Linux machines of one kind, at the version and with the integrity of
 * package-lock.json: from node_modules, else from the cache, else fetched by npm into the cache.
 * @param {string} arch as Node.js names it: x64, arm64
 * @returns {Promise<string | undefined>} undefined if the registry cannot be reached
 */
export async function koffiPackage(arch) {
  const name = `@koromix/koffi-linux-${arch}`;
  const installed = join(root, 'node_modules', name);
  if (existsSync(installed)) {
    return installed;
  }
  const locked = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8')).packages[`node_modules/${name}`];
  if (locked === undefined) {
    throw new Error(`package-lock.json does not name ${name}`);
  }
  const folder = join(cache, `koffi-linux-${arch}-${locked.version}`);
  const unpacked = join(folder, 'package');
  if (existsSync(unpacked)) {
    return unpacked;
  }
  mkdirSync(cache, { recursive: true });
  const scratch = mkdtempSync(join(cache, 'fetch-'));
  try {
    return await fetchInto(scratch, folder, name, locked);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

/**
 * @param {string} scratch an empty folder on the file system of the cache
 * @param {string} folder where the package goes, at once or not at all
 * @param {string} name
 * @param {{ version: string, integrity: string }} locked
 */
async function fetchInto(scratch, folder, name, locked) {
  const packed = await run('npm', ['pack', '--json', '--pack-destination', scratch, `${name}@${locked.version}`], { cwd: scratch });
  if (packed.code !== 0) {
    return undefined;
  }
  const archive = join(scratch, JSON.parse(packed.stdout)[0].filename);
  const integrity = `sha512-${createHash('sha512').update(readFileSync(archive)).digest('base64')}`;
  if (integrity !== locked.integrity) {
    throw new Error(`${name}@${locked.version} is not what package-lock.json says: ${integrity}`);
  }
  const unpacked = join(scratch, 'unpacked');
  mkdirSync(unpacked);
  const outcome = await run('tar', ['-xzf', archive, '-C', unpacked]);
  if (outcome.code !== 0) {
    throw new Error(`${name} could not be unpacked: ${outcome.stderr}`);
  }
  writeFileSync(join(unpacked, 'integrity'), locked.integrity);
  if (!existsSync(folder)) {
    renameSync(unpacked, folder);
  }
  return join(folder, 'package');
}
