import assert from 'node:assert/strict';
import { test } from 'node:test';
import { MeshpathError, inputError } from '../../../agent/protocol/errors.ts';
import { createRequester, createResponder, readEnvelope, type Envelope, type Requester, type Responder } from './messages.ts';

interface Arithmetic {
  requests: { double: { params: { value: number }; result: number }; never: { params: null; result: null } };
  events: { changed: string };
}

function connect(heard: string[] = []): { requester: Requester<Arithmetic>; responder: Responder<Arithmetic>; sent: Envelope[] } {
  const sent: Envelope[] = [];
  const requester: Requester<Arithmetic> = createRequester<Arithmetic>(
    (message) => {
      sent.push(message);
      // What travels is structured-cloned by the browser: only plain data survives.
      responder.receive(structuredClone(message));
    },
    {
      changed: (value) => {
        heard.push(value);
      },
    },
  );
  const responder = createResponder<Arithmetic>(
    (message) => {
      requester.receive(structuredClone(message));
    },
    {
      double: ({ value }) => (value < 0 ? Promise.reject(inputError('Negative.', 'It is below 0.', 'Give 0 or more.')) : Promise.resolve(value * 2)),
      never: () => new Promise(() => undefined),
    },
  );
  return { requester, responder, sent };
}

test('requests are answered, also out of order, and events arrive', async () => {
  const heard: string[] = [];
  const { requester, responder } = connect(heard);
  assert.deepEqual(await Promise.all([requester.request('double', { value: 2 }), requester.request('double', { value: 4 })]), [4, 8]);
  responder.notify('changed', 'maps');
  assert.deepEqual(heard, ['maps']);
});

test('an error keeps its code and remedy', async () => {
  const { requester } = connect();
  await assert.rejects(requester.request('double', { value: -1 }), (error: unknown) => MeshpathError.is(error, 'INPUT_INVALID') && error.remedy === 'Give 0 or more.');
});

test('disposing rejects what is pending and what comes later', async () => {
  const { requester } = connect();
  const pending = requester.request('never', null);
  requester.dispose();
  await assert.rejects(pending, (error: unknown) => MeshpathError.is(error, 'CANCELLED'));
  await assert.rejects(requester.request('double', { value: 1 }), (error: unknown) => MeshpathError.is(error, 'CANCELLED'));
});

test('an unknown method is an error and names of Object.prototype are unknown', async () => {
  const answers: Envelope[] = [];
  const responder = createResponder<Arithmetic>((message) => answers.push(message), { double: () => Promise.resolve(0), never: () => Promise.resolve(null) });
  responder.receive({ type: 'request', id: 7, method: 'constructor', params: null });
  await new Promise(setImmediate);
  assert.equal(answers[0]?.type === 'failure' ? answers[0].error.code : '', 'METHOD_UNKNOWN');
});

test('what is not an envelope is left alone', () => {
  const notEnvelopes = [null, 3, 'x', {}, { type: 'request' }, { type: 'request', id: '1', method: 'double' }, { type: 'failure', id: 1 }, { type: 'event' }];
  assert.deepEqual(notEnvelopes.map(readEnvelope), notEnvelopes.map(() => undefined));
});
