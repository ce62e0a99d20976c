import * as vscode from 'vscode';
import { VIEWS } from '../contributions.ts';
import type { NodeDirectory } from './nodeDirectory.ts';
import { describeStatus } from './statusText.ts';

/** Makes the one item of Meshpath in the status bar: hidden while no node is known. */
export function createStatusItem(directory: NodeDirectory): vscode.Disposable {
  const item = vscode.window.createStatusBarItem('meshpath.status', vscode.StatusBarAlignment.Left, 10);
  item.name = 'Meshpath';
  item.command = { command: `${VIEWS.nodes}.focus`, title: 'Show the nodes' };
  const draw = (): void => {
    const status = describeStatus(directory.nodes.map((node) => ({ label: node.session.label, phase: node.session.state.phase, accelerations: node.accelerations ?? [] })));
    if (status === undefined) {
      item.hide();
      return;
    }
    item.text = status.text;
    item.tooltip = status.tooltip;
    item.accessibilityInformation = { label: status.spoken };
    item.show();
  };
  const stop = directory.onChange(draw);
  return {
    dispose: () => {
      stop();
      item.dispose();
    },
  };
}
