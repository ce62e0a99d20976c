import * as vscode from 'vscode';
import type { ContextKeyStore } from './contextKeys.ts';

/**
 * Lets a walkthrough that is opened late tick what already happened. VS Code learns of walkthroughs only when the first is
 * opened, and never ticks a step whose key was true by then (gettingStartedService, registerDoneListeners). So every step
 * also waits for its key together with \`shown\`, which becomes true anew whenever an editor of VS Code's own comes up.
 */
export function createWalkthroughTicks(contextKeys: ContextKeyStore): vscode.Disposable {
  return vscode.window.tabGroups.onDidChangeTabs(({ opened, changed }) => {
    if ([...opened, ...changed].some((tab) => tab.input === undefined)) {
      contextKeys.set('meshpath.walkthrough.shown', false);
      contextKeys.set('meshpath.walkthrough.shown', true);
    }
  });
}
