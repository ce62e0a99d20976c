import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rm, rmdir, utimes, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Page } from 'playwright-core';
import { createLab } from '../lab/lab.ts';
import type { Lab } from '../lab/lab.ts';
import { runCommand as runProgram } from '../../agent/lab/command.ts';
import { waitForNothingLeft } from '../lab/leftovers.ts';
import { findCommand, missingForKernel, missingForSshServer } from '../requirements.ts';
import { makeKey, startSshServer } from '../ssh/sshServer.ts';
import type { SshServer } from '../ssh/sshServer.ts';
import { createTemporaryUser } from '../ssh/temporaryUser.ts';
import { withSession } from './session.ts';
import {
  answerDialog,
  answerInput,
  clearNotifications,
  notification,
  openSidebar,
  pickItem,
  quickInput,
  readTree,
  runCommand,
  saveScreenshot,
  statusBarItem,
  tickOnly,
  treeRow,
  viewPane,
} from './workbench.ts';
import type { TreeRow } from './workbench.ts';
import { missingForWorkbench } from './workbenchRequirements.ts';

const NODES = 'Nodes';
const skip =
  missingForWorkbench() || missingForKernel() || missingForSshServer() || (['useradd', 'sudo', 'bpftool'].find((name) => findCommand(name) === undefined) ? 'needs useradd, sudo and bpftool' : false);

/** Steps to undo, the last one first. */
type Cleanup = (() => Promise<unknown>)[];

async function undo(cleanup: Cleanup): Promise<void> {
  for (let step = cleanup.pop(); step !== undefined; step = cleanup.pop()) {
    await step();
  }
}

/** The part of an ssh configuration for another name of a server's host, with other values. */
async function describeHost(server: SshServer, alias: string, changes: Readonly<Record<string, string>> = {}): Promise<string> {
  const lines = (await readFile(server.configPath, 'utf8')).split('\n').filter((line) => !Object.keys(changes).some((name) => line.trim().startsWith(`${name} `)));
  return [...lines.map((line) => (line.startsWith('Host ') ? `Host ${alias}` : line)), ...Object.entries(changes).map(([name, value]) => `  ${name} ${value}`), ''].join('\n');
}

async function connectTo(page: Page, host: string): Promise<void> {
  await runCommand(page, 'Meshpath: Connect to Node…');
  await pickItem(page, host, 'A host of your SSH configuration');
}

/** Waits for a notification that says all of this, and takes it away. */
async function expectNotice(page: Page, ...parts: readonly RegExp[]): Promise<void> {
  const [first = /./] = parts;
  const toast = notification(page, first);
  await toast.waitFor();
  const text = (await toast.textContent()) ?? '';
  for (const part of parts) {
    assert.match(text, part);
  }
  await clearNotifications(page);
}

/** Gives the rows below a node that failed. */
async function readFailedNode(page: Page, host: string): Promise<readonly TreeRow[]> {
  await viewPane(page, NODES).locator('.monaco-list-row').filter({ hasText: host }).filter({ hasText: 'failed' }).first().waitFor();
  const rows = await readTree(page, NODES);
  const start = rows.findIndex((row) => row.label === host);
  const end = rows.findIndex((row, index) => index > start && row.level === 1);
  return rows.slice(start + 1, end < 0 ? undefined : end);
}

/** Holds that connecting to a host fails with what, why and what to do, told in a notification and below the node, where it can be tried again. */
async function expectFailedConnection(page: Page, host: string, what: RegExp, why: RegExp, remedy: RegExp): Promise<void> {
  await connectTo(page, host);
  await expectNotice(page, what, why, remedy);
  const rows = (await readFailedNode(page, host)).map((row) => row.label);
  for (const part of [what, why, remedy, /^Connect again$/]) {
    assert.ok(rows.some((row) => part.test(row)), `a row below ${host} says ${part.source}: ${rows.join(' | ')}`);
  }
}

