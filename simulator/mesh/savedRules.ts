import { BUILT_IN_CHAINS, isTableName } from '../netfilter/ruleSet.ts';
import { readRuleSet } from '../netfilter/readRuleSet.ts';
import { writeRuleSet } from '../netfilter/writeRuleSet.ts';

/** Gives rules for iptables-restore as iptables-save prints them once they are in tables that were empty. */
export function formatSavedRules(restoreText: string): string {
  const declared = restoreText
    .split('\n')
    .flatMap((line) => {
      const table = /^\* ?(\w+)$/.exec(line)?.[1];
      return table === undefined || !isTableName(table) ? [line] : [line, ...BUILT_IN_CHAINS[table].map((chain) => `:${chain} ACCEPT [0:0]`)];
    })
    .join('\n');
  return writeRuleSet(readRuleSet(declared), { counters: false });
}
