import type { ParsedRuleSet, RuleProblem } from '../simulator/netfilter/ruleSet.ts';
import { escapeText } from './text/escape.ts';

/** Gives a problem of a rule set as one line: `FILE:LINE:COLUMN: what is wrong Expected: …`. */
export function formatProblem(path: string, { line, column, message, expected }: RuleProblem): string {
  return `${escapeText(path)}:${line}:${column}: ${escapeText(message)} Expected: ${escapeText(expected)}.`;
}

/** Says on standard error that a file was not UTF-8. */
export function tellDamage(isDamaged: boolean, note: (line: string) => void): void {
  if (isDamaged) {
    note('Some bytes of the rules are not UTF-8; they are shown as \uFFFD.');
  }
}

/** Gives a rule set as JSON: tables, chains and rules in order, counters as decimal text. */
export function ruleSetJson({ tables, problems }: ParsedRuleSet): unknown {
  return {
    tables: tables.map((table) => ({
      name: table.name,
      chains: [...table.chains.values()].map((chain) => ({ ...chain, counters: plainCounters(chain.counters), rules: chain.rules.map((rule) => ({ ...rule, counters: plainCounters(rule.counters) })) })),
    })),
    problems,
  };
}

function plainCounters(counters: { readonly packets: bigint; readonly bytes: bigint } | null): { packets: string; bytes: string } | null {
  return counters === null ? null : { packets: String(counters.packets), bytes: String(counters.bytes) };
}
