import * as vscode from 'vscode';
import { MeshpathError, inputError } from '../../../agent/protocol/errors.ts';
import type { MapInfo } from '../../../agent/protocol/kernelObjects.ts';
import { MAX_PAGE_ENTRIES } from '../../../agent/protocol/mapEntries.ts';
import { WEBVIEW_TYPES } from '../../contributions.ts';
import { callReady, type NodeAccess } from '../../views/nodeAccess.ts';
import type { Responder } from '../shared/messages.ts';
import type { MapPanelContract, MapPanelState } from '../shared/panels.ts';
import { pageOptions, servePanel } from './panel.ts';

/** Which map a panel shows. The name goes with the id, as the kernel gives ids of maps that are gone to others. */
export interface MapReference {
  readonly node: string;
  readonly mapId: number;
  readonly mapName: string;
}

/** The panels that show the entries of maps: one for each map. */
export interface MapPanels extends vscode.Disposable {
  open(map: MapReference): void;
}

/** Makes the panels and takes those back that were open before a reload. `onRead` is called whenever a page was read. */
export function createMapPanels(extensionUri: vscode.Uri, access: NodeAccess, onRead: () => void): MapPanels {
  const panels = new Map<string, { panel: vscode.WebviewPanel; node: string; responder: Responder<MapPanelContract> }>();
  const keyOf = (map: MapReference): string => `${map.node}\u0000${map.mapId}\u0000${map.mapName}`;

  const findMap = async (reference: MapReference): Promise<MapInfo> => {
    const maps = await callReady(access, reference.node, 'listMaps', {});
    const map = maps.find((candidate) => candidate.id === reference.mapId && candidate.name === reference.mapName);
    if (map === undefined) {
      throw new MeshpathError({
        code: 'MAP_NOT_FOUND',
        message: `There is no map ${reference.mapName} with id ${reference.mapId} on this node any more.`,
        reason: 'The program or process that held it is gone, or the node was started again.',
        remedy: 'Close this and open the map again from the Meshpath view.',
      });
    }
    return map;
  };

  const serve = (panel: vscode.WebviewPanel, reference: MapReference): void => {
    const responder = servePanel<MapPanelContract>(panel, extensionUri, {
      title: reference.mapName === '' ? `map ${reference.mapId}` : reference.mapName,
      page: 'map',
      handlers: {
        open: async () => ({ node: reference.node, nodeLabel: access.labelOf(reference.node), map: await findMap(reference) }),
        readPage: async ({ cursor, limit }) => {
          if (!Number.isInteger(limit) || limit < 1 || limit > MAX_PAGE_ENTRIES || !(cursor === null || typeof cursor === 'string')) {
            throw inputError('The panel asked for a page that cannot be.', `It asked for ${limit} entries.`, 'Close the panel and open it again.');
          }
          const map = await findMap(reference);
          const page = await callReady(access, reference.node, 'readMap', { mapId: map.id, cursor, limit });
          onRead();
          return page;
        },
        copy: async ({ text }) => {
          await vscode.env.clipboard.writeText(text);
          return null;
        },
        reconnect: async () => {
          await access.connect(reference.node);
          return null;
        },
      },
    });
    const key = keyOf(reference);
    panels.set(key, { panel, node: reference.node, responder });
    panel.onDidDispose(() => panels.delete(key));
  };

  const stop = access.onContentsChange((node) => {
    for (const open of panels.values()) {
      if (open.node === node) {
        open.responder.notify('changed', null);
      }
    }
  });
  const serializer = vscode.window.registerWebviewPanelSerializer(WEBVIEW_TYPES.map, {
    deserializeWebviewPanel: (panel, state: Partial<MapPanelState> | undefined) => {
      const { node, mapId, mapName } = state ?? {};
      if (typeof node === 'string' && typeof mapId === 'number' && typeof mapName === 'string') {
        serve(panel, { node, mapId, mapName });
      } else {
        panel.dispose();
      }
      return Promise.resolve();
    },
  });

  return {
    open: (reference) => {
      const known = panels.get(keyOf(reference));
      if (known === undefined) {
        serve(vscode.window.createWebviewPanel(WEBVIEW_TYPES.map, reference.mapName, vscode.ViewColumn.Active, pageOptions(extensionUri)), reference);
      } else {
        known.panel.reveal();
      }
    },
    dispose: () => {
      stop();
      serializer.dispose();
      for (const { panel } of [...panels.values()]) {
        panel.dispose();
      }
    },
  };
}
