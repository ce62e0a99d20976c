import type { Hook } from '../../agent/protocol/trace.ts';
import { ChainIndex, LEAST_INDEXED_RULES } from './chainIndex.ts';
import type { CompiledMatch } from './compileMatch.ts';
import { compileMatch } from './compileMatch.ts';
import type { NamedLists } from './namedLists.ts';
import type { Chain, Rule, Table, Target } from './ruleSet.ts';
import { BUILT_IN_CHAINS } from './ruleSet.ts';
import { writeTarget } from './writeRuleSet.ts';

/** A rule made ready to be compared with many packets. */
export interface CompiledRule {
  readonly rule: Rule;
  /** From 1. */
  readonly position: number;
  /** Its place among all rules of the table, from 0: counters are kept by it. */
  readonly id: number;
  readonly matches: readonly CompiledMatch[];
  readonly target: Target;
  /** The target as text, without its `-j`. */
  readonly targetText: string;
  /** Where the target leads, for a jump; undefined where that chain is missing. */
  readonly next: CompiledChain | undefined;
}

export interface CompiledChain {
  readonly name: string;
  /** What happens at its end; null for a user chain. */
  readonly policy: 'ACCEPT' | 'DROP' | null;
  readonly rules: readonly CompiledRule[];
  /** Finds the rules that a packet may match; null where walking is as quick. */
  readonly index: ChainIndex | null;
}

export interface CompiledTable {
  readonly table: Table;
  /** The chains that packets begin in. */
  readonly bases: ReadonlyMap<Hook, CompiledChain>;
  /** Every rule, by its id. */
  readonly rules: readonly CompiledRule[];
}

interface OpenRule extends CompiledRule {
  next: CompiledChain | undefined;
}

/**
 * Makes a table ready for traversing, once for many packets. With `indexed` false, chains are always walked from rule to
 * rule, as the kernel's own tables are. `lists` says which rules made the lists that rules of this table name.
 */
export function compileTable(table: Table, { indexed = true, lists }: { readonly indexed?: boolean; readonly lists?: NamedLists } = {}): CompiledTable {
  const all: OpenRule[] = [];
  const chains = new Map<string, CompiledChain>();
  for (const chain of table.chains.values()) {
    const rules = chain.rules.map((rule, index): OpenRule => compileRule(rule, index, all.length + index, lists));
    // One by one: there are more than a call takes arguments.
    for (const rule of rules) {
      all.push(rule);
    }
    chains.set(chain.name, { name: chain.name, policy: policyOf(table, chain), rules, index: indexed && rules.length >= LEAST_INDEXED_RULES ? new ChainIndex(rules) : null });
  }
  for (const rule of all) {
    rule.next = rule.target.kind === 'chain' ? chains.get(rule.target.name) : undefined;
  }
  const bases = new Map<Hook, CompiledChain>();
  for (const hook of BUILT_IN_CHAINS[table.name]) {
    const chain = chains.get(hook);
    if (chain !== undefined) {
      bases.set(hook, chain);
    }
  }
  return { table, bases, rules: all };
}

function compileRule(rule: Rule, index: number, id: number, lists: NamedLists | undefined): OpenRule {
  const matches = rule.matches.map((match) => compileMatch(match, rule.matches, lists)).filter((match) => match !== null);
  return { rule, position: index + 1, id, matches, target: rule.target, targetText: writeTarget(rule.target).join(' ').replace(/^-[jg] /, ''), next: undefined };
}

function policyOf(table: Table, chain: Chain): CompiledChain['policy'] {
  return (BUILT_IN_CHAINS[table.name] as readonly string[]).includes(chain.name) ? (chain.policy ?? 'ACCEPT') : null;
}
