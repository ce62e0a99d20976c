import type { Condition, Decision, Hook } from '../../agent/protocol/trace.ts';
import { compareMatches } from './compareMatch.ts';
import type { MatchContext, Packet } from './packet.ts';
import type { Chain, MarkChange, Rule, Table, Target } from './ruleSet.ts';
import { writeTarget } from './writeRuleSet.ts';

/** How many rules one packet may meet in one table before it is given up: nested jumps can multiply without end. */
export const MAX_RULES_VISITED = 100_000;
const MAX_FORKS = 64;

/** A NAT target that was met: what it does depends on addresses and routes, which the caller knows. */
export type NatTarget = Extract<Target, { kind: 'redirect' | 'dnat' | 'snat' | 'masquerade' }>;

/** What a table decides for a packet. */
export type TableVerdict =
  | { readonly kind: 'accept' }
  | { readonly kind: 'drop' }
  | { readonly kind: 'reject'; readonly with: string }
  | { readonly kind: 'nat'; readonly target: NatTarget }
  | { readonly kind: 'unknown'; readonly dependsOn: string };

/** What rules change without ending the table. */
export interface PacketNotes {
  readonly mark: number;
  /** The mark of the connection; as it came where no rule changed it. */
  readonly connectionMark: number;
  /** CT --notrack: conntrack leaves the packet alone. */
  readonly untracked: boolean;
}

/** One rule, or one policy (`rule` null), that the packet met. */
export interface RuleVisit {
  readonly chain: string;
  readonly rule: Rule | null;
  /** From 1; null for a policy. */
  readonly position: number | null;
  readonly conditions: readonly Condition[];
  readonly decision: Decision;
  readonly reason: string;
  readonly before: PacketNotes;
  readonly after: PacketNotes;
}

export interface TableResult {
  readonly visits: readonly RuleVisit[];
  readonly verdict: TableVerdict;
  readonly notes: PacketNotes;
}

/**
 * Sends a packet through the chain of a table at a hook (net/ipv4/netfilter/ip_tables.c, ipt_do_table). Where a rule is
 * unknown, both ways are followed: where they end the same, that is the answer, else the verdict is unknown and names
 * what it depends on. Gives null where the table has no chain at this hook.
 */
export function traverseTable(table: Table, hook: Hook, packet: Packet, context: MatchContext): TableResult | null {
  const base = table.chains.get(hook);
  if (base === undefined) {
    return null;
  }
  const notes: PacketNotes = { mark: packet.mark, connectionMark: packet.connection?.mark ?? 0, untracked: false };
  return new Traversal(table, packet, context).run({ stack: [{ chain: base, next: 0 }], notes });
}

interface Frame {
  readonly chain: Chain;
  readonly next: number;
}

/** Where a packet is: the chains that it is in, the innermost last, and what was noted. */
interface Position {
  readonly stack: readonly Frame[];
  readonly notes: PacketNotes;
}

type TargetEffect =
  | { readonly kind: 'go'; readonly position: Position; readonly decision: Decision; readonly reason: string }
  | { readonly kind: 'end'; readonly verdict: TableVerdict; readonly decision: Decision; readonly reason: string };

class Traversal {
  readonly #table: Table;
  readonly #packet: Packet;
  readonly #context: MatchContext;
  #visited = 0;
  #forks = 0;

  constructor(table: Table, packet: Packet, context: MatchContext) {
    this.#table = table;
    this.#packet = packet;
    this.#context = context;
  }

