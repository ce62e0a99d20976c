import { MeshpathError } from '../../agent/protocol/errors.ts';
import type { MethodName, Params, Result } from '../../agent/protocol/methods.ts';
import type { CallOptions, Node } from '../../agent/protocol/node.ts';
import type { KnownNode } from './nodeDirectory.ts';
import { readTargetKey, readyNode, type NodeDirectory } from './nodeDirectory.ts';

/** What nodes are called that have no host, before they have a session. */
const LABELS = { thisMachine: 'This machine', simulated: 'Simulated node' } as const;

/** What panels and commands need of nodes, by key. */
export interface NodeAccess {
  labelOf(key: string): string;
  /** Gives the node where it is connected. */
  ready(key: string): Node | undefined;
  /** Connects it, with progress that can be cancelled; rejects with a MeshpathError. */
  connect(key: string): Promise<Node>;
  /** What is on a node may be different from what was read before. */
  onContentsChange(listener: (key: string) => void): () => void;
}

/** Gives the access to the nodes of `directory`; `connect` connects one. */
export function createNodeAccess(directory: NodeDirectory, connect: (node: KnownNode) => Promise<Node>): NodeAccess {
  return {
    labelOf: (key) => {
      const known = directory.find(key);
      const target = readTargetKey(key);
      return known?.session.label ?? (target === undefined ? 'This node' : target.kind === 'ssh' ? target.host : LABELS[target.kind]);
    },
    ready: (key) => {
      const state = directory.find(key)?.session.state;
      return state === undefined ? undefined : readyNode(state);
    },
    connect: async (key) => {
      const target = readTargetKey(key);
      if (target === undefined) {
        throw notConnectedError(key);
      }
      return connect(await directory.obtain(target));
    },
    onContentsChange: (listener) =>
      directory.onContentsChange((node) => {
        listener(node.key);
      }),
  };
}

/** Asks a node that has to be connected; rejects with SSH_CONNECTION_LOST where it is not. */
export function callReady<M extends MethodName>(access: NodeAccess, key: string, method: M, params: Params<M>, options?: CallOptions): Promise<Result<M>> {
  const node = access.ready(key);
  return node === undefined ? Promise.reject(notConnectedError(access.labelOf(key))) : node.call(method, params, options);
}

function notConnectedError(label: string): MeshpathError {
  return new MeshpathError({
    code: 'SSH_CONNECTION_LOST',
    message: `${label} is not connected.`,
    reason: 'The connection ended, or the window was opened anew.',
    remedy: 'Connect it again.',
  });
}
