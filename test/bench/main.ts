import { readdirSync, writeFileSync } from 'node:fs';
import { availableParallelism, cpus, release } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { measureBench } from './bench.ts';
import type { Bench, Figure } from './bench.ts';

/** A *.bench.ts file: it exports what it measures. */
interface BenchModule {
  readonly benches: readonly Bench[];
}

const { values: options } = parseArgs({ options: { json: { type: 'string' }, only: { type: 'string' } } });
void main();

async function main(): Promise<void> {
  const figures: Figure[] = [];
  const skipped: { name: string; reason: string }[] = [];
  const failed: { name: string; reason: string }[] = [];
  const { only } = options;
  for (const bench of (await loadBenches()).filter(({ name }) => only === undefined || name.includes(only))) {
    if (bench.skip !== false) {
      skipped.push({ name: bench.name, reason: bench.skip });
      console.log(`${bench.name}: skipped, ${bench.skip}`);
      continue;
    }
    try {
      const figure = await measureBench(bench);
      figures.push(figure);
      console.log(formatFigure(figure));
    } catch (error) {
      // The others are measured all the same: a run takes a quarter of an hour.
      failed.push({ name: bench.name, reason: error instanceof Error ? error.message : String(error) });
      process.exitCode = 1;
      console.error(`${bench.name}: FAILED`, error);
    }
  }
  if (figures.length + skipped.length + failed.length === 0) {
    throw new Error(`no bench is named like ${only ?? ''}`);
  }
  if (options.json !== undefined) {
    const machine = { kernel: release(), node: process.version, processor: cpus()[0]?.model ?? 'unknown', cores: availableParallelism() };
    writeFileSync(options.json, `${JSON.stringify({ measuredAt: new Date().toISOString(), machine, figures, skipped, failed }, undefined, 2)}\n`);
  }
}

async function loadBenches(): Promise<Bench[]> {
  const folder = dirname(fileURLToPath(import.meta.url));
  const files = readdirSync(folder).filter((name) => name.endsWith('.bench.ts'));
  const modules = await Promise.all(files.sort().map(async (name) => (await import(pathToFileURL(join(folder, name)).href)) as BenchModule));
  return modules.flatMap(({ benches }) => benches);
}

function formatFigure({ name, unit, value, baseline, baselineName, ratio, runs, spread }: Figure): string {
  const compared = baseline === null || ratio === null ? '' : `; ${baselineName ?? 'baseline'}: ${formatValue(baseline)} ${unit}, ratio ${ratio.toFixed(3)}`;
  return `${name}: ${formatValue(value)} ${unit}${compared} (${runs} runs, spread ${(spread * 100).toFixed(0)} %)`;
}

function formatValue(value: number): string {
  return value.toLocaleString('en-US', { maximumFractionDigits: value < 100 ? 2 : 0 });
}
