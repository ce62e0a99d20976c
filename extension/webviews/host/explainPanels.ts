import * as vscode from 'vscode';
import { inputError } from '../../../agent/protocol/errors.ts';
import type { Snapshot } from '../../../agent/protocol/snapshot.ts';
import type { Explanation, Flow } from '../../../agent/protocol/trace.ts';
import { WEBVIEW_TYPES } from '../../contributions.ts';
import { listDestinations, listSources, namespaceNames, readEndpoint } from '../../views/flowChoices.ts';
import { callReady, type NodeAccess } from '../../views/nodeAccess.ts';
import type { Responder } from '../shared/messages.ts';
import type { ExplainPanelContent, ExplainPanelContract, ExplainPanelState, FlowChoice } from '../shared/panels.ts';
import { pageOptions, servePanel } from './panel.ts';

/** The panels that explain connections: any number of them. */
export interface ExplainPanels extends vscode.Disposable {
  open(node: string, choice: FlowChoice): void;
}

/** Explains one flow on a snapshot. */
export type Explain = (snapshot: Snapshot, flow: Flow) => Promise<Explanation>;

/** Makes the panels and takes those back that were open before a reload. `onExplained` is called for every explanation shown. */
export function createExplainPanels(extensionUri: vscode.Uri, access: NodeAccess, explain: Explain, onExplained: () => void): ExplainPanels {
  const panels = new Map<vscode.WebviewPanel, { node: string; responder: Responder<ExplainPanelContract> }>();

  const explainChoice = async (node: string, choice: FlowChoice): Promise<ExplainPanelContent> => {
    const destination = readEndpoint(choice.destination);
    const snapshot = await callReady(access, node, 'takeSnapshot', {});
    const sources = listSources(snapshot);
    const source = sources.find((candidate) => candidate.id === choice.source);
    if (source === undefined) {
      throw inputError('Who connects is not on the node any more.', 'Its process or its pod is gone.', 'Choose another one, or run “Meshpath: Explain a Connection…” again.');
    }
    const explanation = await explain(snapshot, { protocol: 'tcp', source: source.source, destination });
    onExplained();
    return {
      node,
      nodeLabel: access.labelOf(node),
      takenAt: snapshot.takenAt,
      choice,
      sources: sources.map(({ id, label, detail }) => ({ id, label, detail })),
      destinations: listDestinations(snapshot).map(({ value, label }) => ({ value, label })),
      explanation,
      namespaceNames: namespaceNames(snapshot),
    };
  };

  const serve = (panel: vscode.WebviewPanel, node: string, first: FlowChoice): void => {
    let current = first;
    const responder = servePanel<ExplainPanelContract>(panel, extensionUri, {
      title: `→ ${current.destination}`,
      page: 'explain',
      handlers: {
        open: () => explainChoice(node, current),
        explain: async (choice) => {
          if (typeof choice.source !== 'string' || typeof choice.destination !== 'string') {
            throw inputError('The panel asked for a connection that cannot be.', 'It named no source or destination.', 'Close the panel and open it again.');
          }
          const content = await explainChoice(node, choice);
          current = choice;
          panel.title = `→ ${choice.destination}`;
          return content;
        },
        reconnect: async () => {
          await access.connect(node);
          return null;
        },
      },
    });
    panels.set(panel, { node, responder });
    panel.onDidDispose(() => panels.delete(panel));
  };

  const stop = access.onContentsChange((node) => {
    for (const open of panels.values()) {
      if (open.node === node) {
        open.responder.notify('changed', null);
      }
    }
  });
  const serializer = vscode.window.registerWebviewPanelSerializer(WEBVIEW_TYPES.explain, {
    deserializeWebviewPanel: (panel, state: Partial<ExplainPanelState> | undefined) => {
      const { node, choice } = state ?? {};
      if (typeof node === 'string' && typeof choice?.source === 'string' && typeof choice.destination === 'string') {
        serve(panel, node, { source: choice.source, destination: choice.destination });
      } else {
        panel.dispose();
      }
      return Promise.resolve();
    },
  });

  return {
    open: (node, choice) => {
      serve(vscode.window.createWebviewPanel(WEBVIEW_TYPES.explain, `→ ${choice.destination}`, vscode.ViewColumn.Active, pageOptions(extensionUri)), node, choice);
    },
    dispose: () => {
      stop();
      serializer.dispose();
      for (const panel of [...panels.keys()]) {
        panel.dispose();
      }
    },
  };
}
