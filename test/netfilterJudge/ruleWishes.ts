import type { IpAddress } from '../../agent/protocol/scalars.ts';
import type { Hook, TableName } from '../../agent/protocol/trace.ts';
import type { AddressPrefix } from '../../simulator/netfilter/addressPrefix.ts';
import { readRuleSet } from '../../simulator/netfilter/readRuleSet.ts';
import type { AddressFamily, ExtensionOption, Match, NumberRange, ParsedRuleSet, Rule, Table, TcpFlag } from '../../simulator/netfilter/ruleSet.ts';
import { BUILT_IN_CHAINS } from '../../simulator/netfilter/ruleSet.ts';

/** What the rules of a set want of packets: those of each rule together with those of the rules that lead to its chain. */

/** A value that is wanted and those that are not. */
export interface Wish<Value> {
  readonly wanted: Value | null;
  readonly unwanted: readonly Value[];
}

export type AddressChoice = AddressPrefix | { readonly first: IpAddress; readonly last: IpAddress };

/** What it takes to meet one rule on one way to its chain, as far as a packet can have it. */
export interface RuleWish {
  /** `ipv4 filter INPUT 3` as ruleKey writes it. */
  readonly key: string;
  readonly hook: Hook;
  readonly protocol: Wish<string>;
  readonly source: Wish<AddressChoice>;
  readonly destination: Wish<AddressChoice>;
  readonly sourcePort: Wish<NumberRange>;
  readonly destinationPort: Wish<NumberRange>;
  readonly inDevice: Wish<string>;
  readonly outDevice: Wish<string>;
  readonly icmpType: Wish<number>;
  readonly macSource: Wish<string>;
  readonly uid: Wish<NumberRange>;
  readonly gid: Wish<NumberRange>;
  readonly states: Wish<string>;
  readonly sourceType: Wish<string>;
  readonly destinationType: Wish<string>;
  readonly flags: Wish<readonly TcpFlag[]>;
  readonly mark: Wish<number>;
  readonly tos: Wish<number>;
  readonly ttl: Wish<NumberRange>;
  readonly length: Wish<NumberRange>;
  readonly tcpOption: Wish<number>;
  readonly mss: Wish<number>;
}

type Wishes = { -readonly [Key in keyof Omit<RuleWish, 'key' | 'hook'>]: RuleWish[Key] };

/** Ways to one chain that are looked at: another one wants other things of a packet. */
const MAX_WAYS = 3;
const MAX_DEPTH = 16;

/** Names a rule; positions count from 1. */
export function ruleKey(family: AddressFamily, table: TableName, chain: string, position: number): string {
  return `${family} ${table} ${chain} ${position}`;
}

/** Gives what each rule wants that jumps lead to from a built-in chain, the rules of a way in their order. */
export function wishesOf(text: string, family: AddressFamily): readonly RuleWish[] {
  return readRuleSet(text, { family }).tables.flatMap((table) => new WishReader(table, family).read());
}

/** Gives the rules that jumps lead to from a built-in chain. */
export function reachableRules(ruleSet: ParsedRuleSet): ReadonlySet<string> {
  return new Set(ruleSet.tables.flatMap((table) => new WishReader(table, ruleSet.family).read().map(({ key }) => key)));
}

class WishReader {
  readonly #table: Table;
  readonly #family: AddressFamily;
  readonly #ways = new Map<string, number>();
  readonly #wishes: RuleWish[] = [];

  constructor(table: Table, family: AddressFamily) {
    this.#table = table;
    this.#family = family;
  }

