import type { IpAddress } from '../../agent/protocol/scalars.ts';
import type { InterfaceAddress, Route } from '../../agent/protocol/snapshot.ts';
import { Address, isMany, prefixTest } from '../netfilter/address.ts';
import type { CompiledRoutingRule } from './routingTables.ts';
import type { FamilyRules, WorldNamespace } from './world.ts';
import { findLink, readSysctl } from './world.ts';

/** What is looked up. A null source is the wildcard of a socket that is not bound. */
export interface RouteQuery {
  readonly destination: Address;
  readonly source: Address | null;
  readonly mark: number;
  /** The device that a packet arrived by; `lo` for one that is made here. */
  readonly inInterface: string;
  /** The device that it must leave by (SO_BINDTODEVICE); null for any. */
  readonly outInterface?: string | null;
  /** Whether routes to this machine itself must be of that device as well (net/ipv6/route.c, RT6_LOOKUP_F_IFACE). */
  readonly isStrict?: boolean;
}

export type RouteDecision =
  /** To this machine's own sockets. */
  | { readonly kind: 'local'; readonly route: Route }
  /** Broadcast or multicast: to whoever listens. */
  | { readonly kind: 'many'; readonly route: Route; readonly device: string }
  | { readonly kind: 'unicast'; readonly route: Route; readonly device: string; readonly nextHop: Address }
  /** No way there, with the errno that connect(2) gives. */
  | { readonly kind: 'refuse'; readonly errno: string; readonly reason: string; readonly table: number | null }
  | { readonly kind: 'unknown'; readonly dependsOn: string };

/** What connect(2) answers for routes that lead nowhere (net/ipv4/fib_semantics.c, fib_props). */
const REFUSING_TYPES: Readonly<Record<string, string>> = { unreachable: 'EHOSTUNREACH', prohibit: 'EACCES', blackhole: 'EINVAL' };
const LOCAL_TABLE = 255;
const MAIN_TABLE = 254;

/** Gives the rules and routes of the family of an address. */
export function familyOf(namespace: WorldNamespace, address: Address): FamilyRules {
  return address.isIpv4 ? namespace.ipv4 : namespace.ipv6;
}

/**
 * Looks up the way to an address as the kernel does: rules by priority, in each table the longest prefix, of several the
 * least metric; `throw` goes on to the next rule (net/ipv4/fib_rules.c, fib_trie.c; net/ipv6/route.c). Type of service is
 * taken as 0.
 */
export function findRoute(namespace: WorldNamespace, query: RouteQuery): RouteDecision {
  const { rules, tables } = familyOf(namespace, query.destination).routes;
  for (const compiled of rules) {
    if (!ruleMatches(compiled, query)) {
      continue;
    }
    const { rule } = compiled;
    if (rule.table === null) {
      const errno = Object.hasOwn(REFUSING_TYPES, rule.action) ? REFUSING_TYPES[rule.action] : undefined;
      return errno === undefined
        ? { kind: 'unknown', dependsOn: `the routing rule of priority ${rule.priority} (${rule.action})` }
        : { kind: 'refuse', errno, reason: `the routing rule of priority ${rule.priority} says ${rule.action}`, table: null };
    }
    const route = tables.get(rule.table)?.find(query.destination, query.outInterface ?? null, query.isStrict ?? !query.destination.isIpv4);
    if (route === undefined || route.type === 'throw') {
      continue;
    }
    return decideBy(route, query.destination);
  }
  return { kind: 'refuse', errno: 'ENETUNREACH', reason: `there is no route to ${query.destination.text}`, table: null };
}

/**
 * Looks up the way of what is sent from here (net/ipv4/route.c, ip_route_output_key_hash_rcu and __mkroute_output): of IPv4, a
 * source must be an address of the namespace, unless the socket is transparent or writes its own headers (`anySource`), and
 * 127.0.0.0/8 does not leave by another device than lo without route_localnet.
 */
