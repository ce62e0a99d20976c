import * as vscode from 'vscode';
import { VIEWS } from '../contributions.ts';

/** Runs `task` with a notification that shows how far it is and whose Cancel aborts the signal. */
export async function withCancellableProgress<Result>(
  title: string,
  task: (signal: AbortSignal, report: (message: string) => void) => Promise<Result>,
): Promise<Result> {
  return vscode.window.withProgress({ location: vscode.ProgressLocation.Notification, title, cancellable: true }, async (progress, token) => {
    const controller = new AbortController();
    const listening = token.onCancellationRequested(() => {
      controller.abort();
    });
    try {
      return await task(controller.signal, (message) => {
        progress.report({ message });
      });
    } finally {
      listening.dispose();
    }
  });
}

/** Runs a short task with the bar at the top of the view. */
export async function withViewProgress<Result>(task: () => Promise<Result>): Promise<Result> {
  return vscode.window.withProgress({ location: { viewId: VIEWS.nodes } }, task);
}
