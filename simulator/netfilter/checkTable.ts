import type { Hook, TableName } from '../../agent/protocol/trace.ts';
import type { Extension } from './extension.ts';
import type { Backend, Chain, Rule, RuleProblem } from './ruleSet.ts';
import { BUILT_IN_CHAINS } from './ruleSet.ts';
import type { Word } from './words.ts';
import { shorten } from './wordReader.ts';

/** An extension of a rule that not every table and hook may have. */
export interface RuleConstraint {
  readonly extension: Extension;
  readonly place: Word;
  /** Its options, each with its argument as it is printed. */
  readonly options: readonly string[];
}

export interface CheckedTable {
  readonly name: TableName;
  readonly chains: ReadonlyMap<string, Chain>;
}

/** NFT_JUMP_STACK_SIZE (include/net/netfilter/nf_tables.h): nft follows so many jumps from a base chain, legacy any number. */
const MAX_NFT_JUMPS = 16;

/**
 * Finds what the kernel refuses of a table as a whole: jumps that come back to where they came from
 * (net/ipv4/netfilter/ip_tables.c, mark_source_chains; nf_tables_api.c, nft_chain_validate), jumps that go too deep, and
 * extensions in tables or behind hooks where they may not be (x_tables.c, xt_check_match). What no hook reaches may be anything.
 */
export function checkTable(table: CheckedTable, constraints: ReadonlyMap<Rule, readonly RuleConstraint[]>, backend: Backend): RuleProblem[] {
  const problems: RuleProblem[] = [];
  const { hooks, loops, tooDeep } = followJumps(table);
  for (const rule of loops) {
    problems.push(problemOf(rule, 'The jump leads back to a chain that packets came from: the kernel refuses loops.', 'chains that do not jump in a circle'));
  }
  if (backend === 'nft') {
    for (const rule of tooDeep) {
      problems.push(problemOf(rule, `The jump goes deeper than nft follows: ${MAX_NFT_JUMPS} chains.`, 'fewer chains that jump to each other'));
    }
  }
  for (const chain of table.chains.values()) {
    const reached = hooks.get(chain.name) ?? new Set();
    for (const rule of chain.rules) {
      for (const constraint of constraints.get(rule) ?? []) {
        const problem = checkConstraint(table.name, reached, rule, constraint, backend);
        if (problem !== null) {
          problems.push(problem);
        }
      }
    }
  }
  return problems;
}

function checkConstraint(table: TableName, reached: ReadonlySet<Hook>, rule: Rule, { extension, place, options }: RuleConstraint, backend: Backend): RuleProblem | null {
  const { name, tables } = extension;
  const isAnywhere = backend === 'nft' && name === 'TRACE';
  if (tables !== undefined && !tables.includes(table) && !isAnywhere) {
    return problemAt(rule, place, `The kernel does not take ${name} in the table ${table}.`, `the table ${tables.join(' or ')}`);
  }
  const allowed = allowedHooks(extension, options);
  const wrong = allowed === null ? undefined : [...reached].find((hook) => !allowed.includes(hook));
  return wrong === undefined || allowed === null ? null : problemAt(rule, place, `The kernel does not take ${name} where packets come from ${wrong}.`, `a chain that packets reach from ${allowed.join(', ')} only`);
}

/** The hooks that an extension may be behind; for some it depends on their options. */
function allowedHooks({ name, hooks }: Extension, options: readonly string[]): readonly Hook[] | null {
  switch (name) {
    case 'policy':
      return options.includes('dir out') ? ['FORWARD', 'OUTPUT', 'POSTROUTING'] : ['PREROUTING', 'INPUT', 'FORWARD'];
    case 'TCPMSS':
      return options.includes('clamp-mss-to-pmtu') ? ['FORWARD', 'OUTPUT', 'POSTROUTING'] : null;
    case 'addrtype':
      return options.includes('limit-iface-in') ? ['PREROUTING', 'INPUT', 'FORWARD'] : options.includes('limit-iface-out') ? ['FORWARD', 'OUTPUT', 'POSTROUTING'] : null;
    case 'physdev':
      return options.some((option) => option === 'physdev-is-out' || option.startsWith('physdev-out ')) && !options.includes('physdev-is-bridged') ? ['PREROUTING', 'INPUT', 'FORWARD', 'POSTROUTING'] : null;
    default:
      return hooks ?? null;
  }
}

