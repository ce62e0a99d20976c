import type * as vscode from 'vscode';
import type { Node } from '../../agent/protocol/node.ts';
import type { HostKeyTrustStore } from '../ssh/hostKeyPolicy.ts';
import type { ContextKeyStore } from '../views/contextKeys.ts';
import type { NodeAccess } from '../views/nodeAccess.ts';
import type { KnownNode, NodeDirectory } from '../views/nodeDirectory.ts';
import type { NodesView } from '../views/nodesView.ts';
import type { ConnectionPanels } from '../webviews/host/connectionPanels.ts';
import type { ExplainPanels } from '../webviews/host/explainPanels.ts';
import type { MapPanels } from '../webviews/host/mapPanels.ts';
import type { ReportDocuments } from '../views/reportDocuments.ts';

/** What commands work with; made once in extension.ts. */
export interface Services {
  readonly extensionId: string;
  readonly directory: NodeDirectory;
  readonly access: NodeAccess;
  readonly contextKeys: ContextKeyStore;
  readonly view: NodesView;
  readonly maps: MapPanels;
  readonly explanations: ExplainPanels;
  readonly connections: ConnectionPanels;
  readonly reportDocuments: ReportDocuments;
  readonly trustStore: HostKeyTrustStore;
  readonly log: vscode.LogOutputChannel;
  readonly events: vscode.OutputChannel;
  /** Names in the user's ssh configuration. */
  readonly listConfiguredHosts: () => Promise<readonly string[]>;
  /** Gives the iptables rules that a mesh's injector gives a pod, in the form of iptables-restore. */
  readonly generateRules: (mesh: string) => Promise<string | null>;
  /** Connects a node with progress that can be cancelled. */
  readonly connect: (node: KnownNode) => Promise<Node>;
}

/** A command as it is called: from the palette with nothing, from the tree with a row, from elsewhere with whatever. */
export type CommandHandler = (services: Services, argument: unknown) => Promise<void>;
