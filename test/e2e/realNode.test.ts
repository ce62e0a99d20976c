import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';
import type { Frame, Page } from 'playwright-core';
import { DATAPATH_PROGRAMS } from '../../agent/protocol/datapath.ts';
import { createLab } from '../lab/lab.ts';
import type { Lab } from '../lab/lab.ts';
import { waitForNothingLeft } from '../lab/leftovers.ts';
import { missingForKernel, missingForSshServer } from '../requirements.ts';
import { startSshServer } from '../ssh/sshServer.ts';
import { withSession } from './session.ts';
import { answerDialog, clearNotifications, expandTreeRow, findWebview, openSidebar, pickItem, quickInput, readTree, runCommand, saveScreenshot, scrollToTreeRow, statusBarItem, tickOnly } from './workbench.ts';
import { missingForWorkbench } from './workbenchRequirements.ts';

const skip = missingForWorkbench() || missingForKernel() || missingForSshServer();
const NODES = 'Nodes';

/** One connection in the lab as its programs reported it. */
interface ObservedLeg {
  readonly client: string;
  readonly server: string;
  readonly asked: string;
  /** What SO_ORIGINAL_DST answered; null where the program did not ask. */
  readonly told: string | null;
  readonly peerSeen: string;
}

test('over SSH: connect, load, turn on, see the connection in the maps, explain it, turn off, leave nothing', { skip }, async () => {
  const lab = await createLab();
  try {
    const sshServer = await startSshServer();
    try {
      const sshConfig = await readFile(sshServer.configPath, 'utf8');
      await withSession('real-node', { sshConfig }, async ({ page, server }) => {
        await proveMainJob(page, lab, sshServer.alias);
        const log = server.readOutputChannel('Meshpath');
        assert.match(log, /turning acceleration on/);
        assert.match(log, /acceleration is off/);
        assert.doesNotMatch(log, /\[error\]/);
      });
    } finally {
      await sshServer.stop();
    }
  } finally {
    await lab.dispose();
  }
  await waitForNothingLeft({ labId: lab.id });
});

