import type { WireError } from '../../../agent/protocol/errors.ts';
import { MeshpathError, cancelledError, toMeshpathError } from '../../../agent/protocol/errors.ts';

/** What two sides say to each other: requests that are answered, and events that are not. */
export interface Contract {
  readonly requests: object;
  readonly events: object;
}

type MethodsOf<C extends Contract> = keyof C['requests'] & string;
type ParamsOf<C extends Contract, M extends MethodsOf<C>> = C['requests'][M] extends { params: infer P } ? P : never;
type ResultOf<C extends Contract, M extends MethodsOf<C>> = C['requests'][M] extends { result: infer R } ? R : never;
type EventsOf<C extends Contract> = keyof C['events'] & string;

/** What travels between a panel and its host. */
export type Envelope =
  | { readonly type: 'request'; readonly id: number; readonly method: string; readonly params: unknown }
  | { readonly type: 'reply'; readonly id: number; readonly result: unknown }
  | { readonly type: 'failure'; readonly id: number; readonly error: WireError }
  | { readonly type: 'event'; readonly name: string; readonly value: unknown };

/** The side that asks. */
export interface Requester<C extends Contract> {
  /** Asks the other side; rejects with the MeshpathError that it answered, or with CANCELLED after dispose(). */
  request<M extends MethodsOf<C>>(method: M, params: ParamsOf<C, M>): Promise<ResultOf<C, M>>;
  /** Takes what came from the other side; anything that is not an envelope is left alone. */
  receive(message: unknown): void;
  dispose(): void;
}

/** The side that answers. */
export interface Responder<C extends Contract> {
  /** Takes what came from the other side; anything that is not an envelope is left alone. */
  receive(message: unknown): void;
  /** Tells the other side something unasked. */
  notify<E extends EventsOf<C>>(name: E, value: C['events'][E]): void;
  /** Nothing is sent any more: the other side is gone. */
  dispose(): void;
}

/** One function for every request; what it is given came from outside and has to be checked by it. */
export type RequestHandlers<C extends Contract> = {
  readonly [M in MethodsOf<C>]: (params: ParamsOf<C, M>) => Promise<ResultOf<C, M>>;
};
export type EventHandlers<C extends Contract> = { readonly [E in EventsOf<C>]: (value: C['events'][E]) => void };

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null;
}

/** Gives `message` as an envelope, or undefined where it is none. */
export function readEnvelope(message: unknown): Envelope | undefined {
  if (!isRecord(message)) {
    return undefined;
  }
  const { type, id, method, name } = message;
  switch (type) {
    case 'request':
      return typeof id === 'number' && typeof method === 'string' ? { type, id, method, params: message['params'] } : undefined;
    case 'reply':
      return typeof id === 'number' ? { type, id, result: message['result'] } : undefined;
    case 'failure':
      return typeof id === 'number' && isRecord(message['error']) ? { type, id, error: message['error'] as unknown as WireError } : undefined;
    case 'event':
      return typeof name === 'string' ? { type, name, value: message['value'] } : undefined;
    default:
      return undefined;
  }
}

/** Gives the asking side of a contract over `post`; every pending request is rejected when it is disposed. */
export function createRequester<C extends Contract>(post: (message: Envelope) => void, events: EventHandlers<C>): Requester<C> {
  const pending = new Map<number, { resolve: (value: unknown) => void; reject: (error: MeshpathError) => void; method: string }>();
  let nextId = 1;
  let disposed = false;
  return {
    request: (method, params) => {
      if (disposed) {
        return Promise.reject(cancelledError(method));
      }
      return new Promise((resolve, reject) => {
        const id = nextId;
        nextId += 1;
        pending.set(id, { resolve: resolve as (value: unknown) => void, reject, method });
        post({ type: 'request', id, method, params });
      });
    },
    receive: (message) => {
      const envelope = readEnvelope(message);
      if (envelope === undefined || disposed) {
        return;
      }
      if (envelope.type === 'event') {
        if (Object.hasOwn(events, envelope.name)) {
          (events as Record<string, (value: unknown) => void>)[envelope.name]?.(envelope.value);
        }
        return;
      }
      if (envelope.type === 'request') {
        return;
      }
      const call = pending.get(envelope.id);
      pending.delete(envelope.id);
      if (envelope.type === 'reply') {
        call?.resolve(envelope.result);
      } else {
        call?.reject(new MeshpathError(envelope.error));
      }
    },
    dispose: () => {
      disposed = true;
      for (const call of pending.values()) {
        call.reject(cancelledError(call.method));
      }
      pending.clear();
    },
  };
}

/** Gives the answering side of a contract over `post`: a handler that throws answers with its error. */
export function createResponder<C extends Contract>(post: (message: Envelope) => void, handlers: RequestHandlers<C>): Responder<C> {
  let disposed = false;
  const send = (message: Envelope): void => {
    if (!disposed) {
      post(message);
    }
  };
  const answer = async (id: number, method: string, params: unknown): Promise<void> => {
    try {
      const handler = Object.hasOwn(handlers, method) ? (handlers as Record<string, (value: unknown) => Promise<unknown>>)[method] : undefined;
      if (handler === undefined) {
        throw new MeshpathError({
          code: 'METHOD_UNKNOWN',
          message: `The panel asked for '${method.slice(0, 60)}', which Meshpath does not know.`,
          reason: 'The panel and the extension are of different versions.',
          remedy: 'Close the panel and open it again.',
        });
      }
      send({ type: 'reply', id, result: await handler(params) });
    } catch (thrown) {
      send({ type: 'failure', id, error: toMeshpathError(thrown).toJSON() });
    }
  };
  return {
    receive: (message) => {
      const envelope = readEnvelope(message);
      if (envelope?.type === 'request' && !disposed) {
        void answer(envelope.id, envelope.method, envelope.params);
      }
    },
    notify: (name, value) => {
      send({ type: 'event', name, value });
    },
    dispose: () => {
      disposed = true;
    },
  };
}
