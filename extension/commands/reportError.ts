import * as vscode from 'vscode';
import { toMeshpathError } from '../../agent/protocol/errors.ts';
import { describeError } from '../views/errorNotice.ts';

/** The one place where an error becomes a notification. It is logged in full; `retry` makes a button. */
export async function reportError(thrown: unknown, log: vscode.LogOutputChannel, retry?: () => Promise<void>): Promise<void> {
  const error = toMeshpathError(thrown);
  const notice = describeError(error, retry !== undefined);
  if (notice === undefined) {
    log.info(error.message);
    return;
  }
  const line = `${error.code}: ${error.message} Why: ${error.reason} What to do: ${error.remedy}`;
  if (notice.severity === 'error') {
    log.error(line);
  } else {
    log.warn(line);
  }
  if (error.code === 'INTERNAL' && error.cause instanceof Error) {
    log.error(error.cause);
  }
  const show = notice.severity === 'error' ? vscode.window.showErrorMessage : vscode.window.showWarningMessage;
  const titles = notice.buttons.map((button) => button.title);
  const pressed = await show(notice.text, ...titles);
  const button = notice.buttons.find((candidate) => candidate.title === pressed);
  if (button?.command === 'retry') {
    await retry?.();
  } else if (button !== undefined) {
    await vscode.commands.executeCommand(button.command);
  }
}
