import * as vscode from 'vscode';
import { chooseReadyNode, subjectOf } from './choose.ts';
import { withViewProgress } from './progress.ts';
import type { Services } from './services.ts';

/** Opens the entries of a map in a panel: the map of the row, else asks which. */
export async function openMap(services: Services, argument: unknown): Promise<void> {
  const subject = subjectOf(argument);
  if (subject?.type === 'map') {
    services.maps.open({ node: subject.node, mapId: subject.map.id, mapName: subject.map.name });
    return;
  }
  const chosen = await chooseReadyNode(services, argument);
  if (chosen === undefined) {
    return;
  }
  const maps = await withViewProgress(() => chosen.node.call('listMaps', {}));
  const items = maps.map((map) => ({
    label: `$(${map.readable.ok ? 'table' : 'lock'}) ${map.name === '' ? '(no name)' : map.name}`,
    description: `${map.type} · id ${map.id}`,
    ...(map.readable.ok ? {} : { detail: map.readable.reason }),
    map,
  }));
  const picked = await vscode.window.showQuickPick(items, {
    title: `Maps of ${chosen.known.session.label}`,
    placeHolder: items.length === 0 ? 'There are no maps on this node' : 'Open which map?',
    matchOnDescription: true,
  });
  if (picked !== undefined) {
    services.maps.open({ node: chosen.known.key, mapId: picked.map.id, mapName: picked.map.name });
  }
}
