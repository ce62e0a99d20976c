import type { Condition, Decision, Hook, PacketState } from '../../agent/protocol/trace.ts';
import { FAILED, MATCHED, UNKNOWN } from './compileMatch.ts';
import type { MatchResult } from './compileMatch.ts';
import type { CompiledChain, CompiledRule, CompiledTable } from './compileTable.ts';
import type { TargetEffect } from './applyTarget.ts';
import { applyTarget } from './applyTarget.ts';
import type { MatchEnvironment } from './matchEnvironment.ts';
import type { Packet, PacketTracking, ZoneRule } from './packet.ts';
import type { Rule, Target } from './ruleSet.ts';

/** How many rules one packet may meet in one table before it is given up: nested jumps can multiply without end. */
const MAX_RULES_VISITED = 100_000;
/** How deep jumps may nest; the kernel refuses rule sets that go deeper long before (net/netfilter/x_tables.c, xt_jumpstack_alloc). */
const MAX_DEPTH = 10_000;
const MAX_FORKS = 64;

/** A NAT target that was met: what it does depends on addresses and routes, which the caller knows. */
export type NatTarget = Extract<Target, { kind: 'redirect' | 'dnat' | 'snat' | 'masquerade' | 'extension' }>;

/** What a table decides for a packet. */
export type TableVerdict =
  | { readonly kind: 'accept' }
  | { readonly kind: 'drop' }
  | { readonly kind: 'reject'; readonly with: string }
  | { readonly kind: 'nat'; readonly target: NatTarget }
  | { readonly kind: 'unknown'; readonly dependsOn: string };

/** One rule, or one policy (`rule` null), that the packet met. */
export interface RuleVisit {
  readonly chain: string;
  readonly rule: Rule | null;
  /** From 1; null for a policy. */
  readonly position: number | null;
  readonly conditions: readonly Condition[];
  readonly decision: Decision;
  readonly reason: string;
  readonly before: PacketState;
  readonly after: PacketState;
}

/** Counts what rules match, by the ids of a compiled table. */
export interface RuleCounters {
  readonly packets: Float64Array;
  readonly bytes: Float64Array;
}

/** What a traversal writes to; both may be absent. */
export interface TraversalSinks {
  /** Gets every rule that the packet meets. Without it only the verdict is found, many times faster. */
  readonly visits: RuleVisit[] | null;
  readonly counters: RuleCounters | null;
}

const NO_SINKS: TraversalSinks = { visits: null, counters: null };

/**
 * Sends a packet through the chain of a table at a hook (net/ipv4/netfilter/ip_tables.c, ipt_do_table); targets change the
 * packet as they go. Where a rule is unknown, both ways are followed: where they end the same, that is the answer, else the
 * verdict is unknown and names what it depends on. Gives null where the table has no chain at this hook.
 */
export function traverseTable(table: CompiledTable, hook: Hook, packet: Packet, environment: MatchEnvironment, sinks: TraversalSinks = NO_SINKS): TableVerdict | null {
  const base = table.bases.get(hook);
  if (base === undefined) {
    return null;
  }
  return new Traversal(table, packet, environment, sinks).run([], base, 0, sinks.visits);
}

interface Frame {
  readonly chain: CompiledChain;
  readonly next: number;
  /** Indices into the candidates of the chain, where it is indexed. */
  readonly candidates: readonly number[] | null;
}

const ACCEPT: TableVerdict = { kind: 'accept' };
const DROP: TableVerdict = { kind: 'drop' };

class Traversal {
  readonly #table: CompiledTable;
  readonly #packet: Packet;
  readonly #environment: MatchEnvironment;
  readonly #sinks: TraversalSinks;
  #visited = 0;
  #forks = 0;

  constructor(table: CompiledTable, packet: Packet, environment: MatchEnvironment, sinks: TraversalSinks) {
    this.#table = table;
    this.#packet = packet;
    this.#environment = environment;
    this.#sinks = sinks;
  }