async function removeFailed(page: Page, host: string): Promise<void> {
  const row = treeRow(page, NODES, host);
  // A selected row shows its actions; a hovered one only while it stays below the mouse, and rows above may still come and go.
  await row.click();
  await row.locator('a.action-label[aria-label^="Remove Node from the View"]').click();
  await row.waitFor({ state: 'detached' });
}

/** The processes whose command line names this folder. */
async function listProcesses(folder: string): Promise<readonly string[]> {
  const found: string[] = [];
  for (const name of await readdir('/proc')) {
    if (/^\d+$/.test(name)) {
      const command = await readFile(`/proc/${name}/cmdline`, 'utf8').catch(() => '');
      if (command.includes(`${folder}/cache/meshpath`)) {
        found.push(name);
      }
    }
  }
  return found;
}

async function expectNoAgent(server: SshServer): Promise<void> {
  for (let turn = 0; (await listProcesses(server.folder)).length > 0; turn++) {
    assert.ok(turn < 100, 'the agent has ended');
    await sleep(100);
  }
}

test('connecting to what cannot be connected says what, why and what to do, and leaves nothing', { skip }, async () => {
  const cleanup: Cleanup = [];
  try {
    const server = await startSshServer();
    cleanup.push(() => server.stop());
    const usual = ['/usr/bin/node', '/usr/bin/nodejs', '/usr/local/bin/node', process.execPath];
    const bare = await startSshServer({ hiddenPrograms: [...new Set(usual)].filter((path) => existsSync(path)), configLines: ['SetEnv HOME=/nonexistent'], clientKeyPath: server.clientKeyPath });
    cleanup.push(() => bare.stop());
    const home = await mkdtemp(join(tmpdir(), 'meshpath-home-'));
    cleanup.push(() => rm(home, { recursive: true, force: true }));
    const user = await createTemporaryUser(home);
    cleanup.push(() => user.remove());
    const ordinary = await startSshServer({ user: user.name, hiddenPrograms: [findCommand('sudo') ?? ''], clientKeyPath: server.clientKeyPath });
    cleanup.push(() => ordinary.stop());
    const withSudo = await startSshServer({ user: user.name, clientKeyPath: server.clientKeyPath });
    cleanup.push(() => withSudo.stop());
    await user.allowSudo('with-password');
    const otherKey = await makeKey(join(server.folder, 'other'), 'ed25519', '');
    const otherKnown = join(server.folder, 'other_known_hosts');
    await writeFile(otherKnown, `[127.0.0.1]:${server.port} ${readFileSync(`${otherKey}.pub`, 'utf8')}`);
    const silent = createServer((socket) => socket.resume());
    await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
    cleanup.push(() => new Promise((resolve) => silent.close(resolve)));
    const silentPort = (silent.address() as AddressInfo).port;
    // An older version of the agent that somebody installed.
    const older = join(server.folder, 'cache/meshpath/agent', 'a'.repeat(64));
    await mkdir(older, { recursive: true });
    await utimes(older, new Date(0), new Date(0));
    const sshConfig = [
      await describeHost(server, 'current'),
      await describeHost(server, 'other-key', { UserKnownHostsFile: otherKnown }),
      await describeHost(server, 'other-user', { User: 'nobody-of-this-name' }),
      await describeHost(bare, 'no-node'),
      await describeHost(ordinary, 'not-root'),
      await describeHost(withSudo, 'with-sudo'),
      await describeHost(server, 'silent', { Port: String(silentPort), ConnectTimeout: '60' }),
    ].join('\n');

    await withSession('bad-connections', { sshConfig }, async ({ page, workspace, server: codeServer }) => {
      await openSidebar(page, 'Meshpath');
      await expectFailedConnection(page, 'other-key', /The host key of other-key is not the one that is known/, /the server presented SHA256:/, /\S/);
      await saveScreenshot(page, 'bad-1-host-key');
      await expectFailedConnection(page, 'other-user', /other-user did not let nobody-of-this-name in/, /\S/, /ssh nobody-of-this-name@other-user/);
      await expectFailedConnection(page, 'no-node', /There is no Node\.js on the node/, /\S/, /Install it there/);
      assert.deepEqual(await readdir(join(bare.folder, 'cache')), [], 'nothing was installed');
      await saveScreenshot(page, 'bad-2-no-node');
      for (const host of ['other-key', 'other-user', 'no-node']) {
        await removeFailed(page, host);
      }

      await connectTo(page, 'silent');
      const progress = notification(page, /Connecting to silent/);
      await progress.waitFor();
      await progress.getByRole('button', { name: 'Cancel' }).click();
      await viewPane(page, NODES).locator('.monaco-list-row').filter({ hasText: 'silent' }).filter({ hasText: 'cancelled' }).first().waitFor();
      await removeFailed(page, 'silent');

      await connectTo(page, 'not-root');
      await treeRow(page, NODES, 'Programs').waitFor();
      await expectNotice(page, /The agent runs without root’s rights/, /sudo is not installed/, /Connect as root/);
      await saveScreenshot(page, 'bad-3-not-root');
      await runCommand(page, 'Meshpath: Turn Acceleration On for a Cgroup…');
      await expectNotice(page, /This user may not load and attach BPF programs/, /The agent runs without CAP_/, /Connect as root/);
      await runCommand(page, 'Meshpath: Disconnect Node');
      await statusBarItem(page, 'not connected').waitFor();
      await expectNoAgent(ordinary);
      await removeFailed(page, 'not-root');

      await connectTo(page, 'with-sudo');
      await answerInput(page, 'Password for sudo on with-sudo', 'wrong');
      await answerInput(page, 'attempt 2', user.password);
      await treeRow(page, NODES, 'Programs').waitFor();
      assert.ok(!codeServer.readOutputChannel('Meshpath').includes(user.password), 'the password is not in the log');
      await runCommand(page, 'Meshpath: Disconnect Node');
      await statusBarItem(page, 'not connected').waitFor();
      await expectNoAgent(withSudo);
      await removeFailed(page, 'with-sudo');

      await connectTo(page, 'current');
      await treeRow(page, NODES, 'Programs').waitFor();
      const installed = await readdir(join(server.folder, 'cache/meshpath/agent'));
      assert.equal(installed.length, 2, 'the older agent stays, and the current one is beside it');
      assert.ok(installed.includes('a'.repeat(64)));
      await runCommand(page, 'Meshpath: Save Snapshot…');
      const box = quickInput(page).locator('.quick-input-box input').first();
      // The dialog shows the folder first and the name when it has looked into it.
      for (let turn = 0; !(await box.inputValue()).endsWith('/current.meshpath.json'); turn++) {
        assert.ok(turn < 50, `the dialog offers a name, not ${await box.inputValue()}`);
        await sleep(100);
      }
      await page.keyboard.press('Enter');
      const file = join(workspace, 'current.meshpath.json');
      for (let turn = 0; !existsSync(file); turn++) {
        assert.ok(turn < 100, 'the snapshot is saved');
        await sleep(100);
      }
      await sleep(300);
      assert.ok('namespaces' in (JSON.parse(readFileSync(file, 'utf8')) as object));

      assert.ok((await server.cutConnections()) > 0);
      await expectNotice(page, /The SSH connection to current was lost/, /Reconnect to the node/);
      assert.ok((await readFailedNode(page, 'current')).some((row) => row.label === 'Connect again'));
      await expectNoAgent(server);
      await treeRow(page, NODES, 'Connect again').click();
      await treeRow(page, NODES, 'Programs').waitFor();
      await saveScreenshot(page, 'bad-4-connected-again');
    });
    await expectNoAgent(server);
  } finally {
    await undo(cleanup);
  }
});

