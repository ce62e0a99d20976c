import { parseArgs } from 'node:util';
import { missingForKernel } from '../requirements.ts';
import { FAILURE_KINDS, countFailures } from './traffic.ts';
import { SOAK_MODES, Stage } from './stage.ts';
import type { SoakMode, StageResult } from './stage.ts';

/**
 * npm run soak: connections of all sizes and endings, in all modes in turns, until there were as many as asked for or
 * somebody interrupts it. Ends with 0 where not one byte was lost, reordered or brought to another connection.
 */

const DEFAULT_CONNECTIONS = 1_000_000;
const RUN_CONNECTIONS = 5_000;
const RUN_SECONDS = 120;
const USAGE = `npm run soak -- [--connections N] [--mode ${SOAK_MODES.join('|')}]... [--minutes M] [--seed S]`;

interface SoakOptions {
  /** In all modes together. */
  readonly connections: number;
  readonly minutes: number;
  readonly seed: number;
  readonly modes: readonly SoakMode[];
}

/** The sums of one mode. */
interface Sums {
  connections: number;
  aborted: number;
  bytes: number;
  seconds: number;
  failed: number;
  takenConnections: number;
  redirectedMessages: number;
  switchedOn: number;
  /** Of each run: connections per second. */
  readonly rates: number[];
}

let isInterrupted = false;
process.once('SIGINT', () => {
  // The programs in the pods get it too.
  isInterrupted = true;
});
process.exitCode = await main();

async function main(): Promise<number> {
  const missing = missingForKernel();
  if (missing !== false) {
    console.error(`The soak ${missing}.`);
    return 2;
  }
  const options = readOptions();
  if (typeof options === 'string') {
    console.error(`${options}\n${USAGE}`);
    return 2;
  }
  return soak(options);
}

/** Gives what the command line asks for, or what is wrong with it. */
function readOptions(): SoakOptions | string {
  const { values } = parseArgs({
    strict: false,
    options: { connections: { type: 'string' }, mode: { type: 'string', multiple: true }, minutes: { type: 'string' }, seed: { type: 'string' } },
  });
  const known = ['connections', 'mode', 'minutes', 'seed'];
  const unknown = Object.keys(values).find((name) => !known.includes(name));
  if (unknown !== undefined) {
    return `There is no option --${unknown}.`;
  }
  const numbers = { connections: DEFAULT_CONNECTIONS, minutes: Infinity, seed: Math.floor(Math.random() * 0x0fff_ffff) };
  for (const name of ['connections', 'minutes', 'seed'] as const) {
    const value = values[name];
    numbers[name] = value === undefined ? numbers[name] : Number(value);
    if (!(numbers[name] >= 0) || value === true) {
      return `--${name} takes a number.`;
    }
  }
  const wanted = values.mode === undefined ? SOAK_MODES : [values.mode].flat();
  const wrong = wanted.find((mode) => !SOAK_MODES.some((name) => name === mode));
  if (wrong !== undefined) {
    return `There is no mode ${String(wrong)}.`;
  }
  return { ...numbers, modes: SOAK_MODES.filter((mode) => wanted.includes(mode)) };
}

async function soak({ connections, minutes, seed, modes }: SoakOptions): Promise<number> {
  const deadline = performance.now() + minutes * 60_000;
  const sums = new Map(modes.map((mode) => [mode, emptySums()]));
  const stages: Stage[] = [];
  console.log(`${connections.toLocaleString('en-US')} connections, seed ${seed}`);
  try {
    for (const mode of modes) {
      stages.push(await Stage.open(mode));
    }
    await runAll(stages, sums, { connections, seed, deadline });
  } catch (error) {
    if (!isInterrupted) {
      throw error;
    }
  } finally {
    for (const stage of stages) {
      await stage.dispose();
    }
  }
  printTable(sums);
  return [...sums.values()].some(({ failed }) => failed > 0) ? 1 : 0;
}