  /**
   * Walks on from a rule. `stack` has the chains to come back to, and is changed. `next` is a position in the chain, or where
   * `candidates` are given an index into them.
   */
  run(stack: Frame[], startChain: CompiledChain, start: number, visits: RuleVisit[] | null, startCandidates?: readonly number[] | null): TableVerdict {
    const packet = this.#packet;
    let chain = startChain;
    let next = start;
    let candidates = startCandidates === undefined ? this.#candidatesOf(chain, visits) : startCandidates;
    let base = stack[0]?.chain ?? chain;
    for (;;) {
      const position = candidates === null ? next : candidates[next];
      const rule = position === undefined ? undefined : chain.rules[position];
      if (rule === undefined) {
        const frame = stack.pop();
        if (frame === undefined) {
          return this.#applyPolicy(chain.policy === null ? base : chain, visits);
        }
        ({ chain, next, candidates } = frame);
        continue;
      }
      next += 1;
      this.#visited += 1;
      if (this.#visited > MAX_RULES_VISITED) {
        return { kind: 'unknown', dependsOn: `table ${this.#table.table.name}: the packet meets more than ${MAX_RULES_VISITED} rules` };
      }
      const conditions: Condition[] | null = visits === null ? null : [];
      const result = this.#compare(rule, conditions);
      if (result === FAILED) {
        if (visits !== null && conditions !== null) {
          const state = packet.state();
          visits.push({ chain: chain.name, rule: rule.rule, position: rule.position, conditions, decision: CONTINUE, reason: failedReason(conditions), before: state, after: state });
        }
        continue;
      }
      if (result === UNKNOWN) {
        return this.#fork(rule, stack, { chain, next, candidates }, base, visits, conditions);
      }
      this.#count(rule);
      const before = visits === null ? null : packet.state();
      const effect = this.#effectOf(rule, stack, chain);
      if (visits !== null && before !== null && conditions !== null) {
        visits.push({ chain: chain.name, rule: rule.rule, position: rule.position, conditions, decision: effect.decision, reason: effect.reason, before, after: packet.state() });
      }
      switch (effect.kind) {
        case 'next':
          break;
        case 'end':
          return effect.verdict;
        case 'return': {
          const frame = stack.pop();
          if (frame === undefined) {
            return this.#applyPolicy(base, visits);
          }
          ({ chain, next, candidates } = frame);
          break;
        }
        case 'jump':
          if (!effect.goto) {
            stack.push({ chain, next, candidates });
          } else if (stack.length === 0) {
            base = chain.policy === null ? base : chain;
          }
          chain = effect.chain;
          next = 0;
          candidates = this.#candidatesOf(chain, visits);
      }
    }
  }

  /** Rules that are indexed are found, not walked, unless every one of them is to be shown. */
  #candidatesOf(chain: CompiledChain, visits: RuleVisit[] | null): readonly number[] | null {
    return visits === null && chain.index !== null ? chain.index.candidates(this.#packet) : null;
  }

