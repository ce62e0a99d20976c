import * as vscode from 'vscode';
import { MeshpathError } from '../agent/protocol/errors.ts';
import type { Node } from '../agent/protocol/node.ts';
import { connectToSimulatedNode } from './commands/connectToSimulatedNode.ts';
import { openWalkthrough } from './commands/openWalkthrough.ts';
import { registerCommands } from './commands/registerCommands.ts';
import { reportError } from './commands/reportError.ts';
import { withCancellableProgress } from './commands/progress.ts';
import type { Services } from './commands/services.ts';
import { SETTING_DEFAULTS, type Settings } from './contributions.ts';
import type { NodeTarget } from './node/nodeSession.ts';
import { createContextKeys, type ContextKeyStore } from './views/contextKeys.ts';
import { createReportDocuments } from './views/reportDocuments.ts';
import { spellEvent } from './views/eventText.ts';
import { spellState } from './views/stateText.ts';
import { createHostKeyStore } from './views/hostKeyStore.ts';
import { createNodeAccess } from './views/nodeAccess.ts';
import { createNodeDirectory, type KnownNode, type NodeDirectory } from './views/nodeDirectory.ts';
import { createNodesView } from './views/nodesView.ts';
import { createSshPrompts } from './views/sshPrompts.ts';
import { createStatusItem } from './views/statusItem.ts';
import { createWalkthroughTicks } from './views/walkthroughTicks.ts';
import { createConnectionPanels } from './webviews/host/connectionPanels.ts';
import { createExplainPanels } from './webviews/host/explainPanels.ts';
import { createMapPanels } from './webviews/host/mapPanels.ts';

function readSetting<K extends keyof Settings>(name: K): Settings[K] {
  return vscode.workspace.getConfiguration('meshpath').get<Settings[K]>(name) ?? SETTING_DEFAULTS[name];
}

/** The key under which is kept that the walkthrough was opened by itself once. */
const WELCOMED = 'welcomed';

let open: NodeDirectory | undefined;
let isEnding = false;

