import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Frame, Locator, Page } from 'playwright-core';
import { listViolations } from './accessibility.ts';
import { withSession } from './session.ts';
import type { Session } from './session.ts';
import {
  clearNotifications,
  editorTab,
  expandTreeRow,
  findWebview,
  openSidebar,
  openWorkbench,
  pickItem,
  quickInput,
  readTree,
  runCommand,
  saveScreenshot,
  statusBarItem,
  treeRow,
  walkthroughStep,
} from './workbench.ts';
import { missingForWorkbench } from './workbenchRequirements.ts';

const skip = missingForWorkbench();
const NODES = 'Nodes';
const TITLE = 'Follow a connection with Meshpath';
const STEPS = ['Connect to the simulated node', 'Look at its programs and maps', 'Turn acceleration on', 'Open the sockets map', 'Explain a connection'] as const;
const THEMES = [
  ['dark', 'Dark Modern', 'vscode-dark'],
  ['light', 'Light Modern', 'vscode-light'],
  ['high-contrast', 'Dark High Contrast', 'vscode-high-contrast'],
] as const;

test('from an empty window to an explained connection on the simulated node, each step ticked by what really happened', { skip }, async () => {
  await withSession('simulated-node', {}, async (session) => {
    const { page, server, window } = session;
    await runCommand(page, 'Meshpath: Open Walkthrough');
    const walkthrough = page.locator('.gettingStartedContainer .gettingStartedSlideDetails');
    await walkthrough.locator('h2.category-title').filter({ hasText: TITLE }).first().waitFor();
    await expectTicks(page, walkthrough, 0);
    await saveScreenshot(page, 'simulated-1-walkthrough');

    await pressInStep(walkthrough, STEPS[0], 'Connect to Simulated Node');
    await statusBarItem(page, 'Meshpath: 1 node').waitFor();
    await expectTicks(page, walkthrough, 1);

    await expandTreeRow(page, NODES, 'Programs');
    await expectTicks(page, walkthrough, 2);

    await pressInStep(walkthrough, STEPS[2], 'Turn Acceleration On');
    await quickInput(page).locator('input[placeholder*="For which pods?"]').waitFor();
    await expectTicks(page, walkthrough, 2);
    await page.keyboard.press('Enter');
    await statusBarItem(page, 'accelerating 2 pods').waitFor();
    await expectTicks(page, walkthrough, 3);
    await saveScreenshot(page, 'simulated-2-walkthrough-accelerated');

    await pressInStep(walkthrough, STEPS[3], 'Open a Map');
    await pickItem(page, 'sockets', 'Open which map?');
    const sockets = await findWebview(page, { title: 'sockets' });
    const first = await readCells(sockets);
    assert.ok(first.length > 0, 'traffic of the simulated world has put sockets into the map');
    for (const row of first) {
      assert.ok(row.some((cell) => /^(10|127)\.\d+\.\d+\.\d+$/.test(cell)), `a row has readable addresses: ${row.join(' ')}`);
    }
    await editorTab(page, 'Welcome').click();
    await expectTicks(page, walkthrough, 4);

    await pressInStep(walkthrough, STEPS[4], 'Explain a Connection');
    await quickInput(page).locator('input[placeholder*="Who connects?"]').waitFor();
    await page.keyboard.press('Enter');
    await quickInput(page).locator('input[placeholder*="Where to?"]').waitFor();
    await page.keyboard.press('Enter');
    const explained = await findWebview(page, { selector: '.outcome.sockops' });
    assert.deepEqual(await explained.locator('.outcome .result .mark').allTextContents(), ['✓', '✓'], 'both paths deliver');
    assert.equal(await explained.locator('.outcome.sockops.current').count(), 1);
    for (const path of ['iptables', 'sockops']) {
      assert.ok((await explained.locator(`.cell.${path} .step`).count()) > 0, `there are steps through ${path}`);
    }
    await saveScreenshot(page, 'simulated-3-explained-dark');
    await editorTab(page, 'Welcome').click();
    await expectTicks(page, walkthrough, 5);
    await saveScreenshot(page, 'simulated-4-walkthrough-done');

    // From the last one up: what is expanded moves those below it out of sight.
    for (const group of ['Links', 'Maps', 'Acceleration']) {
      await expandTreeRow(page, NODES, group);
    }
    const labels = (await readTree(page, NODES)).map((row) => row.label);
    for (const name of ['meshpath_connect4', 'meshpath_sk_msg', 'sockets', 'connections', 'counters']) {
      assert.ok(labels.includes(name), `the tree shows ${name}`);
    }
    await page.keyboard.press('Escape');
    await openByKeyboard(page, 'connections');
    const connections = await findWebview(page, { title: 'connections' });
    await moveInGrid(page, connections);
    await saveScreenshot(page, 'simulated-5-map');

    await runCommand(page, 'Meshpath: Run Doctor');
    const report = await findWebview(page, { selector: '.markdown-body table' });
    assert.match((await report.locator('.markdown-body').textContent()) ?? '', /Safe[^]*The simulated kernel calls itself/);
    await saveScreenshot(page, 'simulated-6-doctor');
    await runCommand(page, 'Meshpath: Show Events');
    const events = page.locator('.part.panel .view-lines');
    await events.filter({ hasText: 'Simulated node' }).first().waitFor();
    await saveScreenshot(page, 'simulated-7-events');
    await runCommand(page, 'View: Hide Panel');

    await examineInThemes(page);
    await reload(session);
    assert.deepEqual(window.outsideRequests, []);
    assert.doesNotMatch(server.readOutputChannel('Meshpath'), /\[error\]/);
  });
});