  read(): readonly RuleWish[] {
    for (const hook of BUILT_IN_CHAINS[this.#table.name]) {
      this.#readChain(hook, hook, [], 0);
    }
    return this.#wishes;
  }

  #readChain(name: string, hook: Hook, before: readonly Rule[], depth: number): void {
    const ways = this.#ways.get(name) ?? 0;
    if (ways >= MAX_WAYS || depth > MAX_DEPTH) {
      return;
    }
    this.#ways.set(name, ways + 1);
    for (const [index, rule] of (this.#table.chains.get(name)?.rules ?? []).entries()) {
      const way = [...before, rule];
      this.#wishes.push({ key: ruleKey(this.#family, this.#table.name, name, index + 1), hook, ...joinWishes(way) });
      if (rule.target.kind === 'chain') {
        this.#readChain(rule.target.name, hook, way, depth + 1);
      }
    }
  }
}

function joinWishes(way: readonly Rule[]): Wishes {
  const wishes = noWishes();
  for (const match of way.flatMap(({ matches }) => matches)) {
    addMatch(wishes, match);
  }
  return wishes;
}

function noWishes(): Wishes {
  const none = { wanted: null, unwanted: [] };
  return {
    protocol: none, source: none, destination: none, sourcePort: none, destinationPort: none, inDevice: none, outDevice: none, icmpType: none, macSource: none, uid: none, gid: none, states: none,
    sourceType: none, destinationType: none, flags: none, mark: none, tos: none, ttl: none, length: none, tcpOption: none, mss: none,
  };
}

/** No wish at all, for what arrives where no rule is. */
export function emptyWish(hook: Hook): RuleWish {
  return { key: '', hook, ...noWishes() };
}

function add<Value>(wish: Wish<Value>, negated: boolean, value: Value | undefined, isNarrower: (value: Value, than: Value) => boolean = () => true): Wish<Value> {
  if (value === undefined) {
    return wish;
  }
  if (negated) {
    return { ...wish, unwanted: [...wish.unwanted, value] };
  }
  return wish.wanted !== null && !isNarrower(value, wish.wanted) ? wish : { ...wish, wanted: value };
}

const isSmaller = (value: NumberRange, than: NumberRange): boolean => value.last - value.first <= than.last - than.first;
const isNarrowerAddress = (value: AddressChoice, than: AddressChoice): boolean => !('prefixLength' in value) || !('prefixLength' in than) || value.prefixLength >= than.prefixLength;

function addMatch(wishes: Wishes, match: Match): void {
  switch (match.kind) {
    case 'source':
    case 'destination':
      wishes[match.kind] = add(wishes[match.kind], match.negated, match.prefix, isNarrowerAddress);
      break;
    case 'inInterface':
      wishes.inDevice = add(wishes.inDevice, match.negated, match.name);
      break;
    case 'outInterface':
      wishes.outDevice = add(wishes.outDevice, match.negated, match.name);
      break;
    case 'protocol':
      wishes.protocol = add(wishes.protocol, match.negated, match.protocol);
      break;
    case 'port':
      addPorts(wishes, match.which, match.negated, [match.range]);
      break;
    case 'multiport':
      addPorts(wishes, match.which === 'either' ? 'destination' : match.which, match.negated, match.ranges);
      break;
    case 'tcpFlags':
      wishes.flags = add(wishes.flags, match.negated, match.set);
      break;
    case 'owner':
      wishes[match.which] = add(wishes[match.which], match.negated, match.range);
      break;
    case 'connectionState':
      for (const state of match.states) {
        wishes.states = add(wishes.states, match.negated, state, () => wishes.states.wanted === null);
      }
      break;
    case 'addressType':
      for (const type of match.types) {
        const key = match.which === 'source' ? 'sourceType' : 'destinationType';
        wishes[key] = add(wishes[key], match.negated, type);
      }
      break;
    case 'mark':
      wishes.mark = add(wishes.mark, match.negated, match.wanted.value);
      break;
    case 'tcpOption':
      wishes.tcpOption = add(wishes.tcpOption, match.negated, match.option);
      break;
    case 'extension':
      for (const option of match.options) {
        addOption(wishes, match.module, option);
      }
      break;
    default:
      break;
  }
}

function addPorts(wishes: Wishes, which: 'source' | 'destination', negated: boolean, ranges: readonly NumberRange[]): void {
  const key = which === 'source' ? 'sourcePort' : 'destinationPort';
  for (const range of negated ? ranges : ranges.slice(0, 1)) {
    wishes[key] = add(wishes[key], negated, range, isSmaller);
  }
}

function addOption(wishes: Wishes, module: string, { name, negated, value, text }: ExtensionOption): void {
  const range = value.type === 'range' ? { first: value.first, last: value.last } : value.type === 'number' ? { first: value.value, last: value.value } : undefined;
  switch (`${module} ${name}`) {
    case 'mac mac-source':
      wishes.macSource = add(wishes.macSource, negated, text ?? undefined);
      break;
    case 'iprange src-range':
      wishes.source = add(wishes.source, negated, value.type === 'addresses' ? value : undefined);
      break;
    case 'iprange dst-range':
      wishes.destination = add(wishes.destination, negated, value.type === 'addresses' ? value : undefined);
      break;
    case 'icmp icmp-type':
    case 'icmp6 icmpv6-type':
      wishes.icmpType = add(wishes.icmpType, negated, value.type === 'icmp' && value.icmpType !== 255 ? value.icmpType : undefined);
      break;
    case 'length length':
      wishes.length = add(wishes.length, negated, range);
      break;
    case 'ttl ttl-eq':
    case 'hl hl-eq':
      wishes.ttl = add(wishes.ttl, negated, range);
      break;
    case 'ttl ttl-lt':
    case 'hl hl-lt':
      wishes.ttl = add(wishes.ttl, false, range === undefined ? undefined : { first: Math.max(0, range.first - 1), last: Math.max(0, range.first - 1) });
      break;
    case 'ttl ttl-gt':
    case 'hl hl-gt':
      wishes.ttl = add(wishes.ttl, false, range === undefined ? undefined : { first: Math.min(255, range.first + 1), last: 255 });
      break;
    case 'tos tos':
      wishes.tos = add(wishes.tos, negated, value.type === 'masked' ? value.value : undefined);
      break;
    case 'dscp dscp':
      wishes.tos = add(wishes.tos, negated, value.type === 'number' ? value.value * 4 : undefined);
      break;
    case 'tcpmss mss':
      wishes.mss = add(wishes.mss, negated, range?.first);
      break;
    case 'sctp dport':
    case 'udplite dport':
    case 'dccp dport':
      addPorts(wishes, 'destination', negated, range === undefined ? [] : [range]);
      break;
    default:
      break;
  }
}
