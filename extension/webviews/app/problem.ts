import { MeshpathError, toMeshpathError } from '../../../agent/protocol/errors.ts';
import { html } from './dom.ts';
import { createButton } from './toolkit.ts';

/** Gives an error as a part of a page: what happened, why, what to do, and buttons. */
export function createProblem(thrown: unknown, actions: { readonly retry: () => void; readonly reconnect: () => void }): HTMLElement {
  const error = toMeshpathError(thrown);
  const lost = MeshpathError.is(error, 'SSH_CONNECTION_LOST') || MeshpathError.is(error, 'AGENT_STOPPED');
  return html(
    'section',
    { class: 'problem', role: 'alert' },
    html('h2', {}, error.message),
    error.reason === '' ? null : html('p', {}, error.reason),
    error.remedy === '' ? null : html('p', { class: 'remedy' }, error.remedy),
    html('div', { class: 'actions' }, lost ? createButton('Connect again', actions.reconnect) : null, createButton('Try again', actions.retry, lost)),
  );
}
