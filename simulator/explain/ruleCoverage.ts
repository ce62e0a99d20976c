import { isIpv4 } from '../../agent/protocol/ipAddress.ts';
import type { RuleSet } from '../../agent/protocol/snapshot.ts';
import type { TraceStep } from '../../agent/protocol/trace.ts';
import { readRuleSet } from '../netfilter/readRuleSet.ts';

/** How often flows met one rule. */
export interface RuleUse {
  readonly family: RuleSet['family'];
  readonly table: string;
  readonly chain: string;
  /** From 1. */
  readonly rule: number;
  /** The line in the rule set, from 1. */
  readonly line: number;
  /** As iptables-save prints it; untrusted text. */
  readonly text: string;
  /** Packets that were compared with it. */
  readonly compared: number;
  /** Packets that it matched. */
  readonly matched: number;
  /** Packets of which it is not known whether it matched them. */
  readonly unknown: number;
}

/** Says of every rule how many packets of traces met it, in the order of the rule sets; rules that none met have zeros. */
export function countRuleUses(ruleSets: readonly RuleSet[], traces: readonly (readonly TraceStep[])[]): readonly RuleUse[] {
  const counts = countSteps(traces);
  return ruleSets.flatMap(({ family, backend, text }) =>
    readRuleSet(text, { family, backend }).tables.flatMap((table) =>
      [...table.chains.values()].flatMap((chain) =>
        chain.rules.map((rule, index): RuleUse => {
          const count = counts.get(useKey(family, table.name, chain.name, index + 1));
          return { family, table: table.name, chain: chain.name, rule: index + 1, line: rule.line, text: rule.text, compared: count?.compared ?? 0, matched: count?.matched ?? 0, unknown: count?.unknown ?? 0 };
        }),
      ),
    ),
  );
}

interface Count {
  compared: number;
  matched: number;
  unknown: number;
}

function countSteps(traces: readonly (readonly TraceStep[])[]): ReadonlyMap<string, Count> {
  const counts = new Map<string, Count>();
  for (const { place, before, conditions } of traces.flat()) {
    if (place.kind !== 'rule' || place.rule === null) {
      continue;
    }
    const key = useKey(isIpv4(before.source.address) ? 'ipv4' : 'ipv6', place.table, place.chain, place.rule);
    const count = counts.get(key) ?? { compared: 0, matched: 0, unknown: 0 };
    const isFailed = conditions.some(({ result }) => result === 'failed');
    const isUnknown = !isFailed && conditions.some(({ result }) => result === 'unknown');
    count.compared += 1;
    count.matched += isFailed || isUnknown ? 0 : 1;
    count.unknown += isUnknown ? 1 : 0;
    counts.set(key, count);
  }
  return counts;
}

function useKey(family: string, table: string, chain: string, rule: number): string {
  return [family, table, chain, rule].join(' ');
}
