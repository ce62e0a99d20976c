import { createHash } from 'node:crypto';
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { cache, root } from './paths.mjs';
import { findCommand, isProgram, output } from './run.mjs';

/**
 * A code-server that is installed: the Node.js that runs it and its program.
 * @typedef {{ node: string, program: string }} CodeServer
 */

/**
 * Installs code-server, which is the real VS Code workbench and extension host served to a browser, and the Node.js it needs into
 * the cache, if they are not there. Everything comes from npm at the versions and with the integrity of codeServer/package-lock.json
 * (and of the shrinkwrap files inside code-server). Only two native modules are compiled; no other install script runs.
 * @param {(line: string) => void} [say] is told what is going on
 * @returns {Promise<CodeServer>}
 */
export async function installCodeServer(say = console.log) {
  const source = join(root, 'scripts/codeServer');
  const lock = readFileSync(join(source, 'package-lock.json'));
  const canCompile = ['g++', 'make', 'python3'].every((command) => findCommand(command) !== undefined);
  if (!canCompile) {
    say('Without g++, make and python3 code-server runs, but writes no logs: sudo apt-get install g++ make python3');
  }
  const name = `code-server-${createHash('sha256').update(lock).digest('hex').slice(0, 12)}${canCompile ? '' : '-without-logs'}`;
  const folder = join(cache, name);
  if (!existsSync(folder)) {
    say(`Installing code-server from npm into ${folder}: once, about a minute and 620 MB.`);
    mkdirSync(cache, { recursive: true });
    const scratch = mkdtempSync(join(cache, 'install-'));
    try {
      await installInto(scratch, source, canCompile);
      if (!existsSync(folder)) {
        renameSync(scratch, folder);
      }
    } finally {
      rmSync(scratch, { recursive: true, force: true });
    }
  }
  return { node: join(nodeFolder(folder), 'bin/node'), program: join(folder, 'node_modules/code-server/out/node/entry.js') };
}

/** @param {string} folder where code-server is installed */
function nodeFolder(folder) {
  return join(folder, `node_modules/node-linux-${process.arch}`);
}

/**
 * @param {string} folder empty
 * @param {string} source of package.json and its lock file
 * @param {boolean} canCompile
 */
async function installInto(folder, source, canCompile) {
  for (const file of ['package.json', 'package-lock.json']) {
    copyFileSync(join(source, file), join(folder, file));
  }
  const quiet = ['--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error'];
  await output('npm', ['ci', ...quiet], { cwd: folder });
  const node = nodeFolder(folder);
  if (!existsSync(join(node, 'bin/node'))) {
    throw new Error(`There is no Node.js package of code-server's for ${process.platform} ${process.arch}`);
  }
  const env = { ...process.env, PATH: `${join(node, 'bin')}:${process.env['PATH'] ?? ''}`, npm_config_nodedir: node };
  const workbench = join(folder, 'node_modules/code-server/lib/vscode');
  // Not `npm ci`: the shrinkwrap file of this release leaves out one peer package, which npm refuses there and adds here.
  await output('npm', ['install', '--omit=dev', ...quiet], { cwd: workbench, env });
  if (canCompile) {
    await output('npm', ['rebuild', '@vscode/spdlog', '@vscode/native-watchdog'], { cwd: workbench, env });
  }
  for (const unused of ['node_modules/@github', 'node_modules/@anthropic-ai', 'node_modules/@openai', 'extensions/copilot']) {
    rmSync(join(workbench, unused), { recursive: true, force: true });
  }
}

if (isProgram(import.meta.url)) {
  console.log((await installCodeServer()).program);
}
