import * as vscode from 'vscode';
import type { DoctorReport } from '../../agent/protocol/doctor.ts';
import { writeDoctorDocument } from './doctorDocument.ts';

const SCHEME = 'meshpath-doctor';

/** Reports of the doctor as read-only documents, one a node. */
export interface DoctorDocuments extends vscode.Disposable {
  show(key: string, label: string, report: DoctorReport): Promise<void>;
}

/** Makes the documents; they live as long as the window. */
export function createDoctorDocuments(): DoctorDocuments {
  const texts = new Map<string, string>();
  const changed = new vscode.EventEmitter<vscode.Uri>();
  const provider = vscode.workspace.registerTextDocumentContentProvider(SCHEME, {
    onDidChange: changed.event,
    provideTextDocumentContent: (uri) => texts.get(uri.toString()) ?? '',
  });
  return {
    show: async (key, label, report) => {
      const uri = vscode.Uri.from({ scheme: SCHEME, path: `/Doctor of ${label.replaceAll('/', '∕')}.md`, query: key });
      texts.set(uri.toString(), writeDoctorDocument(label, report));
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
