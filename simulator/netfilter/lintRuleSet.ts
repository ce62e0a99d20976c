import type { Hook, TableName } from '../../agent/protocol/trace.ts';
import { followJumps, jumpOrder } from './checkTable.ts';
import type { Literal } from './ruleLiteral.ts';
import { changesPackets, impossibleAt, implies, isEmpty, literalsOf, negate } from './ruleLiteral.ts';
import type { AddressFamily, Chain, ParsedRuleSet, Rule, Table, Target } from './ruleSet.ts';
import { BUILT_IN_CHAINS, UNREADABLE_RULE } from './ruleSet.ts';

/** What lintRuleSet finds. */
export type FindingCode =
  /** Rules before it take every packet that it could match. */
  | 'shadowed'
  /** A rule before it takes every packet. */
  | 'after-unconditional'
  /** Its own conditions, or those of the rules that lead to its chain, exclude each other. */
  | 'contradiction'
  /** A condition cannot hold where the chain is reached from. */
  | 'impossible-here'
  /** No rule that packets reach leads to the chain. */
  | 'unreachable-chain'
  /** It jumps to a chain without rules. */
  | 'empty-chain'
  /** The same rule stands before it. */
  | 'duplicate'
  /** A rule takes every packet before the policy is asked. */
  | 'unused-policy'
  /** The table is too large to compare every rule with those before it. */
  | 'not-compared';

/** A rule or chain that does not do what it seems to do. */
export interface RuleFinding {
  readonly code: FindingCode;
  readonly table: TableName;
  readonly chain: string;
  /** From 1; null where the whole chain is meant. */
  readonly position: number | null;
  /** In the text, from 1; 1 where the text does not declare the chain. */
  readonly line: number;
  /** From 1, in UTF-16 units. */
  readonly column: number;
  readonly length: number;
  readonly message: string;
  readonly reason: string;
  readonly remedy: string;
  /** The lines of other rules that the reason rests on. */
  readonly relatedLines: readonly number[];
}

/** How many pairs of rules are compared in one table; enough for chains of about 3,000 rules that all decide. */
const MAX_COMPARISONS = 5_000_000;
/** How often what is known of a packet is looked through again for one rule. */
const MAX_ROUNDS = 4;

/**
 * Finds rules that can never match, and says why: only what is certain is told, for every packet and whatever is not
 * known of it. Rules with conditions that change with time, counters or marks set by the same table are never the
 * reason. Pure; findings come in the order of the text.
 */
export function lintRuleSet(ruleSet: ParsedRuleSet): readonly RuleFinding[] {
  return ruleSet.tables.flatMap((table) => new TableLint(table, ruleSet.family).run()).toSorted((left, right) => left.line - right.line || left.column - right.column);
}

interface KnownRule {
  readonly rule: Rule;
  readonly position: number;
  readonly literals: readonly Literal[];
  /** False where a condition is not known well enough for the rule to be a reason. */
  readonly isWhole: boolean;
  readonly isUnreadable: boolean;
  /** Whether a packet that it matches never meets the next rule. */
  readonly takes: boolean;
}

class TableLint {
  readonly #table: Table;
  readonly #family: AddressFamily;
  readonly #findings: RuleFinding[] = [];
  readonly #isSteady: boolean;
  readonly #absorbing = new Set<string>();
  /** What every packet that enters a chain fits. */
  readonly #entry = new Map<string, readonly Literal[]>();
  #comparisons = 0;

  constructor(table: Table, family: AddressFamily) {
    this.#table = table;
    this.#family = family;
    this.#isSteady = !changesPackets(table);
  }

