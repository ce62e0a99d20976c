import assert from 'node:assert/strict';
import { PassThrough } from 'node:stream';
import { describe, it } from 'node:test';

import { createMessageConnection, StreamMessageReader, StreamMessageWriter } from 'vscode-jsonrpc/node';
import type { MessageConnection } from 'vscode-jsonrpc/node';

import type { DecisionEvents } from './protocol/acceleration.ts';
import { inputError, MeshpathError, parseWireError } from './protocol/errors.ts';
import { AGENT_READY_LINE, METHOD_NAMES } from './protocol/methods.ts';
import type { NodeDescription } from './protocol/methods.ts';
import type { NodeHandlers, Notify } from './protocol/node.ts';
import { parseParams } from './requestParams.ts';
import { serve } from './server.ts';

const DESCRIPTION: NodeDescription = {
  protocolVersion: 1,
  agentVersion: 'test',
  identity: { hostname: 'test', kernelRelease: '6.1', machine: 'x86_64', kind: 'linux' },
  uid: 0,
  abilities: [],
};
const NO_DECISIONS: DecisionEvents = { events: [], lost: 0 };

interface Harness {
  readonly input: PassThrough;
  readonly output: PassThrough;
  readonly client: MessageConnection;
  readonly ended: Promise<void>;
  readonly notify: Notify;
  readonly disposed: () => number;
}

/** Serves a service whose requests beyond `initialize` wait until they are cancelled, or do what `handlers` says. */
function start(handlers: Partial<NodeHandlers> = {}, stop?: AbortSignal): Harness {
  const input = new PassThrough();
  const output = new PassThrough();
  let disposed = 0;
  let notify: Notify | undefined;
  const wait = async (_params: unknown, { signal }: { readonly signal: AbortSignal }): Promise<never> =>
    new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(inputError('Stopped.', 'The signal came.', 'None.'))));
  const waiting = Object.fromEntries(METHOD_NAMES.map((name) => [name, wait])) as unknown as NodeHandlers;
  const ended = serve(
    input,
    output,
    (given) => {
      notify = given;
      return {
        handlers: { ...waiting, initialize: async () => Promise.resolve(DESCRIPTION), ...handlers },
        dispose: async () => {
          disposed += 1;
          given('changed', {});
          return Promise.resolve();
        },
      };
    },
    { log: () => undefined, stop },
  );
  assert.equal((output.read(AGENT_READY_LINE.length + 1) as Buffer).toString(), `${AGENT_READY_LINE}\n`);
  const client = createMessageConnection(new StreamMessageReader(output), new StreamMessageWriter(input));
  client.listen();
  assert.ok(notify !== undefined);
  return { input, output, client, ended, notify, disposed: () => disposed };
}

const codeOf = async (call: Promise<unknown>): Promise<string | undefined> =>
  call.then(
    () => undefined,
    (error: unknown) => (error instanceof Error && 'data' in error ? parseWireError(error.data)?.code : 'no error of ours'),
  );

describe('serve', () => {
  it('answers after the handshake, and keeps requests apart', async () => {
    const { client, input, ended, disposed } = start({ listMaps: async () => Promise.resolve([]) });
    assert.equal(await codeOf(client.sendRequest('listMaps', {})), 'INPUT_INVALID');
    assert.deepEqual(await client.sendRequest('initialize', { protocolVersion: 1, client: 'test' }), DESCRIPTION);
    assert.deepEqual(await client.sendRequest('listMaps', {}), []);
    assert.equal(await codeOf(client.sendRequest('constructor', {})), 'METHOD_UNKNOWN');
    input.end();
    await ended;
    assert.equal(disposed(), 1);
  });

  it('ends requests that run when the input ends or a signal comes, and tells nobody any more', async () => {
    const controller = new AbortController();
    const ends: readonly ((harness: Harness) => void)[] = [
      ({ input }) => input.destroy(),
      ({ output }) => output.destroy(new Error('EPIPE')),
      () => {
        controller.abort();
      },
    ];
    for (const end of ends) {
      const harness = start({}, controller.signal);
      await harness.client.sendRequest('initialize', { protocolVersion: 1, client: 'test' });
      harness.client.sendRequest('takeSnapshot', {}).catch(() => undefined);
      end(harness);
      await harness.ended;
      assert.equal(harness.disposed(), 1);
    }
  });

  it('counts decisions that a client does not take in time', async () => {
    const { notify, client, input, ended, output } = start();
    const batches: DecisionEvents[] = [];
    client.onNotification('decisions', (batch: DecisionEvents) => {
      batches.push(batch);
    });
    output.pause();
    for (let count = 0; count < 200; count += 1) {
      notify('decisions', { ...NO_DECISIONS, lost: 1 });
    }
    output.resume();
    await client.sendRequest('initialize', { protocolVersion: 1, client: 'test' });
    notify('decisions', NO_DECISIONS);
    await client.sendRequest('initialize', { protocolVersion: 1, client: 'test' });
    assert.ok(batches.length < 200);
    assert.equal(batches.reduce((sum, { lost }) => sum + lost, 0), 200);
    input.end();
    await ended;
  });
});

describe('parseParams', () => {
  it('takes what the protocol says', () => {
    assert.deepEqual(parseParams('listMaps', undefined), {});
    assert.deepEqual(parseParams('turnAccelerationOff', { cgroups: null }), { cgroups: null });
    assert.deepEqual(parseParams('turnAccelerationOn', { profile: 'istio', pods: [{ cgroup: '/a/b', addresses: ['::ffff:10.0.0.1'] }], more: 1 }), {
      profile: 'istio',
      pods: [{ cgroup: '/a/b', addresses: ['10.0.0.1'] }],
    });
  });

  it('refuses all else, naming the part', () => {
    const wrong: readonly (readonly [Parameters<typeof parseParams>[0], unknown, string])[] = [
      ['initialize', null, 'params'],
      ['initialize', { protocolVersion: '1', client: 'x' }, 'protocolVersion'],
      ['listMaps', 5, 'params'],
      ['listCgroups', { below: 'relative' }, 'below'],
      ['listCgroups', { below: '/a/../b' }, 'below'],
      ['readMap', { mapId: -1, cursor: null, limit: 1 }, 'mapId'],
      ['readMap', { mapId: 1, cursor: null, limit: 5_001 }, 'limit'],
      ['readMap', { mapId: 1, limit: 1 }, 'cursor'],
      ['turnAccelerationOn', { profile: 'istio', pods: {} }, 'pods'],
      ['turnAccelerationOn', { profile: 'istio', pods: [{ cgroup: '/a', addresses: ['10.0.0.256'] }] }, 'pods[0].addresses'],
      ['countDecisions', { profile: 'x'.repeat(1_000) }, 'profile'],
    ];
    for (const [method, params, part] of wrong) {
      assert.throws(() => parseParams(method, params), (error: unknown) => MeshpathError.is(error, 'INPUT_INVALID') && error.reason.startsWith(`'${part}'`));
    }
  });
});
