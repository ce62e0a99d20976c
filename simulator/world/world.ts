import { isIpv4 } from '../../agent/protocol/ipAddress.ts';
import type { IpAddress, NamespaceId } from '../../agent/protocol/scalars.ts';
import type { NetworkLink, NetworkNamespace, Route, RoutingRule, Snapshot } from '../../agent/protocol/snapshot.ts';
import { toIpAddress } from '../../agent/protocol/ipAddress.ts';
import { readRuleSet } from '../netfilter/readRuleSet.ts';
import type { Match, ParsedRuleSet, Table } from '../netfilter/ruleSet.ts';
import { UNREADABLE_RULE } from '../netfilter/ruleSet.ts';

/** A snapshot made ready to be asked: rule sets read, defaults of the kernel filled in. It never changes. */
export interface World {
  readonly snapshot: Snapshot;
  readonly namespaces: ReadonlyMap<NamespaceId, WorldNamespace>;
}

/** One network namespace of a world. IPv4 only. */
export interface WorldNamespace {
  readonly id: NamespaceId;
  /** A name that people know: that of the pod, else of the namespace. Untrusted text. */
  readonly title: string;
  readonly state: NetworkNamespace;
  readonly routes: readonly Route[];
  /** In the order of their priority. */
  readonly routingRules: readonly RoutingRule[];
  /** The IPv4 rule sets, in the order in which they are asked at the same priority. */
  readonly ruleSets: readonly ParsedRuleSet[];
  /** Whether conntrack is on: it is where something needs it (nf_ct_netns_get). */
  readonly tracksConnections: boolean;
  /** What was taken to be so because the snapshot does not tell; sentences. */
  readonly assumptions: readonly string[];
}

const LOCAL_TABLE = 255;
const MAIN_TABLE = 254;
const DEFAULT_TABLE = 253;

/** Makes a world of a snapshot. Deterministic: the same snapshot gives the same world. */
export function buildWorld(snapshot: Snapshot): World {
  const namespaces = new Map<NamespaceId, WorldNamespace>();
  for (const state of snapshot.namespaces) {
    namespaces.set(state.id, buildNamespace(snapshot, state));
  }
  return { snapshot, namespaces };
}

/** Gives the link of a name, or undefined. */
export function findLink(namespace: WorldNamespace, name: string): NetworkLink | undefined {
  return namespace.state.links.find((link) => link.name === name);
}

/** Gives the IPv4 addresses of a link in the kernel's order, the primary one first. */
export function ipv4Addresses(link: NetworkLink): readonly IpAddress[] {
  return link.addresses.map((entry) => entry.address).filter(isIpv4);
}

/** Says whether a namespace owns an address: such an address is delivered to its sockets. */
export function ownsAddress(namespace: WorldNamespace, address: IpAddress): boolean {
  return namespace.state.links.some((link) => link.addresses.some((entry) => entry.address === address));
}

/** Gives a sysctl as a number, or null where the snapshot does not have it. */
export function readSysctl(namespace: WorldNamespace, name: string): number | null {
  const text = Object.hasOwn(namespace.state.sysctls, name) ? namespace.state.sysctls[name] : undefined;
  return text !== undefined && /^-?\d{1,9}$/.test(text.trim()) ? Number(text) : null;
}

/** Gives a table of every rule set that has it. */
export function tablesNamed(namespace: WorldNamespace, name: Table['name']): readonly Table[] {
  return namespace.ruleSets.flatMap((ruleSet) => ruleSet.tables.filter((table) => table.name === name));
}

