import * as vscode from 'vscode';
import { DECISION_REASONS, type DecisionReason } from '../../../agent/protocol/acceleration.ts';
import type { ConnectionInfo } from '../../../agent/protocol/connections.ts';
import { inputError } from '../../../agent/protocol/errors.ts';
import { WEBVIEW_TYPES } from '../../contributions.ts';
import { listSources } from '../../views/flowChoices.ts';
import { callReady, type NodeAccess } from '../../views/nodeAccess.ts';
import { spellEndpoint } from '../shared/connectionTable.ts';
import type { Responder } from '../shared/messages.ts';
import type { ConnectionPanelContent, ConnectionPanelContract, ConnectionPanelState, FlowChoice } from '../shared/panels.ts';
import { pageOptions, servePanel } from './panel.ts';

/** The panels that show connections: one for each node. */
export interface ConnectionPanels extends vscode.Disposable {
  open(node: string): void;
}

/** Makes the panels and takes those back that were open before a reload. `explain` shows both paths of a flow. */
export function createConnectionPanels(extensionUri: vscode.Uri, access: NodeAccess, explain: (node: string, choice: FlowChoice) => void): ConnectionPanels {
  const panels = new Map<string, { panel: vscode.WebviewPanel; responder: Responder<ConnectionPanelContract> }>();

  const serve = (panel: vscode.WebviewPanel, node: string): void => {
    let shown: readonly ConnectionInfo[] = [];
    const responder = servePanel<ConnectionPanelContract>(panel, extensionUri, {
      title: 'Connections',
      page: 'connections',
      handlers: {
        read: async ({ all }) => {
          const list = await callReady(access, node, 'listConnections', { scope: all ? 'all' : 'accelerated-pods' });
          shown = list.connections;
          return { node, nodeLabel: access.labelOf(node), list, counters: await countDecisions(access, node) };
        },
        explain: async ({ id }) => {
          explain(node, await findFlow(access, node, shown.find((connection) => connection.id === id)));
          return null;
        },
        copy: async ({ text }) => {
          await vscode.env.clipboard.writeText(text);
          return null;
        },
        reconnect: async () => {
          await access.connect(node);
          return null;
        },
      },
    });
    panels.set(node, { panel, responder });
    panel.onDidDispose(() => panels.delete(node));
  };

  const stop = access.onContentsChange((node) => {
    panels.get(node)?.responder.notify('changed', null);
  });
  const serializer = vscode.window.registerWebviewPanelSerializer(WEBVIEW_TYPES.connections, {
    deserializeWebviewPanel: (panel, state: Partial<ConnectionPanelState> | undefined) => {
      if (typeof state?.node === 'string') {
        serve(panel, state.node);
      } else {
        panel.dispose();
      }
      return Promise.resolve();
    },
  });

  return {
    open: (node) => {
      const known = panels.get(node);
      if (known === undefined) {
        serve(vscode.window.createWebviewPanel(WEBVIEW_TYPES.connections, 'Connections', vscode.ViewColumn.Active, pageOptions(extensionUri)), node);
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

/** The decisions of all profiles that are on, those that were never taken left out. */
async function countDecisions(access: NodeAccess, node: string): Promise<ConnectionPanelContent['counters']> {
  const sums = new Map<DecisionReason, bigint>();
  for (const { profile } of await callReady(access, node, 'listAccelerations', {})) {
    const counters = await callReady(access, node, 'countDecisions', { profile });
    for (const reason of DECISION_REASONS) {
      sums.set(reason, (sums.get(reason) ?? 0n) + BigInt(counters[reason]));
    }
  }
  return [...sums].filter(([, count]) => count > 0n).map(([reason, count]) => ({ reason, count: count.toString() }));
}

/** Gives who connected and to where, as it is asked again. Throws INPUT_INVALID where that cannot be said. */
async function findFlow(access: NodeAccess, node: string, connection: ConnectionInfo | undefined): Promise<FlowChoice> {
  if (connection === undefined) {
    throw inputError('This connection cannot be explained.', 'The list was read again since, and it is not in it any more.', 'Choose another connection.');
  }
  const { near, far, role, original } = connection;
  const connecting = role === 'accepting' ? far : near;
  const destination = original ?? (role === 'accepting' ? near.local : near.remote);
  const snapshot = await callReady(access, node, 'takeSnapshot', {});
  const found =
    connecting === null
      ? undefined
      : listSources(snapshot).find(
          ({ source }) => source.namespace === connecting.namespace && source.uid === connecting.uid && source.cgroup === connecting.cgroup,
        );
  if (found === undefined) {
    throw inputError('This connection cannot be explained.', 'Who connected is not on this node, or is gone.', 'Choose another connection, or run “Meshpath: Explain a Connection…”.');
  }
  return { source: found.id, destination: spellEndpoint(destination) };
}
