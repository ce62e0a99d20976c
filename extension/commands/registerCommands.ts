import * as vscode from 'vscode';
import { COMMANDS, type CommandId } from '../contributions.ts';
import { bringLabUp } from './bringLabUp.ts';
import { cleanUpNode } from './cleanUpNode.ts';
import { connectToNode } from './connectToNode.ts';
import { connectToSimulatedNode } from './connectToSimulatedNode.ts';
import { connectToThisMachine } from './connectToThisMachine.ts';
import { copyIdentifier } from './copyIdentifier.ts';
import { disconnectNode } from './disconnectNode.ts';
import { explainConnection } from './explainConnection.ts';
import { forgetHostKey } from './forgetHostKey.ts';
import { openMap } from './openMap.ts';
import { openWalkthrough } from './openWalkthrough.ts';
import { reconnectNode } from './reconnectNode.ts';
import { refreshNodes } from './refreshNodes.ts';
import { removeNode } from './removeNode.ts';
import { reportError } from './reportError.ts';
import { runDoctor } from './runDoctor.ts';
import { runTrafficInLab } from './runTrafficInLab.ts';
import { saveSnapshot } from './saveSnapshot.ts';
import type { CommandHandler, Services } from './services.ts';
import { showConnections } from './showConnections.ts';
import { showEvents } from './showEvents.ts';
import { showLog } from './showLog.ts';
import { showMoreRows } from './showMoreRows.ts';
import { takeLabDown } from './takeLabDown.ts';
import { turnAccelerationOff } from './turnAccelerationOff.ts';
import { turnAccelerationOn } from './turnAccelerationOn.ts';
import { upgradeAcceleration } from './upgradeAcceleration.ts';

const HANDLERS: Readonly<Record<CommandId, CommandHandler>> = {
  [COMMANDS.connectToNode]: connectToNode,
  [COMMANDS.connectToThisMachine]: connectToThisMachine,
  [COMMANDS.connectToSimulatedNode]: connectToSimulatedNode,
  [COMMANDS.disconnectNode]: disconnectNode,
  [COMMANDS.reconnectNode]: reconnectNode,
  [COMMANDS.removeNode]: removeNode,
  [COMMANDS.refresh]: refreshNodes,
  [COMMANDS.openMap]: openMap,
  [COMMANDS.explainConnection]: explainConnection,
  [COMMANDS.showConnections]: showConnections,
  [COMMANDS.turnAccelerationOn]: turnAccelerationOn,
  [COMMANDS.turnAccelerationOff]: turnAccelerationOff,
  [COMMANDS.upgradeAcceleration]: upgradeAcceleration,
  [COMMANDS.cleanUpNode]: cleanUpNode,
  [COMMANDS.bringLabUp]: bringLabUp,
  [COMMANDS.runTrafficInLab]: runTrafficInLab,
  [COMMANDS.takeLabDown]: takeLabDown,
  [COMMANDS.showEvents]: showEvents,
  [COMMANDS.runDoctor]: runDoctor,
  [COMMANDS.showLog]: showLog,
  [COMMANDS.openWalkthrough]: openWalkthrough,
  [COMMANDS.forgetHostKey]: forgetHostKey,
  [COMMANDS.saveSnapshot]: saveSnapshot,
  [COMMANDS.copyIdentifier]: copyIdentifier,
  [COMMANDS.showMoreRows]: showMoreRows,
};

/** Registers every command. What a command throws becomes a notification with a button that runs it again. */
export function registerCommands(services: Services): vscode.Disposable {
  const registered = Object.entries(HANDLERS).map(([id, handler]) => {
    const run = async (argument: unknown): Promise<void> => {
      try {
        await handler(services, argument);
      } catch (thrown) {
        // Not awaited: a command is over when it failed, not when its notification is closed.
        void reportError(thrown, services.log, () => run(argument));
      }
    };
    return vscode.commands.registerCommand(id, run);
  });
  return vscode.Disposable.from(...registered);
}