  #compare(rule: CompiledRule, conditions: Condition[] | null): MatchResult {
    let result: MatchResult = MATCHED;
    for (const match of rule.matches) {
      const compared = match.test(this.#packet, this.#environment);
      if (conditions !== null) {
        conditions.push({ what: match.what, wanted: match.wanted, actual: match.actual(this.#packet, this.#environment), result: RESULT_NAMES[compared] });
      }
      if (compared === FAILED) {
        return FAILED;
      }
      if (compared === UNKNOWN) {
        result = UNKNOWN;
      }
    }
    return result;
  }

  #count(rule: CompiledRule): void {
    const { counters } = this.#sinks;
    if (counters !== null) {
      counters.packets[rule.id] = (counters.packets[rule.id] ?? 0) + 1;
      counters.bytes[rule.id] = (counters.bytes[rule.id] ?? 0) + this.#packet.length;
    }
  }

  #effectOf(rule: CompiledRule, stack: readonly Frame[], chain: CompiledChain): TargetEffect {
    const { target } = rule;
    if (target.kind !== 'chain') {
      return applyTarget(rule, this.#packet, this.#environment, this.#table.table.name, stack.at(-1)?.chain.name ?? null, chain.name);
    }
    const problem =
      rule.next === undefined ? `the chain ${target.name} is missing`
      : stack.length >= MAX_DEPTH || rule.next === chain || stack.some((frame) => frame.chain === rule.next) ? `the chain ${target.name} jumps back to itself`
      : null;
    if (problem !== null || rule.next === undefined) {
      const dependsOn = problem ?? '';
      return { kind: 'end', verdict: { kind: 'unknown', dependsOn }, decision: { kind: 'unknown', dependsOn }, reason: `${dependsOn}: no kernel loads such a rule set.` };
    }
    const reason = target.goto ? `Goes on in ${target.name} and does not come back here.` : `Goes on in ${target.name}.`;
    return { kind: 'jump', chain: rule.next, goto: target.goto, decision: { kind: 'jump', chain: target.name, goto: target.goto }, reason };
  }

  /** Follows an unknown rule as matched and as not matched. */
  #fork(rule: CompiledRule, stack: readonly Frame[], after: Frame, base: CompiledChain, visits: RuleVisit[] | null, conditions: Condition[] | null): TableVerdict {
    const packet = this.#packet;
    const what = unknownMatches(rule, packet, this.#environment, conditions);
    const dependsOn = `${what} in '${rule.rule.text}'`;
    const before = visits === null ? null : packet.state();
    const visit = (decision: Decision, reason: string): void => {
      if (visits !== null && before !== null) {
        visits.push({ chain: after.chain.name, rule: rule.rule, position: rule.position, conditions: conditions ?? [], decision, reason, before, after: before });
      }
    };
    this.#forks += 1;
    if (this.#forks > MAX_FORKS) {
      visit({ kind: 'unknown', dependsOn }, 'Too many rules of this table are not known.');
      return { kind: 'unknown', dependsOn: `more than ${MAX_FORKS} rules that are not known, of which ${dependsOn}` };
    }
    const saved = saveEffects(packet);
    const stateBefore = this.#environment.state.fork();
    const otherwiseVisits: RuleVisit[] | null = visits === null ? null : [];
    const withBase = (frames: readonly Frame[]): Frame[] => [...frames];
    const otherwise = this.#runFrom(withBase(stack), after, base, otherwiseVisits);
    const otherwiseEffects = saveEffects(packet);
    const otherwiseState = this.#environment.state.fork();
    restoreEffects(packet, saved);
    this.#environment.state.become(stateBefore);
    const matched = this.#runMatched(rule, withBase(stack), after, base);
    const matchedEffects = saveEffects(packet);
    const isSame = otherwise.kind !== 'unknown' && sameVerdict(matched, otherwise) && sameEffects(matchedEffects, otherwiseEffects) && (sameMarks(matchedEffects, otherwiseEffects) || !this.#environment.readsMarks(packet));
    restoreEffects(packet, otherwiseEffects);
    this.#environment.state.merge(otherwiseState);
    if (isSame) {
      visit(CONTINUE, `Whether ${dependsOn} matches is not known, and makes no difference here${sameMarks(matchedEffects, otherwiseEffects) ? '' : ' but for a mark that nothing asks for'}.`);
      visits?.push(...(otherwiseVisits ?? []));
      return otherwise;
    }
    restoreEffects(packet, saved);
    visit({ kind: 'unknown', dependsOn }, `It is not known whether ${dependsOn} matches, and what happens then differs.`);
    return { kind: 'unknown', dependsOn: otherwise.kind === 'unknown' && sameVerdict(matched, otherwise) ? otherwise.dependsOn : dependsOn };
  }

  #runFrom(stack: Frame[], frame: Frame, base: CompiledChain, visits: RuleVisit[] | null): TableVerdict {
    return this.run(stack.length === 0 && base !== frame.chain ? [{ chain: base, next: base.rules.length, candidates: null }] : stack, frame.chain, frame.next, visits, frame.candidates);
  }

  #runMatched(rule: CompiledRule, stack: Frame[], after: Frame, base: CompiledChain): TableVerdict {
    const effect = this.#effectOf(rule, stack, after.chain);
    switch (effect.kind) {
      case 'end':
        return effect.verdict;
      case 'next':
        return this.#runFrom(stack, after, base, null);
      case 'return': {
        const frame = stack.pop();
        return frame === undefined ? this.#applyPolicy(base, null) : this.#runFrom(stack, frame, base, null);
      }
      case 'jump': {
        const frames = effect.goto ? stack : [...stack, after];
        return this.#runFrom(frames, { chain: effect.chain, next: 0, candidates: this.#candidatesOf(effect.chain, null) }, base, null);
      }
    }
  }

  #applyPolicy(chain: CompiledChain, visits: RuleVisit[] | null): TableVerdict {
    const policy = chain.policy ?? 'ACCEPT';
    if (visits !== null) {
      const state = this.#packet.state();
      const rest = policy === 'DROP' ? 'the packet disappears.' : 'the next table is asked.';
      visits.push({
        chain: chain.name, rule: null, position: null, conditions: [], decision: { kind: 'verdict', verdict: policy },
        reason: `No rule of ${chain.name} decided; its policy ${policy} does: ${rest}`, before: state, after: state,
      });
    }
    return policy === 'DROP' ? DROP : ACCEPT;
  }
}