function buildNamespace(snapshot: Snapshot, state: NetworkNamespace): WorldNamespace {
  const assumptions: string[] = [];
  const title = snapshot.pods.find((pod) => pod.namespace === state.id)?.name ?? state.names[0] ?? `namespace ${state.id}`;
  const ruleSets = state.ruleSets.filter((ruleSet) => ruleSet.family === 'ipv4').map((ruleSet) => readRuleSet(ruleSet.text));
  for (const { problems } of ruleSets) {
    const [first] = problems;
    if (first !== undefined) {
      assumptions.push(`${problems.length} line(s) of the iptables rules of ${title} could not be read, the first at line ${first.line}: ${first.message}`);
    }
  }
  if (ruleSets.filter((ruleSet) => ruleSet.tables.length > 0).length > 1) {
    assumptions.push(`${title} has rules in both iptables backends. At one hook they are asked in the order in which they were loaded, which is not known; here nft comes as listed.`);
  }
  return {
    id: state.id,
    title,
    state,
    routes: withLocalRoutes(state),
    routingRules: withDefaultRules(state.routingRules.filter((rule) => rule.family === 'ipv4')),
    ruleSets,
    tracksConnections: ruleSets.some(needsConntrack) || state.conntrack.length > 0,
    assumptions,
  };
}

/** Routes of table local come with each address (net/ipv4/fib_frontend.c, fib_add_ifaddr); a snapshot may leave them out. */
function withLocalRoutes(state: NetworkNamespace): readonly Route[] {
  const routes = state.routes.filter((route) => route.family === 'ipv4');
  if (routes.some((route) => route.table === LOCAL_TABLE)) {
    return routes;
  }
  const local = (address: IpAddress, prefixLength: number, device: string, preferredSource: IpAddress): Route => ({
    family: 'ipv4', type: 'local', destination: { address, prefixLength }, gateway: null, device, preferredSource, table: LOCAL_TABLE, metric: 0, scope: 'host',
  });
  const derived = state.links
    .filter((link) => link.up)
    .flatMap((link) => ipv4Addresses(link).map((address) => local(address, 32, link.name, address)));
  const loopback = state.links.find((link) => link.kind === 'loopback' && link.up);
  const whole = loopback === undefined ? [] : [local(toIpAddress('127.0.0.0'), 8, loopback.name, toIpAddress('127.0.0.1'))];
  return [...routes, ...derived, ...whole];
}

/** The three rules that every namespace begins with (net/ipv4/fib_rules.c, fib_default_rules_init). */
function withDefaultRules(rules: readonly RoutingRule[]): readonly RoutingRule[] {
  if (rules.length > 0) {
    return rules.toSorted((left, right) => left.priority - right.priority);
  }
  const lookup = (priority: number, table: number): RoutingRule => ({
    family: 'ipv4', priority, source: null, destination: null, mark: null, inInterface: null, outInterface: null, table, action: 'lookup',
  });
  return [lookup(0, LOCAL_TABLE), lookup(32_766, MAIN_TABLE), lookup(32_767, DEFAULT_TABLE)];
}

/**
 * Conntrack is on where a rule that needs it is loaded, whether or not packets reach it (nf_ct_netns_get). Table nat
 * alone, and NOTRACK, do not need it: a nat table without NAT rules is never asked.
 */
function needsConntrack(ruleSet: ParsedRuleSet): boolean {
  const rules = ruleSet.tables.flatMap((table) => [...table.chains.values()].flatMap((chain) => chain.rules));
  return rules.some(({ target, matches }) => CONNTRACK_TARGETS.has(target.kind === 'unknown' ? target.name : target.kind) || matches.some(matchNeedsConntrack));
}

function matchNeedsConntrack(match: Match): boolean {
  return match.kind === 'connectionState' || match.kind === 'connectionMark' || ((match.kind === 'unknown' || match.kind === 'module') && CONNTRACK_MODULES.has(match.module));
}

/** Targets that switch conntrack on: kinds that are modelled, names of those that are not. */
const CONNTRACK_TARGETS = new Set(['redirect', 'dnat', 'snat', 'masquerade', 'connectionMark', 'CT', 'NETMAP', 'SYNPROXY', 'CONNSECMARK', UNREADABLE_RULE]);

/** Matches that do. */
const CONNTRACK_MODULES = new Set(['conntrack', 'state', 'connmark', 'connbytes', 'connlimit', 'connlabel', 'helper', 'cluster']);