test('acceleration that cannot be turned on says what, why and what to do, and leaves nothing', { skip }, async () => {
  const cleanup: Cleanup = [];
  let labId = '';
  try {
    const lab: Lab = await createLab();
    labId = lab.id;
    cleanup.push(() => lab.dispose());
    const server = await startSshServer();
    cleanup.push(() => server.stop());
    const [podA, podB] = [lab.pod(0), lab.pod(1)];
    const [, proxyB] = await Promise.all([podA.startProxy(), podB.startProxy()]);
    await withSession('bad-acceleration', { sshConfig: await readFile(server.configPath, 'utf8') }, async ({ page }) => {
      await connectTo(page, server.alias);
      await openSidebar(page, 'Meshpath');
      await treeRow(page, NODES, 'Programs').waitFor();

      const program = await loadForeignProgram(cleanup);
      await runProgram('bpftool', ['cgroup', 'attach', podB.cgroupFolder, 'getsockopt', 'pinned', program]);
      await choosePods(page, [podA.cgroup, podB.cgroup]);
      await answerDialog(page, /Turn acceleration on at/, 'Turn On');
      await expectNotice(page, /Another program holds .* for itself/, /foreign/, /BPF_F_ALLOW_MULTI/);
      await saveScreenshot(page, 'bad-5-exclusive');
      await runProgram('bpftool', ['cgroup', 'detach', podB.cgroupFolder, 'getsockopt', 'pinned', program]);
      assert.ok(await statusBarItem(page, 'Meshpath: 1 node').filter({ hasNotText: 'accelerating' }).isVisible());

      await choosePods(page, [podB.cgroup]);
      await proxyB.stop();
      await rmdir(podB.cgroupFolder);
      await answerDialog(page, /Turn acceleration on at/, 'Turn On');
      await expectNotice(page, new RegExp(`There is no cgroup .*${podB.name}`), /no such file or directory/, /Take a path from the list of cgroups/);
      await podB.startProxy();

      await choosePods(page, [podA.cgroup, podB.cgroup]);
      await answerDialog(page, /Turn acceleration on at/, 'Turn On');
      assert.ok((await server.cutConnections()) > 0);
      await expectNotice(page, /The SSH connection to node was lost/, /Reconnect to the node/);
      await expectNoAgent(server);
      await treeRow(page, NODES, 'Connect again').click();
      await treeRow(page, NODES, 'Programs').waitFor();
      for (const pod of [podA, podB]) {
        assert.equal((await runProgram('bpftool', ['--json', 'cgroup', 'show', pod.cgroupFolder])).trim(), '', 'nothing is attached any more');
      }
    });
    await expectNoAgent(server);
  } finally {
    await undo(cleanup);
  }
  await waitForNothingLeft({ labId });
});

