import { readRuleSet } from '../../simulator/netfilter/readRuleSet.ts';
import { writeRuleSet } from '../../simulator/netfilter/writeRuleSet.ts';
import { EXIT_FAILED, EXIT_OK } from '../command.ts';
import type { Command } from '../command.ts';
import { writeJson } from '../output.ts';
import { readRulesFile } from '../rulesFile.ts';
import { formatProblem, isReadable, READING_OPTIONS, readingOptions, ruleSetJson, tellDamage } from '../rulesText.ts';

export const rulesPrintCommand: Command = {
  name: 'rules print',
  summary: 'Print a rule set as iptables-save would.',
  usage: 'FILE',
  operands: { min: 1, max: 1 },
  description: [
    'Reads what iptables-save printed or iptables-restore takes, from FILE or standard input (-), and prints it as iptables-save would once the kernel has it. What cannot be read is told on standard error with its place, and the exit code is 1 then.',
  ],
  options: {
    ...READING_OPTIONS,
    counters: { type: 'boolean', short: 'c', description: 'Print the counters of rules too, where they are known.' },
  },
  run: async ({ arguments: args, output, note }) => {
    const [path = ''] = args.operands;
    const options = readingOptions(args);
    const { text, isDamaged } = await readRulesFile(path);
    const ruleSet = readRuleSet(text, options);
    if (args.flag('json')) {
      await writeJson(output, ruleSetJson(ruleSet));
    } else {
      await output.write(writeRuleSet(ruleSet, { counters: args.flag('counters') }));
      ruleSet.problems.map((problem) => formatProblem(path, problem)).forEach(note);
    }
    tellDamage(isDamaged, note);
    return isReadable(ruleSet.problems) && !isDamaged ? EXIT_OK : EXIT_FAILED;
  },
};