  run(): readonly RuleFinding[] {
    const { hooks, loops } = followJumps(this.#table);
    if (loops.length > 0) {
      return [];
    }
    const order = jumpOrder(this.#table);
    for (const chain of order.toReversed()) {
      if (absorbs(chain, this.#absorbing)) {
        this.#absorbing.add(chain.name);
      }
    }
    for (const chain of order) {
      const reached = hooks.get(chain.name);
      if (reached === undefined) {
        this.#reportUnreachable(chain);
      } else {
        this.#lintChain(chain, reached);
      }
    }
    if (this.#comparisons > MAX_COMPARISONS) {
      this.#findings.push({
        code: 'not-compared', table: this.#table.name, chain: '', position: null, line: 1, column: 1, length: 0, relatedLines: [],
        message: `Not every rule of ${this.#table.name} was compared with those before it.`,
        reason: `There are more than ${MAX_COMPARISONS} pairs of rules.`,
        remedy: 'Look at the table in parts.',
      });
    }
    return this.#findings;
  }

  #lintChain(chain: Chain, hooks: ReadonlySet<Hook>): void {
    const known = chain.rules.map((rule, index): KnownRule => {
      const isUnreadable = rule.target.kind === 'unknown' && rule.target.name === UNREADABLE_RULE;
      return { rule, position: index + 1, ...literalsOf(rule, this.#isSteady, this.#family), isUnreadable, takes: !isUnreadable && takesPackets(rule.target, this.#absorbing) };
    });
    const entry = this.#entry.get(chain.name) ?? [];
    const seen = new Map<string, KnownRule>();
    const takers: KnownRule[] = [];
    let wall: KnownRule | undefined;
    for (const own of known) {
      const reasons = own.isUnreadable ? null : this.#whyNever(own, chain, hooks, entry, takers, wall);
      if (reasons !== null) {
        this.#findings.push(this.#findingOf(chain, own, reasons));
        continue;
      }
      const twin = seen.get(own.rule.text);
      if (twin !== undefined && !own.isUnreadable && own.isWhole) {
        this.#findings.push(this.#findingOf(chain, own, {
          code: 'duplicate', message: `Rule ${own.position} of ${chain.name} is the same as rule ${twin.position}.`,
          reason: `Both are '${own.rule.text}'.`, remedy: 'Delete one of them, unless it is meant to be done twice.', related: [twin.rule.line],
        }));
      }
      seen.set(own.rule.text, own);
      this.#lintTarget(chain, own);
      this.#enter(own, entry);
      if (own.takes && own.isWhole) {
        takers.push(own);
        if (own.literals.length === 0) {
          wall ??= own;
        }
      }
    }
    if (wall !== undefined && chain.policy === 'DROP' && wall.rule.target.kind === 'accept') {
      this.#findings.push({
        ...this.#findingOf(chain, wall, {
          code: 'unused-policy', message: `The policy DROP of ${chain.name} is never asked.`,
          reason: `Rule ${wall.position}, '${wall.rule.text}', accepts every packet before.`, remedy: 'Make the policy ACCEPT, or give the rule conditions.', related: [],
        }),
      });
    }
  }

  #whyNever(own: KnownRule, chain: Chain, hooks: ReadonlySet<Hook>, entry: readonly Literal[], takers: readonly KnownRule[], wall: KnownRule | undefined): Reasons | null {
    const name = `Rule ${own.position} of ${chain.name}`;
    if (wall !== undefined) {
      return { code: 'after-unconditional', message: `${name} is never asked.`, reason: `Rule ${wall.position} before it, '${wall.rule.text}', takes every packet.`, remedy: 'Delete the rule, or move it up.', related: [wall.rule.line] };
    }
    const impossible = own.rule.matches.map((match) => impossibleAt(match, hooks, this.#table.name)).find((reason) => reason !== null);
    if (typeof impossible === 'string') {
      return { code: 'impossible-here', message: `${name} can never match.`, reason: `In this place ${impossible}.`, remedy: 'Delete the condition, or put the rule into a chain where it can hold.', related: [] };
    }
    if (own.literals.some(isEmpty) || hasContradiction(own.literals)) {
      return { code: 'contradiction', message: `${name} can never match.`, reason: 'Its conditions exclude each other, or one of them fits no packet.', remedy: 'Correct the conditions, or delete the rule.', related: [] };
    }
    const facts = [...own.literals, ...entry];
    if (hasContradiction(facts)) {
      return { code: 'contradiction', message: `${name} can never match.`, reason: `Packets come to ${chain.name} only by rules whose conditions exclude its own.`, remedy: 'Correct the conditions, or delete the rule.', related: [] };
    }
    return this.#whyShadowed(name, own, facts, takers);
  }

  #whyShadowed(name: string, own: KnownRule, known: readonly Literal[], takers: readonly KnownRule[]): Reasons | null {
    const isOfTransport = own.literals.some((literal) => literal.isOfTransport);
    let reasons = this.#takenBy(known, takers, isOfTransport);
    if (reasons === null) {
      return null;
    }
    for (const reason of reasons) {
      const fewer = this.#takenBy(known, reasons.filter((other) => other !== reason), isOfTransport);
      reasons = fewer ?? reasons;
    }
    const sorted = reasons.toSorted((left, right) => left.position - right.position);
    return {
      code: 'shadowed', message: `${name} can never match.`,
      reason: `Every packet that it could match is taken before by ${sorted.map(({ position, rule }) => `rule ${position}, '${rule.text}'`).join(', and ')}.`,
      remedy: 'Delete the rule, or move it up.', related: sorted.map(({ rule }) => rule.line),
    };
  }

  /**
   * Gives the rules that together take every packet of which the facts are certain; null where they may leave one. A rule
   * of which all conditions but one are certain tells that the last one fails for packets that come further, and that is
   * certain then too. Later fragments fail what looks into TCP or UDP, negated or not: only where none come does it follow.
   */
  #takenBy(known: readonly Literal[], takers: readonly KnownRule[], isOfTransport: boolean): readonly KnownRule[] | null {
    const facts = [...known];
    const used = new Set<KnownRule>();
    for (let round = 0; round < MAX_ROUNDS; round += 1) {
      const before = facts.length;
      for (const taker of takers) {
        this.#comparisons += 1;
        if (this.#comparisons > MAX_COMPARISONS) {
          return null;
        }
        const open = used.has(taker) ? null : openLiteral(taker.literals, facts);
        if (open === undefined) {
          return [...used, taker];
        }
        if (open !== null && (!open.isOfTransport || isOfTransport) && !implied(facts, negate(open))) {
          facts.push(negate(open));
          used.add(taker);
        }
      }
      if (facts.length === before) {
        return null;
      }
    }
    return null;
  }

  #lintTarget(chain: Chain, own: KnownRule): void {
    const { target } = own.rule;
    const next = target.kind === 'chain' ? this.#table.chains.get(target.name) : undefined;
    if (next?.rules.length === 0 && target.kind === 'chain') {
      this.#findings.push(this.#findingOf(chain, own, {
        code: 'empty-chain', message: `Rule ${own.position} of ${chain.name} ${target.goto ? 'goes' : 'jumps'} to a chain without rules.`,
        reason: `The chain ${target.name} is empty: packets ${target.goto ? `leave ${chain.name} and nothing else happens` : 'come back at once'}.`, remedy: 'Fill the chain, or delete the rule.', related: [],
      }));
    }
  }

  /** Notes what is certain of packets that a jump takes into a chain. */
  #enter(own: KnownRule, entry: readonly Literal[]): void {
    const { target } = own.rule;
    if (target.kind !== 'chain') {
      return;
    }
    const facts = [...own.literals, ...entry];
    const others = this.#entry.get(target.name);
    this.#entry.set(target.name, others === undefined ? facts : [...others.filter((fact) => implied(facts, fact)), ...facts.filter((fact) => implied(others, fact) && !others.includes(fact))]);
  }

  #reportUnreachable(chain: Chain): void {
    const first = chain.rules[0];
    const hook = (BUILT_IN_CHAINS[this.#table.name] as readonly string[]).includes(chain.name);
    if (hook) {
      return;
    }
    this.#findings.push({
      code: 'unreachable-chain', table: this.#table.name, chain: chain.name, position: null, line: chain.line > 0 ? chain.line : (first?.line ?? 1), column: 1, length: 0, relatedLines: [],
      message: `Nothing reaches the chain ${chain.name} of ${this.#table.name}.`,
      reason: 'No rule of a chain that packets reach jumps to it.',
      remedy: 'Delete the chain, or add the jump that is missing.',
    });
  }

  #findingOf(chain: Chain, { rule, position }: KnownRule, { code, message, reason, remedy, related }: Reasons): RuleFinding {
    return { code, table: this.#table.name, chain: chain.name, position, line: rule.line, column: rule.column, length: rule.length, message, reason, remedy, relatedLines: related };
  }
}

