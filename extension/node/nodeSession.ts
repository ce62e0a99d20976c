import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { MeshpathError, cancelledError, toMeshpathError } from '../../agent/protocol/errors.ts';
import type { WireError } from '../../agent/protocol/errors.ts';
import { PROTOCOL_VERSION } from '../../agent/protocol/methods.ts';
import type { NodeDescription } from '../../agent/protocol/methods.ts';
import type { Node } from '../../agent/protocol/node.ts';
import { connectSsh } from '../ssh/connection.ts';
import { parseDestination } from '../ssh/destination.ts';
import type { HostKeyTrustStore } from '../ssh/hostKeyPolicy.ts';
import type { SshPrompts } from '../ssh/prompts.ts';
import { AGENT_PROGRAM, readAgentBundle, selectAgentFiles } from './agentBundle.ts';
import { connectAgent } from './agentClient.ts';
import type { AgentConnection } from './agentClient.ts';
import { agentFolderOnNode, buildInstalledCheck, installAgent, isInstalled } from './deploy.ts';
import { createLocalTransport } from './localTransport.ts';
import { SYSTEM_SCRIPT, buildPreflightScript, parseFindings, readCacheFolder, requireLinux } from './preflight.ts';
import type { Findings } from './preflight.ts';
import { PRIVILEGE_SCRIPT, buildStartScript, choosePrivilege, createSudoDialog, explainSudoFailure } from './privilege.ts';
import type { Privilege, SudoDialog } from './privilege.ts';
import { buildNodeSearch, chooseNodeRuntime } from './remoteNodeRuntime.ts';
import { runScript, toCommandLine } from './shellScript.ts';
import { createSshTransport } from './sshTransport.ts';
import type { Transport } from './transport.ts';

/** How long the node may take to say what it is. Looking for Node.js on a busy node starts several programs. */
const PREFLIGHT_TIMEOUT_MS = 60_000;
/** How long the agent may take to be ready. */
const START_TIMEOUT_MS = 60_000;
/** The same where a person may have to type a password first. */
const START_WITH_PASSWORD_TIMEOUT_MS = 10 * 60_000;

/** What a session connects to. Plain data: it can be kept in settings or state. */
export type NodeTarget =
  /** An alias of the user's ssh configuration, or `user@host:port`. */
  | { readonly kind: 'ssh'; readonly host: string }
  | { readonly kind: 'thisMachine' }
  | { readonly kind: 'simulated' };

/** The steps of connecting, in their order; a session that needs no SSH skips those of SSH. */
export const CONNECTING_PHASES = [
  'resolving',
  'connecting',
  'verifyingHost',
  'authenticating',
  'preflight',
  'deploying',
  'starting',
] as const;

export type ConnectingPhase = (typeof CONNECTING_PHASES)[number];

/** Where a session stands. */
export type SessionState =
  | { readonly phase: 'idle' }
  /** `message` is one short sentence for progress. */
  | { readonly phase: ConnectingPhase; readonly message: string }
  | {
      readonly phase: 'ready';
      readonly node: Node;
      readonly description: NodeDescription;
      /** What the user should know though nothing failed: SUDO_UNAVAILABLE where the agent runs without privilege. */
      readonly notices: readonly WireError[];
    }
  /** `error` is null where close() ended it; CANCELLED where the user did while connecting. */
  | { readonly phase: 'closed'; readonly error: MeshpathError | null };

/** What the user interface gives to a session. */
export interface NodeSessionOptions {
  readonly target: NodeTarget;
  /** `meshpath-vscode 0.1.0`. */
  readonly client: string;
  /** The folder with the agent's manifest.json (`dist/agent` of the extension). */
  readonly agentFolder: string;
  readonly prompts: SshPrompts;
  readonly trustStore: HostKeyTrustStore;
  /** Makes the simulated node. */
  readonly createSimulatedNode: () => Node;
  /** One line for the output channel; never holds a secret. */
  readonly log: (line: string) => void;
  /** The ssh configuration to read instead of ~/.ssh/config. */
  readonly sshConfigFile?: string | undefined;
  /** Path of the node program on the SSH host, from the settings. */
  readonly remoteNodePath?: string | undefined;
}

/** One connection to one node, from the first look-up to the end; many live side by side. */
export interface NodeSession {
  readonly target: NodeTarget;
  /** The name to show: the host as the user wrote it, `This machine`, `Simulated node`. */
  readonly label: string;
  readonly state: SessionState;
  /** Calls `listener` after every change of `state` until the returned function is called. */
  onStateChange(listener: (state: SessionState) => void): () => void;
  /**
   * Connects; from `idle` or `closed` (which is how to reconnect). Resolves with the node once it is `ready`; rejects
   * with a MeshpathError after the state became `closed`, with nothing left behind on either side. Aborting `signal`
   * cancels at any step (CANCELLED).
   */
  connect(signal?: AbortSignal): Promise<Node>;
  /** Ends the agent and the SSH connection; cancels where it is still connecting. Safe to call more than once. */
  close(): Promise<void>;
}