  run(start: Position): TableResult {
    const visits: RuleVisit[] = [];
    let position = start;
    for (;;) {
      const frame = position.stack.at(-1);
      if (frame === undefined) {
        throw new RangeError('a packet left its base chain without a verdict');
      }
      const rule = frame.chain.rules[frame.next];
      if (rule === undefined) {
        const left = leaveChain(position);
        if (left !== undefined) {
          position = left;
          continue;
        }
        const verdict: TableVerdict = { kind: frame.chain.policy === 'DROP' ? 'drop' : 'accept' };
        visits.push(policyVisit(frame.chain, position.notes));
        return { visits, verdict, notes: position.notes };
      }
      this.#visited += 1;
      if (this.#visited > MAX_RULES_VISITED) {
        return { visits, verdict: unknown(`table ${this.#table.name}: the packet meets more than ${MAX_RULES_VISITED} rules`), notes: position.notes };
      }
      const { conditions, result } = compareMatches(rule.matches, this.#noted(position.notes), this.#context);
      const skipped: Position = { ...position, stack: [...position.stack.slice(0, -1), { ...frame, next: frame.next + 1 }] };
      const record = (decision: Decision, reason: string, after: PacketNotes): void => {
        visits.push({ chain: frame.chain.name, rule, position: frame.next + 1, conditions, decision, reason, before: position.notes, after });
      };
      if (result === 'failed') {
        record({ kind: 'continue' }, failedReason(conditions), position.notes);
        position = skipped;
        continue;
      }
      const effect = this.#apply(rule.target, skipped);
      if (result === 'unknown') {
        const forked = this.#fork(rule, conditions, effect, skipped);
        record(forked.decision, forked.reason, position.notes);
        return { ...forked.rest, visits: [...visits, ...forked.rest.visits] };
      }
      record(effect.decision, effect.reason, effect.kind === 'go' ? effect.position.notes : position.notes);
      if (effect.kind === 'end') {
        return { visits, verdict: effect.verdict, notes: position.notes };
      }
      position = effect.position;
    }
  }

  /** Follows an unknown rule as matched and as not matched. */
  #fork(rule: Rule, conditions: readonly Condition[], effect: TargetEffect, skipped: Position): { decision: Decision; reason: string; rest: TableResult } {
    const dependsOn = `${unknownConditions(conditions)} in '${rule.text}'`;
    this.#forks += 1;
    if (this.#forks > MAX_FORKS) {
      const verdict = unknown(`more than ${MAX_FORKS} rules that are not known, of which ${dependsOn}`);
      return { decision: { kind: 'unknown', dependsOn }, reason: 'Too many rules of this table are not known.', rest: { visits: [], verdict, notes: skipped.notes } };
    }
    const otherwise = this.run(skipped);
    const matched: TableResult =
      effect.kind === 'end' ? { visits: [], verdict: effect.verdict, notes: skipped.notes } : this.run(effect.position);
    if (sameOutcome(matched, otherwise)) {
      return { decision: { kind: 'continue' }, reason: `Whether ${dependsOn} matches is not known, and makes no difference here.`, rest: otherwise };
    }
    const rest: TableResult = { visits: [], verdict: unknown(dependsOn), notes: skipped.notes };
    return { decision: { kind: 'unknown', dependsOn }, reason: `It is not known whether ${dependsOn} matches, and what happens then differs.`, rest };
  }

  #noted(notes: PacketNotes): Packet {
    const { connection } = this.#packet;
    return { ...this.#packet, mark: notes.mark, connection: connection === null ? null : { ...connection, mark: notes.connectionMark } };
  }

