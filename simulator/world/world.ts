import { isIpv4, toIpAddress } from '../../agent/protocol/ipAddress.ts';
import type { IpAddress, NamespaceId } from '../../agent/protocol/scalars.ts';
import type { NetworkLink, NetworkNamespace, Route, RoutingRule, Snapshot } from '../../agent/protocol/snapshot.ts';
import type { CompiledTable } from '../netfilter/compileTable.ts';
import { compileTable } from '../netfilter/compileTable.ts';
import { findNamedLists } from '../netfilter/namedLists.ts';
import type { AddressSets } from '../netfilter/addressSet.ts';
import { readAddressSets } from '../netfilter/readAddressSets.ts';
import { readRuleSet } from '../netfilter/readRuleSet.ts';
import { Address, maskWords } from '../netfilter/address.ts';
import type { Match, ParsedRuleSet, Rule, Table, Target } from '../netfilter/ruleSet.ts';
import { UNREADABLE_RULE } from '../netfilter/ruleSet.ts';
import type { RoutingTables } from './routingTables.ts';
import { compileRoutes } from './routingTables.ts';

/** A snapshot made ready to be asked: rule sets read, defaults of the kernel filled in. It never changes. */
export interface World {
  readonly snapshot: Snapshot;
  readonly namespaces: ReadonlyMap<NamespaceId, WorldNamespace>;
}

/** The rules of one address family in a namespace, ready for packets. */
export interface FamilyRules {
  /** The rule sets, in the order in which they are asked at the same priority. */
  readonly ruleSets: readonly ParsedRuleSet[];
  readonly tables: ReadonlyMap<Table['name'], readonly CompiledTable[]>;
  /** Whether conntrack is on: it is where something needs it (nf_ct_netns_get). */
  readonly tracksConnections: boolean;
  /** Whether fragments are collected before rules see them: where conntrack is on, and for TPROXY and `-m socket`. */
  readonly collectsFragments: boolean;
  /** Whether a rule or a routing rule asks for the mark of packets or connections. */
  readonly readsMarks: boolean;
  /** Whether table security is asked after the source NAT of INPUT: iptables-nft gives it priority 150 instead of 50 (iptables/nft.c). */
  readonly asksSecurityLast: boolean;
  readonly routes: RoutingTables;
}

export type FamilyName = 'ipv4' | 'ipv6';

/** One network namespace of a world. */
export interface WorldNamespace {
  readonly id: NamespaceId;
  /** A name that people know: that of the pod, else of the namespace. Untrusted text. */
  readonly title: string;
  readonly state: NetworkNamespace;
  readonly ipv4: FamilyRules;
  readonly ipv6: FamilyRules;
  readonly linksByName: ReadonlyMap<string, NetworkLink>;
  /** The sets of ipset by name; null where the snapshot does not have them. */
  readonly ipSets: AddressSets['sets'] | null;
  /** Every address that the namespace owns, as text. */
  readonly ownAddresses: ReadonlySet<string>;
  /** What was taken to be so because the snapshot does not tell; sentences. */
  readonly assumptions: readonly string[];
}

const LOCAL_TABLE = 255;
const MAIN_TABLE = 254;
const DEFAULT_TABLE = 253;

export interface WorldOptions {
  /** False to walk chains from rule to rule, as a baseline and for tests. */
  readonly indexed?: boolean;
}

/** Makes a world of a snapshot. Deterministic: the same snapshot gives the same world. */
export function buildWorld(snapshot: Snapshot, options: WorldOptions = {}): World {
  const namespaces = new Map<NamespaceId, WorldNamespace>();
  for (const state of snapshot.namespaces) {
    namespaces.set(state.id, buildNamespace(snapshot, state, options));
  }
  return { snapshot, namespaces };
}

/** Gives the link of a name, or undefined. */
export function findLink(namespace: WorldNamespace, name: string): NetworkLink | undefined {
  return namespace.linksByName.get(name);
}

/** Gives the IPv4 addresses of a link in the kernel's order, the primary one first. */
function ipv4Addresses(link: NetworkLink): readonly IpAddress[] {
  return link.addresses.map((entry) => entry.address).filter(isIpv4);
}

/** Says whether a namespace owns an address: such an address is delivered to its sockets. */
export function ownsAddress(namespace: WorldNamespace, address: IpAddress): boolean {
  return namespace.ownAddresses.has(address);
}