/** Registers what Meshpath brings to VS Code. SSH, the simulator and explaining are loaded when they are first used. */
export async function activate(context: vscode.ExtensionContext): Promise<void> {
  const { extensionUri } = context;
  const log = vscode.window.createOutputChannel('Meshpath', { log: true });
  const events = vscode.window.createOutputChannel('Meshpath Events');
  const note = (line: string): void => {
    // Sessions end after the window closed the channel, and still have something to say.
    if (!isEnding) {
      log.info(line);
    }
  };
  const trustStore = createHostKeyStore(context.globalState);
  const contextKeys = createContextKeys();

  const createSession = async (target: NodeTarget) => {
    const { openSession } = await import('./connected.ts');
    const nodePath = readSetting('node.path').trim();
    const session = await openSession({
      target,
      extensionFolder: extensionUri.fsPath,
      version: String((context.extension.packageJSON as { version: unknown }).version),
      prompts: createSshPrompts(),
      trustStore,
      log: note,
      remoteNodePath: nodePath === '' ? undefined : nodePath,
    });
    let wasReady = false;
    session.onStateChange((state) => {
      for (const line of spellState(state)) {
        note(`${session.label}: ${line}`);
      }
      if (state.phase === 'ready') {
        for (const notice of state.notices) {
          void reportError(new MeshpathError(notice), log);
        }
      }
      // Nobody awaits a connection that is lost later, so it has to be told here.
      if (wasReady && !isEnding && state.phase === 'closed' && state.error !== null) {
        void reportError(state.error, log, async () => {
          await services.connect(await directory.obtain(target));
        });
      }
      wasReady = state.phase === 'ready';
    });
    return session;
  };
  const directory = createNodeDirectory(createSession);
  open = directory;

  const connecting = new Map<string, Promise<Node>>();
  const connect = (known: KnownNode): Promise<Node> => {
    const running = connecting.get(known.key) ?? connectWithProgress(known).finally(() => connecting.delete(known.key));
    connecting.set(known.key, running);
    return running;
  };
  const access = createNodeAccess(directory, connect);
  const view = createNodesView(directory, () => {
    contextKeys.set('meshpath.walkthrough.inspected', true);
  });
  const maps = createMapPanels(extensionUri, access, () => {
    contextKeys.set('meshpath.walkthrough.mapOpened', true);
  });
  const explanations = createExplainPanels(
    extensionUri,
    access,
    async (snapshot, flow) => {
      const { explainFlow } = await import('./connected.ts');
      return explainFlow(extensionUri.fsPath, snapshot, flow);
    },
    () => {
      contextKeys.set('meshpath.walkthrough.explained', true);
    },
  );
  const connections = createConnectionPanels(extensionUri, access, (node, choice) => {
    explanations.open(node, choice);
  });
  const services: Services = {
    extensionId: context.extension.id,
    directory,
    access,
    contextKeys,
    view,
    maps,
    explanations,
    connections,
    reportDocuments: createReportDocuments(),
    trustStore,
    log,
    events,
    listConfiguredHosts: async () => {
      const { listHosts } = await import('./connected.ts');
      return listHosts();
    },
    generateRules: async (mesh) => {
      const { generateRules } = await import('./connected.ts');
      return generateRules(mesh);
    },
    connect,
  };
  const stopKeys = directory.onChange(() => {
    mirrorState(directory, contextKeys);
  });
  const stopNotices = directory.onNotice(({ node, notice }) => {
    const text = `${node.session.label}: ${notice.message} ${notice.reason}`;
    log.warn(`${text} ${notice.remedy}`);
    void vscode.window.showWarningMessage(`${text} ${notice.remedy}`);
  });
  const stopEvents = directory.onDecisions(({ node, decisions }) => {
    for (const event of decisions.events) {
      events.appendLine(`${node.session.label}  ${spellEvent(event)}`);
    }
    if (decisions.lost > 0) {
      events.appendLine(`${node.session.label}  ${decisions.lost} events were lost: they came faster than they could be read`);
    }
  });
  context.subscriptions.push(
    log,
    events,
    services.reportDocuments,
    view,
    maps,
    explanations,
    connections,
    createStatusItem(directory),
    createWalkthroughTicks(contextKeys),
    registerCommands(services),
    { dispose: stopKeys },
    { dispose: stopEvents },
    { dispose: stopNotices },
  );
  if (readSetting('connectSimulatedNodeOnStartup')) {
    try {
      await connectToSimulatedNode(services);
      await welcome(services, context.globalState);
    } catch (thrown) {
      void reportError(thrown, log);
    }
  }
}

/** Ends every connection: agents end and detach what they attached. */
export async function deactivate(): Promise<void> {
  isEnding = true;
  await open?.dispose();
}

/** Opens the walkthrough for who sees Meshpath for the first time, unless something is open already that they came for. */
async function welcome(services: Services, state: vscode.Memento): Promise<void> {
  if (state.get(WELCOMED) !== true && vscode.window.tabGroups.all.every((group) => group.tabs.length === 0)) {
    await openWalkthrough(services);
    await state.update(WELCOMED, true);
  }
}

/** Connects with a notification that tells the step and can cancel. */
function connectWithProgress(known: KnownNode): Promise<Node> {
  const { session } = known;
  if (session.state.phase === 'ready') {
    return Promise.resolve(session.state.node);
  }
  if (session.target.kind === 'simulated') {
    return session.connect();
  }
  return withCancellableProgress(`Connecting to ${session.label}`, async (signal, report) => {
    const stop = session.onStateChange((state) => {
      if ('message' in state) {
        report(state.message);
      }
    });
    try {
      return await session.connect(signal);
    } finally {
      stop();
    }
  });
}

function mirrorState(directory: NodeDirectory, contextKeys: ContextKeyStore): void {
  const ready = directory.nodes.filter((known) => known.session.state.phase === 'ready');
  contextKeys.set('meshpath.knownNodes', directory.nodes.length);
  contextKeys.set('meshpath.connectedNodes', ready.length);
  contextKeys.set(
    'meshpath.accelerated',
    ready.some((known) => (known.accelerations ?? []).length > 0),
  );
  if (ready.length > 0) {
    contextKeys.set('meshpath.walkthrough.connected', true);
  }
}
