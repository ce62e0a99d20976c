import { once } from 'node:events';
import { createServer as createHttpServer } from 'node:http';
import { createServer } from 'node:net';
import type { Server, Socket } from 'node:net';
import { readLocalEndpoint, readPeerEndpoint } from '../../libbpf/socketQuestions.ts';
import { errorName, tellEvent } from './program.ts';
import type { CommandHandlers } from './program.ts';
import type { AcceptedConnection, EndedConnection, HttpReply, ServerParams } from './reports.ts';

/** The application's server of a lab. Gives what it can be asked once it listens. */
export async function serveConnections(params: ServerParams): Promise<CommandHandlers> {
  let count = 0;
  const server = params.mode === 'http' ? createHttpAnswerer() : createServer({ allowHalfOpen: true });
  server.on('connection', (socket: Socket) => {
    const connection = count++;
    reportConnection(socket, connection);
    if (params.greeting !== null) {
      socket.write(params.greeting);
    }
    if (params.mode === 'echo') {
      socket.pipe(socket);
    } else if (params.mode === 'ends-first') {
      socket.end();
      socket.resume();
    } else if (params.mode === 'sink') {
      socket.resume();
      socket.on('end', () => socket.end());
    }
  });
  server.listen(params.port, params.address);
  await once(server, 'listening');
  const address = server.address();
  const port = typeof address === 'object' && address !== null ? address.port : params.port;
  return { port: () => Promise.resolve(port) };
}

function reportConnection(socket: Socket, connection: number): void {
  const accepted: AcceptedConnection = { connection, peer: readPeerEndpoint(socket), local: readLocalEndpoint(socket) };
  tellEvent('accepted', accepted);
  let error: string | null = null;
  socket.on('error', (cause) => (error = errorName(cause)));
  socket.on('close', () => {
    const ended: EndedConnection = { connection, receivedBytes: socket.bytesRead, sentBytes: socket.bytesWritten, error };
    tellEvent('ended', ended);
  });
}

function createHttpAnswerer(): Server {
  return createHttpServer((request, response) => {
    let bodyBytes = 0;
    request.on('data', (chunk: Buffer) => (bodyBytes += chunk.length));
    request.on('end', () => {
      const reply: HttpReply = {
        method: request.method ?? '',
        url: request.url ?? '',
        peer: readPeerEndpoint(request.socket),
        local: readLocalEndpoint(request.socket),
        bodyBytes,
      };
      response.writeHead(200, { 'content-type': 'application/json' });
      response.end(JSON.stringify(reply));
    });
  });
}
