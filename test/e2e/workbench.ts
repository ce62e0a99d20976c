import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Frame, Locator, Page } from 'playwright-core';
import { artifacts } from '../../scripts/paths.mjs';

/**
 * What a person does in a VS Code window, for tests: each function waits for what it needs and throws if it does not come.
 * Written against the workbench of VS Code 1.139.
 */

/** A row of a tree view. `level` starts at 1; `expanded` is undefined for a row without children. */
export interface TreeRow {
  readonly level: number;
  readonly label: string;
  readonly description: string;
  readonly expanded: boolean | undefined;
  /** What a screen reader says. */
  readonly accessibleName: string;
}

const workbenchDeadline = 90_000;

/**
 * Makes the page load extensions under development from their folders. Call it before openWorkbench. The workbench reads
 * developmentOptions from an element of the page, so they are put there as it appears; VS Code's `payload` parameter would need a
 * server flag that changes the user interface.
 */
export async function developExtension(page: Page, folders: readonly string[]): Promise<void> {
  await page.addInitScript((paths: readonly string[]) => {
    if (window.top !== window) {
      return;
    }
    const edit = (): boolean => {
      const element = document.getElementById('vscode-workbench-web-configuration');
      const settings = element?.getAttribute('data-settings');
      if (element === null || settings === null || settings === undefined) {
        return false;
      }
      const configuration = JSON.parse(settings) as { developmentOptions?: object };
      configuration.developmentOptions = {
        ...configuration.developmentOptions,
        extensions: paths.map((path) => ({ scheme: 'vscode-remote', authority: location.host, path })),
      };
      element.setAttribute('data-settings', JSON.stringify(configuration));
      return true;
    };
    if (!edit()) {
      const observer = new MutationObserver(() => {
        if (edit()) {
          observer.disconnect();
        }
      });
      observer.observe(document, { childList: true, subtree: true });
    }
  }, folders);
}

/** Opens the workbench on a folder of the server's machine and waits until it is there. */
export async function openWorkbench(page: Page, serverUrl: string, folder: string): Promise<void> {
  const url = new URL(serverUrl);
  url.searchParams.set('folder', folder);
  await page.goto(url.href, { waitUntil: 'domcontentloaded', timeout: workbenchDeadline });
  await page.locator('.monaco-workbench .part.statusbar .statusbar-item').first().waitFor({ timeout: workbenchDeadline });
}

/** The item of the status bar with this text. */
export function statusBarItem(page: Page, text: string): Locator {
  return page.locator('.part.statusbar .statusbar-item').filter({ hasText: text }).first();
}

/**
 * Runs a command by its full title in the command palette, such as 'Meshpath: Connect to Simulated Node'. Tries again while the
 * extension that brings it is not yet known, or a key is lost to a widget that is closing.
 */
export async function runCommand(page: Page, title: string): Promise<void> {
  const attempts = 5;
  for (let attempt = 1; ; attempt++) {
    try {
      await openPalette(page);
      await quickInputBox(page).fill(`>${title}`, { timeout: 2000 });
      const row = quickPickRow(page, title);
      await row.waitFor({ timeout: 6000 });
      await row.click({ timeout: 2000 });
      return;
    } catch (error) {
      if (attempt === attempts) {
        throw new Error(`the command palette has no '${title}'`, { cause: error });
      }
      await page.keyboard.press('Escape');
      await page.waitForTimeout(300);
    }
  }
}

/** Opens the palette with F1, again and again: the key is lost while a webview takes the focus or a quick input closes. */
async function openPalette(page: Page): Promise<void> {
  for (let attempt = 0; attempt < 10; attempt++) {
    if (await quickInput(page).isVisible()) {
      await page.keyboard.press('Escape');
      await quickInput(page).waitFor({ state: 'hidden', timeout: 1000 });
    }
    await page.keyboard.press('F1');
    for (let turn = 0; turn < 15; turn++) {
      if (await isPaletteOpen(page)) {
        return;
      }
      await page.waitForTimeout(80);
    }
    await page.evaluate(() => {
      if (document.activeElement instanceof HTMLElement) {
        document.activeElement.blur();
      }
      window.focus();
    });
  }
  throw new Error('the command palette did not open');
}

async function isPaletteOpen(page: Page): Promise<boolean> {
  const box = quickInputBox(page);
  return (await box.isVisible()) && (await box.inputValue()).startsWith('>');
}

/** The open quick pick or input box. */
export function quickInput(page: Page): Locator {
  return page.locator('.quick-input-widget:not([style*="display: none"])');
}

