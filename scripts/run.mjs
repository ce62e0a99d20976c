import { spawn } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';
import { root } from './paths.mjs';

/**
 * What a command did.
 * @typedef {{ code: number, stdout: string, stderr: string }} Outcome
 */

/**
 * How to run a command. `show` lets its output through to the terminal instead of collecting it.
 * @typedef {{ cwd?: string, env?: NodeJS.ProcessEnv, show?: boolean }} RunOptions
 */

/**
 * Runs a command without a shell and gives its exit code (128 when a signal ended it, 127 when it could not start) and its output.
 * @param {string} command
 * @param {readonly string[]} parameters
 * @param {RunOptions} [options]
 * @returns {Promise<Outcome>}
 */
export function run(command, parameters, options = {}) {
  return new Promise((resolve) => {
    const child = spawn(command, parameters, {
      cwd: options.cwd ?? root,
      env: options.env ?? process.env,
      stdio: options.show === true ? 'inherit' : ['ignore', 'pipe', 'pipe'],
    });
    let stdout = '';
    let stderr = '';
    child.stdout?.setEncoding('utf8').on('data', (/** @type {string} */ text) => (stdout += text));
    child.stderr?.setEncoding('utf8').on('data', (/** @type {string} */ text) => (stderr += text));
    child.on('error', (error) => {
      resolve({ code: 127, stdout, stderr: `${stderr}${error.message}\n` });
    });
    child.on('close', (code) => {
      resolve({ code: code ?? 128, stdout, stderr });
    });
  });
}

/**
 * Runs a command and gives its standard output; throws with its error output if it fails.
 * @param {string} command
 * @param {readonly string[]} parameters
 * @param {RunOptions} [options]
 * @returns {Promise<string>}
 */
export async function output(command, parameters, options = {}) {
  const outcome = await run(command, parameters, options);
  if (outcome.code !== 0) {
    throw new Error(`${command} ${parameters.join(' ')} exited with ${String(outcome.code)}\n${outcome.stderr}${outcome.stdout}`);
  }
  return outcome.stdout;
}

/**
 * Gives the path of a command, looking through the PATH and the folders of system programs.
 * @param {string} name
 * @returns {string | undefined}
 */
export function findCommand(name) {
  return [...(process.env['PATH'] ?? '').split(delimiter), '/usr/sbin', '/sbin']
    .map((folder) => join(folder, name))
    .find((path) => {
      try {
        accessSync(path, constants.X_OK);
        return true;
      } catch {
        return false;
      }
    });
}

/**
 * Tells whether this module is the program that Node.js was started with.
 * @param {string} url the module's import.meta.url
 */
export function isProgram(url) {
  const program = process.argv[1];
  return program !== undefined && url === new URL(`file://${program}`).href;
}
