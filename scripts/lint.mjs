import { join } from 'node:path';
import { root } from './paths.mjs';
import { isProgram, run } from './run.mjs';

/** The TypeScript projects: everything on Node.js, what crosses rooms (its pages run in a browser), the webviews, and the simulator without Node.js types, which proves it pure. */
const projects = ['tsconfig.json', 'test/tsconfig.json', 'extension/webviews/app/tsconfig.json', 'tsconfig.simulator.json'];

/**
 * Type-checks every project and lints every file.
 * @returns {Promise<{ name: string, ok: boolean, report: string }[]>} one result a check
 */
export async function lint() {
  const types = projects.map(async (project) => {
    const outcome = await run(process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), '--noEmit', '--pretty', 'false', '-p', project]);
    return { name: `types of ${project}`, ok: outcome.code === 0, report: outcome.stdout + outcome.stderr };
  });
  const results = await Promise.all(types);
  const rules = await run(process.execPath, [
    join(root, 'node_modules/eslint/bin/eslint.js'),
    '--max-warnings=0',
    '.',
  ]);
  return [...results, { name: 'lint rules', ok: rules.code === 0, report: rules.stdout + rules.stderr }];
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
