import { once } from 'node:events';
import { cancelledError, MeshpathError, toMeshpathError } from '../agent/protocol/errors.ts';
import type { Node } from '../agent/protocol/node.ts';
import { EXIT_FAILED, EXIT_OK, EXIT_USAGE } from './command.ts';
import type { Command, CommandContext } from './command.ts';
import { parseCommandLine } from './commandLine.ts';
import type { Invocation } from './commandLine.ts';
import { formatCommandHelp, formatGroupHelp, formatProgramHelp } from './help.ts';
import { writeLines } from './output.ts';
import type { Output } from './output.ts';
import { formatError, formatErrorJson, formatStack } from './text/error.ts';
import type { Style } from './text/style.ts';

/** What `meshpath` needs of the process that it runs in. */
export interface Surroundings {
  readonly commands: readonly Command[];
  readonly output: Output;
  /** Writes a line on standard error. */
  readonly note: (line: string) => void;
  readonly errorStyle: Style;
  /** Aborted when `meshpath` is to end. */
  readonly stop: AbortSignal;
  /** Connects to the agent in this process, or to the simulated node. */
  readonly connect: (kind: 'linux' | 'simulated') => Promise<Node>;
  readonly readObject: () => Promise<Uint8Array>;
  readonly version: string;
}

/** Runs `meshpath` with the words after its name and gives the exit code; every failure is told on standard error. */
export async function runMeshpath(words: readonly string[], surroundings: Surroundings): Promise<number> {
  let invocation: Invocation;
  try {
    invocation = parseCommandLine(words, surroundings.commands);
  } catch (error) {
    tellError(error, { isJson: words.includes('--json'), isVerbose: false }, surroundings);
    return EXIT_USAGE;
  }
  switch (invocation.kind) {
    case 'version':
      await writeLines(surroundings.output, [surroundings.version]);
      return EXIT_OK;
    case 'help':
      await writeLines(
        surroundings.output,
        invocation.command === null ? formatProgramHelp(surroundings.commands) : formatCommandHelp(invocation.command),
      );
      return EXIT_OK;
    case 'groupHelp':
      await writeLines(surroundings.output, formatGroupHelp(invocation.name, invocation.commands));
      return EXIT_OK;
    case 'run':
      return runCommand(invocation, surroundings);
  }
}

async function runCommand(invocation: Extract<Invocation, { kind: 'run' }>, surroundings: Surroundings): Promise<number> {
  const { command, arguments: args } = invocation;
  const { stop } = surroundings;
  let node: Promise<Node> | undefined;
  const context: CommandContext = {
    arguments: args,
    output: surroundings.output,
    note: surroundings.note,
    readObject: surroundings.readObject,
    stop,
    connect: () => (node ??= surroundings.connect(args.flag('simulated') ? 'simulated' : 'linux')),
  };
  try {
    return await (command.endsItself === true ? command.run(context) : Promise.race([command.run(context), rejectAtStop(command, stop)]));
  } catch (error) {
    if (stop.aborted && MeshpathError.is(error, 'CANCELLED')) {
      return EXIT_FAILED;
    }
    tellError(error, { isJson: args.flag('json'), isVerbose: args.flag('verbose') }, surroundings);
    return MeshpathError.is(error, 'INPUT_INVALID') ? EXIT_USAGE : EXIT_FAILED;
  } finally {
    // Where connecting itself failed, the error is told above and there is nothing to close.
    await node?.then((connected) => connected.close()).catch((error: unknown) => {
      if (args.flag('verbose')) {
        formatStack(toMeshpathError(error)).forEach(surroundings.note);
      }
    });
  }
}

async function rejectAtStop(command: Command, stop: AbortSignal): Promise<never> {
  if (!stop.aborted) {
    await once(stop, 'abort');
  }
  throw cancelledError(`meshpath ${command.name}`);
}

function tellError(
  thrown: unknown,
  { isJson, isVerbose }: { readonly isJson: boolean; readonly isVerbose: boolean },
  { note, errorStyle }: Surroundings,
): void {
  const error = toMeshpathError(thrown);
  if (isJson) {
    note(formatErrorJson(error));
  } else {
    formatError(error, errorStyle).forEach(note);
  }
  if (isVerbose) {
    formatStack(error).forEach(note);
  }
}