/** Gives a sysctl as a number, or null where the snapshot does not have it. */
export function readSysctl(namespace: WorldNamespace, name: string): number | null {
  const text = Object.hasOwn(namespace.state.sysctls, name) ? namespace.state.sysctls[name] : undefined;
  return text !== undefined && /^-?\d{1,9}$/.test(text.trim()) ? Number(text) : null;
}

/** Gives the tables of a name that a family has, one of each backend. */
export function tablesNamed(rules: FamilyRules, name: Table['name']): readonly CompiledTable[] {
  return rules.tables.get(name) ?? [];
}

function buildNamespace(snapshot: Snapshot, state: NetworkNamespace, options: WorldOptions): WorldNamespace {
  const assumptions: string[] = [];
  const title = snapshot.pods.find((pod) => pod.namespace === state.id)?.name ?? state.names[0] ?? `namespace ${state.id}`;
  return {
    id: state.id,
    title,
    state,
    ipv4: buildFamily(state, 'ipv4', title, assumptions, options),
    ipv6: buildFamily(state, 'ipv6', title, assumptions, options),
    ipSets: state.ipSets === undefined ? null : readAddressSets(state.ipSets).sets,
    linksByName: new Map(state.links.map((link) => [link.name, link])),
    ownAddresses: new Set(state.links.flatMap((link) => link.addresses.map(({ address }) => address))),
    assumptions,
  };
}

function buildFamily(state: NetworkNamespace, family: FamilyName, title: string, assumptions: string[], options: WorldOptions): FamilyRules {
  const ruleSets = state.ruleSets.filter((ruleSet) => ruleSet.family === family).map((ruleSet) => ({ ...readRuleSet(ruleSet.text, { family, backend: ruleSet.backend }), backend: ruleSet.backend }));
  const program = family === 'ipv4' ? 'iptables' : 'ip6tables';
  for (const { problems } of ruleSets) {
    const [first] = problems;
    if (first !== undefined) {
      assumptions.push(`${problems.length} line(s) of the ${program} rules of ${title} could not be read, the first at line ${first.line}: ${first.message}`);
    }
  }
  if (ruleSets.filter((ruleSet) => ruleSet.tables.length > 0).length > 1) {
    assumptions.push(`${title} has rules in both ${program} backends. At one hook they are asked in the order in which they were loaded, which is not known; here nft comes as listed.`);
  }
  const tables = new Map<Table['name'], CompiledTable[]>();
  for (const { tables: own, backend } of ruleSets) {
    const lists = findNamedLists(own, backend);
    for (const table of own) {
      tables.set(table.name, [...(tables.get(table.name) ?? []), compileTable(table, { ...options, lists })]);
    }
  }
  const routingRules = withDefaultRules(state.routingRules.filter((rule) => rule.family === family), family);
  const tracksConnections = ruleSets.some(needsConntrack) || state.conntrack.some((entry) => isIpv4(entry.original.source.address) === (family === 'ipv4'));
  return {
    ruleSets,
    tables,
    tracksConnections,
    asksSecurityLast: state.ruleSets.some((ruleSet) => ruleSet.family === family && ruleSet.backend === 'nft'),
    collectsFragments: tracksConnections || ruleSets.some(needsWholePackets),
    readsMarks: ruleSets.some(readsMarks) || routingRules.some(({ mark }) => mark !== null),
    routes: compileRoutes(withLocalRoutes(state, family), routingRules),
  };
}

