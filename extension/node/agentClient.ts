import { StringDecoder } from 'node:string_decoder';
import { Transform } from 'node:stream';
import type { TransformCallback } from 'node:stream';
import {
  CancellationTokenSource,
  ResponseError,
  StreamMessageReader,
  StreamMessageWriter,
  createMessageConnection,
} from 'vscode-jsonrpc/node';
import type { MessageConnection } from 'vscode-jsonrpc/node';
import { MeshpathError, cancelledError, parseWireError } from '../../agent/protocol/errors.ts';
import { FrameLimit } from '../../agent/protocol/frameLimit.ts';
import { createNotificationListeners } from '../../agent/protocol/listeners.ts';
import { AGENT_READY_LINE, MAX_FRAME_BYTES, PROTOCOL_VERSION } from '../../agent/protocol/methods.ts';
import type { MethodName, NodeDescription, Notifications, Params, Result } from '../../agent/protocol/methods.ts';
import type { CallOptions, Node } from '../../agent/protocol/node.ts';
import { printable } from './shellScript.ts';
import type { NodeProcess, ProcessExit } from './transport.ts';

/** How much a login shell may print before the agent says that it is ready, bytes. */
const MAX_NOISE_BYTES = 256 * 1024;
/** How many of the agent's last lines on the error stream an error shows. */
const KEPT_ERROR_LINES = 20;
const MAX_ERROR_LINE = 2000;
/** How long the agent may take to detach and end once its input has ended. */
const END_TIMEOUT_MS = 10_000;

export interface AgentClientOptions {
  /** `meshpath-vscode 0.1.0`. */
  readonly client: string;
  readonly signal: AbortSignal;
  /** How long the agent may take until it is ready and has answered `initialize`. */
  readonly startTimeoutMs: number;
  /** Gets every piece of the error stream as it comes, before lines are made of it. */
  readonly onErrorText?: ((text: string) => void) | undefined;
  /** One line of the agent's error stream. */
  readonly log: (line: string) => void;
}

/** A connected agent, and what it said of itself. */
export interface AgentConnection {
  readonly node: Node;
  readonly description: NodeDescription;
}

/**
 * Speaks to an agent that was started: skips what comes before its ready line, compares protocol versions and gives
 * the node. Rejects with AGENT_START_FAILED, AGENT_PROTOCOL_MISMATCH, TIMED_OUT, CANCELLED or the transport's error,
 * with the process ended.
 */
export async function connectAgent(agent: NodeProcess, options: AgentClientOptions): Promise<AgentConnection> {
  const errorLines = keepErrorLines(agent, options);
  const output = new AgentOutput();
  agent.stdout.pipe(output);
  const connection = createMessageConnection(new StreamMessageReader(output), new StreamMessageWriter(agent.stdin));
  const listeners = createNotificationListeners();
  connection.onNotification('decisions', (value: Notifications['decisions']) => {
    listeners.notify('decisions', value);
  });
  connection.onNotification('changed', (value: Notifications['changed']) => {
    listeners.notify('changed', value);
  });
  connection.onNotification('labProgress', (value: Notifications['labProgress']) => {
    listeners.notify('labProgress', value);
  });
  connection.onNotification('notice', (value: Notifications['notice']) => {
    listeners.notify('notice', value);
  });
  const lifetime = watchLifetime(agent, connection, output, errorLines);
  const node: Node = {
    call: async (method, params, callOptions) => callAgent(connection, lifetime, method, params, callOptions),
    listen: (name, listener) => listeners.listen(name, listener),
    closed: lifetime.closed,
    close: lifetime.close,
  };
  try {
    const description = await introduce(node, { agent, connection, output, lifetime, errorLines, options });
    return { node, description };
  } catch (error) {
    agent.kill();
    connection.dispose();
    throw error;
  }
}

interface Lifetime {
  /** The error that ended the connection, once it has. */
  readonly failure: () => MeshpathError | undefined;
  readonly closed: Promise<MeshpathError | null>;
  readonly close: () => Promise<void>;
}

function watchLifetime(agent: NodeProcess, connection: MessageConnection, output: AgentOutput, errorLines: ErrorLines): Lifetime {
  let failure: MeshpathError | undefined;
  let isClosing = false;
  const fail = (error: MeshpathError): void => {
    failure ??= error;
    agent.kill();
  };
  output.on('error', (error) => {
    fail(
      new MeshpathError(
        { code: 'LIMIT_EXCEEDED', message: 'The agent sent what is no message.', reason: error.message, remedy: 'Reconnect to the node.' },
        { cause: error },
      ),
    );
  });
  connection.onError(([error]) => {
    fail(agentStopped(`Its messages cannot be read or written: ${error.message}`, errorLines.tail()));
  });
  const closed = agent.exited.then((exit): MeshpathError | null => {
    if (!isClosing) {
      failure = exit.lost ?? failure ?? agentStopped(describeExit(exit), errorLines.tail());
    } else {
      failure ??= agentStopped('The connection was closed.', []);
    }
    connection.dispose();
    return isClosing ? null : failure;
  });
  return {
    failure: () => failure,
    closed,
    close: async () => {
      isClosing = true;
      agent.stdin.end();
      const timer = setTimeout(() => {
        agent.kill();
      }, END_TIMEOUT_MS);
      await closed;
      clearTimeout(timer);
    },
  };
}

