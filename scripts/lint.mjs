import { join } from 'node:path';
import { root } from './paths.mjs';
import { isProgram, run } from './run.mjs';

/** The TypeScript projects: everything on Node.js, what crosses rooms (its pages run in a browser), the webviews, and the simulator without Node.js types, which proves it pure. */
const projects = ['tsconfig.json', 'test/tsconfig.json', 'extension/webviews/app/tsconfig.json', 'tsconfig.simulator.json'];

/**
 * Type-checks every project and lints every file.
 * @returns {Promise<{ name: string, ok: boolean, report: string }[]>} one result a check
 */
export function lint() {
  const compiler = join(root, 'node_modules/typescript/bin/tsc');
  return Promise.all([
    ...projects.map((project) => check(`types of ${project}`, [compiler, '--noEmit', '--pretty', 'false', '-p', project])),
    check('lint rules', [join(root, 'node_modules/eslint/bin/eslint.js'), '--max-warnings=0', '.']),
  ]);
}

/**
 * @param {string} name
 * @param {readonly string[]} parameters of Node.js
 */
async function check(name, parameters) {
  const { code, stdout, stderr } = await run(process.execPath, parameters);
  return { name, ok: code === 0, report: stdout + stderr };
}

if (isProgram(import.meta.url)) {
  for (const { name, ok, report } of await lint()) {
    console.log(`${ok ? 'ok  ' : 'FAIL'} ${name}`);
    if (!ok) {
      console.log(report);
      process.exitCode = 1;
    }
  }
}