function quickInputBox(page: Page): Locator {
  return quickInput(page).locator('.quick-input-box input').first();
}

/** The row of the open quick pick with exactly this label. */
export function quickPickRow(page: Page, label: string): Locator {
  const exactly = new RegExp(`^\\s*${escapePattern(label)}\\s*$`);
  return quickInput(page)
    .locator('.monaco-list-row')
    .filter({ has: page.locator('.quick-input-list-label .label-name, .quick-input-list-entry .label-name', { hasText: exactly }) })
    .first();
}

/** Chooses the row with exactly this label of the open quick pick; `placeholder`, a part of its placeholder, tells which pick is meant. */
export async function pickItem(page: Page, label: string, placeholder?: string): Promise<void> {
  if (placeholder !== undefined) {
    await quickInput(page).locator(`input[placeholder*="${placeholder}"]`).first().waitFor();
  }
  const row = quickPickRow(page, label);
  await quickInput(page).locator('.monaco-list-row').first().waitFor();
  if (!(await row.isVisible())) {
    // Of a long list only the rows on screen are in the page.
    await quickInputBox(page).fill(label);
  }
  await row.click();
}

/** Ticks exactly those rows of the open pick for many that have one of these texts. */
export async function tickOnly(page: Page, texts: readonly string[]): Promise<void> {
  const rows = quickInput(page).locator('.monaco-list-row');
  await rows.first().waitFor();
  for (const row of await rows.all()) {
    const text = (await row.textContent()) ?? '';
    const wanted = String(texts.some((part) => text.includes(part)));
    if ((await row.getAttribute('aria-checked')) !== wanted) {
      await row.locator('.monaco-checkbox').click();
      await row.and(page.locator(`[aria-checked="${wanted}"]`)).waitFor();
    }
  }
}

/** Answers the input box whose message, title or placeholder has `prompt`, and waits until it is gone. */
export async function answerInput(page: Page, prompt: string, value: string): Promise<void> {
  const box = page
    .locator('.quick-input-widget:not([style*="display: none"])')
    .filter({ hasText: prompt })
    .or(quickInput(page).filter({ has: page.locator(`input[placeholder*="${prompt}"]`) }))
    .first();
  await box.waitFor();
  await box.locator('.quick-input-box input').first().fill(value);
  await page.keyboard.press('Enter');
  await box.waitFor({ state: 'hidden' });
}

/**
 * Opens a view container by its title in the activity bar; leaves it alone if it is open. The item toggles: where something else
 * opens the same container at the same moment, a click closes it again, so what came of it is looked at.
 */
export async function openSidebar(page: Page, title: string): Promise<void> {
  const item = page.locator('.activitybar .action-item', { has: page.locator(`a.action-label[aria-label^="${title}"]`) }).first();
  const heading = page.locator('.part.sidebar .composite.title, .part.sidebar .title-label').filter({ hasText: title }).first();
  await item.waitFor();
  for (let turn = 0; !(await heading.isVisible()); turn++) {
    if (turn === 10) {
      throw new Error(`the view container ${title} did not open`);
    }
    await item.click();
    await page.waitForTimeout(700);
  }
}

/** The pane of a view, by the start of the view's name. */
export function viewPane(page: Page, view: string): Locator {
  return page.locator('.pane', { has: page.locator(`.pane-header[aria-label^="${view}"]`) }).first();
}

/** The row of a tree view with exactly this label, among those on screen. */
export function treeRow(page: Page, view: string, label: string): Locator {
  return viewPane(page, view)
    .locator('.monaco-list-row')
    .filter({ has: page.locator('.label-name', { hasText: new RegExp(`^${escapePattern(label)}$`) }) })
    .first();
}

/** Expands a row of a tree view and waits until it is expanded. */
export async function expandTreeRow(page: Page, view: string, label: string): Promise<void> {
  const row = treeRow(page, view, label);
  await row.waitFor();
  if ((await row.getAttribute('aria-expanded')) === 'false') {
    await row.locator('.monaco-tl-twistie').click();
  }
  await viewPane(page, view)
    .locator('.monaco-list-row[aria-expanded="true"]')
    .filter({ has: page.locator('.label-name', { hasText: new RegExp(`^${escapePattern(label)}$`) }) })
    .first()
    .waitFor();
}

