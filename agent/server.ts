import { Transform } from 'node:stream';
import type { Readable, Writable } from 'node:stream';

import { createMessageConnection, ResponseError, StreamMessageReader, StreamMessageWriter } from 'vscode-jsonrpc/node';
import type { CancellationToken, MessageConnection } from 'vscode-jsonrpc/node';

import type { Log } from './logger.ts';
import type { DecisionEvents } from './protocol/acceleration.ts';
import { cancelledError, inputError, MeshpathError, toMeshpathError } from './protocol/errors.ts';
import type { WireError } from './protocol/errors.ts';
import { FrameLimit } from './protocol/frameLimit.ts';
import { AGENT_READY_LINE, MAX_FRAME_BYTES, METHOD_NAMES } from './protocol/methods.ts';
import type { MethodName, Result } from './protocol/methods.ts';
import type { NodeHandlers, NodeService, Notify } from './protocol/node.ts';
import { parseParams } from './requestParams.ts';

/** The code of every error response; the WireError is its data. */
const ERROR_RESPONSE_CODE = -32_000;
/** Batches of decisions that may wait for a slow client; what comes beyond is counted as lost. */
const MAX_WAITING_BATCHES = 64;

export interface ServeOptions {
  readonly log: Log;
  /** Ends the service from outside: a signal. */
  readonly stop?: AbortSignal | undefined;
}

/**
 * Answers JSON-RPC 2.0 requests of one client until `input` ends, `output` breaks or `stop` is aborted; then ends all requests,
 * disposes the service and resolves. The first line on `output` is AGENT_READY_LINE, everything behind it are frames.
 * Errors are responses with ERROR_RESPONSE_CODE and a WireError as data. A frame above MAX_FRAME_BYTES ends the connection.
 */
export async function serve(input: Readable, output: Writable, createService: (notify: Notify) => NodeService, options: ServeOptions): Promise<void> {
  const { log, stop } = options;
  const limited = limitFrames(input);
  output.write(`${AGENT_READY_LINE}\n`);
  const connection = createMessageConnection(new StreamMessageReader(limited), new StreamMessageWriter(output), {
    error: (message) => log('error', message),
    warn: (message) => log('warning', message),
    info: (message) => log('info', message),
    log: (message) => log('debug', message),
  });
  const service = createService(createNotifier(connection));
  const running = new Set<AbortController>();

  const ended = new Promise<string>((resolve) => {
    limited.on('error', (error) => resolve(error.message));
    input.on('error', (error) => resolve(error.message));
    output.on('error', (error) => resolve(error.message));
    output.on('close', () => resolve('the output was closed'));
    limited.on('end', () => resolve('the input ended'));
    connection.onError(([error]) => resolve(error.message));
    connection.onClose(() => resolve('the connection was closed'));
    stop?.addEventListener('abort', () => resolve('a signal arrived'), { once: true });
    if (stop?.aborted === true) {
      resolve('a signal arrived');
    }
  });

  let isInitialized = false;
  connection.onRequest(async (method: string, params: unknown, token: CancellationToken) => {
    const controller = new AbortController();
    const cancellation = token.onCancellationRequested(() => controller.abort());
    running.add(controller);
    try {
      // A token that is cancelled from the start tells nobody any more.
      if (token.isCancellationRequested) {
        throw cancelledError(method.slice(0, 60));
      }
      const name = readMethod(method, isInitialized);
      const result = await answer(service.handlers, name, params, controller.signal);
      isInitialized ||= name === 'initialize';
      return result;
    } catch (error) {
      const known = toMeshpathError(error);
      if (known.code === 'INTERNAL') {
        log('error', 'A request failed unexpectedly.', { method, reason: known.reason, stack: error instanceof Error ? (error.stack ?? null) : null });
      }
      throw new ResponseError<WireError>(ERROR_RESPONSE_CODE, known.message, known.toJSON());
    } finally {
      running.delete(controller);
      cancellation.dispose();
    }
  });
  connection.listen();

  const reason = await ended;
  log('info', 'The agent stops.', { reason });
  for (const controller of running) {
    controller.abort();
  }
  try {
    await service.dispose();
  } finally {
    connection.dispose();
    limited.destroy();
  }
}

async function answer<M extends MethodName>(handlers: NodeHandlers, method: M, params: unknown, signal: AbortSignal): Promise<Result<M>> {
  return handlers[method](parseParams(method, params), { signal });
}

function readMethod(method: string, isInitialized: boolean): MethodName {
  const name = METHOD_NAMES.find((known) => known === method);
  if (name === undefined) {
    throw new MeshpathError({
      code: 'METHOD_UNKNOWN',
      message: `The agent does not know the request '${method.slice(0, 60)}'.`,
      reason: 'It is not part of the protocol that this agent speaks.',
      remedy: 'Use the same version of Meshpath on both sides.',
    });
  }
  if (!isInitialized && name !== 'initialize') {
    throw inputError(
      `The request '${name}' came too early.`,
      'The first request on a connection must be `initialize`, so that both sides know that they speak the same protocol.',
      'Send `initialize` first.',
    );
  }
  return name;
}

/** Gives the bytes of `input`, and fails before anybody collects a frame that is too long. */
function limitFrames(input: Readable): Transform {
  const limit = new FrameLimit(MAX_FRAME_BYTES);
  const limited = new Transform({
    transform: (chunk: Buffer, _encoding, callback) => {
      try {
        limit.accept(chunk);
        callback(null, chunk);
      } catch (error) {
        callback(error instanceof Error ? error : new Error(String(error)));
      }
    },
  });
  input.pipe(limited);
  // pipe() does not hand on that a stream ended without an end: a broken connection.
  input.on('close', () => limited.end());
  return limited;
}

/** Gives the function that tells the client; decisions that it does not take in time are counted as lost. */
function createNotifier(connection: MessageConnection): Notify {
  let waiting = 0;
  let lost = 0;
  const send = async (name: string, value: unknown): Promise<void> => {
    waiting += 1;
    try {
      await connection.sendNotification(name, value);
    } catch {
      // The connection ended, which `serve` notices; nobody is left to be told.
    } finally {
      waiting -= 1;
    }
  };
  return (name, value) => {
    if (name !== 'decisions') {
      void send(name, value);
      return;
    }
    const batch = value as DecisionEvents;
    if (waiting >= MAX_WAITING_BATCHES) {
      lost += batch.events.length + batch.lost;
      return;
    }
    void send(name, { events: batch.events, lost: batch.lost + lost } satisfies DecisionEvents);
    lost = 0;
  };
}
