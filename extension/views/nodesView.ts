import * as vscode from 'vscode';
import { VIEWS } from '../contributions.ts';
import { readyNode, type NodeDirectory } from './nodeDirectory.ts';
import { ROWS_PER_STEP, contentRows, nodeRow, type TreeRow } from './nodeTree.ts';

/** Changes that come together are shown together. */
const REDRAW_DELAY_MS = 60;

/** The tree of nodes in the activity bar. */
export interface NodesView extends vscode.Disposable {
  /** Shows more rows of a list. */
  showMore(list: string): void;
  /** Brings the view to the front. */
  reveal(): Promise<void>;
}

/** Makes the view of `directory`. `onInspect` is called when somebody opens the programs or the maps of a node. */
export function createNodesView(directory: NodeDirectory, onInspect: () => void): NodesView {
  const changed = new vscode.EventEmitter<TreeRow | undefined>();
  const shown = new Map<string, number>();
  let timer: NodeJS.Timeout | undefined;

  const roots = (): readonly TreeRow[] =>
    directory.nodes.map((node) => nodeRow(node.key, node.session.label, node.session.target, node.session.state, node.accelerations));

  const provider: vscode.TreeDataProvider<TreeRow> = {
    onDidChangeTreeData: changed.event,
    getTreeItem: toTreeItem,
    getChildren: async (row) => {
      if (row === undefined) {
        return [...roots()];
      }
      // Asked for what is expanded only. The event of expanding is lost where the tree is drawn anew in the same moment.
      if (row.kind === 'group' && /\/(programs|maps)$/.test(row.id) && readyNode(directory.find(row.subject.node)?.session.state ?? { phase: 'idle' }) !== undefined) {
        onInspect();
      }
      if (row.children !== 'lazy') {
        return row.children === undefined ? [] : [...row.children];
      }
      const contents = await directory.find(row.subject.node)?.contents();
      return contents === undefined ? [] : [...contentRows(row.subject.node, contents, shown)];
    },
  };
  const view = vscode.window.createTreeView(VIEWS.nodes, { treeDataProvider: provider, showCollapseAll: true });

  const redraw = (): void => {
    timer ??= setTimeout(() => {
      timer = undefined;
      changed.fire(undefined);
    }, REDRAW_DELAY_MS);
  };
  const stop = directory.onChange(redraw);

  return {
    showMore: (list) => {
      shown.set(list, (shown.get(list) ?? ROWS_PER_STEP) + ROWS_PER_STEP);
      redraw();
    },
    reveal: async () => {
      await vscode.commands.executeCommand(`${VIEWS.nodes}.focus`);
    },
    dispose: () => {
      clearTimeout(timer);
      stop();
      view.dispose();
      changed.dispose();
    },
  };
}

function toTreeItem(row: TreeRow): vscode.TreeItem {
  const state =
    row.children === undefined
      ? vscode.TreeItemCollapsibleState.None
      : row.expanded === true
        ? vscode.TreeItemCollapsibleState.Expanded
        : vscode.TreeItemCollapsibleState.Collapsed;
  const item = new vscode.TreeItem(row.label, state);
  item.id = row.id;
  item.contextValue = row.kind;
  item.tooltip = row.tooltip ?? '';
  if (row.description !== undefined) {
    item.description = row.description;
  }
  if (row.icon !== undefined) {
    item.iconPath = new vscode.ThemeIcon(row.icon.name, row.icon.color === undefined ? undefined : new vscode.ThemeColor(row.icon.color));
  }
  if (row.command !== undefined) {
    item.command = { command: row.command, title: row.label, arguments: [row] };
  }
  return item;
}