export function findOutputRoute(namespace: WorldNamespace, query: RouteQuery, anySource: boolean): RouteDecision {
  const { source } = query;
  if (query.destination.isIpv4 && isMany(query.destination)) {
    return findWayToMany(namespace, query);
  }
  if (source?.isIpv4 !== true || source.w0 === 0) {
    return findRouteBy(namespace, query);
  }
  if (!anySource && addressType(namespace, source, null) !== 'LOCAL') {
    return { kind: 'refuse', errno: 'ENETUNREACH', reason: `${source.text} is no address of ${namespace.title}`, table: null };
  }
  const route = findRouteBy(namespace, query);
  if (source.w0 >>> 24 !== 127 || route.kind !== 'unicast' || findLink(namespace, route.device)?.kind === 'loopback') {
    return route;
  }
  const allowed = ['all', route.device].some((name) => readSysctl(namespace, `net.ipv4.conf.${name}.route_localnet`) === 1);
  return allowed ? route : { kind: 'refuse', errno: 'EINVAL', reason: `${source.text} must not leave by ${route.device} (net.ipv4.conf.${route.device}.route_localnet is off)`, table: null };
}

/**
 * What is sent to many stays on one link: that of the device that the socket is bound to, or that has the sender's address, else the one that a
 * route to it is by (net/ipv4/route.c, ip_route_output_key_hash_rcu).
 */
function findWayToMany(namespace: WorldNamespace, query: RouteQuery): RouteDecision {
  const { source, destination } = query;
  const owner = source === null || source.w0 === 0 ? undefined : namespace.state.links.find(({ addresses }) => addresses.some(({ address }) => address === source.text));
  const given = findLink(namespace, query.outInterface ?? '') ?? owner;
  const found = given === undefined ? findRoute(namespace, query) : undefined;
  if (found?.kind === 'refuse' || found?.kind === 'unknown') {
    return found;
  }
  const device = given?.name ?? (found === undefined || found.kind === 'local' ? 'lo' : found.device);
  const route: Route = {
    family: 'ipv4', type: destination.w0 === -1 ? 'broadcast' : 'multicast', destination: { address: destination.text, prefixLength: 32 }, gateway: null, device,
    preferredSource: found?.route.preferredSource ?? null, table: LOCAL_TABLE, metric: 0, scope: 'link',
  };
  return { kind: 'many', route, device };
}

/** Of IPv4, what no route leads to by the device that a socket is bound to is taken to be its neighbour (net/ipv4/route.c, ip_route_output_key_hash_rcu). */
function findRouteBy(namespace: WorldNamespace, query: RouteQuery): RouteDecision {
  const found = findRoute(namespace, query);
  const link = found.kind === 'refuse' && query.destination.isIpv4 ? findLink(namespace, query.outInterface ?? '') : undefined;
  if (link === undefined) {
    return found;
  }
  const isLoopback = link.kind === 'loopback';
  const own = link.addresses.find(({ address, scope }) => !address.includes(':') && (scope !== 'host' || readSysctl(namespace, `net.ipv4.conf.${link.name}.route_localnet`) === 1));
  const route: Route = {
    family: 'ipv4', type: 'unicast', destination: { address: query.destination.text, prefixLength: 32 }, gateway: null, device: link.name,
    preferredSource: own?.address ?? selectAnyAddress(namespace)?.text ?? null, table: MAIN_TABLE, metric: 0, scope: 'link',
  };
  return isLoopback ? { kind: 'local', route } : { kind: 'unicast', route, device: link.name, nextHop: query.destination };
}

/**
 * Looks up the way to ::1 from a device that is not lo: only routes of that device count, and those of its gateways do (net/ipv6/route.c,
 * rt6_need_strict).
 */
export function findStrictRoute(namespace: WorldNamespace, query: RouteQuery, device: string): RouteDecision {
  return findRoute(namespace, { ...query, outInterface: device, isStrict: true });
}

/** Like findRoute, for addresses as text. */
export function lookUpRoute(namespace: WorldNamespace, query: { readonly destination: IpAddress; readonly source: IpAddress | null; readonly mark: number; readonly inInterface: string }): RouteDecision {
  return findRoute(namespace, { ...query, destination: Address.of(query.destination), source: query.source === null ? null : Address.of(query.source) });
}

/**
 * Gives the source address that a socket without one gets (net/ipv4/route.c, ip_route_output_key_hash_rcu, and
 * net/ipv4/devinet.c, inet_select_addr; net/ipv6/addrconf.c, ipv6_dev_get_saddr); null where the device has no address.
 */
