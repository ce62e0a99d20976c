import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Page } from 'playwright-core';
import { root } from '../../scripts/paths.mjs';
import { launchBrowser, openWindow } from '../e2e/browser.ts';
import { startCodeServer } from '../e2e/codeServer.ts';
import { developExtension, openSidebar, openWorkbench, runCommand } from '../e2e/workbench.ts';
import { missingForWorkbench } from '../e2e/workbenchRequirements.ts';
import type { Bench, Sample } from './bench.ts';

const manifest = {
  name: 'baseline',
  displayName: 'Baseline',
  publisher: 'meshpath',
  version: '1.0.0',
  engines: { vscode: '^1.100.0' },
  main: './main.cjs',
  activationEvents: ['onStartupFinished'],
};

/** Opens VS Code with the extension and an empty one, and reads what VS Code itself says about how long each took to activate. */
async function measureActivation(): Promise<Sample> {
  const folder = mkdtempSync(join(tmpdir(), `meshpath-bench-${process.pid}-`));
  try {
    writeFileSync(join(folder, 'package.json'), JSON.stringify(manifest));
    writeFileSync(join(folder, 'main.cjs'), 'exports.activate = () => undefined;\n');
    await using server = await startCodeServer({ workspace: folder });
    const browser = await launchBrowser();
    try {
      // High enough that every row of the editor is on screen: only those are in the page.
      const { page } = await openWindow(browser, { height: 3000 });
      await developExtension(page, [root, folder]);
      await openWorkbench(page, server.url, folder);
      await openSidebar(page, 'Meshpath');
      await runCommand(page, 'Developer: Show Running Extensions');
      return { value: await readActivation(page, 'meshpath'), baseline: await readActivation(page, 'baseline') };
    } finally {
      await browser.close();
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/**
 * Reads the row of an extension in the editor of running extensions: `Activation: 12ms`, or `Startup Activation: 12ms`. One that is
 * under development has its identifier there in place of its name.
 */
async function readActivation(page: Page, name: string): Promise<number> {
  const row = page.locator('.runtime-extensions-editor .monaco-list-row').filter({ has: page.locator('.name', { hasText: new RegExp(`^meshpath\\.${name}$`) }) });
  const time = row.locator('.activation-time').filter({ hasText: /Activation: \d+ms/ });
  await time.first().waitFor();
  const text = await time.first().textContent();
  const milliseconds = /Activation: (\d+)ms/.exec(text ?? '')?.[1];
  if (milliseconds === undefined) {
    throw new Error(`VS Code shows no activation time for ${name}: ${text ?? ''}`);
  }
  return Number(milliseconds);
}

/** How long the extension takes to activate in a real VS Code: loading its code and calling it. */
export const benches: readonly Bench[] = [
  { name: 'extension activation', unit: 'ms', baseline: 'an empty extension in the same window', runs: 5, skip: missingForWorkbench(), measure: measureActivation },
];
