import assert from 'node:assert/strict';
import { PassThrough } from 'node:stream';
import { test } from 'node:test';
import { MeshpathError } from '../../agent/protocol/errors.ts';
import { AGENT_READY_LINE, MAX_FRAME_BYTES } from '../../agent/protocol/methods.ts';
import { connectAgent } from './agentClient.ts';
import type { AgentConnection } from './agentClient.ts';
import type { NodeProcess, ProcessExit } from './transport.ts';

const DESCRIPTION = { protocolVersion: 1, agentVersion: 'x', identity: { kind: 'linux' }, uid: 0, abilities: [] };

/** A process whose other side is written by hand. */
class HandProcess implements NodeProcess {
  readonly stdin = new PassThrough();
  readonly stdout = new PassThrough();
  readonly stderr = new PassThrough();
  readonly exited: Promise<ProcessExit>;
  isKilled = false;
  #settle: (exit: ProcessExit) => void = () => undefined;

  constructor() {
    this.exited = new Promise((resolve) => {
      this.#settle = resolve;
    });
  }

  kill(): void {
    this.isKilled = true;
    this.exit({ code: null, signal: 'SIGTERM', lost: null });
  }

  exit(exit: Partial<ProcessExit>): void {
    this.stdout.end();
    this.#settle({ code: 0, signal: null, lost: null, ...exit });
  }

  /** Answers each request that comes with the next of `answers`. */
  answer(...answers: readonly (Record<string, unknown> | undefined)[]): void {
    let index = 0;
    this.stdin.on('data', (piece: Buffer) => {
      const body = piece.toString('utf8').split('\r\n\r\n').at(-1) ?? '';
      const id = /"id":(\d+)/.exec(body)?.[1];
      const answer = answers[index];
      if (body !== '' && id !== undefined && body.includes('"method"')) {
        index += 1;
        if (answer !== undefined) {
          this.send({ jsonrpc: '2.0', id: Number(id), ...answer });
        }
      }
    });
  }

  send(message: Record<string, unknown>): void {
    const body = Buffer.from(JSON.stringify(message));
    this.stdout.write(Buffer.concat([Buffer.from(`Content-Length: ${body.length}\r\n\r\n`), body]));
  }
}

async function connect(agent: HandProcess, startTimeoutMs = 60_000, signal = new AbortController().signal): Promise<AgentConnection> {
  return connectAgent(agent, { client: 'test', signal, startTimeoutMs, log: () => undefined });
}

async function failure(promise: Promise<unknown>): Promise<MeshpathError> {
  const thrown: unknown = await promise.then(() => undefined, (error: unknown) => error);
  assert.ok(thrown instanceof MeshpathError, String(thrown));
  return thrown;
}

test('skips noise before the ready line, also in pieces and where noise holds the same words', async () => {
  const agent = new HandProcess();
  agent.answer({ result: DESCRIPTION });
  const connecting = connect(agent);
  for (const piece of ['Welcome!\r\n', `say ${AGENT_READY_LINE}\n`, `${AGENT_READY_LINE} no\n\n`, AGENT_READY_LINE.slice(0, 5), AGENT_READY_LINE.slice(5), '\r', '\n']) {
    agent.stdout.write(piece);
  }
  const { description } = await connecting;
  assert.equal(description.agentVersion, 'x');
});

test('frames may come right behind the ready line', async () => {
  const agent = new HandProcess();
  agent.answer({ result: DESCRIPTION });
  const connecting = connect(agent);
  agent.stdout.write(`${AGENT_READY_LINE}\nContent-Length: 52\r\n\r\n{"jsonrpc":"2.0","method":"changed","params":{}}    `);
  await connecting;
});

test('noise without end is refused, and the program ended', async () => {
  const agent = new HandProcess();
  const connecting = connect(agent);
  agent.stdout.write('x'.repeat(300_000));
  assert.equal((await failure(connecting)).code, 'AGENT_START_FAILED');
  assert.ok(agent.isKilled);
});

test('errors are rebuilt; an unknown code of a newer agent becomes INTERNAL; an answer that is no error of ours too', async () => {
  const wire = { code: 'MAP_NOT_FOUND', message: 'm', reason: 'r', remedy: 'd' };
  const agent = new HandProcess();
  agent.answer(
    { result: DESCRIPTION },
    { error: { code: -32000, message: 'm', data: wire } },
    { error: { code: -32000, message: 'm', data: { ...wire, code: 'OF_THE_FUTURE' } } },
    { error: { code: -32601, message: 'no such method' } },
  );
  agent.stdout.write(`${AGENT_READY_LINE}\n`);
  const { node } = await connect(agent);
  const errors = [await failure(node.call('listMaps', {})), await failure(node.call('listMaps', {})), await failure(node.call('listMaps', {}))];
  assert.deepEqual(errors.map((error) => error.code), ['MAP_NOT_FOUND', 'INTERNAL', 'INTERNAL']);
  assert.deepEqual(errors[0]?.toJSON(), wire);
});

test('a frame that is announced too long ends the connection before it is collected', async () => {
  const agent = new HandProcess();
  agent.answer({ result: DESCRIPTION }, undefined);
  agent.stdout.write(`${AGENT_READY_LINE}\n`);
  const { node } = await connect(agent);
  const waiting = failure(node.call('listMaps', {}));
  agent.stdout.write(`Content-Length: ${MAX_FRAME_BYTES + 1}\r\n\r\n`);
  assert.equal((await waiting).code, 'LIMIT_EXCEEDED');
  assert.ok(MeshpathError.is(await node.closed, 'LIMIT_EXCEEDED'));
  assert.ok(agent.isKilled);
});

test('another protocol version, a start that takes too long, a cancelled start', async () => {
  const other = new HandProcess();
  other.answer({ result: { ...DESCRIPTION, protocolVersion: 2 } });
  other.stdout.write(`${AGENT_READY_LINE}\n`);
  assert.equal((await failure(connect(other))).code, 'AGENT_PROTOCOL_MISMATCH');
  assert.ok(other.isKilled);

  const slow = new HandProcess();
  slow.stderr.write('still thinking\n');
  const error = await failure(connect(slow, 20));
  assert.equal(error.code, 'TIMED_OUT');
  assert.ok(error.reason.includes('still thinking'));

  const cancel = new AbortController();
  const cancelled = connect(new HandProcess(), 60_000, cancel.signal);
  cancel.abort();
  assert.equal((await failure(cancelled)).code, 'CANCELLED');
});

test('closed says the agent’s last words, with control characters taken out', async () => {
  const agent = new HandProcess();
  agent.answer({ result: DESCRIPTION });
  agent.stdout.write(`${AGENT_READY_LINE}\n`);
  const { node } = await connect(agent);
  agent.stderr.write('first\nlast \u001b[31mwords');
  await new Promise((resolve) => setImmediate(resolve));
  agent.exit({ code: 7 });
  const error = await node.closed;
  assert.ok(MeshpathError.is(error, 'AGENT_STOPPED'));
  assert.equal(error.reason, 'It ended with code 7. first last [31mwords');
  assert.equal((await failure(node.call('listMaps', {}))).code, 'AGENT_STOPPED');
});
