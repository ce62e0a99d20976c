import * as vscode from 'vscode';
import { chooseReadyNode } from './choose.ts';
import { withCancellableProgress, withViewProgress } from './progress.ts';
import type { Services } from './services.ts';

/** Exchanges the programs of kept acceleration that are of another version for those of this one. */
export async function upgradeAcceleration(services: Services, argument: unknown): Promise<void> {
  const chosen = await chooseReadyNode(services, argument);
  if (chosen === undefined) {
    return;
  }
  const { label } = chosen.known.session;
  const accelerations = await withViewProgress(() => chosen.node.call('listAccelerations', {}));
  const outdated = accelerations.filter(({ kept, pods }) => kept?.isOutdated === true && pods.length > 0);
  if (outdated.length === 0) {
    void vscode.window.showInformationMessage(`No acceleration at ${label} is of another version of Meshpath.`);
    return;
  }
  for (const { profile } of outdated) {
    await withCancellableProgress(`Upgrading acceleration (${profile}) at ${label}`, (signal) => chosen.node.call('upgradeAcceleration', { profile }, { signal }));
    services.log.info(`${label}: the programs of ${profile} are those of this version now; connections of before go on with the old ones`);
  }
  services.directory.refresh(chosen.known.key);
}
