import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { chmodSync, existsSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join, relative, sep } from 'node:path';
import { randomBytes } from 'node:crypto';
import { parseArgs } from 'node:util';
import { findLeftovers, takeInventory } from './leftovers.mjs';
import { artifacts, root } from './paths.mjs';
import { run } from './run.mjs';
import { setUp } from './setup.mjs';

/**
 * One test that ran, or one check (lint, types, build).
 * @typedef {{ phase: string, name: string, outcome: 'passed' | 'failed' | 'skipped', reason?: string, place?: string }} Result
 */

/**
 * A part of the run. Its tests are the *.test.ts files under `folder`, or everywhere else beside the code.
 * `concurrency`: how many test files run at a time; those that change the machine run alone.
 * @typedef {{ name: string, folder?: string, concurrency: number }} Phase
 */

/** @type {readonly Phase[]} */
const phases = [
  { name: 'unit', concurrency: availableParallelism() },
  { name: 'kernel', folder: 'test/kernel', concurrency: 1 },
  { name: 'ssh', folder: 'test/ssh', concurrency: 1 },
  { name: 'e2e', folder: 'test/e2e', concurrency: 1 },
];

/** The longest that one test file may take, in milliseconds: what hangs is ended and named. */
const fileDeadline = 600_000;

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: { grep: { type: 'string' }, file: { type: 'string', multiple: true } },
});

process.exitCode = await testAll();

/** Runs what the command line asks for and gives the exit code. */
async function testAll() {
  const wanted = new Set(positionals);
  const known = ['lint', 'build', ...phases.map(({ name }) => name)];
  const unknown = positionals.find((name) => !known.includes(name));
  if (unknown !== undefined) {
    console.error(`There is no phase ${unknown}: npm test -- [${known.join('|')}]... [--grep PATTERN] [--file PATH]...`);
    return 2;
  }
  const isWanted = (/** @type {string} */ name) => wanted.size === 0 || wanted.has(name);
  const started = performance.now();
  await setUp({ test: true, codeServer: true });
  mkdirSync(artifacts, { recursive: true });

  /** Everything started for the tests inherits this, which is how what they leave behind is found. */
  const runName = `meshpath-${String(process.pid)}-${randomBytes(4).toString('hex')}`;
  const before = await takeInventory();
  const temporary = makeTemporaryFolder(runName);
  /** @type {Result[]} */
  const results = [];
  const all = wanted.size === 0 && options.grep === undefined && options.file === undefined;
  if (isWanted('lint') && options.grep === undefined && options.file === undefined) {
    results.push(...(await checkCode()));
  }
  // Also unit tests run what is built: the compiled programs.
  results.push(await checkBuild());
  for (const phase of phases) {
    if (!isWanted(phase.name)) {
      continue;
    }
    const phaseResults = await runPhase(phase, runName, temporary);
    if (phaseResults.length === 0 && options.grep === undefined && options.file === undefined) {
      phaseResults.push({ phase: phase.name, name: `phase ${phase.name}`, outcome: 'failed', reason: 'ran no test at all' });
    }
    results.push(...phaseResults);
  }
  results.push(...(await checkLeftovers(before, runName, temporary)));
  return summarize(results, performance.now() - started, all);
}

/** @returns {Promise<Result[]>} */
async function checkCode() {
  heading('lint and types');
  const { lint } = await import('./lint.mjs');
  const checks = await lint();
  return checks.map(({ name, ok, report }) => {
    console.log(`${ok ? 'ok  ' : 'FAIL'} ${name}`);
    if (!ok) {
      console.log(report);
    }
    return { phase: 'lint', name, outcome: ok ? 'passed' : 'failed' };
  });
}

/** @returns {Promise<Result>} */
async function checkBuild() {
  heading('build');
  const outcome = await run(process.execPath, [join(root, 'scripts/build.mjs')], { show: true });
  return { phase: 'build', name: 'build', outcome: outcome.code === 0 ? 'passed' : 'failed' };
}

/**
 * Makes the folder of this run's temporary files, as /tmp is: other users that tests run as may use it too.
 * @param {string} runName
 */
function makeTemporaryFolder(runName) {
  const folder = join(tmpdir(), runName);
  mkdirSync(folder);
  chmodSync(folder, 0o1777);
  return folder;
}

/**
 * @param {Awaited<ReturnType<typeof takeInventory>>} before
 * @param {string} runName
 * @param {string} temporary the folder of this run's temporary files; it is removed
 * @returns {Promise<Result[]>}
 */
async function checkLeftovers(before, runName, temporary) {
  const record = join(temporary, 'processes');
  const processIds = new Set(existsSync(record) ? readFileSync(record, 'utf8').split('\n') : []);
  const leftovers = await findLeftovers(before, { name: runName, processIds });
  // What bears another name is not ours: caches of tools, sockets of VS Code and Chromium.
  leftovers.push(...readdirSync(temporary).filter((name) => name.startsWith('meshpath')).map((name) => `temporary ${name}`));
  rmSync(temporary, { recursive: true, force: true, maxRetries: 5 });
  if (leftovers.length === 0) {
    return [{ phase: 'end', name: 'nothing is left on the machine', outcome: 'passed' }];
  }
  return [{ phase: 'end', name: 'nothing is left on the machine', outcome: 'failed', reason: `left behind:\n    ${leftovers.join('\n    ')}` }];
}

/**
 * Runs the test files of a phase in processes of their own, showing each test as it ends.
 * @param {Phase} phase
 * @param {string} runName
 * @param {string} temporary the folder of its temporary files
 * @returns {Promise<Result[]>}
 */
