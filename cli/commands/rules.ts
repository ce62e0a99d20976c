import { inputError } from '../../agent/protocol/errors.ts';
import type { Command, CommandContext, OptionDefinitions } from '../command.ts';
import { escapeText } from '../text/escape.ts';
import { lintRules } from './rules/lint.ts';
import { printRules } from './rules/print.ts';
import type { RulesSubcommand } from './rules/subcommand.ts';

const SUBCOMMANDS: readonly RulesSubcommand[] = [printRules, lintRules];

export const rulesCommand: Command = {
  name: 'rules',
  summary: 'Print a rule set as iptables-save would, or find the rules in it that cannot match.',
  usage: `${SUBCOMMANDS.map(({ name }) => name).join('|')} …`,
  operands: { min: 1, max: 1 + Math.max(...SUBCOMMANDS.map(({ operands }) => operands.max)) },
  description: SUBCOMMANDS.flatMap(({ name, usage, description }) => [`meshpath rules ${name} ${usage}`, ...description]),
  options: Object.assign({}, ...SUBCOMMANDS.map(({ options }) => options)) as OptionDefinitions,
  run: async (context) => {
    const { arguments: args } = context;
    const [name = '', ...operands] = args.operands;
    const subcommand = findSubcommand(name);
    checkOptions(subcommand, args);
    if (operands.length < subcommand.operands.min || operands.length > subcommand.operands.max) {
      throw usageError(`meshpath rules ${subcommand.name} was not given what it takes.`, `Its usage is: meshpath rules ${subcommand.name} ${subcommand.usage}`);
    }
    return subcommand.run({ ...context, arguments: { ...args, operands } });
  },
};

function findSubcommand(name: string): RulesSubcommand {
  const found = SUBCOMMANDS.find((candidate) => candidate.name === name);
  if (found === undefined) {
    throw usageError(`meshpath rules does not know '${escapeText(name.slice(0, 40))}'.`, `It knows ${SUBCOMMANDS.map((candidate) => candidate.name).join(', ')}.`);
  }
  return found;
}

/** An option of another subcommand would be overlooked in silence otherwise. */
function checkOptions(subcommand: RulesSubcommand, args: CommandContext['arguments']): void {
  const foreign = Object.keys(rulesCommand.options).find(
    (name) => !Object.hasOwn(subcommand.options, name) && (args.flag(name) || args.texts(name).length > 0),
  );
  if (foreign !== undefined) {
    throw usageError(`meshpath rules ${subcommand.name} has no option --${foreign}.`, 'It belongs to another part of meshpath rules.');
  }
}

function usageError(message: string, reason: string): Error {
  return inputError(message, reason, 'Run meshpath rules --help to see what can be given.');
}
