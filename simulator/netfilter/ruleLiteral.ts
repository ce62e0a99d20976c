import type { Hook } from '../../agent/protocol/trace.ts';
import type { AddressPrefix } from './addressPrefix.ts';
import { prefixContains } from './addressPrefix.ts';
import type { AddressFamily, Match, NumberRange, Rule, Table } from './ruleSet.ts';
import { instanceOf } from './typedMatches.ts';
import { writeMatch } from './writeRuleSet.ts';

/**
 * A condition of a rule as a set of packets in one dimension, or its complement: what can be said of two conditions
 * without looking at a packet. A condition that may change while a packet is in the table, or that is not a matter of
 * the packet alone, has no literal.
 */
export interface Literal {
  /** Conditions of the same dimension can be compared. */
  readonly dimension: string;
  readonly set: LiteralSet;
  readonly negated: boolean;
  /** True where later fragments fail the condition and its negation alike: nothing follows from its failing. */
  readonly isOfTransport: boolean;
}

type LiteralSet =
  | { readonly kind: 'prefix'; readonly prefix: AddressPrefix }
  | { readonly kind: 'name'; readonly name: string }
  | { readonly kind: 'ranges'; readonly ranges: readonly NumberRange[] }
  | { readonly kind: 'words'; readonly words: readonly string[] }
  | { readonly kind: 'bits'; readonly value: bigint; readonly mask: bigint }
  | { readonly kind: 'text'; readonly text: string };

const EXCLUSIVE_STATES = new Set(['INVALID', 'NEW', 'RELATED', 'ESTABLISHED', 'UNTRACKED']);
const TCP_FLAG_BITS: Readonly<Record<string, bigint>> = { FIN: 1n, SYN: 2n, RST: 4n, PSH: 8n, ACK: 16n, URG: 32n };

/** Modules that give the same answer for the same packet as long as it is in the table. */
const STEADY_MODULES = new Set(['mac', 'iprange', 'length', 'pkttype', 'string', 'u32', 'esp', 'ah', 'tcpmss', 'dscp', 'tos', 'ttl', 'hl', 'ecn', 'policy', 'physdev', 'realm', 'devgroup', 'sctp', 'dccp', 'conntrack', 'frag', 'rt', 'hbh', 'dst', 'ipv6header', 'mh', 'eui64']);
/** Targets that change what such modules look at, or marks. */
const CHANGING_TARGETS = new Set(['TTL', 'HL', 'DSCP', 'TOS', 'ECN', 'TCPMSS', 'TCPOPTSTRIP', 'CT', 'CONNMARK', 'HMARK', 'SET', 'CONNSECMARK', 'SECMARK', 'SYNPROXY', 'CHECKSUM', 'DNPT', 'SNPT']);

/** Says whether a rule of the table may change packets and let them go on. */
export function changesPackets(table: Table): boolean {
  return [...table.chains.values()].some((chain) =>
    chain.rules.some(({ target }) => target.kind === 'mark' || target.kind === 'connectionMark' || target.kind === 'notrack' || target.kind === 'unknown' || (target.kind === 'extension' && CHANGING_TARGETS.has(target.name))),
  );
}

/** Gives the conditions of a rule as literals; `isWhole` is false where one has none, so that nothing follows from the rule's failing. */
export function literalsOf(rule: Rule, isSteady: boolean, family: AddressFamily): { readonly literals: readonly Literal[]; readonly isWhole: boolean } {
  const literals: Literal[] = [];
  let isWhole = true;
  const owners = rule.matches.filter(({ kind }) => kind === 'owner' || kind === 'socketExists' || kind === 'supplementaryGroups');
  for (const match of rule.matches) {
    if (match.kind === 'comment' || match.kind === 'module' || match.kind === 'addressTypeInterface') {
      continue;
    }
    const literal = match.kind === 'addressType' ? addressTypeLiteral(match, rule.matches, family) : literalOf(match, isSteady, owners.length);
    if (literal === null) {
      isWhole = false;
    } else {
      literals.push(literal);
    }
  }
  return { literals, isWhole };
}

