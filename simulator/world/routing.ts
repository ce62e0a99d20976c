import { isIpv4 } from '../../agent/protocol/ipAddress.ts';
import type { IpAddress } from '../../agent/protocol/scalars.ts';
import type { Route, RoutingRule } from '../../agent/protocol/snapshot.ts';
import { prefixContains } from '../netfilter/addressPrefix.ts';
import type { WorldNamespace } from './world.ts';
import { findLink } from './world.ts';

/** What is looked up. A null source is the wildcard of a socket that is not bound. */
export interface RouteQuery {
  readonly destination: IpAddress;
  readonly source: IpAddress | null;
  readonly mark: number;
  /** The device that a packet arrived by; `lo` for one that is made here. */
  readonly inInterface: string;
}

export type RouteDecision =
  /** To this machine's own sockets. */
  | { readonly kind: 'local'; readonly route: Route }
  | { readonly kind: 'unicast'; readonly route: Route; readonly device: string; readonly nextHop: IpAddress }
  /** No way there, with the errno that connect(2) gives. */
  | { readonly kind: 'refuse'; readonly errno: string; readonly reason: string; readonly table: number | null }
  | { readonly kind: 'unknown'; readonly dependsOn: string };

/** What connect(2) answers for routes that lead nowhere (net/ipv4/fib_semantics.c, fib_props). */
const REFUSING_TYPES: Readonly<Record<string, string>> = { unreachable: 'EHOSTUNREACH', prohibit: 'EACCES', blackhole: 'EINVAL', broadcast: 'ENETUNREACH', multicast: 'ENETUNREACH' };

/**
 * Looks up the way to an address as the kernel does: rules by priority, in each table the longest prefix, of several the
 * least metric; `throw` goes on to the next rule (net/ipv4/fib_rules.c, fib_trie.c). Type of service is taken as 0.
 */
export function lookUpRoute(namespace: WorldNamespace, query: RouteQuery): RouteDecision {
  for (const rule of namespace.routingRules) {
    if (!ruleMatches(rule, query)) {
      continue;
    }
    if (rule.table === null) {
      const errno = Object.hasOwn(REFUSING_TYPES, rule.action) ? REFUSING_TYPES[rule.action] : undefined;
      return errno === undefined
        ? { kind: 'unknown', dependsOn: `the routing rule of priority ${rule.priority} (${rule.action})` }
        : { kind: 'refuse', errno, reason: `the routing rule of priority ${rule.priority} says ${rule.action}`, table: null };
    }
    const route = bestRoute(namespace.routes, rule.table, query.destination);
    if (route === undefined || route.type === 'throw') {
      continue;
    }
    return decideBy(route, query.destination);
  }
  return { kind: 'refuse', errno: 'ENETUNREACH', reason: `there is no route to ${query.destination}`, table: null };
}

/**
 * Gives the source address that a socket without one gets (net/ipv4/route.c, ip_route_output_key_hash_rcu, and
 * net/ipv4/devinet.c, inet_select_addr); null where the device has no address.
 */
export function selectSource(namespace: WorldNamespace, decision: Extract<RouteDecision, { kind: 'local' | 'unicast' }>, destination: IpAddress): IpAddress | null {
  if (decision.route.preferredSource !== null) {
    return decision.route.preferredSource;
  }
  if (decision.kind === 'local') {
    return destination;
  }
  return selectDeviceAddress(namespace, decision.device, decision.nextHop);
}

/** Gives the address of a device that packets to `nextHop` carry: of its subnet where there is one, else the first. */
export function selectDeviceAddress(namespace: WorldNamespace, device: string, nextHop: IpAddress): IpAddress | null {
  const link = findLink(namespace, device);
  const usable = link?.addresses.filter((entry) => entry.scope !== 'host' && isIpv4(entry.address)) ?? [];
  return (usable.find((entry) => prefixContains(entry, nextHop)) ?? usable[0])?.address ?? selectAnyAddress(namespace);
}

/** The type of an address for `-m addrtype` (net/ipv4/fib_frontend.c, __inet_dev_addr_type). */
export function addressType(namespace: WorldNamespace, address: IpAddress): string {
  const first = Number(address.slice(0, address.indexOf('.')));
  if (first === 0 || address === '255.255.255.255') {
    return 'BROADCAST';
  }
  if (first >= 224 && first < 240) {
    return 'MULTICAST';
  }
  return bestRoute(namespace.routes, 255, address)?.type.toUpperCase() ?? 'UNICAST';
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

function ruleMatches(rule: RoutingRule, query: RouteQuery): boolean {
  return (
    (rule.source === null || (query.source !== null && prefixContains(rule.source, query.source)) || rule.source.prefixLength === 0) &&
    (rule.destination === null || prefixContains(rule.destination, query.destination)) &&
    (rule.mark === null || ((query.mark ^ rule.mark.value) & rule.mark.mask) === 0) &&
    (rule.inInterface === null || rule.inInterface === query.inInterface) &&
    rule.outInterface === null
  );
}

function bestRoute(routes: readonly Route[], table: number, destination: IpAddress): Route | undefined {
  let best: Route | undefined;
  for (const route of routes) {
    if (route.table !== table || !prefixContains(route.destination, destination)) {
      continue;
    }
    const longer = best === undefined ? 1 : route.destination.prefixLength - best.destination.prefixLength;
    if (best === undefined || longer > 0 || (longer === 0 && route.metric < best.metric)) {
      best = route;
    }
  }
  return best;
}

function decideBy(route: Route, destination: IpAddress): RouteDecision {
  if (route.type === 'local') {
    return { kind: 'local', route };
  }
  if (route.type !== 'unicast') {
    const errno = Object.hasOwn(REFUSING_TYPES, route.type) ? REFUSING_TYPES[route.type] : undefined;
    return errno === undefined
      ? { kind: 'unknown', dependsOn: `the route ${writeRoute(route)}` }
      : { kind: 'refuse', errno, reason: `the route to it is '${writeRoute(route)}'`, table: route.table };
  }
  return route.device === null
    ? { kind: 'unknown', dependsOn: `which next hop of the route ${writeRoute(route)} is taken` }
    : { kind: 'unicast', route, device: route.device, nextHop: route.gateway ?? destination };
}

/** inet_select_addr takes an address of any other device where the device has none, but none of scope host. */
function selectAnyAddress(namespace: WorldNamespace): IpAddress | null {
  const entries = namespace.state.links.flatMap((link) => link.addresses);
  return entries.find((entry) => entry.scope === 'global' && isIpv4(entry.address))?.address ?? null;
}