async function introduce(
  node: Node,
  context: {
    readonly agent: NodeProcess;
    readonly connection: MessageConnection;
    readonly output: AgentOutput;
    readonly lifetime: Lifetime;
    readonly errorLines: ErrorLines;
    readonly options: AgentClientOptions;
  },
): Promise<NodeDescription> {
  const { agent, connection, output, errorLines, options } = context;
  const { signal, startTimeoutMs } = options;
  const deadline = new AbortController();
  const timer = setTimeout(() => {
    deadline.abort();
  }, startTimeoutMs);
  const stop = AbortSignal.any([signal, deadline.signal]);
  try {
    const ended = agent.exited.then((exit) => {
      throw exit.lost ?? startFailed(describeExit(exit), errorLines.tail(), output.noise);
    });
    await untilAborted(Promise.race([output.ready, ended]), stop, 'Starting the agent');
    connection.listen();
    const description = await node.call('initialize', { protocolVersion: PROTOCOL_VERSION, client: options.client }, { signal: stop });
    const version: unknown = description.protocolVersion;
    if (version !== PROTOCOL_VERSION) {
      throw new MeshpathError({
        code: 'AGENT_PROTOCOL_MISMATCH',
        message: 'The agent on the node speaks another version of the protocol.',
        reason: `The agent speaks version ${String(version)}, this client speaks ${PROTOCOL_VERSION}.`,
        remedy: 'Connect again, which installs the agent of this version; if it stays, reinstall the extension.',
      });
    }
    return description;
  } catch (error) {
    if (deadline.signal.aborted && !signal.aborted) {
      throw new MeshpathError(
        {
          code: 'TIMED_OUT',
          message: 'The agent did not start in time.',
          reason: `It was not ready after ${startTimeoutMs / 1000} seconds. ${errorLines.tail().join(' ')}`.trim(),
          remedy: 'Try again when the node is less busy; the output channel has what the agent printed.',
        },
        { cause: error },
      );
    }
    throw error;
  } finally {
    clearTimeout(timer);
  }
}

async function callAgent<M extends MethodName>(
  connection: MessageConnection,
  lifetime: Lifetime,
  method: M,
  params: Params<M>,
  options: CallOptions | undefined,
): Promise<Result<M>> {
  const signal = options?.signal;
  const before = lifetime.failure();
  if (before !== undefined) {
    throw before;
  }
  if (isAborted(signal)) {
    throw cancelledError(method);
  }
  const cancellation = new CancellationTokenSource();
  const onAbort = (): void => {
    cancellation.cancel();
  };
  signal?.addEventListener('abort', onAbort, { once: true });
  try {
    const answer = connection.sendRequest<Result<M>>(method, params, cancellation.token);
    return await (signal === undefined ? answer : untilAborted(answer, signal, method));
  } catch (error) {
    throw isAborted(signal) ? cancelledError(method) : await toCallError(error, method, lifetime);
  } finally {
    signal?.removeEventListener('abort', onAbort);
    cancellation.dispose();
  }
}

async function toCallError(error: unknown, method: MethodName, lifetime: Lifetime): Promise<MeshpathError> {
  if (error instanceof MeshpathError) {
    return error;
  }
  const wire = error instanceof ResponseError ? parseWireError(error.data) : undefined;
  if (wire !== undefined) {
    return new MeshpathError(wire, { cause: error });
  }
  // A write that failed or an answer that will never come: why is known a moment later, once the process has ended.
  const ended = lifetime.failure() ?? (await Promise.race([lifetime.closed, soon()])) ?? lifetime.failure();
  return (
    ended ??
    new MeshpathError(
      {
        code: 'INTERNAL',
        message: `The agent did not answer ${method} as the protocol says.`,
        reason: error instanceof Error ? error.message : String(error),
        remedy: 'Reconnect to the node; the output channel has what the agent printed.',
      },
      { cause: error },
    )
  );
}

async function soon(): Promise<undefined> {
  return new Promise((resolve) => {
    setTimeout(() => {
      resolve(undefined);
    }, 200);
  });
}