export interface JumpResult {
  /** The hooks from which packets reach each chain. */
  readonly hooks: ReadonlyMap<string, ReadonlySet<Hook>>;
  readonly loops: readonly Rule[];
  readonly tooDeep: readonly Rule[];
}

/** Follows every jump once for each hook, without recursion: chains may be nested many thousands deep. */
export function followJumps(table: CheckedTable): JumpResult {
  const hooks = new Map<string, Set<Hook>>();
  const loops = new Set<Rule>();
  const tooDeep = new Set<Rule>();
  for (const hook of BUILT_IN_CHAINS[table.name]) {
    const base = table.chains.get(hook);
    if (base !== undefined) {
      followFrom(table, base, hook, hooks, loops);
    }
  }
  if (loops.size === 0) {
    findDeepJumps(table, tooDeep);
  }
  return { hooks, loops: [...loops], tooDeep: [...tooDeep] };
}

function followFrom(table: CheckedTable, base: Chain, hook: Hook, hooks: Map<string, Set<Hook>>, loops: Set<Rule>): void {
  const open = new Set([base.name]);
  const stack: { readonly chain: Chain; next: number }[] = [{ chain: base, next: 0 }];
  mark(hooks, base.name, hook);
  for (let frame = stack.at(-1); frame !== undefined; frame = stack.at(-1)) {
    const rule = frame.chain.rules[frame.next];
    frame.next += 1;
    if (rule === undefined) {
      open.delete(frame.chain.name);
      stack.pop();
      continue;
    }
    const target = rule.target.kind === 'chain' ? table.chains.get(rule.target.name) : undefined;
    if (target === undefined) {
      continue;
    }
    if (open.has(target.name)) {
      loops.add(rule);
    } else if (mark(hooks, target.name, hook)) {
      open.add(target.name);
      stack.push({ chain: target, next: 0 });
    }
  }
}

/** Gives the longest way to each chain in the order of jumps; there are no loops. */
function findDeepJumps(table: CheckedTable, tooDeep: Set<Rule>): void {
  const depth = new Map<string, number>(BUILT_IN_CHAINS[table.name].map((name) => [name, 0]));
  for (const chain of jumpOrder(table)) {
    const own = depth.get(chain.name);
    if (own === undefined) {
      continue;
    }
    for (const rule of chain.rules) {
      if (rule.target.kind === 'chain') {
        // A goto does not come back, so nothing is kept for it.
        const next = own + (rule.target.goto ? 0 : 1);
        depth.set(rule.target.name, Math.max(next, depth.get(rule.target.name) ?? 0));
        if (next >= MAX_NFT_JUMPS) {
          tooDeep.add(rule);
        }
      }
    }
  }
}

/** Gives the chains of a table so that each comes before those that it jumps to. */
export function jumpOrder(table: CheckedTable): readonly Chain[] {
  const finished: Chain[] = [];
  const seen = new Set<string>();
  for (const start of table.chains.values()) {
    if (seen.has(start.name)) {
      continue;
    }
    seen.add(start.name);
    const stack: { readonly chain: Chain; next: number }[] = [{ chain: start, next: 0 }];
    for (let frame = stack.at(-1); frame !== undefined; frame = stack.at(-1)) {
      const rule = frame.chain.rules[frame.next];
      frame.next += 1;
      if (rule === undefined) {
        finished.push(frame.chain);
        stack.pop();
        continue;
      }
      const target = rule.target.kind === 'chain' ? table.chains.get(rule.target.name) : undefined;
      if (target !== undefined && !seen.has(target.name)) {
        seen.add(target.name);
        stack.push({ chain: target, next: 0 });
      }
    }
  }
  return finished.toReversed();
}

function mark(hooks: Map<string, Set<Hook>>, chain: string, hook: Hook): boolean {
  const reached = hooks.get(chain) ?? new Set<Hook>();
  hooks.set(chain, reached);
  if (reached.has(hook)) {
    return false;
  }
  reached.add(hook);
  return true;
}

function problemOf(rule: Rule, message: string, expected: string): RuleProblem {
  return { severity: 'error', line: rule.line, column: rule.column, length: rule.length, message, expected, found: shorten(rule.text) };
}

function problemAt(rule: Rule, place: Word, message: string, expected: string): RuleProblem {
  return { severity: 'error', line: rule.line, column: place.column, length: place.length, message, expected, found: shorten(place.text) };
}