/** Opens the question for pods and leaves it with exactly those of these cgroups. */
async function choosePods(page: Page, cgroups: readonly string[]): Promise<void> {
  await runCommand(page, 'Meshpath: Turn Acceleration On for a Cgroup…');
  await quickInput(page).locator('input[placeholder*="For which pods?"]').waitFor();
  await tickOnly(page, cgroups);
  await quickInput(page).getByRole('button', { name: 'OK' }).click();
}

/** Loads a program of somebody else for cgroup/getsockopt and gives where it is pinned. */
async function loadForeignProgram(cleanup: Cleanup): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'meshpath-foreign-'));
  cleanup.push(() => rm(folder, { recursive: true, force: true }));
  await runProgram('mount', ['-t', 'bpf', 'bpf', folder]);
  cleanup.push(() => runProgram('umount', [folder]));
  const source = '__attribute__((section("cgroup/getsockopt"), used)) int foreign(void *context) { return 1; }\nchar terms[] __attribute__((section("license"), used)) = "GPL";\n';
  const object = `${folder}.o`;
  cleanup.push(() => rm(object, { force: true }));
  await runProgram('clang', ['-O2', '-g', '-target', 'bpf', '-c', '-x', 'c', '-', '-o', object], source);
  const pin = join(folder, 'foreign');
  await runProgram('bpftool', ['prog', 'load', object, pin]);
  return pin;
}
