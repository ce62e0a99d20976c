import * as vscode from 'vscode';
import { chooseReadyNode } from './choose.ts';
import { withCancellableProgress } from './progress.ts';
import type { Services } from './services.ts';

/** Saves the whole state of a node that matters to a path as one JSON file. */
export async function saveSnapshot(services: Services, argument: unknown): Promise<void> {
  const chosen = await chooseReadyNode(services, argument);
  if (chosen === undefined) {
    return;
  }
  const { label } = chosen.known.session;
  const snapshot = await withCancellableProgress(`Taking a snapshot of ${label}`, (signal) => chosen.node.call('takeSnapshot', {}, { signal }));
  const name = `${label.replaceAll(/[^\w.-]+/g, '-')}.meshpath.json`;
  const folder = vscode.workspace.workspaceFolders?.[0]?.uri;
  const uri = await vscode.window.showSaveDialog({
    title: 'Save Snapshot',
    filters: { 'Meshpath snapshot': ['json'] },
    ...(folder === undefined ? {} : { defaultUri: vscode.Uri.joinPath(folder, name) }),
  });
  if (uri !== undefined) {
    await vscode.workspace.fs.writeFile(uri, new TextEncoder().encode(`${JSON.stringify(snapshot, undefined, 2)}\n`));
    services.log.info(`${label}: snapshot saved to ${uri.toString(true)}`);
  }
}