test('with the setting, a new window opens on the simulated node and the walkthrough', { skip }, async () => {
  await withSession('on-startup', { settings: { 'meshpath.connectSimulatedNodeOnStartup': true } }, async ({ page }) => {
    await treeRow(page, NODES, 'Simulated node').waitFor();
    await treeRow(page, NODES, 'Programs').waitFor();
    await editorTab(page, 'Welcome').waitFor();
    await expectTicks(page, page.locator('.gettingStartedContainer .gettingStartedSlideDetails'), 1);
    await saveScreenshot(page, 'on-startup');
  });
});

/** Waits until the first `count` steps of the walkthrough are ticked, and checks that no other is. */
async function expectTicks(page: Page, walkthrough: Locator, count: number): Promise<void> {
  for (const title of STEPS.slice(0, count)) {
    await walkthroughStep(walkthrough, title).ticked.waitFor();
  }
  // What would tick too much comes as late as what ticks.
  await page.waitForTimeout(count === 0 ? 500 : 150);
  for (const [index, title] of STEPS.entries()) {
    assert.equal((await walkthroughStep(walkthrough, title).ticked.count()) > 0, index < count, `step '${title}' after ${count} steps`);
  }
}

/** Presses a button of a step, opening the step first. */
async function pressInStep(walkthrough: Locator, title: string, button: string): Promise<void> {
  const { step } = walkthroughStep(walkthrough, title);
  const target = step.getByRole('button', { name: button, exact: true });
  if (!(await target.isVisible())) {
    await step.locator('.step-title').first().click();
  }
  await target.click();
}

async function readCells(frame: Frame): Promise<readonly (readonly string[])[]> {
  const rows = frame.locator('[role="grid"] .body [role="row"]');
  await rows.first().waitFor();
  return rows.evaluateAll((elements) => elements.map((element) => [...element.querySelectorAll('[role="gridcell"]')].map((cell) => cell.textContent)));
}

/** Opens a map from the tree by typing its name, without the mouse. */
async function openByKeyboard(page: Page, map: string): Promise<void> {
  await runCommand(page, 'Meshpath: Focus on Nodes View');
  const focused = page.locator('.monaco-list:focus .monaco-list-row.focused');
  await page.keyboard.press('Home');
  for (let moves = 0; moves < 80; moves++) {
    if ((await focused.locator('.label-name').first().textContent()) === map) {
      await page.keyboard.press('Enter');
      return;
    }
    await page.keyboard.press('ArrowDown');
  }
  throw new Error(`the keyboard does not reach the map ${map}`);
}

/** Goes into the grid with Tab and to a cell with the arrow keys. */
async function moveInGrid(page: Page, frame: Frame): Promise<void> {
  await readCells(frame);
  const focusedCell = async (): Promise<string | null> =>
    frame.evaluate(() => {
      const cell = document.activeElement?.closest<HTMLElement>('[data-row]');
      return cell === null || cell === undefined ? null : `${cell.dataset['row'] ?? ''},${cell.dataset['column'] ?? ''}`;
    });
  await frame.locator('body').press('Tab');
  for (let presses = 0; (await focusedCell()) === null; presses++) {
    assert.ok(presses < 10, 'Tab reaches the grid');
    await page.keyboard.press('Tab');
  }
  assert.equal(await focusedCell(), '0,0');
  await page.keyboard.press('ArrowRight');
  await page.keyboard.press('ArrowRight');
  await page.keyboard.press('ArrowDown');
  assert.equal(await focusedCell(), '1,2');
  await page.keyboard.press('Home');
  assert.equal(await focusedCell(), '1,0');
}

/** Shows the map and the explanation in every kind of theme and holds both to WCAG. */
async function examineInThemes(page: Page): Promise<void> {
  for (const [name, theme, bodyClass] of THEMES) {
    await runCommand(page, 'Preferences: Color Theme');
    await quickInput(page).locator('.quick-input-box input').first().fill(theme);
    await pickItem(page, theme);
    for (const [tab, selector] of [['sockets', '[role="grid"] .body [role="row"]'], ['→', '.outcome.sockops']] as const) {
      await editorTab(page, tab).click();
      const frame = await findWebview(page, { selector });
      await frame.locator(`body.${bodyClass}`).waitFor();
      await frame.locator(selector).first().waitFor();
      assert.deepEqual(await listViolations(frame), [], `${tab} in ${name}`);
      if (name !== 'dark') {
        await saveScreenshot(page, `simulated-8-${tab === '→' ? 'explained' : 'map'}-${name}`);
      }
    }
  }
}

/** After the window is loaded anew, panels are where they were, say that the node is gone, and take it back at a press. */
async function reload({ page, server, workspace }: Session): Promise<void> {
  await openWorkbench(page, server.url, workspace);
  await editorTab(page, '→').click();
  const lost = await findWebview(page, { selector: '.problem' });
  assert.match((await lost.locator('.problem').textContent()) ?? '', /not connected/);
  await saveScreenshot(page, 'simulated-9-reloaded');
  await lost.getByRole('button', { name: 'Connect again' }).or(lost.locator('vscode-button').filter({ hasText: /onnect/ })).first().click();
  const explained = await findWebview(page, { selector: '.outcome.sockops' });
  assert.equal(await explained.locator('.outcome.iptables.current').count(), 1, 'acceleration ended with the window');
  await openSidebar(page, 'Meshpath');
  await runCommand(page, 'Meshpath: Turn Acceleration On for a Cgroup…');
  await quickInput(page).locator('input[placeholder*="For which pods?"]').waitFor();
  await page.keyboard.press('Enter');
  await statusBarItem(page, 'accelerating 2 pods').waitFor();
  await editorTab(page, 'sockets').click();
  assert.ok((await readCells(await findWebview(page, { title: 'sockets' }))).length > 0);
  await clearNotifications(page);
}
