import * as vscode from 'vscode';
import { chooseReadyNode } from './choose.ts';
import { chooseLab } from './chooseLab.ts';
import { withCancellableProgress } from './progress.ts';
import type { Services } from './services.ts';

/** Confirms, and removes a lab with all that it made. */
export async function takeLabDown(services: Services, argument: unknown): Promise<void> {
  const chosen = await chooseReadyNode(services, argument);
  if (chosen === undefined) {
    return;
  }
  const lab = await chooseLab(chosen, argument, 'Take Lab Down', true);
  if (lab === undefined) {
    return;
  }
  const { label, target } = chosen.known.session;
  if (target.kind !== 'simulated') {
    const detail = `Its processes are ended, and its network namespaces, cgroups and files are removed. Nothing else of the node is touched.`;
    const answer = await vscode.window.showWarningMessage(`Take down the lab ${lab.name} at ${label}?`, { modal: true, detail }, 'Take Down');
    if (answer !== 'Take Down') {
      return;
    }
  }
  await withCancellableProgress(`Taking down the lab ${lab.name} at ${label}`, (signal) => chosen.node.call('takeLabDown', { name: lab.name }, { signal }));
  services.log.info(`${label}: the lab ${lab.name} is removed`);
  services.directory.refresh(chosen.known.key);
}
