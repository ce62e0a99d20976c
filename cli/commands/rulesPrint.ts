import { readCommandLines } from '../../simulator/netfilter/readCommandLines.ts';
import { readRuleSet } from '../../simulator/netfilter/readRuleSet.ts';
import type { RuleSetOptions } from '../../simulator/netfilter/readRuleSet.ts';
import type { ParsedRuleSet } from '../../simulator/netfilter/ruleSet.ts';
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
    commands: { type: 'boolean', description: 'Read lines of a shell script or log that call iptables and ip6tables instead.' },
    counters: { type: 'boolean', short: 'c', description: 'Print the counters of rules too, where they are known.' },
  },
  run: async ({ arguments: args, output, note }) => {
    const [path = ''] = args.operands;
    const options = readingOptions(args);
    const { text, isDamaged } = await readRulesFile(path);
    const ruleSets = args.flag('commands') ? commandRuleSets(text, options) : [readRuleSet(text, options)];
    const problems = ruleSets.flatMap((ruleSet) => ruleSet.problems);
    if (args.flag('json')) {
      await writeJson(output, args.flag('commands') ? ruleSets.map(ruleSetJson) : ruleSets.map(ruleSetJson)[0]);
    } else {
      await output.write(ruleSets.map((ruleSet) => writeRuleSet(ruleSet, { counters: args.flag('counters') })).join(''));
      problems.map((problem) => formatProblem(path, problem)).forEach(note);
    }
    tellDamage(isDamaged, note);
    return isReadable(problems) && !isDamaged ? EXIT_OK : EXIT_FAILED;
  },
};

/** The rules of iptables, then those of ip6tables where there are some; one family alone where that is wanted. */
function commandRuleSets(text: string, { backend, family }: RuleSetOptions): readonly ParsedRuleSet[] {
  const { ipv4, ipv6 } = readCommandLines(text, backend === undefined ? {} : { backend });
  return [ipv4, ipv6].filter((ruleSet) => (family === undefined ? ruleSet.tables.length > 0 || ruleSet.problems.length > 0 : ruleSet.family === family));
}