const CONTINUE: Decision = { kind: 'continue' };
const RESULT_NAMES = ['failed', 'matched', 'unknown'] as const;

/** What rules may change of a packet without ending its table. */
interface Effects {
  readonly mark: number;
  readonly connectionMark: number;
  readonly untracked: boolean;
  readonly zoneRule: ZoneRule | null;
  readonly ttl: number;
  readonly tos: number;
  readonly mss: number | null;
  readonly assigned: object | null;
  readonly tracking: PacketTracking | null;
}

function saveEffects(packet: Packet): Effects {
  return {
    mark: packet.mark, connectionMark: packet.tracking?.connection.mark ?? 0, untracked: packet.untracked, zoneRule: packet.zoneRule, ttl: packet.ttl, tos: packet.tos,
    mss: packet.mss, assigned: packet.assigned, tracking: packet.tracking,
  };
}

function restoreEffects(packet: Packet, effects: Effects): void {
  packet.mark = effects.mark;
  packet.tracking = effects.tracking;
  if (packet.tracking !== null) {
    packet.tracking.connection.mark = effects.connectionMark;
  }
  packet.untracked = effects.untracked;
  packet.zoneRule = effects.zoneRule;
  packet.ttl = effects.ttl;
  packet.tos = effects.tos;
  packet.mss = effects.mss;
  packet.assigned = effects.assigned;
}

function sameEffects(left: Effects, right: Effects): boolean {
  return (
    left.untracked === right.untracked && left.zoneRule?.id === right.zoneRule?.id && left.ttl === right.ttl &&
    left.tos === right.tos && left.mss === right.mss && left.assigned === right.assigned
  );
}

function sameMarks(left: Effects, right: Effects): boolean {
  return left.mark === right.mark && left.connectionMark === right.connectionMark;
}

function sameVerdict(left: TableVerdict, right: TableVerdict): boolean {
  return left === right || JSON.stringify(left) === JSON.stringify(right);
}

function failedReason(conditions: readonly Condition[]): string {
  const failed = conditions.at(-1);
  return failed === undefined ? 'The rule does not match.' : `Not this rule: ${failed.what} is ${failed.actual}, wanted ${failed.wanted}.`;
}

function unknownMatches(rule: CompiledRule, packet: Packet, environment: MatchEnvironment, conditions: readonly Condition[] | null): string {
  const names = conditions === null
    ? rule.matches.filter((match) => !match.isStateful && match.test(packet, environment) === UNKNOWN).map(({ what }) => what)
    : conditions.filter(({ result }) => result === 'unknown').map(({ what }) => what);
  return names.length === 0 ? rule.matches.filter(({ isStateful }) => isStateful).map(({ what }) => what).join(' and ') : names.join(' and ');
}
