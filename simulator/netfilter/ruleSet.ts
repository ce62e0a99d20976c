import type { Hook, TableName } from '../../agent/protocol/trace.ts';
import type { IpAddress } from '../../agent/protocol/scalars.ts';
import type { AddressPrefix } from './addressPrefix.ts';

/** The two programs that bring rules into the kernel: what they take and print differs here and there. */
export type Backend = 'legacy' | 'nft';

/** The two programs: iptables and ip6tables. */
export type AddressFamily = 'ipv4' | 'ipv6';

/** What iptables-save text means: tables of chains of rules, with matches and targets as data. */
export interface ParsedRuleSet {
  readonly tables: readonly Table[];
  /** Which iptables the rules are for. */
  readonly family: AddressFamily;
  /** What could not be read. Each bad rule stays in its chain and evaluates to unknown. */
  readonly problems: readonly RuleProblem[];
}

/** A place in a rule set text that is not what was expected. */
export interface RuleProblem {
  /** An error is what iptables-restore or the kernel refuses; a warning is what this program does not know. */
  readonly severity: 'error' | 'warning';
  /** From 1. */
  readonly line: number;
  /** From 1, in UTF-16 units. */
  readonly column: number;
  readonly message: string;
  readonly expected: string;
  /** What stands there instead; empty at the end of a line. */
  readonly found: string;
  /** The length of what is found, in UTF-16 units; 0 at the end of a line. */
  readonly length: number;
}

export interface Table {
  readonly name: TableName;
  /** Built-in chains and user chains, in the order of the text. */
  readonly chains: ReadonlyMap<string, Chain>;
}

export interface Chain {
  readonly name: string;
  /** What happens to packets that reach the end of a built-in chain; null for a user chain. */
  readonly policy: 'ACCEPT' | 'DROP' | null;
  readonly counters: Counters | null;
  readonly rules: readonly Rule[];
  /** The line that declares it, from 1; 0 where none does. */
  readonly line: number;
}

/** Packets and bytes as iptables-save -c prints them. */
export interface Counters {
  readonly packets: bigint;
  readonly bytes: bigint;
}

export interface Rule {
  /** In the order in which the kernel compares: addresses, interfaces and protocol first, then the others as written. */
  readonly matches: readonly Match[];
  readonly target: Target;
  readonly counters: Counters | null;
  /** The line in the text, from 1. */
  readonly line: number;
  /** Where it begins in its line, from 1, and how many UTF-16 units it has. */
  readonly column: number;
  readonly length: number;
  /** The rule as iptables-save prints it, without counters; for what could not be read, as it was written. */
  readonly text: string;
}

/** What follows `-A CHAIN`. */
export interface RuleBody {
  readonly matches: readonly Match[];
  readonly target: Target;
}

export interface NumberRange {
  readonly first: number;
  readonly last: number;
}

/** A value compared under a mask: `(actual & mask) == value`. */
export interface MaskedValue {
  readonly value: number;
  readonly mask: number;
}

export type TcpFlag = 'FIN' | 'SYN' | 'RST' | 'PSH' | 'ACK' | 'URG';
export const TCP_FLAGS: readonly TcpFlag[] = ['FIN', 'SYN', 'RST', 'PSH', 'ACK', 'URG'];

export type ConnectionStateName = 'INVALID' | 'NEW' | 'RELATED' | 'ESTABLISHED' | 'UNTRACKED' | 'SNAT' | 'DNAT';
export const CONNECTION_STATES: readonly ConnectionStateName[] = ['INVALID', 'NEW', 'RELATED', 'ESTABLISHED', 'UNTRACKED', 'SNAT', 'DNAT'];

export type Match =
  | { readonly kind: 'source' | 'destination'; readonly negated: boolean; readonly prefix: AddressPrefix }
  /** A name, or with a `+` at its end the beginning of one. */
  | { readonly kind: 'inInterface' | 'outInterface'; readonly negated: boolean; readonly name: string }
  /** An IP protocol by name as iptables-save writes it (`tcp`, `udp`, `47`). */
  | { readonly kind: 'protocol'; readonly negated: boolean; readonly protocol: string }
  | { readonly kind: 'fragment'; readonly negated: boolean }
  | { readonly kind: 'port'; readonly module: 'tcp' | 'udp'; readonly which: 'source' | 'destination'; readonly negated: boolean; readonly range: NumberRange }
  | { readonly kind: 'tcpFlags'; readonly negated: boolean; readonly mask: readonly TcpFlag[]; readonly set: readonly TcpFlag[] }
  | { readonly kind: 'multiport'; readonly which: 'source' | 'destination' | 'either'; readonly negated: boolean; readonly ranges: readonly NumberRange[] }
  | { readonly kind: 'owner'; readonly which: 'uid' | 'gid'; readonly negated: boolean; readonly range: NumberRange }
  | { readonly kind: 'socketExists'; readonly negated: boolean }
  | { readonly kind: 'connectionState'; readonly module: 'conntrack' | 'state'; readonly negated: boolean; readonly states: readonly ConnectionStateName[] }
  | { readonly kind: 'mark' | 'connectionMark'; readonly negated: boolean; readonly wanted: MaskedValue }
  | { readonly kind: 'addressType'; readonly which: 'source' | 'destination'; readonly negated: boolean; readonly types: readonly string[] }
  | { readonly kind: 'comment'; readonly text: string }
  /** Where a match module begins (`-m tcp`); it compares nothing by itself. */
  | { readonly kind: 'module'; readonly module: string }
  | { readonly kind: 'tcpOption'; readonly negated: boolean; readonly option: number }
  /** `--suppl-groups`: the groups before it are compared with the supplementary groups of the socket's creator too. */
  | { readonly kind: 'supplementaryGroups' }
  /** `--limit-iface-in` and `--limit-iface-out` of addrtype: the types are those that the address has on this one interface. */
  | { readonly kind: 'addressTypeInterface'; readonly which: 'in' | 'out' }
  /** An instance of any other match module of iptables with its options; `named` where an earlier match of the rule has begun the module. */
  | { readonly kind: 'extension'; readonly module: string; readonly options: readonly ExtensionOption[]; readonly named: boolean }
  /** What this program does not know: kept as it was written, compares to unknown. */
  | { readonly kind: 'unknown'; readonly module: string; readonly words: readonly string[] };

