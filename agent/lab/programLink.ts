import { once } from 'node:events';
import { connect } from 'node:net';
import type { Socket } from 'node:net';
import { ProgramConversation } from './programConversation.ts';
import { createLineReader } from './programs/controllers.ts';
import type { ProgramMessage } from './programs/reports.ts';

const MAX_LINE_CHARACTERS = 1024 * 1024;

/** A conversation with a program that somebody else left running. */
export class ProgramLink {
  readonly #socket: Socket;
  readonly #conversation: ProgramConversation;

  private constructor(name: string, socket: Socket, onEvent: (name: string, value: unknown) => void) {
    this.#socket = socket;
    this.#conversation = new ProgramConversation(name, (command) => socket.write(`${JSON.stringify(command)}\n`), onEvent);
    const read = createLineReader(MAX_LINE_CHARACTERS, (value) => {
      this.#conversation.take(value as ProgramMessage);
    });
    socket.setEncoding('utf8').on('data', (text: string) => {
      if (!read(text)) {
        socket.destroy();
      }
    });
    socket.on('error', () => undefined);
    socket.on('close', () => {
      this.#conversation.fail(new Error(`the lab's ${name} has ended`));
    });
  }

  /** Connects to the Unix socket of a program and waits until it says that it is ready; rejects with an Error where it is not there. */
  static async open(name: string, controlPath: string, onEvent: (name: string, value: unknown) => void): Promise<ProgramLink> {
    const socket = connect(controlPath);
    await once(socket, 'connect');
    const link = new ProgramLink(name, socket, onEvent);
    try {
      await link.#conversation.ready;
    } catch (error) {
      link.close();
      throw error;
    }
    return link;
  }

  /** Ends the conversation; the program stays. */
  close(): void {
    this.#socket.destroy();
  }
}