/** Routes of table local come with each address (net/ipv4/fib_frontend.c, fib_add_ifaddr; net/ipv6/addrconf.c); a snapshot may leave them out. */
function withLocalRoutes(state: NetworkNamespace, family: FamilyName): readonly Route[] {
  const routes = state.routes.filter((route) => route.family === family);
  if (routes.some((route) => route.table === LOCAL_TABLE)) {
    return routes;
  }
  const up = state.links.filter((link) => link.up);
  const local = (type: string, address: IpAddress, prefixLength: number, device: string, preferredSource: IpAddress | null): Route => ({
    family, type, destination: { address, prefixLength }, gateway: null, device, preferredSource, table: LOCAL_TABLE, metric: 0, scope: 'host',
  });
  if (family === 'ipv6') {
    return [
      ...routes,
      ...up.flatMap((link) => link.addresses.filter(({ address }) => !isIpv4(address)).map(({ address }) => local('local', address, 128, link.name, null))),
      ...up.filter((link) => link.kind !== 'loopback').map((link) => local('multicast', toIpAddress('ff00::'), 8, link.name, null)),
    ];
  }
  const broadcasts = up.flatMap((link) => link.addresses.filter(({ address, prefixLength }) => isIpv4(address) && prefixLength < 31).map((entry) => local('broadcast', lastAddress(entry), 32, link.name, entry.address)));
  const derived = up.flatMap((link) => ipv4Addresses(link).map((address) => local('local', address, 32, link.name, address)));
  const loopback = up.find((link) => link.kind === 'loopback');
  const whole = loopback === undefined ? [] : [local('local', toIpAddress('127.0.0.0'), 8, loopback.name, toIpAddress('127.0.0.1'))];
  return [...routes, ...derived, ...broadcasts, ...whole];
}

/** The broadcast address of a network. */
function lastAddress({ address, prefixLength }: { readonly address: IpAddress; readonly prefixLength: number }): IpAddress {
  return Address.ofIpv4(Address.of(address).w0 | ~maskWords(prefixLength)[0]).text;
}

/** The rules that every namespace begins with (net/ipv4/fib_rules.c, fib_default_rules_init; net/ipv6/fib6_rules.c). */
function withDefaultRules(rules: readonly RoutingRule[], family: FamilyName): readonly RoutingRule[] {
  if (rules.length > 0) {
    return rules.toSorted((left, right) => left.priority - right.priority);
  }
  const lookup = (priority: number, table: number): RoutingRule => ({
    family, priority, source: null, destination: null, mark: null, inInterface: null, outInterface: null, table, action: 'lookup',
  });
  return [lookup(0, LOCAL_TABLE), lookup(32_766, MAIN_TABLE), ...(family === 'ipv4' ? [lookup(32_767, DEFAULT_TABLE)] : [])];
}

/**
 * Conntrack is on where a rule that needs it is loaded, whether or not packets reach it (nf_ct_netns_get). Table nat
 * alone, and NOTRACK, do not need it: a nat table without NAT rules is never asked.
 */
function needsConntrack(ruleSet: ParsedRuleSet): boolean {
  return rulesOf(ruleSet).some(({ target, matches }) => CONNTRACK_TARGETS.has(targetName(target)) || matches.some(matchNeedsConntrack));
}

/** Rules that copy marks from packets to connections and back, or on to answers, only matter where others ask for them. */
function readsMarks(ruleSet: ParsedRuleSet): boolean {
  return rulesOf(ruleSet).some(({ matches }) => matches.some(({ kind, ...match }) => kind === 'mark' || kind === 'connectionMark' || ('module' in match && match.module === 'bpf')));
}

/** TPROXY and `-m socket` see whole packets only (nf_defrag_ipv4_enable). */
function needsWholePackets(ruleSet: ParsedRuleSet): boolean {
  return rulesOf(ruleSet).some(({ target, matches }) => target.kind === 'tproxy' || matches.some((match) => 'module' in match && match.module === 'socket'));
}

function rulesOf(ruleSet: ParsedRuleSet): readonly Rule[] {
  return ruleSet.tables.flatMap((table) => [...table.chains.values()].flatMap((chain) => chain.rules));
}

function targetName(target: Target): string {
  return 'name' in target && target.kind !== 'chain' && target.kind !== 'notrack' ? target.name : target.kind;
}

function matchNeedsConntrack(match: Match): boolean {
  return match.kind === 'connectionState' || match.kind === 'connectionMark' || ('module' in match && CONNTRACK_MODULES.has(match.module));
}

/** Targets that switch conntrack on: kinds that are modelled, names of those that are not. */
const CONNTRACK_TARGETS = new Set(['redirect', 'dnat', 'snat', 'masquerade', 'connectionMark', 'CT', 'NETMAP', 'SYNPROXY', 'CONNSECMARK', 'CONNMARK', UNREADABLE_RULE]);

/** Matches that do. */
const CONNTRACK_MODULES = new Set(['conntrack', 'state', 'connmark', 'connbytes', 'connlimit', 'connlabel', 'helper', 'cluster']);
