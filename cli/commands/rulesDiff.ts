import type { RulePlace } from '../../agent/protocol/trace.ts';
import { explainFlow } from '../../simulator/explain/explainRules.ts';
import { compareFlows } from '../../simulator/explain/flowDifference.ts';
import type { FlowDifference } from '../../simulator/explain/flowDifference.ts';
import { buildWorld } from '../../simulator/world/world.ts';
import { EXIT_FAILED, EXIT_OK } from '../command.ts';
import type { Command } from '../command.ts';
import { writeJson, writeLines } from '../output.ts';
import { readFlows, readRulesWorld, RULES_WORLD_OPTIONS } from '../rulesWorld.ts';
import { escapeText } from '../text/escape.ts';
import type { Style } from '../text/style.ts';

export const rulesDiffCommand: Command = {
  name: 'rules diff',
  summary: 'Compare what flows come to under two rule sets.',
  usage: 'OLD NEW --flow FLOW',
  operands: { min: 2, max: 2 },
  description: [
    'Lets the same flows meet the rules in OLD and in NEW, in the same world, and says for each whether anything is different: whether it is delivered, where each of its packets ends and with which addresses, who takes it. Flows and the world are written as for meshpath explain --rules. The exit code is 0 where nothing differs, and 1 where something does or cannot be said.',
  ],
  options: RULES_WORLD_OPTIONS,
  run: async ({ arguments: args, output, note }) => {
    const [before = '', after = ''] = args.operands;
    const flows = readFlows(args);
    const old = await readRulesWorld({ arguments: args, note }, before, flows);
    const newer = await readRulesWorld({ arguments: args, note }, after, flows);
    const [oldNamespace] = old.snapshot.namespaces;
    const newRules = newer.snapshot.namespaces[0]?.ruleSets ?? [];
    // Both meet the world of the first; one that was taken from flows and rules would differ by the rules.
    const worlds = [buildWorld(old.snapshot), buildWorld({ ...old.snapshot, namespaces: oldNamespace === undefined ? [] : [{ ...oldNamespace, ruleSets: newRules, sockets: newer.snapshot.namespaces[0]?.sockets ?? [] }] })] as const;
    const results = flows.map((flow) => ({ flow: flow.text, ...compareFlows(explainFlow(worlds[0], flow), explainFlow(worlds[1], flow)) }));
    if (args.flag('json')) {
      await writeJson(output, results);
    } else {
      await writeLines(output, results.flatMap((result) => formatDifference(result, output.style)));
    }
    return old.isWhole && newer.isWhole && results.every(({ result }) => result === 'same') ? EXIT_OK : EXIT_FAILED;
  },
};

function formatDifference({ flow, result, differences, onlyBefore, onlyAfter }: FlowDifference & { readonly flow: string }, style: Style): string[] {
  const word = { same: style.good('the same'), different: style.bad('different'), unknown: style.warning('cannot be said') }[result];
  const rules = (sign: string, places: readonly RulePlace[]): string[] => places.map(({ table, text, chain, rule }) => `  ${sign} ${table} ${rule === null ? `policy of ${escapeText(chain)}` : escapeText(text)}`);
  return [`${style.bold(escapeText(flow))}: ${word}`, ...differences.map((sentence) => `  ${escapeText(sentence)}`), ...rules('-', onlyBefore), ...rules('+', onlyAfter)];
}