/** Makes a session; it connects only when connect() is called. */
export function createNodeSession(options: NodeSessionOptions): NodeSession {
  const listeners = new Set<(state: SessionState) => void>();
  let state: SessionState = { phase: 'idle' };
  let attempt: { readonly cancel: AbortController; readonly done: Promise<Node> } | undefined;
  let opened: OpenedNode | undefined;

  const change = (next: SessionState): void => {
    state = next;
    for (const listener of [...listeners]) {
      listener(next);
    }
  };

  const open = async (signal: AbortSignal): Promise<Node> => {
    const progress: Progress = (phase, message) => {
      if (!signal.aborted) {
        change({ phase, message });
      }
    };
    try {
      const fresh = await openNode(options, progress, signal);
      if (signal.aborted) {
        await fresh.close();
        throw cancelledError(`Connecting to ${labelOf(options.target)}`);
      }
      opened = fresh;
      void fresh.node.closed.then((error) => {
        void onNodeClosed(fresh, error);
      });
      change({ phase: 'ready', node: fresh.node, description: fresh.description, notices: fresh.notices });
      return fresh.node;
    } catch (thrown) {
      const error = signal.aborted ? cancelledError(`Connecting to ${labelOf(options.target)}`) : toMeshpathError(thrown);
      change({ phase: 'closed', error });
      throw error;
    }
  };

  /** The node went away by itself: the agent ended, or the connection was cut. */
  const onNodeClosed = async (gone: OpenedNode, error: Error | null): Promise<void> => {
    if (opened !== gone) {
      return;
    }
    opened = undefined;
    change({ phase: 'closed', error: error === null ? null : toMeshpathError(error) });
    await gone.close();
  };

  return {
    target: options.target,
    label: labelOf(options.target),
    get state() {
      return state;
    },
    onStateChange: (listener) => {
      listeners.add(listener);
      return () => {
        listeners.delete(listener);
      };
    },
    connect: async (signal) => {
      if (opened !== undefined) {
        return opened.node;
      }
      if (attempt !== undefined) {
        return attempt.done;
      }
      const cancel = new AbortController();
      const done = open(signal === undefined ? cancel.signal : AbortSignal.any([cancel.signal, signal]));
      attempt = { cancel, done };
      try {
        return await done;
      } finally {
        attempt = undefined;
      }
    },
    close: async () => {
      if (attempt !== undefined) {
        attempt.cancel.abort();
        await attempt.done.catch(() => undefined);
      }
      const closing = opened;
      if (closing !== undefined) {
        opened = undefined;
        await closing.close();
        change({ phase: 'closed', error: null });
      }
    },
  };
}

type Progress = (phase: ConnectingPhase, message: string) => void;

/** A node that is ready, with what ends it and all below it. */
interface OpenedNode extends AgentConnection {
  readonly notices: readonly WireError[];
  close(): Promise<void>;
}

function labelOf(target: NodeTarget): string {
  switch (target.kind) {
    case 'ssh':
      return target.host;
    case 'thisMachine':
      return 'This machine';
    case 'simulated':
      return 'Simulated node';
  }
}

async function openNode(options: NodeSessionOptions, progress: Progress, signal: AbortSignal): Promise<OpenedNode> {
  switch (options.target.kind) {
    case 'ssh':
      return openSshNode(options.target.host, options, progress, signal);
    case 'thisMachine':
      return openLocalNode(options, progress, signal);
    case 'simulated':
      return openSimulatedNode(options, progress);
  }
}

async function openSimulatedNode(options: NodeSessionOptions, progress: Progress): Promise<OpenedNode> {
  progress('starting', 'Starting the simulated node');
  const node = options.createSimulatedNode();
  const description = await node.call('initialize', { protocolVersion: PROTOCOL_VERSION, client: options.client });
  return { node, description, notices: [], close: async () => node.close() };
}

async function openLocalNode(options: NodeSessionOptions, progress: Progress, signal: AbortSignal): Promise<OpenedNode> {
  return withTransport(createLocalTransport(), async (transport) => {
    progress('preflight', 'Looking at this machine');
    const bundle = await readAgentBundle(options.agentFolder);
    const findings = await lookAt(transport, [SYSTEM_SCRIPT, PRIVILEGE_SCRIPT], signal);
    requireLinux(findings);
    return startAgent(transport, {
      options,
      privilege: choosePrivilege(findings),
      command: [process.execPath, join(bundle.folder, AGENT_PROGRAM)],
      // The extension host's own program is Electron: this makes it plain Node.js.
      environment: { ELECTRON_RUN_AS_NODE: '1' },
      progress,
      signal,
    });
  });
}

