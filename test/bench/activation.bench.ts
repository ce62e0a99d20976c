import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { Browser } from 'playwright-core';
import { dist, root } from '../../scripts/paths.mjs';
import { launchBrowser, openWindow } from '../e2e/browser.ts';
import { startCodeServer } from '../e2e/codeServer.ts';
import { developExtension, openWorkbench } from '../e2e/workbench.ts';
import { missingForWorkbench } from '../e2e/workbenchRequirements.ts';
import type { Bench, Sample } from './bench.ts';

const runs = 15;
const deadline = 30_000;
const stopwatch = join(root, 'test/bench/stopwatch');
const empty = join(root, 'test/bench/emptyExtension');
const mains = { extension: join(dist, 'extension.cjs'), empty: join(empty, 'main.cjs') };

/**
 * Opens window after window on one server, each with an extension host of its own, and times there how long loading and
 * activating the extension took, and an empty one.
 */
async function measureActivations(): Promise<Sample[]> {
  const folder = mkdtempSync(join(tmpdir(), `meshpath-bench-${process.pid}-`));
  const report = join(folder, 'report');
  try {
    await using server = await startCodeServer({
      workspace: folder,
      environment: { MESHPATH_STOPWATCH_REPORT: report, MESHPATH_STOPWATCH_MAINS: JSON.stringify(Object.values(mains)) },
    });
    const browser = await launchBrowser();
    try {
      const samples: Sample[] = [];
      for (let run = 0; run < runs; run++) {
        writeFileSync(report, '');
        samples.push(await measureWindow(browser, { url: server.url, folder, report }));
      }
      return samples;
    } finally {
      await browser.close();
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

async function measureWindow(browser: Browser, at: { readonly url: string; readonly folder: string; readonly report: string }): Promise<Sample> {
  const { page } = await openWindow(browser);
  try {
    await developExtension(page, [root, empty, stopwatch]);
    await openWorkbench(page, at.url, at.folder);
    for (const until = Date.now() + deadline; Date.now() < until;) {
      await delay(50);
      const times = readReport(at.report);
      const value = times.get(mains.extension);
      const baseline = times.get(mains.empty);
      if (value !== undefined && baseline !== undefined) {
        return { value, baseline };
      }
    }
    throw new Error(`the extensions did not activate within ${deadline} ms`);
  } finally {
    await page.context().close();
  }
}

/** Gives milliseconds by main file. */
function readReport(file: string): Map<string, number> {
  const lines = readFileSync(file, 'utf8').split('\n').slice(0, -1);
  return new Map(
    lines.map((line) => {
      const { main, milliseconds } = JSON.parse(line) as { readonly main: string; readonly milliseconds: number };
      return [main, milliseconds];
    }),
  );
}

/** How long the extension takes to activate in a real VS Code: loading its code and calling it, until what it returns resolves. */
export const benches: readonly Bench[] = [
  { name: 'extension activation', unit: 'ms', baseline: 'an empty extension in the same window', runs, skip: missingForWorkbench(), measure: measureActivations },
];
