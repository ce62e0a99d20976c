import type { Decision, TableName } from '../../agent/protocol/trace.ts';
import type { CompiledChain, CompiledRule } from './compileTable.ts';
import type { MatchEnvironment } from './matchEnvironment.ts';
import type { Packet } from './packet.ts';
import type { MarkChange, Target } from './ruleSet.ts';
import type { TableVerdict } from './traverseTable.ts';
import { Address } from './address.ts';
import { applyExtension } from './applyExtension.ts';

/** What the target of a rule does with a packet. */
export type TargetEffect = { readonly decision: Decision; readonly reason: string } & (
  | { readonly kind: 'next' }
  | { readonly kind: 'return' }
  | { readonly kind: 'jump'; readonly chain: CompiledChain; readonly goto: boolean }
  | { readonly kind: 'end'; readonly verdict: TableVerdict }
);

/** Applies a target that is no jump: changes the packet, and says how it goes on. `caller` is the chain that RETURN goes back to, null in a built-in chain. */
export function applyTarget(rule: CompiledRule, packet: Packet, environment: MatchEnvironment, table: TableName, caller: string | null, chain: string): TargetEffect {
  const { target, targetText } = rule;
  switch (target.kind) {
    case 'none':
      return COUNTED;
    case 'log':
      return { kind: 'next', decision: { kind: 'note', target: target.name }, reason: `${target.name} notes the packet; the next rule is asked.` };
    case 'accept':
      return ACCEPTED[table];
    case 'drop':
      return DROPPED;
    case 'reject':
      return end({ kind: 'reject', with: target.with }, { kind: 'verdict', verdict: 'REJECT' }, `REJECT: the packet is dropped and its sender is told (${target.with}).`);
    case 'redirect':
    case 'dnat':
    case 'snat':
    case 'masquerade':
      return end({ kind: 'nat', target }, { kind: 'rewrite', target: targetText }, `${targetText} applies.`);
    case 'mark': {
      const mark = changeMark(packet.mark, target.change);
      const changed = mark !== packet.mark;
      packet.mark = mark;
      return noted('MARK', changed ? `the packet mark is now ${hex(mark)}` : null);
    }
    case 'connectionMark':
      return applyConnectionMark(target, packet);
    case 'notrack':
      return applyNotrack(packet);
    case 'tproxy':
      return applyTproxy(target, targetText, packet, environment);
    case 'return':
      return { kind: 'return', decision: { kind: 'return' }, reason: caller === null ? `RETURN in ${chain}: its policy decides.` : `RETURN: back to ${caller}.` };
    case 'extension':
      return applyExtension(target, targetText, packet, environment);
    case 'chain':
    case 'unknown':
      return end({ kind: 'unknown', dependsOn: `what '${targetText}' does` }, { kind: 'unknown', dependsOn: targetText }, `What '${targetText}' does is not modelled.`);
  }
}

const COUNTED: TargetEffect = { kind: 'next', decision: { kind: 'continue' }, reason: 'The rule has no target: it counts the packet, and the next rule is asked.' };
const DROPPED: TargetEffect = end({ kind: 'drop' }, { kind: 'verdict', verdict: 'DROP' }, 'DROP: the packet disappears and nobody is told.');
const ACCEPTED: Readonly<Record<TableName, TargetEffect>> = { raw: accepted('raw'), mangle: accepted('mangle'), nat: accepted('nat'), filter: accepted('filter'), security: accepted('security') };

function accepted(table: TableName): TargetEffect {
  return end({ kind: 'accept' }, { kind: 'verdict', verdict: 'ACCEPT' }, `ACCEPT ends ${table} at this hook; later tables are still asked.`);
}

/** net/netfilter/xt_connmark.c, connmark_tg_shift: without a connection nothing happens. */
function applyConnectionMark(target: Extract<Target, { kind: 'connectionMark' }>, packet: Packet): TargetEffect {
  const connection = packet.tracking?.connection;
  if (connection === undefined) {
    return noted('CONNMARK', null);
  }
  if (target.action === 'restore') {
    const mark = ((packet.mark & ~target.packetMask) ^ (connection.mark & target.connectionMask)) >>> 0;
    const changed = mark !== packet.mark;
    packet.mark = mark;
    return noted('CONNMARK', changed ? `the packet mark is now ${hex(mark)}` : null);
  }
  const mark = target.action === 'set' ? changeMark(connection.mark, target.change) : ((connection.mark & ~target.connectionMask) ^ (packet.mark & target.packetMask)) >>> 0;
  const changed = mark !== connection.mark;
  connection.mark = mark;
  return noted('CONNMARK', changed ? `the connection mark is now ${hex(mark)}` : null);
}

/** net/netfilter/xt_CT.c: what has a connection already (it came back over lo) keeps it. */
export function applyNotrack(packet: Packet): TargetEffect {
  if (packet.tracking !== null || packet.untracked || packet.isAttached || packet.zoneRule !== null) {
    return noted('NOTRACK', null);
  }
  packet.untracked = true;
  return noted('NOTRACK', 'conntrack leaves this packet alone');
}

/** net/netfilter/xt_TPROXY.c: a packet for which there is no transparent socket is dropped. */
function applyTproxy(target: Extract<Target, { kind: 'tproxy' }>, text: string, packet: Packet, environment: MatchEnvironment): TargetEffect {
  const assigned = environment.assignSocket(packet, target.address === null ? null : Address.of(target.address), target.port);
  if (assigned === null) {
    return end({ kind: 'unknown', dependsOn: `whether a transparent socket listens for '${text}'` }, { kind: 'unknown', dependsOn: text }, `Whether the socket for '${text}' is transparent is not known.`);
  }
  if (!assigned) {
    return end({ kind: 'drop' }, { kind: 'verdict', verdict: 'DROP' }, `TPROXY: no transparent socket listens on port ${target.port === 0 ? packet.destinationPort : target.port}: the packet is dropped.`);
  }
  packet.mark = changeMark(packet.mark, target.change);
  return end({ kind: 'accept' }, { kind: 'note', target: text }, `TPROXY: the packet goes to the socket on port ${target.port === 0 ? packet.destinationPort : target.port} with its addresses unchanged, if routing delivers it here; its mark is ${hex(packet.mark)}.`);
}

/** A target that lets the packet go on, with what it changed; null for nothing. */
export function noted(name: string, change: string | null): TargetEffect {
  return { kind: 'next', decision: { kind: 'note', target: name }, reason: `${name}: ${change ?? 'nothing changes'}; the next rule is asked.` };
}

/** A target that ends the table. */
export function end(verdict: TableVerdict, decision: Decision, reason: string): TargetEffect {
  return { kind: 'end', verdict, decision, reason };
}

/** net/netfilter/xt_mark.c: (old & ~mask) ^ value. */
function changeMark(old: number, change: MarkChange): number {
  return ((old & ~change.mask) ^ change.value) >>> 0;
}

function hex(value: number): string {
  return `0x${value.toString(16)}`;
}
