import type { IpAddress } from '../../agent/protocol/scalars.ts';
import type { Route, RoutingRule } from '../../agent/protocol/snapshot.ts';
import { Address, maskWords, prefixTest } from '../netfilter/address.ts';

/** The routes and rules of one family in a namespace, ready to be asked for many packets. */
export interface RoutingTables {
  /** In the order of their priority. */
  readonly rules: readonly CompiledRoutingRule[];
  readonly tables: ReadonlyMap<number, RoutingTable>;
  /** Whether rules beyond those that every namespace begins with are there (fib4_has_custom_rules). */
  readonly hasCustomRules: boolean;
  /** Whether routes of type local are in other tables than local (net->ipv4.fib_has_custom_local_routes). */
  readonly hasCustomLocalRoutes: boolean;
}

export interface CompiledRoutingRule {
  readonly rule: RoutingRule;
  readonly matchesSource: ((address: Address) => boolean) | null;
  readonly matchesDestination: ((address: Address) => boolean) | null;
}

const LOCAL_TABLE = 255;

/** Makes routes and rules ready. Rules must be in the order of their priority. */
export function compileRoutes(routes: readonly Route[], rules: readonly RoutingRule[]): RoutingTables {
  const byTable = new Map<number, Route[]>();
  for (const route of routes) {
    byTable.set(route.table, [...(byTable.get(route.table) ?? []), route]);
  }
  const test = (prefix: { readonly address: IpAddress; readonly prefixLength: number } | null): ((address: Address) => boolean) | null =>
    prefix === null || prefix.prefixLength === 0 ? null : prefixTest(prefix);
  return {
    rules: rules.map((rule) => ({ rule, matchesSource: test(rule.source), matchesDestination: test(rule.destination) })),
    tables: new Map([...byTable].map(([number, list]) => [number, new RoutingTable(list)])),
    hasCustomRules: rules.some((rule) => ![0, 32_766, 32_767].includes(rule.priority)),
    hasCustomLocalRoutes: routes.some((route) => route.type === 'local' && route.table !== LOCAL_TABLE),
  };
}

interface Length {
  readonly mask: readonly [number, number, number, number];
  readonly routes: Map<string, Route[]>;
}

/** One routing table: routes by their length, longest first, and of the same destination by their metric. */
export class RoutingTable {
  readonly #lengths: readonly Length[];

  constructor(routes: readonly Route[]) {
    const lengths = new Map<number, Length>();
    for (const route of routes.toSorted((left, right) => left.metric - right.metric)) {
      const { address, prefixLength } = route.destination;
      const length = lengths.get(prefixLength) ?? { mask: maskWords(prefixLength), routes: new Map<string, Route[]>() };
      lengths.set(prefixLength, length);
      const key = maskedKey(Address.of(address), length.mask);
      length.routes.set(key, [...(length.routes.get(key) ?? []), route]);
    }
    this.#lengths = [...lengths].toSorted(([left], [right]) => right - left).map(([, length]) => length);
  }

  /**
   * Gives the best route to an address; with a device only of those that leave by it. Routes to this machine itself, and those that
   * lead nowhere, count all the same, unless it `isStrict`: they are of lo (net/ipv6/route.c, rt6_score_route).
   */
  find(destination: Address, device: string | null, isStrict = false): Route | undefined {
    for (const { mask, routes } of this.#lengths) {
      const found = routes.get(maskedKey(destination, mask))?.find((route) => device === null || route.device === device || (route.device === null && (!isStrict || route.type === 'unicast' || device === 'lo')));
      if (found !== undefined) {
        return found;
      }
    }
    return undefined;
  }
}

function maskedKey(address: Address, mask: Length['mask']): string {
  return address.isIpv4
    ? String.fromCharCode((address.w0 & mask[0]) >>> 16, address.w0 & mask[0] & 0xffff)
    : `${address.w0 & mask[0]} ${address.w1 & mask[1]} ${address.w2 & mask[2]} ${address.w3 & mask[3]}`;
}