async function runPhase(phase, runName, temporary) {
  const files = listTestFiles(phase).filter((file) => options.file === undefined || options.file.includes(file));
  heading(`${phase.name} (${String(files.length)} files)`);
  if (files.length === 0) {
    return [];
  }
  const parameters = [
    '--import',
    join(root, 'scripts/recordProcess.mjs'),
    '--import',
    'tsx',
    '--test',
    `--test-concurrency=${String(phase.concurrency)}`,
    `--test-timeout=${String(fileDeadline)}`,
    `--test-reporter=${join(root, 'scripts/testReporter.mjs')}`,
    '--test-reporter-destination=stdout',
    ...(options.grep === undefined ? [] : [`--test-name-pattern=${options.grep}`]),
    ...files,
  ];
  const child = spawn(process.execPath, parameters, {
    cwd: root,
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, MESHPATH_TEST_RUN: runName, TMPDIR: temporary, NODE_NO_WARNINGS: '1' },
  });
  /** @type {Result[]} */
  const results = [];
  const ended = new Promise((resolve) => {
    child.on('close', resolve);
    child.on('error', resolve);
  });
  for await (const line of createInterface({ input: child.stdout })) {
    const result = readEvent(phase, line);
    if (result !== undefined) {
      results.push(result);
    }
  }
  const code = await ended;
  if (code !== 0 && !results.some(({ outcome }) => outcome === 'failed')) {
    results.push({ phase: phase.name, name: `phase ${phase.name}`, outcome: 'failed', reason: `the test runner ended with ${String(code)}` });
  }
  return results;
}

/**
 * Shows one line of the reporter and gives its result; what is no event of ours is shown as it is.
 * @param {Phase} phase
 * @param {string} line
 * @returns {Result | undefined}
 */
function readEvent(phase, line) {
  if (!line.startsWith('{"meshpathTest":')) {
    console.log(line);
    return undefined;
  }
  const event = JSON.parse(line).meshpathTest;
  const place = placeOf(event.file, event.reason ?? '');
  const seconds = event.milliseconds >= 1000 ? ` (${(event.milliseconds / 1000).toFixed(1)} s)` : '';
  const mark = { passed: 'ok  ', failed: 'FAIL', skipped: 'skip' }[/** @type {Result['outcome']} */ (event.outcome)];
  console.log(`${mark} ${event.name}${seconds}${event.outcome === 'skipped' ? `  # ${event.reason}` : ''}`);
  if (event.outcome === 'failed') {
    console.log(`     ${place ?? ''}\n${indent(event.reason ?? '')}`);
  }
  return { phase: phase.name, name: event.name, outcome: event.outcome, ...(event.reason && { reason: event.reason }), ...(place && { place }) };
}

/**
 * Gives a test's file and, from the stack of its error, the line.
 * @param {string | undefined} file
 * @param {string} stack
 */
function placeOf(file, stack) {
  if (file === undefined) {
    return undefined;
  }
  const name = relative(root, file);
  const from = stack.indexOf(`${name}:`);
  return from < 0 ? name : (/^[^:]+:\d+/.exec(stack.slice(from))?.[0] ?? name);
}

/**
 * @param {readonly Result[]} results
 * @param {number} milliseconds
 * @param {boolean} all whether this was the whole run
 */
function summarize(results, milliseconds, all) {
  const failed = results.filter(({ outcome }) => outcome === 'failed');
  const skipped = results.filter(({ outcome }) => outcome === 'skipped');
  const passed = results.length - failed.length - skipped.length;
  heading(`summary (${(milliseconds / 60_000).toFixed(1)} minutes)`);
  if (skipped.length > 0) {
    console.log(`Skipped:\n${skipped.map(({ phase, name, reason }) => `  ${phase}: ${name}  # ${reason ?? 'no reason given'}`).join('\n')}\n`);
  }
  if (failed.length > 0) {
    console.log(`Failed:\n${failed.map(({ phase, name, place, reason }) => `  ${phase}: ${name}${place === undefined ? '' : `  (${place})`}${reason === undefined ? '' : `\n    ${reason.split('\n')[0] ?? ''}${phase === 'end' ? `\n${reason.split('\n').slice(1).join('\n')}` : ''}`}`).join('\n')}\n`);
  }
  const figures = { passed, failed: failed.length, skipped: skipped.length, minutes: milliseconds / 60_000, results };
  writeFileSync(join(artifacts, all ? 'test-results.json' : 'test-results-partial.json'), `${JSON.stringify(figures, null, 2)}\n`);
  console.log(`${String(passed)} passed, ${String(failed.length)} failed, ${String(skipped.length)} skipped`);
  return failed.length > 0 || passed === 0 ? 1 : 0;
}

/** @param {Phase} phase */
function listTestFiles(phase) {
  const ownFolders = phases.flatMap(({ folder }) => (folder === undefined ? [] : [folder]));
  const files = ['agent', 'cli', 'extension', 'simulator', 'scripts', 'test'].flatMap((folder) =>
    readdirSync(join(root, folder), { recursive: true }).map((name) => `${folder}/${String(name).split(sep).join('/')}`),
  );
  return files
    .filter((file) => /\.test\.m?ts$/.test(file))
    .filter((file) =>
      phase.folder === undefined ? !ownFolders.some((folder) => file.startsWith(`${folder}/`)) : file.startsWith(`${phase.folder}/`),
    )
    .sort();
}

/** @param {string} title */
function heading(title) {
  console.log(`\n── ${title} ${'─'.repeat(Math.max(0, 100 - title.length))}`);
}

/** @param {string} text */
function indent(text) {
  return text.replaceAll(/^/gm, '     ');
}
