import { parseArgs } from 'node:util';
import { inputError } from '../agent/protocol/errors.ts';
import type { MeshpathError } from '../agent/protocol/errors.ts';
import type { Command, CommandArguments, OptionDefinition, OptionDefinitions } from './command.ts';
import { escapeText } from './text/escape.ts';

/** The options that every command takes. */
export const COMMON_OPTIONS: OptionDefinitions = {
  json: { type: 'boolean', description: 'Print JSON for programs; an error is JSON too, on standard error.' },
  simulated: { type: 'boolean', description: 'Use the simulated node: no root and no Linux needed.' },
  verbose: { type: 'boolean', description: 'Print more: details, and the stack of an error.' },
  help: { type: 'boolean', short: 'h', description: 'Print help.' },
};

const PROGRAM_OPTIONS: OptionDefinitions = {
  version: { type: 'boolean', short: 'V', description: 'Print the version.' },
};

/** What a command line asks for. */
export type Invocation =
  | { readonly kind: 'help'; readonly command: Command | null }
  /** Of the commands whose names begin with the same words. */
  | { readonly kind: 'groupHelp'; readonly name: string; readonly commands: readonly Command[] }
  | { readonly kind: 'version' }
  | { readonly kind: 'run'; readonly command: Command; readonly arguments: CommandArguments };

type OptionValue = string | boolean | (string | boolean)[] | undefined;

/**
 * Reads the words after `meshpath`. Options may stand before and after operands; `--` ends them. Throws a MeshpathError
 * INPUT_INVALID for an unknown command or option, a missing or unwanted value, and a wrong number of operands.
 */
export function parseCommandLine(words: readonly string[], commands: readonly Command[]): Invocation {
  const { values, positionals } = parseWords(words, commands);
  const [name, ...following] = positionals;
  if (values['version'] === true) {
    return { kind: 'version' };
  }
  if (name === undefined || (name === 'help' && following.length === 0)) {
    if (values['help'] !== true && name === undefined) {
      throw usageError('No command was given.', 'meshpath needs to be told what to do.', null);
    }
    return { kind: 'help', command: null };
  }
  const isHelp = name === 'help' || values['help'] === true;
  const asked = name === 'help' ? following : positionals;
  const group = commands.filter(isInGroup(asked));
  if (isHelp && group.length > 0 && matchCommand(asked, commands) === undefined) {
    return { kind: 'groupHelp', name: asked.join(' '), commands: group };
  }
  const command = findCommand(asked, commands);
  if (isHelp) {
    return { kind: 'help', command };
  }
  const operands = positionals.slice(nameWords(command).length);
  checkOptions(command, values);
  checkOperands(command, operands);
  return { kind: 'run', command, arguments: createArguments(operands, values) };
}

/** Reads a number of a command line; throws a MeshpathError INPUT_INVALID unless it is whole and from `min` to `max`. */
export function parseCount(option: string, text: string, min: number, max: number): number {
  const value = /^\d{1,15}$/.test(text) ? Number(text) : Number.NaN;
  if (!(value >= min && value <= max)) {
    throw inputError(
      `--${option} is not a number that can be used.`,
      `'${escapeText(text.slice(0, 40))}' is not a whole number from ${min} to ${max}.`,
      `Give a whole number, as in --${option} ${Math.min(max, Math.max(min, 100))}.`,
    );
  }
  return value;
}

/**
 * Where the words begin with the name of a command, only its own options are read, so that commands may use one letter
 * for different things. Where options stand before the name, the options of all commands tell which of them take a value.
 */
function parseWords(words: readonly string[], commands: readonly Command[]): { values: Record<string, OptionValue>; positionals: string[] } {
  const named = matchCommand(words, commands);
  const known = named === undefined ? commands : [...commands.filter((command) => command !== named).map(withLongOptionsOnly), named];
  const all: OptionDefinitions = Object.assign({}, PROGRAM_OPTIONS, ...known.map(({ options }) => options), COMMON_OPTIONS) as OptionDefinitions;
  const options = Object.fromEntries(Object.entries(all).map(([name, definition]) => [name, parseOption(definition)]));
  try {
    const { plain, denied } = readSwitches(words, all);
    const { values, positionals } = parseArgs({ args: plain, options, allowPositionals: true, strict: true });
    return { values: { ...Object.fromEntries(denied.map((name) => [name, false])), ...values }, positionals };
  } catch (error) {
    if (error instanceof TypeError && 'code' in error && String(error.code).startsWith('ERR_PARSE_ARGS_')) {
      throw usageError('The command line cannot be read.', escapeText(error.message), null);
    }
    throw error;
  }
}