/** Gives all rows of a tree view in order, scrolling through it: only those on screen are in the page. */
export async function readTree(page: Page, view: string): Promise<TreeRow[]> {
  const seen = new Map<number, TreeRow>();
  await scrollThrough(page, view, (rows) => {
    for (const { index, row } of rows) {
      seen.set(index, row);
    }
    return Promise.resolve(false);
  });
  return [...seen.entries()].sort(([a], [b]) => a - b).map(([, row]) => row);
}

/** Scrolls a tree view to the row with exactly this label, and gives it. The tree has to be there in full. */
export async function scrollToTreeRow(page: Page, view: string, label: string): Promise<Locator> {
  const row = treeRow(page, view, label);
  await scrollThrough(page, view, () => row.isVisible());
  return row;
}

/** Scrolls a tree view from its top, screen by screen, until `isDone` says so of the rows on screen or there are no more. */
async function scrollThrough(page: Page, view: string, isDone: (rows: readonly VisibleRow[]) => Promise<boolean>): Promise<void> {
  const list = viewPane(page, view).locator('.monaco-list').first();
  await list.locator('.monaco-list-row').first().waitFor();
  const box = await list.boundingBox();
  if (box === null) {
    throw new Error(`the view ${view} is not on screen`);
  }
  await scrollToTop(page, list, box);
  let rows = await readVisibleRows(list);
  while (!(await isDone(rows))) {
    const last = lastIndex(rows);
    if (last + 1 >= (await countRows(list))) {
      return;
    }
    await page.mouse.wheel(0, Math.max(22, box.height - 44));
    rows = await waitForRows(list, (visible) => lastIndex(visible) > last);
  }
}

/** By the keyboard: a wheel turns what is below the mouse, which may be the hint that a row shows after a while. */
async function scrollToTop(page: Page, list: Locator, box: { readonly x: number; readonly y: number; readonly width: number; readonly height: number }): Promise<void> {
  await list.focus();
  await page.keyboard.press('Home');
  await waitForRows(list, (visible) => visible.some(({ index }) => index === 0));
  await page.mouse.move(box.x + box.width / 2, box.y + box.height / 2);
}

/** A busy machine takes its time to scroll: what is on screen tells, and no clock. */
async function waitForRows(list: Locator, condition: (rows: readonly VisibleRow[]) => boolean): Promise<readonly VisibleRow[]> {
  const until = Date.now() + 30_000;
  for (;;) {
    const rows = await readVisibleRows(list);
    if (condition(rows)) {
      return rows;
    }
    if (Date.now() > until) {
      throw new Error(`the view does not scroll; it shows the rows ${rows.map(({ index }) => index).join(', ')}`);
    }
    await list.page().waitForTimeout(20);
  }
}

function lastIndex(rows: readonly VisibleRow[]): number {
  return Math.max(-1, ...rows.map(({ index }) => index));
}

/** Gives how many rows a list has, on screen or not: by its height. */
async function countRows(list: Locator): Promise<number> {
  return list.evaluate((element) => {
    const rows = element.querySelector<HTMLElement>('.monaco-list-rows');
    const row = element.querySelector<HTMLElement>('.monaco-list-row');
    return rows === null || row === null ? 0 : Math.round(Number.parseFloat(rows.style.height) / row.offsetHeight);
  });
}

interface VisibleRow {
  readonly index: number;
  readonly row: TreeRow;
}

async function readVisibleRows(list: Locator): Promise<readonly VisibleRow[]> {
  // Without those that stick to the top while what is below them is on screen: they have their numbers too.
  const rows = await list.locator('.monaco-list-rows > .monaco-list-row').evaluateAll((elements) =>
    elements.map((element) => ({
      index: Number(element.getAttribute('data-index')),
      level: Number(element.getAttribute('aria-level')),
      expanded: element.getAttribute('aria-expanded'),
      label: element.querySelector('.label-name')?.textContent ?? '',
      description: element.querySelector('.label-description')?.textContent ?? '',
      accessibleName: element.getAttribute('aria-label') ?? '',
    })),
  );
  return rows.map(({ index, expanded, ...row }) => ({ index, row: { ...row, expanded: expanded === null ? undefined : expanded === 'true' } }));
}

/** Clicks an action in the title bar of a view, which shows while the pointer is over it. */
export async function clickViewAction(page: Page, view: string, action: string): Promise<void> {
  const header = viewPane(page, view).locator('.pane-header').first();
  await header.hover();
  await header.locator(`.actions a.action-label[aria-label^="${action}"]`).first().click();
}

/**
 * Gives the frame with an extension's HTML: of the webview whose document has this title, or holds something that the CSS selector
 * matches. VS Code nests it as iframe.webview, then iframe#active-frame.
 */
