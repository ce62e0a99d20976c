import type { Command, ProgramMessage } from './programs/reports.ts';

/** The lab's side of the conversation with a program: commands and their answers by number, and events. */
export class ProgramConversation {
  /** Resolves once the program says that it is ready; rejects with what kept it from starting. */
  readonly ready: Promise<void>;
  readonly #name: string;
  readonly #send: (command: Command) => void;
  readonly #onEvent: (name: string, value: unknown) => void;
  readonly #waiting = new Map<number, { resolve: (result: unknown) => void; reject: (error: Error) => void }>();
  #commands = 0;
  #failure: Error | null = null;
  #settleReady: (error: Error | null) => void = () => undefined;

  constructor(name: string, send: (command: Command) => void, onEvent: (name: string, value: unknown) => void) {
    this.#name = name;
    this.#send = send;
    this.#onEvent = onEvent;
    this.ready = new Promise((resolve, reject) => {
      this.#settleReady = (error) => {
        if (error === null) {
          resolve();
        } else {
          reject(error);
        }
      };
    });
    // Whoever does not wait for it is told by the first command.
    this.ready.catch(() => undefined);
  }

  /** Sends a command and gives its answer; rejects with an Error that has the program's errno name as `code`. */
  async ask(method: string, params: unknown): Promise<unknown> {
    if (this.#failure !== null) {
      throw this.#failure;
    }
    const command: Command = { id: this.#commands++, method, params };
    return new Promise((resolve, reject) => {
      this.#waiting.set(command.id, { resolve, reject });
      this.#send(command);
    });
  }

  /** Takes a message of the program. */
  take(message: ProgramMessage): void {
    switch (message.kind) {
      case 'ready':
        this.#settleReady(null);
        return;
      case 'failed':
        this.fail(new Error(`the lab's ${this.#name} did not start: ${message.message}`));
        return;
      case 'event':
        this.#onEvent(message.name, message.value);
        return;
      case 'answer':
        this.#waiting.get(message.id)?.resolve(message.result);
        this.#waiting.delete(message.id);
        return;
      case 'refusal':
        this.#waiting.get(message.id)?.reject(Object.assign(new Error(message.message), { code: message.code }));
        this.#waiting.delete(message.id);
    }
  }

  /** The program can be asked no more: all that waits, and all that is asked from now on, rejects with `error`. */
  fail(error: Error): void {
    this.#failure ??= error;
    this.#settleReady(error);
    for (const { reject } of this.#waiting.values()) {
      reject(error);
    }
    this.#waiting.clear();
  }
}
