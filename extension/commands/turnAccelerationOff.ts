import * as vscode from 'vscode';
import { MeshpathError } from '../../agent/protocol/errors.ts';
import type { CgroupPath } from '../../agent/protocol/scalars.ts';
import { lastSegment } from '../views/nodeTree.ts';
import { chooseReadyNode, subjectOf } from './choose.ts';
import { withCancellableProgress, withViewProgress } from './progress.ts';
import type { Services } from './services.ts';

/** Turns acceleration off for the cgroup of the row, else for those that are chosen. */
export async function turnAccelerationOff(services: Services, argument: unknown): Promise<void> {
  const chosen = await chooseReadyNode(services, argument);
  if (chosen === undefined) {
    return;
  }
  const subject = subjectOf(argument);
  const cgroups =
    subject?.type === 'acceleration'
      ? [subject.cgroup]
      : subject?.type === 'cgroup'
        ? [subject.path]
        : await chooseCgroups((await withViewProgress(() => chosen.node.call('listAccelerations', {}))).flatMap((item) => item.pods.map((pod) => ({ cgroup: pod.cgroup, detail: `${item.profile} · ${pod.addresses.join(', ')}` }))));
  if (cgroups === undefined || cgroups.length === 0) {
    return;
  }
  const label = chosen.known.session.label;
  services.log.info(`${label}: turning acceleration off for ${cgroups.join('; ')}`);
  const report = await withCancellableProgress(`Turning acceleration off at ${label}`, (signal) => chosen.node.call('turnAccelerationOff', { cgroups }, { signal }));
  services.log.info(`${label}: acceleration is off for them; ${report.detachedLinks} links detached, ${report.remainingConnections} connections go on over plain TCP`);
  services.directory.refresh(chosen.known.key);
}

async function chooseCgroups(candidates: readonly { readonly cgroup: CgroupPath; readonly detail: string }[]): Promise<readonly CgroupPath[] | undefined> {
  if (candidates.length === 0) {
    throw new MeshpathError({
      code: 'ACCELERATION_NOT_FOUND',
      message: 'Acceleration is not on at this node.',
      reason: 'No cgroup is accelerated.',
      remedy: 'There is nothing to turn off.',
    });
  }
  const picked = await vscode.window.showQuickPick(
    candidates.map((candidate) => ({ label: lastSegment(candidate.cgroup), description: candidate.cgroup, detail: candidate.detail, picked: true, cgroup: candidate.cgroup })),
    { title: 'Turn Acceleration Off', placeHolder: 'For which cgroups?', canPickMany: true, matchOnDescription: true },
  );
  return picked?.map((item) => item.cgroup);
}