async function openSshNode(host: string, options: NodeSessionOptions, progress: Progress, signal: AbortSignal): Promise<OpenedNode> {
  const bundle = await readAgentBundle(options.agentFolder);
  const connection = await connectSsh(
    parseDestination(host),
    {
      prompts: options.prompts,
      trustStore: options.trustStore,
      configFile: options.sshConfigFile,
      onPhase: progress,
      log: options.log,
    },
    signal,
  );
  return withTransport(createSshTransport(connection), async (transport) => {
    progress('preflight', `Looking at ${host}`);
    const parts = [SYSTEM_SCRIPT, PRIVILEGE_SCRIPT, buildNodeSearch(options.remoteNodePath), buildInstalledCheck(bundle.contentHash)];
    const findings = await lookAt(transport, parts, signal);
    requireLinux(findings);
    const runtime = chooseNodeRuntime(findings, options.remoteNodePath);
    const files = selectAgentFiles(bundle, runtime);
    const cacheFolder = readCacheFolder(findings);
    options.log(`${host}: ${runtime.path} ${runtime.version} (${runtime.arch}, ${runtime.libc})`);
    if (!isInstalled(findings, files)) {
      const bytes = files.reduce((sum, file) => sum + file.bytes, 0);
      progress('deploying', `Installing the agent ${bundle.version} on ${host} (${(bytes / 1e6).toFixed(1)} MB)`);
      await installAgent(transport, { bundle, files, runtime, cacheFolder, signal });
    }
    return startAgent(transport, {
      options,
      privilege: choosePrivilege(findings),
      command: [runtime.path, `${agentFolderOnNode(cacheFolder, bundle.contentHash)}/${AGENT_PROGRAM}`],
      environment: {},
      progress,
      signal,
    });
  });
}

/** Closes the transport where `open` fails, and with the node otherwise. */
async function withTransport(
  transport: Transport,
  open: (transport: Transport) => Promise<Omit<OpenedNode, 'close'>>,
): Promise<OpenedNode> {
  try {
    const { node, description, notices } = await open(transport);
    return {
      node,
      description,
      notices,
      close: async () => {
        await node.close();
        await transport.close();
      },
    };
  } catch (error) {
    await transport.close();
    throw error;
  }
}

async function lookAt(transport: Transport, parts: readonly string[], signal: AbortSignal): Promise<Findings> {
  const result = await runScript(transport, buildPreflightScript(parts), {
    signal,
    timeoutMs: PREFLIGHT_TIMEOUT_MS,
    what: 'Looking at the node',
  });
  return parseFindings(result.output);
}

interface StartPlan {
  readonly options: NodeSessionOptions;
  readonly privilege: Privilege;
  readonly command: readonly string[];
  readonly environment: Readonly<Record<string, string>>;
  readonly progress: Progress;
  readonly signal: AbortSignal;
}

/** Starts the agent with the best rights there are; where sudo refuses, without them and with a notice. */
async function startAgent(transport: Transport, plan: StartPlan): Promise<Omit<OpenedNode, 'close'>> {
  plan.progress('starting', 'Starting the agent');
  const { privilege } = plan;
  if (privilege.kind !== 'sudo-with-password') {
    const connected = await launch(transport, plan, undefined);
    return { ...connected, notices: privilege.kind === 'none' ? [privilege.notice] : [] };
  }
  const prompt = `[meshpath ${randomBytes(8).toString('hex')}]`;
  let dialog: SudoDialog | undefined;
  try {
    const connected = await launch(transport, plan, {
      prompt,
      createDialog: (write, decline) => {
        dialog = createSudoDialog({ prompt, ask: async (attempt) => askSudoPassword(plan, attempt), write, decline });
        return dialog;
      },
    });
    return { ...connected, notices: [] };
  } catch (error) {
    const notice = MeshpathError.is(error, 'AGENT_START_FAILED') && dialog !== undefined ? explainSudoFailure(dialog.result) : undefined;
    if (notice === undefined) {
      throw error;
    }
    return startAgent(transport, { ...plan, privilege: { kind: 'none', notice } });
  }
}

async function askSudoPassword({ options, signal }: StartPlan, attempt: number): Promise<string | undefined> {
  const host = labelOf(options.target);
  return options.prompts.askSecret(
    {
      kind: 'sudo-password',
      host,
      prompt: `Password for sudo on ${host}`,
      instructions: 'The agent needs root’s rights to see all and to change anything. It is not stored. Without it the agent only looks.',
      echo: false,
      attempt,
    },
    signal,
  );
}

interface SudoConversation {
  readonly prompt: string;
  createDialog(write: (line: string) => void, decline: () => void): SudoDialog;
}

async function launch(transport: Transport, plan: StartPlan, sudo: SudoConversation | undefined): Promise<AgentConnection> {
  plan.signal.throwIfAborted();
  const script = buildStartScript(plan.privilege, plan.command, plan.environment, sudo?.prompt ?? '');
  const agent = await transport.start(toCommandLine(script));
  const dialog = sudo?.createDialog(
    (line) => agent.stdin.write(line),
    () => {
      // sudo ends where its input does.
      agent.stdin.end();
    },
  );
  return connectAgent(agent, {
    client: plan.options.client,
    signal: plan.signal,
    startTimeoutMs: sudo === undefined ? START_TIMEOUT_MS : START_WITH_PASSWORD_TIMEOUT_MS,
    onErrorText: dialog === undefined ? undefined : (text) => { dialog.accept(text); },
    log: (line) => {
      plan.options.log(`${labelOf(plan.options.target)}: ${line}`);
    },
  });
}