function literalOf(match: Exclude<Match, { kind: 'addressType' }>, isSteady: boolean, owners: number): Literal | null {
  const make = (dimension: string, set: LiteralSet, negated: boolean, isOfTransport = false): Literal => ({ dimension, set, negated, isOfTransport });
  switch (match.kind) {
    case 'source':
    case 'destination':
      return match.prefix.mask === undefined ? make(match.kind, { kind: 'prefix', prefix: match.prefix }, match.negated) : make(`${match.kind} ${match.prefix.mask}`, { kind: 'text', text: match.prefix.address }, match.negated);
    case 'inInterface':
    case 'outInterface':
      return make(match.kind, { kind: 'name', name: match.name }, match.negated);
    case 'protocol':
      return make('protocol', { kind: 'words', words: [match.protocol] }, match.negated);
    case 'fragment':
      return make('fragment', { kind: 'text', text: '' }, match.negated);
    case 'port':
      return make(`${match.which} port`, { kind: 'ranges', ranges: [match.range] }, match.negated, true);
    case 'multiport':
      return match.which === 'either' ? make('either port', { kind: 'text', text: JSON.stringify(match.ranges) }, match.negated, true) : make(`${match.which} port`, { kind: 'ranges', ranges: match.ranges }, match.negated, true);
    case 'tcpFlags': {
      const bits = (flags: readonly string[]): bigint => flags.reduce((sum, flag) => sum | (TCP_FLAG_BITS[flag] ?? 0n), 0n);
      return make('tcp flags', { kind: 'bits', value: bits(match.set), mask: bits(match.mask) }, match.negated, true);
    }
    case 'connectionState':
      return match.states.every((state) => EXCLUSIVE_STATES.has(state)) ? make('connection state', { kind: 'words', words: match.states }, match.negated) : null;
    case 'owner':
      // Where a module has several options, a packet without a socket is compared with all of them at once.
      return owners === 1 ? make(`owner ${match.which}`, { kind: 'ranges', ranges: [match.range] }, match.negated) : null;
    case 'socketExists':
      return owners === 1 ? make('socket', { kind: 'text', text: '' }, match.negated) : null;
    case 'mark':
    case 'connectionMark':
      // Without a connection, connmark fails negated or not.
      return isSteady && match.kind === 'mark' ? make('mark', { kind: 'bits', value: BigInt(match.wanted.value), mask: BigInt(match.wanted.mask) }, match.negated) : null;
    case 'extension':
      return isSteady && STEADY_MODULES.has(match.module) ? make(`module ${match.module}`, { kind: 'text', text: writeMatch(match) }, false, true) : match.module.startsWith('icmp') ? icmpLiteral(match) : null;
    default:
      return null;
  }
}

/** On one interface an address has another type than anywhere. An IPv4 address has one type, an IPv6 address all that fit (net/netfilter/xt_addrtype.c). */
function addressTypeLiteral(match: Extract<Match, { kind: 'addressType' }>, matches: readonly Match[], family: AddressFamily): Literal {
  const limit = instanceOf(match, matches).find((one) => one.kind === 'addressTypeInterface');
  const dimension = `address type ${match.which}${limit === undefined ? '' : ` of interface ${limit.which}`}`;
  const set: LiteralSet = family === 'ipv4' ? { kind: 'words', words: match.types } : { kind: 'text', text: '' };
  return { dimension: family === 'ipv4' ? dimension : `${dimension} ${match.types.toSorted().join()}`, set, negated: match.negated, isOfTransport: false };
}

function icmpLiteral(match: Extract<Match, { kind: 'extension' }>): Literal | null {
  const [option] = match.options;
  return option?.value.type === 'icmp' && match.options.length === 1
    ? { dimension: 'icmp type', set: option.value.icmpType === 255 ? { kind: 'ranges', ranges: [{ first: 0, last: 0xffff }] } : { kind: 'ranges', ranges: [{ first: option.value.icmpType * 256 + option.value.codes.first, last: option.value.icmpType * 256 + option.value.codes.last }] }, negated: option.negated, isOfTransport: true }
    : null;
}

/** The complement of a condition. */
export function negate(literal: Literal): Literal {
  return { ...literal, negated: !literal.negated };
}

/** Says whether every packet that fits `given` fits `wanted`; false where that is not certain. */
export function implies(given: Literal, wanted: Literal): boolean {
  if (given.dimension !== wanted.dimension) {
    return false;
  }
  if (!given.negated) {
    return wanted.negated ? isDisjoint(given.set, wanted.set) : isSubset(given.set, wanted.set);
  }
  return wanted.negated ? isSubset(wanted.set, given.set) : coversRest(given, wanted);
}