  #apply(target: Target, skipped: Position): TargetEffect {
    const text = writeTarget(target).join(' ');
    switch (target.kind) {
      case 'none':
        return { kind: 'go', position: skipped, decision: { kind: 'continue' }, reason: 'The rule has no target: it counts the packet, and the next rule is asked.' };
      case 'log':
        return { kind: 'go', position: skipped, decision: { kind: 'note', target: target.name }, reason: `${target.name} notes the packet; the next rule is asked.` };
      case 'accept':
        return end({ kind: 'accept' }, { kind: 'verdict', verdict: 'ACCEPT' }, `ACCEPT ends ${this.#table.name} at this hook; later tables are still asked.`);
      case 'drop':
        return end({ kind: 'drop' }, { kind: 'verdict', verdict: 'DROP' }, 'DROP: the packet disappears and nobody is told.');
      case 'reject':
        return end({ kind: 'reject', with: target.with }, { kind: 'verdict', verdict: 'REJECT' }, `REJECT: the packet is dropped and its sender is told (${target.with}).`);
      case 'redirect':
      case 'dnat':
      case 'snat':
      case 'masquerade':
        return end({ kind: 'nat', target }, { kind: 'rewrite', target: text.slice(3) }, `${text.slice(3)} applies.`);
      case 'mark':
        return this.#note(skipped, { ...skipped.notes, mark: changeMark(skipped.notes.mark, target.change) }, 'MARK');
      case 'connectionMark':
        return this.#applyConnectionMark(target, skipped);
      case 'notrack':
        return this.#note(skipped, { ...skipped.notes, untracked: true }, 'NOTRACK');
      case 'tproxy':
      case 'unknown':
        return end(unknown(`what '${text}' does`), { kind: 'unknown', dependsOn: text }, `What '${text}' does is not modelled.`);
      case 'return':
        return this.#return(skipped);
      case 'chain':
        return this.#jump(target, skipped);
    }
  }

  #note(skipped: Position, notes: PacketNotes, name: string): TargetEffect {
    const changes = [
      ...(notes.mark === skipped.notes.mark ? [] : [`the packet mark is now 0x${notes.mark.toString(16)}`]),
      ...(notes.connectionMark === skipped.notes.connectionMark ? [] : [`the connection mark is now 0x${notes.connectionMark.toString(16)}`]),
      ...(notes.untracked === skipped.notes.untracked ? [] : ['conntrack leaves this packet alone']),
    ];
    const what = changes.length === 0 ? 'nothing changes' : changes.join(' and ');
    return { kind: 'go', position: { ...skipped, notes }, decision: { kind: 'note', target: name }, reason: `${name}: ${what}; the next rule is asked.` };
  }

  /** net/netfilter/xt_connmark.c, connmark_tg_shift: without a connection nothing happens. */
  #applyConnectionMark(target: Extract<Target, { kind: 'connectionMark' }>, skipped: Position): TargetEffect {
    const { notes } = skipped;
    if (this.#packet.connection === null) {
      return this.#note(skipped, notes, 'CONNMARK');
    }
    if (target.action === 'set') {
      return this.#note(skipped, { ...notes, connectionMark: changeMark(notes.connectionMark, target.change) }, 'CONNMARK');
    }
    if (target.action === 'save') {
      const connectionMark = ((notes.connectionMark & ~target.connectionMask) ^ (notes.mark & target.packetMask)) >>> 0;
      return this.#note(skipped, { ...notes, connectionMark }, 'CONNMARK');
    }
    const mark = ((notes.mark & ~target.packetMask) ^ (notes.connectionMark & target.connectionMask)) >>> 0;
    return this.#note(skipped, { ...notes, mark }, 'CONNMARK');
  }

  #return(skipped: Position): TargetEffect {
    const frame = skipped.stack.at(-1);
    const left = leaveChain(skipped);
    if (left !== undefined) {
      return { kind: 'go', position: left, decision: { kind: 'return' }, reason: `RETURN: back to ${left.stack.at(-1)?.chain.name ?? ''}.` };
    }
    // In a built-in chain RETURN goes to the policy: move to the end of the chain.
    const stack = skipped.stack.map((entry) => ({ ...entry, next: entry.chain.rules.length }));
    return { kind: 'go', position: { ...skipped, stack }, decision: { kind: 'return' }, reason: `RETURN in ${frame?.chain.name ?? ''}: its policy decides.` };
  }

  #jump(target: Extract<Target, { kind: 'chain' }>, skipped: Position): TargetEffect {
    const chain = this.#table.chains.get(target.name);
    const decision: Decision = { kind: 'jump', chain: target.name, goto: target.goto };
    if (chain === undefined || skipped.stack.some((frame) => frame.chain === chain)) {
      const problem = chain === undefined ? `the chain ${target.name} is missing` : `the chain ${target.name} jumps back to itself`;
      return end(unknown(problem), { kind: 'unknown', dependsOn: problem }, `${problem}: no kernel loads such a rule set.`);
    }
    const stack = target.goto ? skipped.stack.slice(0, -1) : skipped.stack;
    // goto in a built-in chain comes back to that chain's policy, so the frame stays, at its end.
    const kept = target.goto && stack.length === 0 ? skipped.stack.map((frame) => ({ ...frame, next: frame.chain.rules.length })) : stack;
    const reason = target.goto ? `Goes on in ${target.name} and does not come back here.` : `Goes on in ${target.name}.`;
    return { kind: 'go', position: { ...skipped, stack: [...kept, { chain, next: 0 }] }, decision, reason };
  }
}

function leaveChain(position: Position): Position | undefined {
  return position.stack.length > 1 ? { ...position, stack: position.stack.slice(0, -1) } : undefined;
}

function end(verdict: TableVerdict, decision: Decision, reason: string): TargetEffect {
  return { kind: 'end', verdict, decision, reason };
}

function unknown(dependsOn: string): TableVerdict {
  return { kind: 'unknown', dependsOn };
}

/** net/netfilter/xt_mark.c: (old & ~mask) ^ value. */
function changeMark(old: number, change: MarkChange): number {
  return ((old & ~change.mask) ^ change.value) >>> 0;
}

function sameOutcome(left: TableResult, right: TableResult): boolean {
  return (
    left.verdict.kind !== 'unknown' &&
    JSON.stringify(left.verdict) === JSON.stringify(right.verdict) &&
    left.notes.mark === right.notes.mark &&
    left.notes.connectionMark === right.notes.connectionMark &&
    left.notes.untracked === right.notes.untracked
  );
}

function failedReason(conditions: readonly Condition[]): string {
  const failed = conditions.at(-1);
  return failed === undefined ? 'The rule does not match.' : `Not this rule: ${failed.what} is ${failed.actual}, wanted ${failed.wanted}.`;
}

function unknownConditions(conditions: readonly Condition[]): string {
  return conditions
    .filter((condition) => condition.result === 'unknown')
    .map((condition) => condition.what)
    .join(' and ');
}

function policyVisit(chain: Chain, notes: PacketNotes): RuleVisit {
  const policy = chain.policy ?? 'ACCEPT';
  const rest = policy === 'DROP' ? 'the packet disappears.' : 'the next table is asked.';
  return {
    chain: chain.name,
    rule: null,
    position: null,
    conditions: [],
    decision: { kind: 'verdict', verdict: policy },
    reason: `No rule of ${chain.name} decided; its policy ${policy} does: ${rest}`,
    before: notes,
    after: notes,
  };
}
