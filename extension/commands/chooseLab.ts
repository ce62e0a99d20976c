import * as vscode from 'vscode';
import { MeshpathError } from '../../agent/protocol/errors.ts';
import type { LabInfo } from '../../agent/protocol/lab.ts';
import { describeLabSetting } from '../../agent/protocol/labText.ts';
import { subjectOf, type ReadyNode } from './choose.ts';
import { withViewProgress } from './progress.ts';

/**
 * Gives the lab of the row, else the only one that is up, else asks; undefined: dismissed. With `leftToo`, what was left over counts where
 * nothing is up. Throws LAB_NOT_FOUND where there is none.
 */
export async function chooseLab(chosen: ReadyNode, argument: unknown, title: string, leftToo: boolean): Promise<LabInfo | undefined> {
  const all = await withViewProgress(() => chosen.node.call('listLabs', {}));
  const subject = subjectOf(argument);
  const named = subject?.type === 'lab' ? all.find(({ name }) => name === subject.name) : undefined;
  const up = all.filter(({ state }) => state === 'up');
  const labs = up.length === 0 && leftToo ? all.filter(({ state }) => state === 'left') : up;
  if (named !== undefined || labs.length === 1) {
    return named ?? labs[0];
  }
  if (labs.length === 0) {
    throw new MeshpathError({
      code: 'LAB_NOT_FOUND',
      message: 'There is no lab on this node.',
      reason: 'None was brought up, or it was taken down.',
      remedy: 'Bring one up: Meshpath: Bring Lab Up….',
    });
  }
  const picked = await vscode.window.showQuickPick(
    labs.map((lab) => ({ label: lab.name, description: lab.state, detail: describeLabSetting(lab), lab })),
    { title, placeHolder: 'Which lab?' },
  );
  return picked?.lab;
}
