import { listenForControllers } from './controllers.ts';
import type { Controller } from './controllers.ts';
import type { Command, ProgramIdentity, ProgramMessage } from './reports.ts';

export type CommandHandlers = Readonly<Record<string, (params: never) => Promise<unknown>>>;

/** The environment variable with the parameters of a program, as JSON. */
export const PARAMS_VARIABLE = 'MESHPATH_LAB_PARAMS';

interface ProgramParams {
  readonly identity: ProgramIdentity;
  /** A Unix socket to listen on for commands. A program that has one stays when its starter goes. */
  readonly controlPath?: string;
}

/**
 * Runs a program of the lab under a name, which the node shows as its command: reads its parameters, becomes its user, starts, and
 * then answers commands. It starts as root and drops its rights itself, so that Node.js and its modules may be in a folder that
 * this user cannot read; all its sockets of the network are made afterwards and belong to this user (net/netfilter/xt_owner.c).
 */
export function runProgram(name: string, start: (params: never) => Promise<CommandHandlers>): void {
  process.title = name;
  const params = JSON.parse(process.env[PARAMS_VARIABLE] ?? '') as ProgramParams;
  if (params.controlPath === undefined) {
    process.on('disconnect', () => process.exit(0));
  }
  const program = new Program();
  program.run(params, start).catch((error: unknown) => {
    program.tellStarter({ kind: 'failed', message: describe(error) });
  });
}

/** Tells the lab about something that happened. */
export function tellEvent(name: string, value: unknown): void {
  for (const controller of controllers) {
    controller.tell({ kind: 'event', name, value });
  }
}

/** Gives the errno name of an error, or its message where it has none. */
export function errorName(error: Error): string {
  return (error as NodeJS.ErrnoException).code ?? error.message;
}

/** Gives up root's rights for those of a user without any groups. */
export function becomeUser(identity: ProgramIdentity): void {
  if (process.setgroups === undefined || process.setgid === undefined || process.setuid === undefined) {
    throw new Error('the programs of a lab run on Linux only');
  }
  process.setgroups([]);
  process.setgid(identity.gid);
  process.setuid(identity.uid);
}

/** Who started the program, as long as they are there. */
const starter: Controller = {
  tell: (message) => {
    if (process.connected) {
      process.send?.(message);
    }
  },
};

const controllers = new Set<Controller>([starter]);

class Program {
  #handlers: CommandHandlers = {};

  async run(params: ProgramParams, start: (params: never) => Promise<CommandHandlers>): Promise<void> {
    if (params.controlPath !== undefined) {
      await listenForControllers(params.controlPath, {
        add: (controller) => {
          controllers.add(controller);
          controller.tell({ kind: 'ready' });
          return () => controllers.delete(controller);
        },
        take: (command, controller) => {
          void this.#answer(command, controller);
        },
      });
    }
    becomeUser(params.identity);
    this.#handlers = await start(params as never);
    process.on('message', (command: Command) => {
      void this.#answer(command, starter);
    });
    this.tellStarter({ kind: 'ready' });
  }

  tellStarter(message: ProgramMessage): void {
    starter.tell(message);
  }

  async #answer(command: Command, controller: Controller): Promise<void> {
    const handler = this.#handlers[command.method] as ((params: unknown) => Promise<unknown>) | undefined;
    try {
      if (handler === undefined) {
        throw new Error(`this program has no method ${command.method}`);
      }
      controller.tell({ kind: 'answer', id: command.id, result: (await handler(command.params)) ?? null });
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code ?? null;
      controller.tell({ kind: 'refusal', id: command.id, code, message: describe(error) });
    }
  }
}

function describe(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
