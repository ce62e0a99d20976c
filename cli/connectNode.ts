import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { MeshpathError } from '../agent/protocol/errors.ts';
import { PROTOCOL_VERSION } from '../agent/protocol/methods.ts';
import { connectInProcess } from '../agent/protocol/node.ts';
import type { Node } from '../agent/protocol/node.ts';
import { createAgentService } from '../agent/service.ts';
import { createSimulatedNode } from '../simulator/node.ts';

/** Connects to the agent in this process, or to the simulated node, and greets it. `agentFolder` is that of the build. */
export async function connectNode(
  kind: 'linux' | 'simulated',
  { agentFolder, version }: { readonly agentFolder: string; readonly version: string },
): Promise<Node> {
  const node =
    kind === 'simulated'
      ? connectInProcess(createSimulatedNode({ object: await readProgramObject(agentFolder) }))
      : connectInProcess(createAgentService({ objectPath: objectPath(agentFolder), agentVersion: version }));
  try {
    await node.call('initialize', { protocolVersion: PROTOCOL_VERSION, client: `meshpath-cli ${version}` });
  } catch (error) {
    await node.close();
    throw error;
  }
  return node;
}

/** Reads the compiled programs of the build; throws a MeshpathError BPF_OBJECT_INVALID where they are missing. */
export async function readProgramObject(agentFolder: string): Promise<Uint8Array> {
  try {
    return await readFile(objectPath(agentFolder));
  } catch (error) {
    throw new MeshpathError(
      {
        code: 'BPF_OBJECT_INVALID',
        message: 'The compiled programs of Meshpath are missing.',
        reason: error instanceof Error ? error.message : String(error),
        remedy: 'Install Meshpath again, or build it with npm run build where you work on it.',
      },
      { cause: error },
    );
  }
}

function objectPath(agentFolder: string): string {
  return join(agentFolder, 'meshpath.bpf.o');
}
