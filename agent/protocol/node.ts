import { cancelledError } from './errors.ts';
import { createNotificationListeners } from './listeners.ts';
import type { MethodName, NotificationName, Notifications, Params, Result } from './methods.ts';

export interface CallOptions {
  /** Ends the call: the promise rejects with CANCELLED. */
  readonly signal?: AbortSignal | undefined;
}

/**
 * A node as whoever looks at it knows it. The agent over SSH, the agent on this machine and the simulated node all
 * are one, and nobody needs to know which.
 */
export interface Node {
  /** Asks the node; rejects with a MeshpathError. */
  call<M extends MethodName>(method: M, params: Params<M>, options?: CallOptions): Promise<Result<M>>;
  /** Calls `listener` for every notification of this name until the returned function is called. */
  listen<N extends NotificationName>(name: N, listener: (value: Notifications[N]) => void): () => void;
  /** Resolves once the node cannot be called any more, with the error that ended it, or null where close() did. */
  readonly closed: Promise<Error | null>;
  /** Ends the connection; what the agent attached is detached. */
  close(): Promise<void>;
}

export interface CallContext {
  readonly signal: AbortSignal;
}

/** One function a method: what the agent and the simulated node implement. */
export type NodeHandlers = {
  readonly [M in MethodName]: (params: Params<M>, context: CallContext) => Promise<Result<M>>;
};

export type Notify = <N extends NotificationName>(name: N, value: Notifications[N]) => void;

/** A side that answers: its handlers and how it ends. */
export interface NodeService {
  readonly handlers: NodeHandlers;
  /** Detaches and frees everything. Safe to call more than once. */
  dispose(): Promise<void>;
}

/** Gives a Node that calls a service of this process: the simulated node, or the agent inside the command line. */
export function connectInProcess(createService: (notify: Notify) => NodeService): Node {
  const listeners = createNotificationListeners();
  const service = createService((name, value) => {
    listeners.notify(name, value);
  });
  let settleClosed: (error: Error | null) => void = () => undefined;
  const closed = new Promise<Error | null>((resolve) => {
    settleClosed = resolve;
  });
  return {
    closed,
    call: async (method, params, options) => {
      const signal = options?.signal ?? new AbortController().signal;
      if (signal.aborted) {
        throw cancelledError(method);
      }
      return service.handlers[method](params, { signal });
    },
    listen: (name, listener) => listeners.listen(name, listener),
    close: async () => {
      await service.dispose();
      settleClosed(null);
    },
  };
}
