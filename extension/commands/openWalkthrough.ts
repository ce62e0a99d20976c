import * as vscode from 'vscode';
import { WALKTHROUGH } from '../contributions.ts';
import type { Services } from './services.ts';

/** Opens the walkthrough "Follow a connection with Meshpath". */
export async function openWalkthrough(services: Services): Promise<void> {
  await vscode.commands.executeCommand('workbench.action.openWalkthrough', `${services.extensionId}#${WALKTHROUGH}`, false);
}