export async function findWebview(page: Page, match: { readonly title: string } | { readonly selector: string }): Promise<Frame> {
  const until = Date.now() + 30_000;
  for (;;) {
    const seen: string[] = [];
    for (const frame of page.frames()) {
      const title = await activeFrameTitle(frame);
      if (title === undefined) {
        continue;
      }
      seen.push(title);
      if ('title' in match ? title === match.title : await hasElement(frame, match.selector)) {
        await frame.waitForLoadState('domcontentloaded');
        return frame;
      }
    }
    if (Date.now() > until) {
      throw new Error(`no webview matches ${JSON.stringify(match)}; there are ${JSON.stringify(seen)}`);
    }
    await page.waitForTimeout(100);
  }
}

/** Gives the title of a frame that shows a webview's content on screen; undefined for any other, and for one that goes meanwhile. */
async function activeFrameTitle(frame: Frame): Promise<string | undefined> {
  const parent = frame.parentFrame();
  if (parent === null || !/\/webview\/browser\/pre\/index(-no-csp)?\.html/.test(parent.url())) {
    return undefined;
  }
  try {
    const element = await frame.frameElement();
    const active = (await element.getAttribute('id')) === 'active-frame' && (await (await parent.frameElement()).isVisible());
    return active ? await frame.title() : undefined;
  } catch {
    // The frame was detached while we looked.
    return undefined;
  }
}

async function hasElement(frame: Frame, selector: string): Promise<boolean> {
  try {
    return (await frame.locator(selector).count()) > 0;
  } catch {
    return false;
  }
}

/** The notification, toast or in the centre, that has this text. */
export function notification(page: Page, text: string | RegExp): Locator {
  return page.locator('.notifications-toasts .notification-toast, .notifications-center .notification-list-item').filter({ hasText: text }).first();
}

/** Clicks a button of the notification with this text. */
export async function answerNotification(page: Page, text: string | RegExp, button: string): Promise<void> {
  await notification(page, text).getByRole('button', { name: button, exact: true }).click();
}

/** Clicks a button of the open modal dialog that has this text, and waits until it is gone. */
export async function answerDialog(page: Page, text: string | RegExp, button: string): Promise<void> {
  const dialog = page.locator('.monaco-dialog-box').filter({ hasText: text }).first();
  await dialog.waitFor();
  await dialog.getByRole('button', { name: button, exact: true }).click();
  await dialog.waitFor({ state: 'hidden' });
}

/** Removes all notifications. */
export async function clearNotifications(page: Page): Promise<void> {
  await runCommand(page, 'Notifications: Clear All Notifications');
  await page.locator('.notification-toast').first().waitFor({ state: 'detached' });
}

/** The tab of an open editor. */
export function editorTab(page: Page, name: string): Locator {
  return page.locator('.tabs-container .tab').filter({ hasText: name }).first();
}

/** Opens a walkthrough of an extension by its title and gives its page. */
export async function openWalkthrough(page: Page, title: string): Promise<Locator> {
  await runCommand(page, 'Welcome: Open Walkthrough...');
  await pickItem(page, title);
  const details = page.locator('.gettingStartedContainer .gettingStartedSlideDetails');
  await details.locator('h2.category-title').filter({ hasText: title }).first().waitFor();
  return details;
}

/** A step of an open walkthrough, and whether it is ticked (`.getting-started-step` has the class of its state on an inner element). */
export function walkthroughStep(walkthrough: Locator, title: string): { readonly step: Locator; readonly ticked: Locator } {
  const step = walkthrough.locator('.getting-started-step').filter({ hasText: title }).first();
  return { step, ticked: step.locator('.codicon-getting-started-step-checked.complete, .codicon.complete').first() };
}

/** Saves a picture as artifacts/screenshots/NAME.png once nothing moves any more, and gives its path. */
export async function saveScreenshot(page: Page, name: string): Promise<string> {
  const folder = join(artifacts, 'screenshots');
  mkdirSync(folder, { recursive: true });
  const path = join(folder, `${name}.png`);
  const take = (to?: string): Promise<Buffer> => page.screenshot({ animations: 'disabled', caret: 'hide', ...(to !== undefined && { path: to }) });
  let previous = await take();
  for (let turn = 0; turn < 12; turn++) {
    await page.waitForTimeout(150);
    const current = await take(path);
    if (current.equals(previous)) {
      break;
    }
    previous = current;
  }
  return path;
}

function escapePattern(text: string): string {
  return text.replaceAll(/[.*+?^${}()|[\]\\]/g, '\\$&');
}