export function selectSource(namespace: WorldNamespace, decision: Extract<RouteDecision, { kind: 'local' | 'many' | 'unicast' }>, destination: Address): Address | null {
  const { preferredSource } = decision.route;
  if (preferredSource !== null) {
    return Address.of(preferredSource);
  }
  if (decision.kind === 'local') {
    return destination.isIpv4 || namespace.ownAddresses.has(destination.text) ? destination : selectDeviceAddress(namespace, decision.route.device ?? 'lo', destination);
  }
  return selectDeviceAddress(namespace, decision.device, decision.kind === 'unicast' && destination.isIpv4 ? decision.nextHop : destination);
}

/** Gives the address of a device that packets to `towards` carry: IPv4 of its subnet where there is one, else the first; IPv6 by RFC 6724. */
export function selectDeviceAddress(namespace: WorldNamespace, device: string, towards: Address): Address | null {
  const entries = findLink(namespace, device)?.addresses ?? [];
  if (!towards.isIpv4) {
    return selectIpv6Address(namespace, entries, towards);
  }
  const usable = entries.filter((entry) => entry.scope !== 'host' && Address.of(entry.address).isIpv4);
  const chosen = usable.find((entry) => prefixTest(entry)(towards)) ?? usable[0];
  return chosen === undefined ? selectAnyAddress(namespace) : Address.of(chosen.address);
}

/** The type of an address for `-m addrtype` (net/ipv4/fib_frontend.c, __inet_dev_addr_type; net/netfilter/xt_addrtype.c for IPv6). */
export function addressType(namespace: WorldNamespace, address: Address, device: string | null): string {
  if (address.isIpv4) {
    const first = address.w0 >>> 24;
    // Of 0.0.0.0/8 only the first address is no host's since Linux 5.3 (include/linux/in.h, ipv4_is_zeronet).
    if (address.w0 === 0 || address.w0 === -1) {
      return 'BROADCAST';
    }
    if (first >= 224 && first < 240) {
      return 'MULTICAST';
    }
    const route = familyOf(namespace, address).routes.tables.get(LOCAL_TABLE)?.find(address, null);
    return route === undefined || (device !== null && route.device !== device) ? 'UNICAST' : route.type.toUpperCase();
  }
  if (address.w0 >>> 24 === 0xff) {
    return 'MULTICAST';
  }
  const found = findRoute(namespace, { destination: address, source: null, mark: 0, inInterface: 'lo', outInterface: device });
  switch (found.kind) {
    case 'local':
      return device === null || found.route.device === device ? 'LOCAL' : 'UNICAST';
    case 'refuse':
      return 'UNREACHABLE';
    default:
      return 'UNICAST';
  }
}

/** The greatest packet of IPv4 and of IPv6 without a jumbogram (net/ipv4/ip_output.c, IP_MAX_MTU; include/net/ip6_route.h, IP6_MAX_MTU). */
const GREATEST_MTU = { ipv4: 65_535, ipv6: 65_575 } as const;

/** Gives the MTU of the device that a way leads by; null where it leads nowhere or there is no such device. */
export function routeMtu(namespace: WorldNamespace, decision: RouteDecision, isIpv4: boolean): number | null {
  if (decision.kind === 'refuse' || decision.kind === 'unknown') {
    return null;
  }
  const mtu = findLink(namespace, decision.kind === 'local' ? 'lo' : decision.device)?.mtu;
  return mtu === undefined ? null : Math.min(mtu, GREATEST_MTU[isIpv4 ? 'ipv4' : 'ipv6']);
}

/** Gives the greatest segment that TCP tells the other end in a SYN that takes a way (net/ipv4/route.c, ipv4_default_advmss; net/ipv6/route.c, ip6_default_advmss). */
export function greatestSegment(namespace: WorldNamespace, decision: RouteDecision, isIpv4: boolean): number | null {
  const mtu = routeMtu(namespace, decision, isIpv4);
  return mtu === null ? null : isIpv4 ? mtu - 40 : Math.min(mtu - 60, 65_515);
}

