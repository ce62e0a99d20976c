import * as vscode from 'vscode';

const SCHEME = 'meshpath-report';

/** Reports about nodes as read-only documents: of each kind, one a node. */
export interface ReportDocuments extends vscode.Disposable {
  /** Shows Markdown under a title such as `Doctor of node-1`, in the place of an earlier report of the same title. `key` is that of the node. */
  show(key: string, title: string, markdown: string): Promise<void>;
}

/** Makes the documents; they live as long as the window. */
export function createReportDocuments(): ReportDocuments {
  const texts = new Map<string, string>();
  const changed = new vscode.EventEmitter<vscode.Uri>();
  const provider = vscode.workspace.registerTextDocumentContentProvider(SCHEME, {
    onDidChange: changed.event,
    provideTextDocumentContent: (uri) => texts.get(uri.toString()) ?? '',
  });
  return {
    show: async (key, title, markdown) => {
      const uri = vscode.Uri.from({ scheme: SCHEME, path: `/${title.replaceAll('/', '∕')}.md`, query: key });
      texts.set(uri.toString(), markdown);
      changed.fire(uri);
      try {
        await vscode.commands.executeCommand('markdown.showPreview', uri);
      } catch {
        // Without the built-in Markdown extension the text itself is still readable.
        await vscode.window.showTextDocument(uri, { preview: true });
      }
    },
    dispose: () => {
      provider.dispose();
      changed.dispose();
    },
  };
}
