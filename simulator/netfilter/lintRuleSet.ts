import type { TableName } from '../../agent/protocol/trace.ts';
import type { ParsedRuleSet, Rule, Table } from './ruleSet.ts';
import { BUILT_IN_CHAINS } from './ruleSet.ts';

/** What lintRuleSet finds. */
export type FindingCode = 'after-unconditional' | 'unreachable-chain';

/** A rule or chain that does not do what it seems to do. */
export interface RuleFinding {
  readonly code: FindingCode;
  readonly table: TableName;
  readonly chain: string;
  /** From 1; null where the whole chain is meant. */
  readonly position: number | null;
  /** In the text, from 1; 1 where the text does not declare the chain. */
  readonly line: number;
  readonly column: number;
  readonly message: string;
  readonly reason: string;
  readonly remedy: string;
}

/** Finds rules that can never match, and says why: only what is certain is told. Pure; findings come in the order of the text. */
export function lintRuleSet(ruleSet: ParsedRuleSet): readonly RuleFinding[] {
  return ruleSet.tables.flatMap((table) => [...lintChains(table), ...lintOrder(table)]).toSorted((left, right) => left.line - right.line);
}

function* lintOrder(table: Table): Generator<RuleFinding> {
  for (const chain of table.chains.values()) {
    const end = chain.rules.findIndex(endsChain);
    const ending = chain.rules[end];
    for (const [index, rule] of end < 0 || ending === undefined ? [] : chain.rules.entries()) {
      if (index > end) {
        yield {
          code: 'after-unconditional', table: table.name, chain: chain.name, position: index + 1, line: rule.line, column: 1,
          message: `Rule ${index + 1} of ${chain.name} is never asked.`,
          reason: `Rule ${end + 1} before it, '${ending?.text ?? ''}', takes every packet.`,
          remedy: 'Delete the rule, or move it up.',
        };
      }
    }
  }
}

function endsChain(rule: Rule): boolean {
  const ends = ['accept', 'drop', 'return', 'reject'].includes(rule.target.kind) || (rule.target.kind === 'chain' && rule.target.goto);
  return ends && rule.matches.every(({ kind }) => kind === 'comment' || kind === 'module');
}

function* lintChains(table: Table): Generator<RuleFinding> {
  const builtIn: readonly string[] = BUILT_IN_CHAINS[table.name];
  const reached = new Set(builtIn);
  const waiting = [...builtIn];
  for (let name = waiting.pop(); name !== undefined; name = waiting.pop()) {
    for (const { target } of table.chains.get(name)?.rules ?? []) {
      if (target.kind === 'chain' && !reached.has(target.name)) {
        reached.add(target.name);
        waiting.push(target.name);
      }
    }
  }
  for (const chain of table.chains.values()) {
    if (!reached.has(chain.name)) {
      yield {
        code: 'unreachable-chain', table: table.name, chain: chain.name, position: null, line: chain.rules[0]?.line ?? 1, column: 1,
        message: `Nothing reaches the chain ${chain.name} of ${table.name}.`,
        reason: 'No rule of a chain that packets reach jumps to it.',
        remedy: 'Delete the chain, or add the jump that is missing.',
      };
    }
  }
}
