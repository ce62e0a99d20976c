import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { connectInProcess } from '../agent/protocol/node.ts';
import type { Snapshot } from '../agent/protocol/snapshot.ts';
import type { Explanation, Flow } from '../agent/protocol/trace.ts';
import { explain } from '../simulator/explain/explain.ts';
import { generateInjectedRules } from '../simulator/mesh/injectedRules.ts';
import { createSimulatedNode } from '../simulator/node.ts';
import { createNodeSession, type NodeSession, type NodeTarget } from './node/nodeSession.ts';
import type { HostKeyTrustStore } from './ssh/hostKeyPolicy.ts';
import type { SshPrompts } from './ssh/prompts.ts';
import { listConfiguredHosts } from './ssh/sshConfig.ts';

/** What a session of this extension needs besides its target. */
export interface OpenSessionOptions {
  readonly target: NodeTarget;
  /** The folder of the extension. */
  readonly extensionFolder: string;
  readonly version: string;
  readonly prompts: SshPrompts;
  readonly trustStore: HostKeyTrustStore;
  readonly log: (line: string) => void;
  readonly remoteNodePath: string | undefined;
}

function readObject(extensionFolder: string): Promise<Uint8Array> {
  return readFile(join(extensionFolder, 'dist', 'bpf', 'meshpath.bpf.o'));
}

/** Makes a session for a target; it is not connected yet. */
export async function openSession(options: OpenSessionOptions): Promise<NodeSession> {
  const object = await readObject(options.extensionFolder);
  return createNodeSession({
    target: options.target,
    client: `meshpath-vscode ${options.version}`,
    agentFolder: join(options.extensionFolder, 'dist', 'agent'),
    prompts: options.prompts,
    trustStore: options.trustStore,
    createSimulatedNode: () => connectInProcess(createSimulatedNode({ object })),
    log: options.log,
    remoteNodePath: options.remoteNodePath,
  });
}

/** Explains a flow on a snapshot, running the programs that the extension carries. */
export async function explainFlow(extensionFolder: string, snapshot: Snapshot, flow: Flow): Promise<Explanation> {
  return explain(snapshot, flow, { object: await readObject(extensionFolder) });
}

/** Gives the names in the user's ssh configuration. */
export function listHosts(): Promise<readonly string[]> {
  return listConfiguredHosts();
}

/** Gives the IPv4 rules that a mesh's injector gives a pod; null for a mesh that is not known. */
export function generateRules(mesh: string): string | null {
  return generateInjectedRules(mesh)?.ipv4 ?? null;
}
