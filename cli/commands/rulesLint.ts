import type { RuleFinding } from '../../simulator/netfilter/lintRuleSet.ts';
import { lintRuleSet } from '../../simulator/netfilter/lintRuleSet.ts';
import { readRuleSet } from '../../simulator/netfilter/readRuleSet.ts';
import { EXIT_FAILED, EXIT_OK } from '../command.ts';
import type { Command } from '../command.ts';
import { writeJson, writeLines } from '../output.ts';
import { readRulesFile } from '../rulesFile.ts';
import { formatProblem, isReadable, READING_OPTIONS, readingOptions, tellDamage } from '../rulesText.ts';
import { escapeText } from '../text/escape.ts';

export const rulesLintCommand: Command = {
  name: 'rules lint',
  summary: 'Find the rules of a rule set that can never match.',
  usage: 'FILE',
  operands: { min: 1, max: 1 },
  description: [
    'Finds rules that can never match and says why, chains that nothing reaches, and what cannot be read. The exit code is 0 where nothing was found, and 1 where something was.',
  ],
  options: READING_OPTIONS,
  run: async ({ arguments: args, output, note }) => {
    const [path = ''] = args.operands;
    const options = readingOptions(args);
    const { text, isDamaged } = await readRulesFile(path);
    const ruleSet = readRuleSet(text, options);
    const findings = lintRuleSet(ruleSet);
    if (args.flag('json')) {
      await writeJson(output, { problems: ruleSet.problems, findings });
    } else {
      await writeLines(output, [...ruleSet.problems.map((problem) => formatProblem(path, problem)), ...findings.flatMap((finding) => formatFinding(path, finding))]);
    }
    tellDamage(isDamaged, note);
    return findings.length === 0 && isReadable(ruleSet.problems) && !isDamaged ? EXIT_OK : EXIT_FAILED;
  },
};

function formatFinding(path: string, { line, column, code, message, reason, remedy }: RuleFinding): string[] {
  return [
    `${escapeText(path)}:${line}:${column}: ${escapeText(message)} (${code})`,
    `  Why:   ${escapeText(reason)}`,
    `  To do: ${escapeText(remedy)}`,
  ];
}
