import { setTimeout as sleep } from 'node:timers/promises';
import * as vscode from 'vscode';
import { WALKTHROUGH } from '../contributions.ts';
import type { Services } from './services.ts';

/** How long VS Code may take to read the walkthroughs of extensions. */
const READING_MS = 800;

let areRead = false;

/**
 * Opens the walkthrough "Follow a connection with Meshpath". VS Code reads the walkthroughs of extensions only when its page comes up
 * for the first time, and shows one of its own then (gettingStarted.ts, buildCategoriesSlide); nothing tells when it has read them, nor
 * which one is shown. So in a new window the page is opened, given time to read, and opened anew. It is kept open: as a preview it
 * would make room for the first map that a step opens.
 */
export async function openWalkthrough(services: Services): Promise<void> {
  if (!areRead) {
    areRead = true;
    const before = new Set(listTabs());
    await show(services);
    await sleep(READING_MS);
    await vscode.window.tabGroups.close(listTabs().filter((tab) => !before.has(tab) && tab.input === undefined));
  }
  await show(services);
  await vscode.commands.executeCommand('workbench.action.keepEditor');
}

async function show(services: Services): Promise<void> {
  await vscode.commands.executeCommand('workbench.action.openWalkthrough', `${services.extensionId}#${WALKTHROUGH.id}`, false);
}

function listTabs(): readonly vscode.Tab[] {
  return vscode.window.tabGroups.all.flatMap((group) => group.tabs);
}