/** An option of a match module or target, as iptables hands it to the kernel. Options stand in the order of iptables-save. */
export interface ExtensionOption {
  /** Its long name without the dashes; one of several spellings, the one that iptables-save prints. */
  readonly name: string;
  readonly negated: boolean;
  readonly value: OptionValue;
  /** Its argument as iptables-save prints it; null where it has none. */
  readonly text: string | null;
}

/** What an option says, as data. */
export type OptionValue =
  | { readonly type: 'flag' }
  | { readonly type: 'number'; readonly value: number }
  | { readonly type: 'bigNumber'; readonly value: bigint }
  | { readonly type: 'range'; readonly first: number; readonly last: number }
  | { readonly type: 'bigRange'; readonly first: bigint; readonly last: bigint }
  | { readonly type: 'masked'; readonly value: number; readonly mask: number }
  | { readonly type: 'text'; readonly text: string }
  /** Words of a comma list. */
  | { readonly type: 'names'; readonly names: readonly string[] }
  | { readonly type: 'numbers'; readonly numbers: readonly number[] }
  | { readonly type: 'prefix'; readonly prefix: AddressPrefix }
  | { readonly type: 'addresses'; readonly first: IpAddress; readonly last: IpAddress }
  /** A type of ICMP or ICMPv6 with its codes; `any` of iptables is type 255. */
  | { readonly type: 'icmp'; readonly icmpType: number; readonly codes: NumberRange }
  /** A set of ipset and which address or port of the packet stands for each of its dimensions. */
  | { readonly type: 'set'; readonly name: string; readonly directions: readonly ('src' | 'dst')[] }
  /** A limit: one packet each `period` ten-thousandths of a second (XT_LIMIT_SCALE). */
  | { readonly type: 'rate'; readonly period: number };

/** A mark operation: `(old & ~mask) ^ value` (net/netfilter/xt_mark.c). */
export interface MarkChange {
  readonly value: number;
  readonly mask: number;
}

/** Where NAT sends to; null keeps what is there. */
export interface NatRange {
  readonly addresses: { readonly first: IpAddress; readonly last: IpAddress } | null;
  readonly ports: NumberRange | null;
}

export type Target =
  /** No -j at all: the rule counts and the packet goes on. */
  | { readonly kind: 'none' }
  | { readonly kind: 'accept' }
  | { readonly kind: 'drop' }
  | { readonly kind: 'return' }
  | { readonly kind: 'reject'; readonly with: string }
  | { readonly kind: 'chain'; readonly name: string; readonly goto: boolean }
  | { readonly kind: 'redirect'; readonly ports: NumberRange | null; readonly options: readonly string[] }
  | { readonly kind: 'dnat' | 'snat'; readonly to: NatRange; readonly options: readonly string[] }
  | { readonly kind: 'masquerade'; readonly ports: NumberRange | null; readonly options: readonly string[] }
  | { readonly kind: 'mark'; readonly change: MarkChange }
  | { readonly kind: 'connectionMark'; readonly action: 'set'; readonly change: MarkChange }
  | { readonly kind: 'connectionMark'; readonly action: 'save' | 'restore'; readonly packetMask: number; readonly connectionMask: number }
  /** LOG, NFLOG and TRACE: they tell somebody, and the packet goes on. */
  | { readonly kind: 'log'; readonly name: string; readonly words: readonly string[] }
  | { readonly kind: 'notrack'; readonly name: 'NOTRACK' | 'CT' }
  | { readonly kind: 'tproxy'; readonly port: number; readonly address: IpAddress | null; readonly change: MarkChange }
  /** Any other target of iptables with its options. */
  | { readonly kind: 'extension'; readonly name: string; readonly options: readonly ExtensionOption[] }
  | { readonly kind: 'unknown'; readonly name: string; readonly words: readonly string[] };

/** The name of the match and of the target of a rule that could not be read. */
export const UNREADABLE_RULE = 'unreadable rule';

/** The built-in chains of each table, as the kernel registers them (net/ipv4/netfilter/iptable_*.c). */
export const BUILT_IN_CHAINS: Readonly<Record<TableName, readonly Hook[]>> = {
  raw: ['PREROUTING', 'OUTPUT'],
  mangle: ['PREROUTING', 'INPUT', 'FORWARD', 'OUTPUT', 'POSTROUTING'],
  nat: ['PREROUTING', 'INPUT', 'OUTPUT', 'POSTROUTING'],
  filter: ['INPUT', 'FORWARD', 'OUTPUT'],
  security: ['INPUT', 'FORWARD', 'OUTPUT'],
};

/** Says whether a word names one of the five tables. */
export function isTableName(word: string): word is TableName {
  return Object.hasOwn(BUILT_IN_CHAINS, word);
}