/** Writes a route as `ip route` does, without its table. */
export function writeRoute(route: Route): string {
  const destination = route.destination.prefixLength === 0 ? 'default' : `${route.destination.address}/${route.destination.prefixLength}`;
  return [
    ...(route.type === 'unicast' ? [] : [route.type]),
    destination,
    ...(route.gateway === null ? [] : ['via', route.gateway]),
    ...(route.device === null ? [] : ['dev', route.device]),
  ].join(' ');
}

function ruleMatches({ rule, matchesSource, matchesDestination }: CompiledRoutingRule, query: RouteQuery): boolean {
  return (
    (matchesSource === null || (query.source !== null && matchesSource(query.source))) &&
    (matchesDestination === null || matchesDestination(query.destination)) &&
    (rule.mark === null || ((query.mark ^ rule.mark.value) & rule.mark.mask) === 0) &&
    (rule.inInterface === null || rule.inInterface === query.inInterface) &&
    (rule.outInterface === null || rule.outInterface === query.outInterface)
  );
}

function decideBy(route: Route, destination: Address): RouteDecision {
  switch (route.type) {
    case 'local':
    case 'anycast':
      return { kind: 'local', route };
    case 'broadcast':
    case 'multicast':
      return route.device === null ? { kind: 'unknown', dependsOn: `the route ${writeRoute(route)}` } : { kind: 'many', route, device: route.device };
    case 'unicast':
      return route.device === null
        ? { kind: 'unknown', dependsOn: `which next hop of the route ${writeRoute(route)} is taken` }
        : { kind: 'unicast', route, device: route.device, nextHop: route.gateway === null ? destination : Address.of(route.gateway) };
    default: {
      const errno = Object.hasOwn(REFUSING_TYPES, route.type) ? REFUSING_TYPES[route.type] : undefined;
      return errno === undefined
        ? { kind: 'unknown', dependsOn: `the route ${writeRoute(route)}` }
        : { kind: 'refuse', errno, reason: `the route to it is '${writeRoute(route)}'`, table: route.table };
    }
  }
}

/** inet_select_addr takes an address of any other device where the device has none, but none of scope host. */
function selectAnyAddress(namespace: WorldNamespace): Address | null {
  const entry = namespace.state.links.flatMap((link) => link.addresses).find(({ scope, address }) => scope === 'global' && Address.of(address).isIpv4);
  return entry === undefined ? null : Address.of(entry.address);
}

/** RFC 6724: the same address, then a scope that reaches, then the longest common prefix. */
function selectIpv6Address(namespace: WorldNamespace, own: readonly InterfaceAddress[], towards: Address): Address | null {
  const isLinkLocal = (address: Address): boolean => (address.w0 & -0x40_0000) === (0xfe80_0000 | 0);
  const candidates = (entries: readonly InterfaceAddress[]): Address[] => entries.map(({ address }) => Address.of(address)).filter((address) => !address.isIpv4 && (address.equals(towards) || !(address.w0 === 0 && address.w1 === 0 && address.w2 === 0 && address.w3 === 1)));
  const near = candidates(own);
  const all = isLinkLocal(towards) ? near : [...near, ...candidates(namespace.state.links.filter(({ kind }) => kind !== 'loopback').flatMap(({ addresses }) => addresses)).filter((address) => !isLinkLocal(address))];
  const rank = (address: Address): readonly number[] => [
    address.equals(towards) ? 1 : 0,
    isLinkLocal(towards) || !isLinkLocal(address) ? 1 : 0,
    near.includes(address) ? 1 : 0,
    commonBits(address, towards),
  ];
  let best: Address | null = null;
  for (const address of all) {
    if (best === null || compareRanks(rank(address), rank(best)) > 0) {
      best = address;
    }
  }
  return best;
}

function compareRanks(left: readonly number[], right: readonly number[]): number {
  const index = left.findIndex((value, at) => value !== right[at]);
  return index < 0 ? 0 : (left[index] ?? 0) - (right[index] ?? 0);
}

function commonBits(left: Address, right: Address): number {
  const words = [left.w0 ^ right.w0, left.w1 ^ right.w1, left.w2 ^ right.w2, left.w3 ^ right.w3];
  const index = words.findIndex((word) => word !== 0);
  return index < 0 ? 128 : index * 32 + Math.clz32(words[index] ?? 0);
}
