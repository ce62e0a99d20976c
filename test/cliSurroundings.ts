import type { Command } from '../cli/command.ts';
import { runMeshpath } from '../cli/run.ts';
import { PLAIN_STYLE } from '../cli/text/style.ts';
import { MeshpathError } from '../agent/protocol/errors.ts';
import { METHOD_NAMES } from '../agent/protocol/methods.ts';
import type { NotificationName, Notifications } from '../agent/protocol/methods.ts';
import { connectInProcess } from '../agent/protocol/node.ts';
import type { Node, NodeHandlers } from '../agent/protocol/node.ts';

/** A node that answers only what a test gave it answers for, and records how it was used. */
export interface FakeNode {
  readonly node: Node;
  /** The methods that were called with their parameters, in order. */
  readonly calls: readonly { readonly method: string; readonly params: unknown }[];
  notify<N extends NotificationName>(name: N, value: Notifications[N]): void;
  isDisposed(): boolean;
}

/** Makes a fake node; methods without a handler reject with NOT_SUPPORTED. */
export function createFakeNode(handlers: Partial<NodeHandlers>): FakeNode {
  const calls: { method: string; params: unknown }[] = [];
  let notifyNode: FakeNode['notify'] = () => undefined;
  let disposed = false;
  const record = (method: (typeof METHOD_NAMES)[number]): [string, unknown] => [
    method,
    async (params: never, context: never) => {
      calls.push({ method, params });
      const handler = handlers[method] as ((params: never, context: never) => Promise<unknown>) | undefined;
      if (handler === undefined) {
        throw new MeshpathError({ code: 'NOT_SUPPORTED', message: `No ${method} here.`, reason: 'The test did not give one.', remedy: 'Give one.' });
      }
      return handler(params, context);
    },
  ];
  const node = connectInProcess((notify) => {
    notifyNode = notify;
    return {
      handlers: Object.fromEntries(METHOD_NAMES.map(record)) as NodeHandlers,
      dispose: () => {
        disposed = true;
        return Promise.resolve();
      },
    };
  });
  return {
    node,
    calls,
    notify: (name, value) => {
      notifyNode(name, value);
    },
    isDisposed: () => disposed,
  };
}

export interface CliRun {
  readonly code: number;
  readonly output: string;
  readonly notes: string;
}

/** Runs the command line in this process against a node, without colours, as into a pipe or a terminal of `width` columns. */
export async function runCli(
  words: readonly string[],
  options: {
    readonly commands: readonly Command[];
    readonly node?: Node;
    readonly width?: number;
    readonly stop?: AbortSignal;
    readonly onWrite?: (text: string) => void;
  },
): Promise<CliRun> {
  let text = '';
  const notes: string[] = [];
  const code = await runMeshpath(words, {
    commands: options.commands,
    output: {
      style: PLAIN_STYLE,
      width: options.width ?? Infinity,
      write: (piece) => {
        text += piece;
        options.onWrite?.(piece);
        return Promise.resolve();
      },
    },
    note: (line) => notes.push(line),
    errorStyle: PLAIN_STYLE,
    stop: options.stop ?? new AbortController().signal,
    connect: () =>
      options.node === undefined
        ? Promise.reject(
            new MeshpathError({ code: 'CAPABILITY_MISSING', message: 'No node.', reason: 'The test gave none.', remedy: 'Run it as root.' }),
          )
        : Promise.resolve(options.node),
    readObject: () => Promise.resolve(new Uint8Array()),
    version: '1.2.3',
  });
  return { code, output: text, notes: notes.join('\n') };
}