async function proveMainJob(page: Page, lab: Lab, host: string): Promise<void> {
  const [podA, podB] = [lab.pod(0), lab.pod(1)];
  const [web, sidecarA, sidecarB, application] = await Promise.all([
    podB.startServer({ port: 8080 }),
    podA.startProxy(),
    podB.startProxy(),
    podA.startClient(),
  ]);
  const destination = { address: podB.address, port: 8080 };

  await runCommand(page, 'Meshpath: Connect to Node…');
  await pickItem(page, host, 'A host of your SSH configuration');
  await openSidebar(page, 'Meshpath');
  await statusBarItem(page, 'Meshpath: 1 node').waitFor();
  await saveScreenshot(page, 'real-node-1-connected');

  await runCommand(page, 'Meshpath: Turn Acceleration On for a Cgroup…');
  await quickInput(page).locator('input[placeholder*="For which pods?"]').waitFor();
  await tickOnly(page, [podA.cgroup, podB.cgroup]);
  await saveScreenshot(page, 'real-node-2-pods');
  await quickInput(page).getByRole('button', { name: 'OK' }).click();
  await answerDialog(page, /Turn acceleration on at/, 'Turn On');
  await statusBarItem(page, 'accelerating 2 pods').waitFor();

  const connection = await application.connect(destination);
  const received = await connection.exchange(100_000);
  assert.deepEqual(received, { bytes: 100_000, exact: true, firstDifference: null, ended: false });
  assert.deepEqual(connection.peer, destination, 'the application sees the peer that it asked for');
  const outbound = await sidecarA.accepted.waitFor();
  const inbound = await sidecarB.accepted.waitFor();
  const accepted = await web.accepted.waitFor();
  assert.deepEqual(outbound.originalDestination, destination, 'the first sidecar is told where to');
  assert.deepEqual(inbound.originalDestination, destination, 'the second sidecar is told where to');
  const observed: readonly ObservedLeg[] = [
    { client: podA.address, server: spell(outbound.local), asked: spell(destination), told: spell(destination), peerSeen: spell(connection.peer) },
    { client: inbound.peer.address, server: spell(inbound.local), asked: spell(destination), told: spell(destination), peerSeen: spell(destination) },
    { client: accepted.peer.address, server: spell(accepted.local), asked: spell(destination), told: null, peerSeen: spell(destination) },
  ];

  // From the last one up: what is expanded moves those below it out of sight.
  for (const group of ['Links', 'Maps', 'Programs']) {
    await expandTreeRow(page, NODES, group);
  }
  const rows = await readTree(page, NODES);
  for (const name of [...Object.values(DATAPATH_PROGRAMS), 'sockets', 'connections']) {
    assert.ok(rows.some(({ label }) => label === name), `the view shows ${name}`);
  }
  await saveScreenshot(page, 'real-node-3-tree');

  await openMap(page, 'connections');
  const connections = await readGrid(await findWebview(page, { title: 'connections' }), 3);
  await saveScreenshot(page, 'real-node-4-connections');
  const decoded = connections.map((cells) => cells.join(' '));
  for (const leg of observed) {
    const [serverAddress, serverPort] = split(leg.server);
    assert.ok(
      decoded.some((row) => [leg.client, serverAddress, serverPort].every((text) => row.split(' ').includes(text))),
      `the map shows ${leg.client} → ${leg.server}; it has\n${decoded.join('\n')}`,
    );
  }
  await openMap(page, 'sockets');
  await readGrid(await findWebview(page, { title: 'sockets' }), 6);
  await saveScreenshot(page, 'real-node-5-sockets');

  await runCommand(page, 'Meshpath: Explain a Connection…');
  const source = quickInput(page).locator('.monaco-list-row').filter({ hasText: podA.cgroup }).filter({ hasText: 'user 1000' }).first();
  await source.click();
  await pickItem(page, spell(destination), 'Where to?');
  const panel = await findWebview(page, { title: `→ ${spell(destination)}` });
  await panel.locator('#sockops-2 .facts').waitFor();
  await saveScreenshot(page, 'real-node-6-explained');
  const explained = await Promise.all(
    observed.map(async (seen, leg) => {
      const predicted = await readLeg(panel, leg);
      return seen.told === null ? { ...predicted, told: null } : predicted;
    }),
  );
  assert.deepEqual(explained, observed, 'the explained path is what happened');
  assert.equal(await panel.locator('.outcome.sockops.current').count(), 1, 'sockops is said to be in force');
  await panel.locator('#sockops-0').scrollIntoViewIfNeeded();
  await saveScreenshot(page, 'real-node-7-steps');

  await runCommand(page, 'Meshpath: Turn Acceleration Off for a Cgroup…');
  await quickInput(page).locator('input[placeholder*="For which cgroups?"]').waitFor();
  await page.keyboard.press('Enter');
  await statusBarItem(page, 'Meshpath: 1 node').filter({ hasNotText: 'accelerating' }).waitFor();
  assert.deepEqual(await connection.exchange(100_000), { bytes: 100_000, exact: true, firstDifference: null, ended: false }, 'an open connection goes on');
  await connection.close();
  await saveScreenshot(page, 'real-node-8-off');

  await clearNotifications(page);
  await runCommand(page, 'Meshpath: Disconnect Node');
  await statusBarItem(page, 'Meshpath: 1 node').waitFor({ state: 'detached' });
}

async function openMap(page: Page, name: string): Promise<void> {
  await (await scrollToTreeRow(page, NODES, name)).click();
  await page.keyboard.press('Enter');
}

async function readGrid(frame: Frame, rows: number): Promise<readonly (readonly string[])[]> {
  const body = frame.locator('[role="grid"] .body [role="row"]');
  await body.nth(rows - 1).waitFor();
  return body.evaluateAll((elements) => elements.map((element) => [...element.querySelectorAll('[role="gridcell"]')].map((cell) => cell.textContent)));
}

/** Reads the facts of a leg on the path that the programs make. The client's port is the kernel's choice: only its address is compared. */
async function readLeg(panel: Frame, leg: number): Promise<ObservedLeg> {
  const facts = Object.fromEntries(
    await panel.locator(`#sockops-${leg} .facts`).evaluate((list) => {
      const names = [...list.querySelectorAll('dt')].map((name) => name.textContent);
      return [...list.querySelectorAll('dd')].map((value, index) => [names[index] ?? '', value.textContent] as const);
    }),
  );
  const endpointOf = (name: string): string => (facts[name] ?? '').split(', ').at(-1) ?? '';
  return {
    client: split(endpointOf('client'))[0],
    server: endpointOf('server'),
    asked: facts['asked for'] ?? '',
    told: facts['told as original'] ?? null,
    peerSeen: facts['peer seen'] ?? '',
  };
}

function spell(endpoint: { readonly address: string; readonly port: number }): string {
  return `${endpoint.address}:${endpoint.port}`;
}

function split(endpoint: string): readonly [string, string] {
  const at = endpoint.lastIndexOf(':');
  return [endpoint.slice(0, at), endpoint.slice(at + 1)];
}
