import * as vscode from 'vscode';
import { parseDestination } from '../ssh/destination.ts';
import { toMeshpathError } from '../../agent/protocol/errors.ts';
import type { Services } from './services.ts';

/** Asks for a host of the user's ssh configuration, or `user@host:port`, and connects to it over SSH. A text as argument is taken as the host. */
export async function connectToNode(services: Services, argument: unknown): Promise<void> {
  const host = typeof argument === 'string' ? argument : await chooseHost(await services.listConfiguredHosts());
  if (host === undefined) {
    return;
  }
  parseDestination(host);
  const known = await services.directory.obtain({ kind: 'ssh', host });
  await services.view.reveal();
  await services.connect(known);
}

interface HostItem extends vscode.QuickPickItem {
  readonly host: string;
}

function chooseHost(configured: readonly string[]): Promise<string | undefined> {
  const pick = vscode.window.createQuickPick<HostItem>();
  const items: readonly HostItem[] = configured.map((host) => ({ label: `$(server) ${host}`, host }));
  pick.title = 'Connect to a Node over SSH';
  pick.placeholder = 'A host of your SSH configuration, or user@host:port';
  pick.items = items;
  pick.onDidChangeValue((value) => {
    const written = value.trim();
    const extra = written === '' || configured.includes(written) ? [] : [writtenItem(written)];
    pick.items = [...extra, ...items];
  });
  return new Promise((resolve) => {
    pick.onDidAccept(() => {
      const chosen = pick.selectedItems[0];
      if (chosen !== undefined && problemOf(chosen.host) === undefined) {
        resolve(chosen.host);
        pick.hide();
      }
    });
    pick.onDidHide(() => {
      resolve(undefined);
      pick.dispose();
    });
    pick.show();
  });
}

function writtenItem(host: string): HostItem {
  const problem = problemOf(host);
  return { label: `$(add) ${host}`, description: problem ?? 'connect to this host', alwaysShow: true, host };
}

function problemOf(host: string): string | undefined {
  try {
    parseDestination(host);
    return undefined;
  } catch (thrown) {
    return toMeshpathError(thrown).reason;
  }
}