interface Reasons {
  readonly code: FindingCode;
  readonly message: string;
  readonly reason: string;
  readonly remedy: string;
  readonly related: readonly number[];
}

/** Gives the one condition of a rule that is not certain; undefined where all are, null where more than one is not. */
function openLiteral(literals: readonly Literal[], facts: readonly Literal[]): Literal | undefined | null {
  let open: Literal | undefined;
  for (const literal of literals) {
    if (!implied(facts, literal)) {
      if (open !== undefined) {
        return null;
      }
      open = literal;
    }
  }
  return open;
}

function implied(facts: readonly Literal[], wanted: Literal): boolean {
  for (const fact of facts) {
    if (fact.dimension === wanted.dimension && implies(fact, wanted)) {
      return true;
    }
  }
  return false;
}

function hasContradiction(facts: readonly Literal[]): boolean {
  return facts.some((fact, index) => facts.some((other, otherIndex) => otherIndex > index && other.dimension === fact.dimension && implies(fact, negate(other))));
}

/** Says whether a packet that a rule matches never meets the rule after it. */
function takesPackets(target: Target, absorbing: ReadonlySet<string>): boolean {
  switch (target.kind) {
    case 'accept':
    case 'drop':
    case 'reject':
    case 'return':
    case 'redirect':
    case 'dnat':
    case 'snat':
    case 'masquerade':
    case 'tproxy':
      return true;
    case 'chain':
      return target.goto || absorbing.has(target.name);
    default:
      return false;
  }
}

/** Says whether every packet that enters a chain is decided in it: none returns. Chains that it jumps to are known before. */
function absorbs(chain: Chain, absorbing: ReadonlySet<string>): boolean {
  for (const rule of chain.rules) {
    const { target } = rule;
    if (target.kind === 'return' || target.kind === 'unknown' || target.kind === 'extension' || (target.kind === 'chain' && target.goto && !absorbing.has(target.name))) {
      return false;
    }
    const decides = takesPackets(target, absorbing);
    if (decides && rule.matches.every(({ kind }) => kind === 'comment' || kind === 'module')) {
      return true;
    }
  }
  return false;
}