/** Says whether a condition that stands alone can fit no packet. */
export function isEmpty({ set, negated, dimension }: Literal): boolean {
  switch (set.kind) {
    case 'bits':
      return !negated && (set.value & ~set.mask) !== 0n;
    case 'ranges':
      return negated ? dimension.endsWith(' port') && isAll(set.ranges) : set.ranges.every(({ first, last }) => first > last);
    case 'prefix':
      return negated && set.prefix.prefixLength === 0;
    case 'words':
      return !negated && set.words.length === 0;
    default:
      return false;
  }
}

/** Says whether a condition cannot hold behind any of these hooks, and why; null where it can. */
export function impossibleAt(match: Match, hooks: ReadonlySet<Hook>, table: Table['name']): string | null {
  const only = (...names: readonly Hook[]): boolean => hooks.size > 0 && [...hooks].every((hook) => names.includes(hook));
  if (match.kind === 'inInterface' && !match.negated && only('OUTPUT')) {
    return 'packets that are made on this machine came by no interface';
  }
  if (match.kind === 'outInterface' && !match.negated && only('PREROUTING', 'INPUT')) {
    return 'packets have no interface to leave by before they are routed, nor where they are delivered';
  }
  if (table === 'nat' && match.kind === 'connectionState') {
    const possible = ['NEW', 'RELATED', 'SNAT', 'DNAT'];
    const matched = match.states.some((state) => possible.includes(state));
    if (match.negated ? match.states.includes('NEW') && match.states.includes('RELATED') : !matched) {
      return 'the nat table is asked for the first packet of a connection only, which is NEW or RELATED';
    }
  }
  return null;
}

function isSubset(left: LiteralSet, right: LiteralSet): boolean {
  switch (left.kind) {
    case 'prefix':
      return right.kind === 'prefix' && left.prefix.prefixLength >= right.prefix.prefixLength && prefixContains(right.prefix, left.prefix.address);
    case 'name':
      return right.kind === 'name' && (right.name === left.name || (right.name.endsWith('+') && left.name.startsWith(right.name.slice(0, -1))));
    case 'ranges':
      return right.kind === 'ranges' && left.ranges.every((range) => range.first > range.last || isWithin(range, right.ranges));
    case 'words':
      return right.kind === 'words' && left.words.every((word) => right.words.includes(word));
    case 'bits':
      return right.kind === 'bits' && (right.mask & ~left.mask) === 0n && (left.value & right.mask) === right.value;
    case 'text':
      return right.kind === 'text' && left.text === right.text;
  }
}

function isDisjoint(left: LiteralSet, right: LiteralSet): boolean {
  switch (left.kind) {
    case 'prefix':
      return right.kind === 'prefix' && !prefixContains(left.prefix, right.prefix.address) && !prefixContains(right.prefix, left.prefix.address);
    case 'name': {
      const [own, other] = [left.name, right.kind === 'name' ? right.name : ''];
      return right.kind === 'name' && !isSubset(left, right) && !isSubset(right, left) && !(own.endsWith('+') && other.startsWith(own.slice(0, -1))) && !(other.endsWith('+') && own.startsWith(other.slice(0, -1)));
    }
    case 'ranges':
      return right.kind === 'ranges' && left.ranges.every((range) => right.ranges.every((other) => range.last < other.first || other.last < range.first));
    case 'words':
      return right.kind === 'words' && left.words.every((word) => !right.words.includes(word));
    case 'bits':
      return right.kind === 'bits' && ((left.value ^ right.value) & left.mask & right.mask) !== 0n;
    case 'text':
      return false;
  }
}

/** What is outside of one set of ports lies in another. Other dimensions have members that no rule names. */
function coversRest(given: Literal, wanted: Literal): boolean {
  return given.set.kind === 'ranges' && wanted.set.kind === 'ranges' && given.dimension.endsWith(' port') && isAll([...given.set.ranges, ...wanted.set.ranges]);
}

function isWithin(range: NumberRange, ranges: readonly NumberRange[]): boolean {
  let next = range.first;
  for (const { first, last } of ranges.toSorted((left, right) => left.first - right.first)) {
    if (first <= next && last >= next) {
      next = last + 1;
    }
  }
  return next > range.last;
}

function isAll(ranges: readonly NumberRange[]): boolean {
  return isWithin({ first: 0, last: 0xffff }, ranges);
}
