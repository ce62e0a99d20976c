import type { Command, ProgramIdentity, ProgramMessage } from './reports.ts';

export type CommandHandlers = Readonly<Record<string, (params: never) => Promise<unknown>>>;

/** The environment variable with the parameters of a program, as JSON. */
export const PARAMS_VARIABLE = 'MESHPATH_LAB_PARAMS';

/**
 * Runs a program of the lab under a name, which the node shows as its command: reads its parameters, becomes its user, starts, and then answers commands until the lab
 * goes away. It starts as root and drops its rights itself, so that Node.js and its modules may be in a folder that
 * this user cannot read; all sockets are made afterwards and belong to this user (net/netfilter/xt_owner.c).
 */
export function runProgram(name: string, start: (params: never) => Promise<CommandHandlers>): void {
  process.title = name;
  const params = JSON.parse(process.env[PARAMS_VARIABLE] ?? '') as { readonly identity: ProgramIdentity };
  process.on('disconnect', () => process.exit(0));
  becomeUser(params.identity);
  start(params as never).then(
    (handlers) => {
      process.on('message', (command: Command) => {
        void answer(handlers, command);
      });
      tell({ kind: 'ready' });
    },
    (error: unknown) => {
      tell({ kind: 'failed', message: describe(error) });
    },
  );
}

/** Tells the lab about something that happened. */
export function tellEvent(name: string, value: unknown): void {
  tell({ kind: 'event', name, value });
}

/** Gives the errno name of an error, or its message where it has none. */
export function errorName(error: Error): string {
  return (error as NodeJS.ErrnoException).code ?? error.message;
}

async function answer(handlers: CommandHandlers, command: Command): Promise<void> {
  const handler = handlers[command.method] as ((params: unknown) => Promise<unknown>) | undefined;
  try {
    if (handler === undefined) {
      throw new Error(`this program has no method ${command.method}`);
    }
    tell({ kind: 'answer', id: command.id, result: (await handler(command.params)) ?? null });
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? null;
    tell({ kind: 'refusal', id: command.id, code, message: describe(error) });
  }
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

function tell(message: ProgramMessage): void {
  if (process.connected) {
    process.send?.(message);
  }
}

function describe(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