/** Gives what `promise` gives, or rejects with CANCELLED as soon as `signal` is aborted. */
async function untilAborted<T>(promise: Promise<T>, signal: AbortSignal, what: string): Promise<T> {
  return new Promise<T>((resolve, reject) => {
    const onAbort = (): void => {
      reject(cancelledError(what));
    };
    if (signal.aborted) {
      onAbort();
    }
    signal.addEventListener('abort', onAbort, { once: true });
    promise.then(resolve, reject).finally(() => {
      signal.removeEventListener('abort', onAbort);
    });
  });
}

function isAborted(signal: AbortSignal | undefined): boolean {
  return signal?.aborted ?? false;
}

/** Drops what comes before the ready line, then passes frames on and refuses those that are too long. */
class AgentOutput extends Transform {
  readonly ready: Promise<void>;
  readonly #frames = new FrameLimit(MAX_FRAME_BYTES);
  #settleReady: () => void = () => undefined;
  #isReady = false;
  #noise: Buffer = Buffer.alloc(0);

  constructor() {
    super();
    this.ready = new Promise((resolve) => {
      this.#settleReady = resolve;
    });
  }

  /** What came before the ready line, as one printable line. */
  get noise(): string {
    return printable(this.#noise.toString('utf8')).slice(-500);
  }

  override _transform(chunk: Buffer, _encoding: BufferEncoding, callback: TransformCallback): void {
    const frames = this.#isReady ? chunk : this.#skipNoise(chunk);
    if (!this.#isReady && this.#noise.length > MAX_NOISE_BYTES) {
      callback(new RangeError(`more than ${MAX_NOISE_BYTES} bytes came before the agent was ready`));
      return;
    }
    try {
      this.#frames.accept(frames);
    } catch (error) {
      callback(error instanceof Error ? error : new Error(String(error)));
      return;
    }
    callback(null, frames);
  }

  #skipNoise(chunk: Buffer): Buffer {
    const searched = Math.max(0, this.#noise.length - AGENT_READY_LINE.length - 2);
    this.#noise = Buffer.concat([this.#noise, chunk]);
    for (let at = this.#noise.indexOf(AGENT_READY_LINE, searched); at >= 0; at = this.#noise.indexOf(AGENT_READY_LINE, at + 1)) {
      const end = at + AGENT_READY_LINE.length;
      const isAlone = at === 0 || this.#noise[at - 1] === 10;
      const rest = this.#noise.subarray(end, end + 2).toString('latin1');
      const lineEnd = rest.startsWith('\n') ? end + 1 : rest === '\r\n' ? end + 2 : undefined;
      if (isAlone && lineEnd !== undefined) {
        const frames = this.#noise.subarray(lineEnd);
        this.#noise = this.#noise.subarray(0, at);
        this.#isReady = true;
        this.#settleReady();
        return frames;
      }
    }
    return Buffer.alloc(0);
  }
}

interface ErrorLines {
  tail(): readonly string[];
}

function keepErrorLines(agent: NodeProcess, { onErrorText, log }: AgentClientOptions): ErrorLines {
  const decoder = new StringDecoder('utf8');
  const lines: string[] = [];
  let partial = '';
  agent.stderr.on('data', (piece: Buffer) => {
    const text = decoder.write(piece);
    onErrorText?.(text);
    const parts = (partial + text).split('\n');
    partial = (parts.pop() ?? '').slice(-MAX_ERROR_LINE);
    for (const line of parts.map((part) => printable(part).slice(0, MAX_ERROR_LINE)).filter((part) => part !== '')) {
      log(line);
      lines.push(line);
      lines.splice(0, lines.length - KEPT_ERROR_LINES);
    }
  });
  return { tail: () => [...lines, ...(partial === '' ? [] : [printable(partial)])] };
}

function describeExit({ code, signal }: ProcessExit): string {
  return signal !== null ? `It was ended by ${signal}.` : `It ended with code ${String(code ?? 'unknown')}.`;
}

function startFailed(how: string, lines: readonly string[], noise: string): MeshpathError {
  return new MeshpathError({
    code: 'AGENT_START_FAILED',
    message: 'The agent could not be started on the node.',
    reason: [how, lines.length > 0 ? lines.join(' ') : noise].filter((part) => part !== '').join(' '),
    remedy: 'The output channel has everything that it printed. Check that Node.js works on the node for this user.',
  });
}

function agentStopped(how: string, lines: readonly string[]): MeshpathError {
  return new MeshpathError({
    code: 'AGENT_STOPPED',
    message: 'The agent on the node has stopped.',
    reason: [how, ...lines].join(' '),
    remedy: 'Reconnect to the node. Established connections go on over plain TCP.',
  });
}
