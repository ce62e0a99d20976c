import { createRequester, type Contract, type EventHandlers, type Requester } from '../shared/messages.ts';

interface WebviewApi {
  postMessage(message: unknown): void;
  setState(state: unknown): void;
  getState(): unknown;
}

declare function acquireVsCodeApi(): WebviewApi;

/** The extension as a page sees it. */
export interface Host<C extends Contract, State> {
  readonly requester: Requester<C>;
  /** Keeps where the page is, so that it comes back there after a reload of the window. */
  keep(state: State): void;
  /** Gives what was kept; text from outside, to be checked. */
  kept(): Partial<State> | undefined;
}

/** Connects the page with the extension; to be called once. */
export function connectHost<C extends Contract, State>(events: EventHandlers<C>): Host<C, State> {
  const api = acquireVsCodeApi();
  const requester = createRequester<C>((message) => {
    api.postMessage(message);
  }, events);
  window.addEventListener('message', (event: MessageEvent<unknown>) => {
    requester.receive(event.data);
  });
  return {
    requester,
    keep: (state) => {
      api.setState(state);
    },
    kept: () => {
      const state = api.getState();
      return typeof state === 'object' && state !== null ? state : undefined;
    },
  };
}
