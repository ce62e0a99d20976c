import * as vscode from 'vscode';
import { chooseReadyNode } from './choose.ts';
import { withCancellableProgress, withViewProgress } from './progress.ts';
import type { Services } from './services.ts';

/** Lists what Meshpath left on a node, confirms, and removes it. */
export async function cleanUpNode(services: Services, argument: unknown): Promise<void> {
  const chosen = await chooseReadyNode(services, argument);
  if (chosen === undefined) {
    return;
  }
  const { label } = chosen.known.session;
  const found = (await withViewProgress(() => chosen.node.call('cleanNode', { isDryRun: true }))).items;
  const removable = found.filter(({ problem }) => problem === null);
  const kept = found.flatMap(({ where, problem }) => (problem === null ? [] : [`${where}: ${problem.message} ${problem.reason} ${problem.remedy}`]));
  if (removable.length === 0) {
    void vscode.window.showInformationMessage(kept.length === 0 ? `There is nothing to clean up at ${label}.` : `Nothing at ${label} can be removed. ${kept.join(' ')}`);
    return;
  }
  const detail = ['This removes:', ...removable.map(({ where, what }) => `• ${where}: ${what}`), '', 'Established connections go on.', ...kept.map((text) => `Stays: ${text}`)].join('\n');
  const answer = await vscode.window.showWarningMessage(`Clean up ${label}?`, { modal: true, detail }, 'Clean Up');
  if (answer !== 'Clean Up') {
    return;
  }
  const { items } = await withCancellableProgress(`Cleaning up ${label}`, (signal) => chosen.node.call('cleanNode', { isDryRun: false }, { signal }));
  for (const { where, what, isRemoved, problem } of items) {
    services.log.info(`${label}: ${isRemoved ? 'removed' : 'not removed'} ${where}: ${what} ${problem?.reason ?? ''}`);
  }
  const failed = items.filter(({ isRemoved }) => !isRemoved).length;
  void vscode.window.showInformationMessage(failed === 0 ? `${label} is clean.` : `${failed} of ${items.length} things at ${label} could not be removed; the log says why.`);
  services.directory.refresh(chosen.known.key);
}
