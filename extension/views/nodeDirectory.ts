import type { AccelerationInfo, DecisionEvents } from '../../agent/protocol/acceleration.ts';
import type { WireError } from '../../agent/protocol/errors.ts';
import type { Node } from '../../agent/protocol/node.ts';
import type { NodeSession, NodeTarget, SessionState } from '../node/nodeSession.ts';
import { loadNodeContents, type NodeContents } from './nodeContents.ts';
import { createSignal } from './signal.ts';

/** A node that the window knows: connected, connecting, failed or disconnected. */
export interface KnownNode {
  /** Stable over reloads of the window: `ssh:host`, `thisMachine`, `simulated`. */
  readonly key: string;
  readonly session: NodeSession;
  /** The acceleration of it as it was last heard of; undefined before it was. */
  readonly accelerations: readonly AccelerationInfo[] | undefined;
  /** Lists what is on it, from memory until it changed; undefined where it is not connected. */
  contents(): Promise<NodeContents> | undefined;
}

/** All nodes of the window. Nothing here is global to a node. */
export interface NodeDirectory {
  readonly nodes: readonly KnownNode[];
  find(key: string): KnownNode | undefined;
  /** Gives the node for this target, making a session for it where there is none. */
  obtain(target: NodeTarget): Promise<KnownNode>;
  /** Closes the session and forgets the node. */
  remove(key: string): Promise<void>;
  /** Forgets what was listed, of one node or of all. */
  refresh(key?: string): void;
  /** A node came, went, changed its state or what is on it. Undefined: the list of nodes itself changed. */
  onChange(listener: (node: KnownNode | undefined) => void): () => void;
  /** What is on a node may be different from what was read before: it changed, connected, ended or was refreshed. */
  onContentsChange(listener: (node: KnownNode) => void): () => void;
  /** A node tells something that a person should know and that nobody asked for. */
  onNotice(listener: (event: { readonly node: KnownNode; readonly notice: WireError }) => void): () => void;
  onDecisions(listener: (event: { readonly node: KnownNode; readonly decisions: DecisionEvents }) => void): () => void;
  /** Closes every session. */
  dispose(): Promise<void>;
}

/** Gives the key of a target. */
export function targetKey(target: NodeTarget): string {
  return target.kind === 'ssh' ? `ssh:${target.host}` : target.kind;
}

/** Gives the target of a key, or undefined where it is none. */
export function readTargetKey(key: string): NodeTarget | undefined {
  if (key === 'thisMachine' || key === 'simulated') {
    return { kind: key };
  }
  return key.startsWith('ssh:') && key.length > 'ssh:'.length ? { kind: 'ssh', host: key.slice('ssh:'.length) } : undefined;
}

/** Gives the node of a session that is ready, else undefined. */
export function readyNode(state: SessionState): Node | undefined {
  return state.phase === 'ready' ? state.node : undefined;
}

interface Entry extends KnownNode {
  accelerations: readonly AccelerationInfo[] | undefined;
  cached: Promise<NodeContents> | undefined;
  stop: () => void;
}

/** Gives an empty directory whose sessions `createSession` makes. */
export function createNodeDirectory(createSession: (target: NodeTarget) => Promise<NodeSession>): NodeDirectory {
  const entries = new Map<string, Entry>();
  const coming = new Map<string, Promise<KnownNode>>();
  const changes = createSignal<KnownNode | undefined>();
  const contentsChanges = createSignal<KnownNode>();
  const notices = createSignal<{ node: KnownNode; notice: WireError }>();
  const decisions = createSignal<{ node: KnownNode; decisions: DecisionEvents }>();

  const forgetContents = (entry: Entry): void => {
    entry.cached = undefined;
    changes.fire(entry);
    contentsChanges.fire(entry);
  };

  const loadContents = (entry: Entry): Promise<NodeContents> | undefined => {
    const node = readyNode(entry.session.state);
    if (node === undefined) {
      return undefined;
    }
    if (entry.cached === undefined) {
      const loading = loadNodeContents(node);
      entry.cached = loading;
      void loading.then((contents) => {
        // A list that was asked for before the last change says nothing about now.
        if (entry.cached === loading && contents.accelerations.ok) {
          const before = JSON.stringify(entry.accelerations);
          entry.accelerations = contents.accelerations.items;
          if (before !== JSON.stringify(entry.accelerations)) {
            changes.fire(entry);
          }
        }
      });
    }
    return entry.cached;
  };

  const follow = (entry: Entry): void => {
    let stopListening: () => void = () => undefined;
    const unlisten = entry.session.onStateChange((state) => {
      stopListening();
      stopListening = () => undefined;
      entry.cached = undefined;
      entry.accelerations = undefined;
      if (state.phase === 'ready') {
        const stops = [
          state.node.listen('changed', () => {
            forgetContents(entry);
          }),
          state.node.listen('notice', (notice) => {
            notices.fire({ node: entry, notice });
          }),
          state.node.listen('decisions', (value) => {
            decisions.fire({ node: entry, decisions: value });
          }),
        ];
        stopListening = () => {
          for (const stop of stops) {
            stop();
          }
        };
      }
      changes.fire(entry);
      if (state.phase === 'ready' || state.phase === 'closed') {
        contentsChanges.fire(entry);
      }
    });
    entry.stop = () => {
      unlisten();
      stopListening();
    };
  };

  const make = async (key: string, target: NodeTarget): Promise<KnownNode> => {
    const session = await createSession(target);
    const entry: Entry = {
      key,
      session,
      accelerations: undefined,
      cached: undefined,
      contents: () => loadContents(entry),
      stop: () => undefined,
    };
    entries.set(key, entry);
    follow(entry);
    changes.fire(undefined);
    return entry;
  };

  return {
    get nodes() {
      return [...entries.values()];
    },
    find: (key) => entries.get(key),
    obtain: (target) => {
      const key = targetKey(target);
      const known = entries.get(key);
      if (known !== undefined) {
        return Promise.resolve(known);
      }
      const making = coming.get(key) ?? make(key, target).finally(() => coming.delete(key));
      coming.set(key, making);
      return making;
    },
    remove: async (key) => {
      const entry = entries.get(key);
      if (entry === undefined) {
        return;
      }
      await entry.session.close();
      entry.stop();
      entries.delete(key);
      changes.fire(undefined);
    },
    refresh: (key) => {
      for (const entry of entries.values()) {
        if (key === undefined || entry.key === key) {
          forgetContents(entry);
        }
      }
    },
    onChange: (listener) => changes.listen(listener),
    onContentsChange: (listener) => contentsChanges.listen(listener),
    onNotice: (listener) => notices.listen(listener),
    onDecisions: (listener) => decisions.listen(listener),
    dispose: async () => {
      const all = [...entries.values()];
      entries.clear();
      for (const entry of all) {
        entry.stop();
      }
      await Promise.all(all.map((entry) => entry.session.close()));
    },
  };
}
