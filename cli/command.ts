import type { Node } from '../agent/protocol/node.ts';
import type { Output } from './output.ts';

/** Everything is well. */
export const EXIT_OK = 0;
/** Something failed, or what was looked at is not as it should be. */
export const EXIT_FAILED = 1;
/** The command line was wrong: nothing was done. */
export const EXIT_USAGE = 2;

export interface OptionDefinition {
  readonly type: 'boolean' | 'string';
  readonly multiple?: boolean;
  readonly short?: string;
  /** How help calls the value of a string option: `FILE`. */
  readonly valueName?: string;
  readonly description: string;
}

export type OptionDefinitions = Readonly<Record<string, OptionDefinition>>;

/** What the command line gave to a command. */
export interface CommandArguments {
  readonly operands: readonly string[];
  /** Says whether a boolean option was given. */
  flag(name: string): boolean;
  /** Gives the value of a string option; of a boolean option `true`, or `false` where it was switched off (--name=false). */
  text(name: string): string | undefined;
  /** Gives the values of a string option that may be repeated. */
  texts(name: string): readonly string[];
}

export interface CommandContext {
  readonly arguments: CommandArguments;
  readonly output: Output;
  /** Writes a line for people on standard error. */
  readonly note: (line: string) => void;
  /** Gives the node: the agent in this process, or the simulated one. Whoever runs the command closes it. */
  readonly connect: () => Promise<Node>;
  /** Gives the compiled programs, meshpath.bpf.o, which the simulator runs. */
  readonly readObject: () => Promise<Uint8Array>;
  /** Aborted when the command is to end: SIGINT, SIGTERM, SIGHUP, or the reader of the output has gone. */
  readonly stop: AbortSignal;
}

/** One thing that `meshpath` does. */
export interface Command {
  /** One word, or several with a space between them where commands form a family: `rules print`. */
  readonly name: string;
  /** What it does, a few words. */
  readonly summary: string;
  /** Its operands as help shows them: `[NAME|ID]`. */
  readonly usage: string;
  /** How many operands it takes. */
  readonly operands: { readonly min: number; readonly max: number };
  /** More help: paragraphs. */
  readonly description: readonly string[];
  /** Its options beside those of all commands. */
  readonly options: OptionDefinitions;
  /** True where a stop is how it ends in good order: it then sees to that itself. */
  readonly endsItself?: boolean;
  /** Does it and gives the exit code; rejects with a MeshpathError. */
  run(context: CommandContext): Promise<number>;
}
