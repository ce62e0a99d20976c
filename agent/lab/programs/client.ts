import { once } from 'node:events';
import { request } from 'node:http';
import type { IncomingMessage } from 'node:http';
import { connect } from 'node:net';
import type { Socket } from 'node:net';
import { readLocalEndpoint, readPeerEndpoint } from '../../libbpf/socketQuestions.ts';
import { createPattern } from './pattern.ts';
import type { Pattern } from './pattern.ts';
import type { CommandHandlers } from './program.ts';
import type {
  HttpParams,
  HttpReply,
  HttpResult,
  OpenedConnection,
  OpenParams,
  ReceivedBytes,
  ReceiveParams,
  RoundTripParams,
  SendParams,
  Visit,
  VisitParams,
} from './reports.ts';

/** All visits send from one pattern, which is dear to make. */
const VISIT_SEED = 1;
const VISIT_WRITE_BYTES = 65_536;

interface ClientConnection {
  readonly socket: Socket;
  readonly pattern: Pattern;
  sentBytes: number;
  receivedBytes: number;
  error: Error | null;
}

/** The application's client of a lab: opens connections and moves bytes on them as it is told. Gives what it can be told. */
export function openConnections(): Promise<CommandHandlers> {
  const connections = new Map<number, ClientConnection>();
  let count = 0;
  let visitPattern: Pattern | undefined;
  const find = (id: number): ClientConnection => {
    const connection = connections.get(id);
    if (connection === undefined) {
      throw new Error(`there is no connection ${id}`);
    }
    return connection;
  };
  return Promise.resolve({
    open: async (options: OpenParams): Promise<OpenedConnection> => {
      const id = count++;
      const connection = await openConnection(options, createPattern(options.seed));
      connections.set(id, connection);
      return describeConnection(id, connection);
    },
    visit: async (options: VisitParams): Promise<Visit> => {
      visitPattern ??= createPattern(VISIT_SEED);
      const id = count++;
      const start = performance.now();
      const connection = await openConnection({ ...options, localAddress: null, localPort: 0 }, visitPattern);
      const opened = performance.now();
      const timer = setTimeout(() => connection.socket.destroy(Object.assign(new Error('it took too long'), { code: 'ETIMEDOUT' })), options.milliseconds);
      connections.set(id, connection);
      connection.sentBytes = options.offset;
      connection.receivedBytes = options.offset;
      const [received] = await Promise.all([receive(connection, options.bytes), send(connection, { bytes: options.bytes, writeBytes: VISIT_WRITE_BYTES })]).finally(() => {
        clearTimeout(timer);
      });
      const exchangeMilliseconds = performance.now() - opened;
      return { ...describeConnection(id, connection), connectMilliseconds: opened - start, exchangeMilliseconds, received };
    },
    describe: ({ connection }: { readonly connection: number }) => Promise.resolve(describeConnection(connection, find(connection))),
    send: (options: SendParams) => send(find(options.connection), options),
    receive: (options: ReceiveParams) => receive(find(options.connection), options.bytes),
    roundTrips: (options: RoundTripParams) => measureRoundTrips(find(options.connection), options),
    receiveText: async (options: ReceiveParams) => (await readBytes(find(options.connection), options.bytes)).toString('utf8'),
    end: async ({ connection }: { readonly connection: number }) => {
      const { socket } = find(connection);
      socket.end();
      if (!socket.writableFinished) {
        await once(socket, 'finish');
      }
    },
    close: async ({ connection }: { readonly connection: number }) => {
      const { socket } = find(connection);
      connections.delete(connection);
      const closed = socket.closed ? Promise.resolve() : once(socket, 'close');
      socket.end();
      socket.destroySoon();
      await closed;
    },
    reset: async ({ connection }: { readonly connection: number }) => {
      const { socket } = find(connection);
      connections.delete(connection);
      const closed = once(socket, 'close');
      socket.resetAndDestroy();
      await closed;
    },
    http: askHttp,
  });
}

async function openConnection(options: Omit<OpenParams, 'seed'>, pattern: Pattern): Promise<ClientConnection> {
  const socket = connect({
    host: options.address,
    port: options.port,
    allowHalfOpen: true,
    noDelay: true,
    localPort: options.localPort,
    ...(options.localAddress === null ? {} : { localAddress: options.localAddress }),
  });
  await once(socket, 'connect');
  const connection: ClientConnection = {
    socket,
    pattern,
    sentBytes: 0,
    receivedBytes: 0,
    error: null,
  };
  socket.on('error', (error) => (connection.error = error));
  return connection;
}

