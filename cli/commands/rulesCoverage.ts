import { explainFlow } from '../../simulator/explain/explainRules.ts';
import { countRuleUses } from '../../simulator/explain/ruleCoverage.ts';
import type { RuleUse } from '../../simulator/explain/ruleCoverage.ts';
import { buildWorld } from '../../simulator/world/world.ts';
import { EXIT_FAILED, EXIT_OK } from '../command.ts';
import type { Command } from '../command.ts';
import { writeJson, writeLines } from '../output.ts';
import { readFlows, readRulesWorld, RULES_WORLD_OPTIONS } from '../rulesWorld.ts';
import { formatTable } from '../text/table.ts';

export const rulesCoverageCommand: Command = {
  name: 'rules coverage',
  summary: 'Count which rules flows meet, and which none of them does.',
  usage: 'FILE --flow FLOW',
  operands: { min: 1, max: 1 },
  description: [
    'Lets flows meet the rules in FILE (- is standard input) and counts for every rule how many of their packets were compared with it and how many it matched, answers included. Flows and the world are written as for meshpath explain --rules. Connections meet table nat with their first packet only.',
  ],
  options: {
    ...RULES_WORLD_OPTIONS,
    never: { type: 'boolean', description: 'Show only rules that matched no packet.' },
  },
  run: async ({ arguments: args, output, note }) => {
    const [path = ''] = args.operands;
    const { snapshot, flows, isWhole } = await readRulesWorld({ arguments: args, note }, path, readFlows(args));
    const world = buildWorld(snapshot);
    const uses = countRuleUses(snapshot.namespaces[0]?.ruleSets ?? [], flows.map((flow) => explainFlow(world, flow).steps));
    const shown = args.flag('never') ? uses.filter(({ matched, unknown }) => matched + unknown === 0) : uses;
    if (args.flag('json')) {
      await writeJson(output, shown);
    } else {
      await writeLines(output, formatTable([{ title: 'compared', align: 'right' }, { title: 'matched', align: 'right' }, { title: 'table' }, { title: 'rule' }], shown.map(formatUse), output));
    }
    return isWhole ? EXIT_OK : EXIT_FAILED;
  },
};

function formatUse({ compared, matched, unknown, table, family, text }: RuleUse): string[] {
  return [String(compared), unknown === 0 ? String(matched) : `${matched} to ${matched + unknown}`, family === 'ipv4' ? table : `${table} (IPv6)`, text];
}
