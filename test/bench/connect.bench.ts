import { execFileSync } from 'node:child_process';
import { readFileSync, rmSync } from 'node:fs';
import type { Page } from 'playwright-core';
import { openSession } from '../e2e/session.ts';
import { findWebview, openSidebar, pickItem, quickPickRow, runCommand, treeRow } from '../e2e/workbench.ts';
import { missingForWorkbench } from '../e2e/workbenchRequirements.ts';
import { findCommand, missingForKernel, missingForSshServer } from '../requirements.ts';
import { startSshServer } from '../ssh/sshServer.ts';
import type { Bench, Sample } from './bench.ts';

const mapName = 'bench_map';
const entries = 100;

/** Connects over SSH and opens a map, by hand as it were: from the click on the host to the first row on screen, in milliseconds. */
async function timeFirstMap(page: Page): Promise<number> {
  await runCommand(page, 'Meshpath: Connect to Node…');
  await quickPickRow(page, 'node').waitFor();
  const started = performance.now();
  await pickItem(page, 'node');
  await treeRow(page, 'Nodes', 'Maps').locator('.monaco-tl-twistie').click();
  await treeRow(page, 'Nodes', mapName).click();
  const table = await findWebview(page, { selector: '.grid' });
  await table.locator('[role="gridcell"]').first().waitFor();
  return performance.now() - started;
}

async function measureConnecting(): Promise<Sample> {
  const pin = `/sys/fs/bpf/meshpath-bench-${process.pid}`;
  await using server = await startServer();
  bpftool('map', 'create', pin, 'type', 'hash', 'key', '4', 'value', '8', 'entries', String(entries), 'name', mapName);
  try {
    for (let key = 0; key < entries; key++) {
      bpftool('map', 'update', 'pinned', pin, 'key', String(key), '0', '0', '0', 'value', '1', '2', '3', '4', '5', '6', '7', '8');
    }
    await using session = await openSession({ sshConfig: server.sshConfig });
    const { page } = session;
    await openSidebar(page, 'Meshpath');
    const cold = await timeFirstMap(page);
    await runCommand(page, 'View: Close All Editors');
    await runCommand(page, 'Meshpath: Disconnect Node');
    await treeRow(page, 'Nodes', 'Maps').waitFor({ state: 'detached' });
    await runCommand(page, 'Meshpath: Remove Node from the View');
    await treeRow(page, 'Nodes', 'node').waitFor({ state: 'detached' });
    const warm = await timeFirstMap(page);
    return { value: warm, baseline: cold };
  } finally {
    rmSync(pin, { force: true });
  }
}

async function startServer(): Promise<AsyncDisposable & { readonly sshConfig: string }> {
  const server = await startSshServer();
  return { sshConfig: readFileSync(server.configPath, 'utf8'), [Symbol.asyncDispose]: () => server.stop() };
}

function bpftool(...parameters: readonly string[]): void {
  execFileSync(findCommand('bpftool') ?? 'bpftool', parameters);
}

const skip = missingForKernel() || missingForSshServer() || missingForWorkbench() || (findCommand('bpftool') === undefined ? 'needs bpftool' : false);

/** How long a person waits from choosing a host to seeing the first entries of a map. */
export const benches: readonly Bench[] = [
  {
    name: 'click to first map over SSH on loopback, agent installed',
    unit: 'ms',
    baseline: 'agent not installed yet',
    runs: 3,
    skip,
    measure: measureConnecting,
  },
];