/** Boolean options may be written as --name=true and --name=false too; where both are given, it is on. */
function readSwitches(words: readonly string[], definitions: OptionDefinitions): { readonly plain: string[]; readonly denied: readonly string[] } {
  const end = words.includes('--') ? words.indexOf('--') : words.length;
  const denied: string[] = [];
  const plain = words.flatMap((word, index) => {
    const [, name = '', value] = index < end ? (/^--([a-z0-9-]+)=(true|false)$/.exec(word) ?? []) : [];
    if (value === undefined || !Object.hasOwn(definitions, name) || definitions[name]?.type !== 'boolean') {
      return [word];
    }
    if (value === 'true') {
      return [`--${name}`];
    }
    denied.push(name);
    return [];
  });
  return { plain, denied };
}

function parseOption({ type, multiple = false, short }: OptionDefinition): { type: 'boolean' | 'string'; multiple: boolean; short?: string } {
  return short === undefined ? { type, multiple } : { type, multiple, short };
}

function withLongOptionsOnly(command: Command): Command {
  const options = Object.entries(command.options).map(([name, { type, multiple = false, description }]) => [name, { type, multiple, description }] as const);
  return { ...command, options: Object.fromEntries(options) };
}

/** The words of a name: `rules print` are two. */
function nameWords({ name }: Command): readonly string[] {
  return name.split(' ');
}

/** Finds the command whose name the words begin with; the longest name wins. */
function matchCommand(words: readonly string[], commands: readonly Command[]): Command | undefined {
  return commands
    .filter((command) => nameWords(command).every((word, index) => words[index] === word))
    .toSorted((left, right) => nameWords(right).length - nameWords(left).length)[0];
}

/** Says whether the name of a command goes on behind these words. */
function isInGroup(words: readonly string[]): (command: Command) => boolean {
  return (command) => words.length > 0 && nameWords(command).length > words.length && words.every((word, index) => nameWords(command)[index] === word);
}

function findCommand(words: readonly string[], commands: readonly Command[]): Command {
  const command = matchCommand(words, commands);
  if (command !== undefined) {
    return command;
  }
  // The longest beginning of the words that some names have too.
  const length = [3, 2, 1].find((count) => count <= words.length && commands.some(isInGroup(words.slice(0, count)))) ?? 0;
  const known = length === 0 ? commands : commands.filter(isInGroup(words.slice(0, length)));
  const given = escapeText(words.slice(0, length + 1).join(' ').slice(0, 60));
  throw usageError(
    length > 0 && words.length === length ? `meshpath ${given} needs more to go on.` : `There is no command '${given}'.`,
    `The commands are ${known.map((candidate) => candidate.name).join(', ')}.`,
    null,
  );
}

function checkOptions(command: Command, values: Readonly<Record<string, OptionValue>>): void {
  const unknown = Object.keys(values).find((name) => !(name in COMMON_OPTIONS) && !(name in command.options));
  if (unknown !== undefined) {
    throw usageError(`meshpath ${command.name} has no option --${unknown}.`, 'It belongs to another command.', command);
  }
}

function checkOperands(command: Command, operands: readonly string[]): void {
  if (operands.length < command.operands.min) {
    throw usageError(
      `meshpath ${command.name} needs more to go on.`,
      `Its usage is: meshpath ${command.name} ${command.usage}`,
      command,
    );
  }
  if (operands.length > command.operands.max) {
    const extra = escapeText((operands[command.operands.max] ?? '').slice(0, 40));
    throw usageError(`meshpath ${command.name} was given more than it takes.`, `It does not know what to do with '${extra}'.`, command);
  }
}

function usageError(message: string, reason: string, command: Command | null): MeshpathError {
  const help = command === null ? 'meshpath --help' : `meshpath ${command.name} --help`;
  return inputError(message, reason, `Run ${help} to see what can be given.`);
}

function createArguments(operands: readonly string[], values: Readonly<Record<string, OptionValue>>): CommandArguments {
  const texts = (name: string): string[] => [values[name] ?? []].flat().map(String);
  return {
    operands,
    flag: (name) => values[name] === true,
    text: (name) => texts(name).at(-1),
    texts,
  };
}