/** One run of each mode after the other: what else goes on on the machine meets all of them. */
async function runAll(
  stages: readonly Stage[],
  sums: ReadonlyMap<SoakMode, Sums>,
  { connections, seed, deadline }: { readonly connections: number; readonly seed: number; readonly deadline: number },
): Promise<void> {
  let done = 0;
  for (let round = 0; done < connections; round += 1) {
    for (const stage of stages) {
      const count = Math.min(RUN_CONNECTIONS, Math.ceil(connections / stages.length), connections - done);
      if (isInterrupted || performance.now() > deadline || count <= 0) {
        return;
      }
      const result = await stage.run({ connections: count, seconds: RUN_SECONDS, seed: seed + round * RUN_CONNECTIONS });
      done += result.connections;
      add(sums.get(stage.mode) ?? emptySums(), result);
      printProgress(stage.mode, result, done);
    }
  }
}

function add(sums: Sums, result: StageResult): void {
  sums.connections += result.connections;
  sums.aborted += result.aborted;
  sums.bytes += result.bytes;
  sums.seconds += result.seconds;
  sums.failed += countFailures(result) + result.keptEntries.length;
  sums.takenConnections += result.takenConnections;
  sums.redirectedMessages += result.redirectedMessages;
  sums.switchedOn += result.switchedOn;
  sums.rates.push(result.connections / result.seconds);
}

function printProgress(mode: SoakMode, result: StageResult, done: number): void {
  const failed = countFailures(result) + result.keptEntries.length;
  console.log(`${done.toLocaleString('en-US')}: ${mode} ${result.connections} connections in ${result.seconds.toFixed(1)} s, ${failed === 0 ? 'no failure' : `${failed} FAILURES`}`);
  if (failed > 0) {
    console.log(`  ${FAILURE_KINDS.map((kind) => `${kind} ${result.failures[kind]}`).join(', ')}`);
    for (const { kind, seed: failedSeed, detail } of result.examples) {
      console.log(`  ${kind}, seed ${failedSeed ?? 'unknown'}: ${detail}`);
    }
    for (const text of result.keptEntries) {
      console.log(`  ${text}`);
    }
  }
  for (const [complaint, times] of countEach(result.complaints)) {
    console.log(`  sidecars: ${complaint}, ${times} times`);
  }
}

function printTable(sums: ReadonlyMap<SoakMode, Sums>): void {
  const iptables = sums.get('iptables');
  const reference = iptables === undefined || iptables.rates.length === 0 ? null : median(iptables.rates);
  const rows = [...sums].map(([mode, { connections: count, aborted, bytes, failed, rates, takenConnections, redirectedMessages, switchedOn }]) => [
    mode,
    count.toLocaleString('en-US'),
    String(aborted),
    (bytes / 1e9).toFixed(2),
    String(failed),
    rates.length === 0 ? '-' : median(rates).toFixed(0),
    rates.length === 0 || reference === null ? '-' : (median(rates) / reference).toFixed(2),
    takenConnections.toLocaleString('en-US'),
    redirectedMessages.toLocaleString('en-US'),
    String(switchedOn),
  ]);
  const titles = ['mode', 'connections', 'aborted', 'GB', 'failures', 'per second', 'to iptables', 'taken', 'redirected', 'turned on'];
  const widths = titles.map((title, column) => Math.max(title.length, ...rows.map((row) => row[column]?.length ?? 0)));
  for (const row of [titles, ...rows]) {
    console.log(row.map((cell, column) => (column === 0 ? cell.padEnd(widths[column] ?? 0) : cell.padStart(widths[column] ?? 0))).join('  '));
  }
}

function countEach(texts: readonly string[]): ReadonlyMap<string, number> {
  const counts = new Map<string, number>();
  for (const text of texts) {
    counts.set(text, (counts.get(text) ?? 0) + 1);
  }
  return counts;
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((left, right) => left - right);
  return sorted[Math.floor(sorted.length / 2)] ?? 0;
}

function emptySums(): Sums {
  return { connections: 0, aborted: 0, bytes: 0, seconds: 0, failed: 0, takenConnections: 0, redirectedMessages: 0, switchedOn: 0, rates: [] };
}
