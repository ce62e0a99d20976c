import * as vscode from 'vscode';
import { toMeshpathError } from '../../agent/protocol/errors.ts';
import { listDestinations, listSources, readEndpoint, type DestinationOption } from '../views/flowChoices.ts';
import { chooseReadyNode } from './choose.ts';
import { withCancellableProgress } from './progress.ts';
import type { Services } from './services.ts';

/** Asks who connects and to where, and shows both paths of that connection. */
export async function explainConnection(services: Services, argument: unknown): Promise<void> {
  const chosen = await chooseReadyNode(services, argument);
  if (chosen === undefined) {
    return;
  }
  const snapshot = await withCancellableProgress(`Looking at ${chosen.known.session.label}`, (signal) => chosen.node.call('takeSnapshot', {}, { signal }));
  const sources = listSources(snapshot);
  const source = await vscode.window.showQuickPick(
    sources.map((option) => ({
      label: `$(${option.isSidecar ? 'arrow-swap' : 'package'}) ${option.label}`,
      description: option.detail,
      // Pods of several namespaces may have the same name.
      ...(option.source.cgroup === null ? {} : { detail: option.source.cgroup }),
      option,
    })),
    {
      title: 'Explain a Connection (1 of 2)',
      placeHolder: sources.length === 0 ? 'There is no process with a socket in any pod of this node' : 'Who connects?',
      matchOnDescription: true,
      matchOnDetail: true,
    },
  );
  if (source === undefined) {
    return;
  }
  const { namespace } = source.option.source;
  // Other pods first: a connection within one pod is seldom what somebody asks about.
  const destinations = [...listDestinations(snapshot)].sort((left, right) => Number(left.namespace === namespace) - Number(right.namespace === namespace));
  const destination = await chooseDestination(destinations);
  if (destination !== undefined) {
    services.explanations.open(chosen.known.key, { source: source.option.id, destination });
  }
}

interface DestinationItem extends vscode.QuickPickItem {
  readonly value: string;
}

function chooseDestination(options: readonly DestinationOption[]): Promise<string | undefined> {
  const pick = vscode.window.createQuickPick<DestinationItem>();
  const items: readonly DestinationItem[] = options.map((option) => ({ label: `$(globe) ${option.value}`, description: option.label, value: option.value }));
  pick.title = 'Explain a Connection (2 of 2)';
  pick.placeholder = 'Where to? Choose a server, or write address:port';
  pick.matchOnDescription = true;
  pick.items = items;
  pick.onDidChangeValue((text) => {
    const written = text.trim();
    const isListed = options.some((option) => option.value === written);
    pick.items = written === '' || isListed || problemOf(written) !== undefined ? items : [{ label: `$(add) ${written}`, alwaysShow: true, value: written }, ...items];
  });
  return new Promise((resolve) => {
    pick.onDidAccept(() => {
      const value = pick.selectedItems[0]?.value;
      if (value !== undefined) {
        resolve(value);
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

function problemOf(text: string): string | undefined {
  try {
    readEndpoint(text);
    return undefined;
  } catch (thrown) {
    return toMeshpathError(thrown).message;
  }
}