function describeConnection(id: number, connection: ClientConnection): OpenedConnection {
  return { connection: id, local: readLocalEndpoint(connection.socket), peer: readPeerEndpoint(connection.socket) };
}

async function send(connection: ClientConnection, options: Pick<SendParams, 'bytes' | 'writeBytes'>): Promise<void> {
  const end = connection.sentBytes + options.bytes;
  while (connection.sentBytes < end) {
    throwError(connection);
    const piece = connection.pattern.slice(connection.sentBytes, Math.min(options.writeBytes, end - connection.sentBytes));
    connection.sentBytes += piece.length;
    if (!connection.socket.write(piece)) {
      await firstOf(connection.socket, ['drain', 'close']);
    }
  }
  throwError(connection);
}

async function receive(connection: ClientConnection, bytes: number): Promise<ReceivedBytes> {
  const start = connection.receivedBytes;
  let firstDifference: number | null = null;
  while (connection.receivedBytes - start < bytes) {
    const piece = await readPiece(connection, bytes - (connection.receivedBytes - start));
    if (piece === null) {
      break;
    }
    const difference = connection.pattern.findDifference(connection.receivedBytes, piece);
    if (difference >= 0) {
      firstDifference ??= connection.receivedBytes + difference;
    }
    connection.receivedBytes += piece.length;
  }
  const received = connection.receivedBytes - start;
  return { bytes: received, exact: firstDifference === null && received === bytes, firstDifference, ended: received < bytes };
}

/** Sends and receives the same bytes again and again and gives how many milliseconds each round took. */
async function measureRoundTrips(connection: ClientConnection, { bytes, rounds }: RoundTripParams): Promise<number[]> {
  const durations: number[] = [];
  for (let round = 0; round < rounds; round++) {
    const start = performance.now();
    await send(connection, { bytes, writeBytes: bytes });
    const received = await receive(connection, bytes);
    durations.push(performance.now() - start);
    if (!received.exact) {
      throw new Error(`round ${round} came back wrong: ${JSON.stringify(received)}`);
    }
  }
  return durations;
}

/** Reads text that does not belong to the pattern, up to `bytes` or the end of the stream. */
async function readBytes(connection: ClientConnection, bytes: number): Promise<Buffer> {
  const pieces: Buffer[] = [];
  let left = bytes;
  while (left > 0) {
    const piece = await readPiece(connection, left);
    if (piece === null) {
      break;
    }
    pieces.push(piece);
    left -= piece.length;
  }
  return Buffer.concat(pieces);
}

/** Gives the next bytes, at most `limit`; null at the end of the stream. Throws the error of a broken connection. */
async function readPiece(connection: ClientConnection, limit: number): Promise<Buffer | null> {
  const { socket } = connection;
  for (;;) {
    const size = Math.min(limit, socket.readableLength);
    const piece = size === 0 ? null : (socket.read(size) as Buffer | null);
    if (piece !== null) {
      return piece;
    }
    throwError(connection);
    if (socket.readableEnded || socket.destroyed) {
      return null;
    }
    // read(0) asks the kernel for more without taking anything, and lets the end of an empty stream be seen.
    const arrival = firstOf(socket, ['readable', 'end', 'close']);
    socket.read(0);
    await arrival;
  }
}

async function askHttp(params: HttpParams): Promise<HttpResult> {
  const message = request({
    host: params.address,
    port: params.port,
    path: params.path,
    method: params.bodyBytes === 0 ? 'GET' : 'POST',
    agent: false,
  });
  message.end(Buffer.alloc(params.bodyBytes, 'x'));
  const [response] = (await once(message, 'response')) as [IncomingMessage];
  let text = '';
  response.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
  await once(response, 'end');
  return { status: response.statusCode ?? 0, reply: JSON.parse(text) as HttpReply };
}

/** Resolves at the first of these events; the socket's own error listener keeps its error. */
function firstOf(socket: Socket, names: readonly string[]): Promise<void> {
  return new Promise((resolve) => {
    const finish = (): void => {
      for (const name of names) {
        socket.off(name, finish);
      }
      resolve();
    };
    for (const name of names) {
      socket.on(name, finish);
    }
  });
}

function throwError(connection: ClientConnection): void {
  if (connection.error !== null) {
    throw connection.error;
  }
}
