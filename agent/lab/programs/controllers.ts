import { once } from 'node:events';
import { createServer } from 'node:net';
import type { Server, Socket } from 'node:net';
import type { Command, ProgramMessage } from './reports.ts';

/** The longest line that a controller may send, characters. */
const MAX_LINE_CHARACTERS = 64 * 1024;

/** Somebody who asks the program and is told of events. */
export interface Controller {
  readonly tell: (message: ProgramMessage) => void;
}

/**
 * Splits what comes on a stream into lines that are JSON; gives false where a line is longer than `limit` or no JSON. What is after
 * that is not looked at.
 */
export function createLineReader(limit: number, take: (value: unknown) => void): (text: string) => boolean {
  let rest = '';
  return (text) => {
    const lines = (rest + text).split('\n');
    rest = lines.pop() ?? '';
    if (rest.length > limit) {
      return false;
    }
    for (const line of lines) {
      try {
        take(JSON.parse(line));
      } catch (error) {
        if (error instanceof SyntaxError) {
          return false;
        }
        throw error;
      }
    }
    return true;
  };
}

/**
 * Listens on a Unix socket for those who ask this program later. Whoever may connect is decided by the rights of the socket's file:
 * its maker's, so it is made before the program becomes another user.
 */
export async function listenForControllers(path: string, handlers: { readonly add: (controller: Controller) => () => void; readonly take: (command: Command, controller: Controller) => void }): Promise<Server> {
  const server = createServer((socket: Socket) => {
    const controller: Controller = {
      tell: (message) => {
        socket.write(`${JSON.stringify(message)}\n`);
      },
    };
    const remove = handlers.add(controller);
    const read = createLineReader(MAX_LINE_CHARACTERS, (value) => {
      handlers.take(value as Command, controller);
    });
    socket.setEncoding('utf8').on('data', (text: string) => {
      if (!read(text)) {
        socket.destroy();
      }
    });
    // One that goes away without a word is gone like any other.
    socket.on('error', () => undefined);
    socket.on('close', remove);
  });
  server.listen(path);
  await once(server, 'listening');
  return server;
}
