import * as vscode from 'vscode';
import { chooseKnownNode } from './choose.ts';
import type { Services } from './services.ts';

/** Ends the connection to a node; where acceleration is on, asks first, as it goes off with the connection. */
export async function disconnectNode(services: Services, argument: unknown): Promise<void> {
  const open = services.directory.nodes.filter((known) => known.session.state.phase !== 'closed' && known.session.state.phase !== 'idle');
  const known = await chooseKnownNode(services, argument, open, 'Disconnect which node?');
  if (known === undefined) {
    return;
  }
  if ((known.accelerations ?? []).length > 0 && known.session.target.kind !== 'simulated') {
    const answer = await vscode.window.showWarningMessage(
      `Acceleration is on at ${known.session.label}.`,
      { modal: true, detail: 'Disconnecting turns it off: the programs are detached. Open connections go on over plain TCP.' },
      'Disconnect',
    );
    if (answer === undefined) {
      return;
    }
  }
  await known.session.close();
}
