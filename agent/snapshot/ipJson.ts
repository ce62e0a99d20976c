import { MeshpathError } from '../protocol/errors.ts';
import { parseIpAddress, toIpAddress } from '../protocol/ipAddress.ts';
import type { IpAddress } from '../protocol/scalars.ts';
import type { InterfaceAddress, NetworkLink, Route, RoutingRule } from '../protocol/snapshot.ts';

/** A device as `ip -d -j addr` shows it, with the index of its other end for veth (`link_index`). */
export interface ListedLink extends Omit<NetworkLink, 'peer'> {
  readonly peerIndex: number | null;
  /** False where the other end is in the same namespace. */
  readonly peerIsElsewhere: boolean;
  /** The name under /run/netns of the namespace that the other end is in; null where it has none, or is in the same. */
  readonly peerNamespaceName: string | null;
}

/** What was listed, with remarks about what the protocol has no words for. */
export interface Listed<T> {
  readonly items: readonly T[];
  readonly remarks: readonly string[];
}

type Family = 'ipv4' | 'ipv6';
type JsonObject = Readonly<Record<string, unknown>>;

const MAX_ITEMS = 100_000;
const TABLES: Readonly<Record<string, number>> = { default: 253, main: 254, local: 255 };
/** What `ip -j rule` says about a rule that the protocol has a place for. */
const RULE_KEYS: ReadonlySet<string> = new Set([
  'priority', 'src', 'srclen', 'dst', 'dstlen', 'fwmark', 'fwmask', 'iif', 'oif', 'table', 'action', 'protocol', 'iif_detached', 'oif_detached',
]);

/** Parses the output of `ip -j netns list-id`: the names of namespaces by the numbers that this one knows them by. Throws KERNEL_UNSUITABLE. */
export function parseNamespaceNames(json: string): ReadonlyMap<number, string> {
  return new Map(
    readList(json).flatMap((namespace): (readonly [number, string])[] => {
      const id = number(namespace['nsid']);
      const name = text(namespace['name']);
      return id === undefined || name === undefined ? [] : [[id, name]];
    }),
  );
}

/**
 * Parses the output of `ip -d -j addr show`; `namespaceNames` are those of parseNamespaceNames. Throws KERNEL_UNSUITABLE where it is
 * not JSON of that form.
 */
export function parseLinks(json: string, namespaceNames: ReadonlyMap<number, string> = new Map()): ListedLink[] {
  const listed = readList(json);
  const indexes = new Map(listed.map((link) => [link['ifname'], number(link['ifindex'])]));
  return listed.flatMap((link) => {
    const index = number(link['ifindex']);
    const name = text(link['ifname']);
    if (index === undefined || name === undefined) {
      return [];
    }
    const flags = Array.isArray(link['flags']) ? (link['flags'] as readonly unknown[]) : [];
    const kind = text(object(link['linkinfo'])['info_kind']) ?? (text(link['link_type']) === 'loopback' ? 'loopback' : (text(link['link_type']) ?? 'unknown'));
    return [
      {
        index,
        name,
        kind,
        up: flags.includes('UP'),
        mtu: number(link['mtu']) ?? 0,
        macAddress: kind === 'loopback' ? null : (text(link['address']) ?? null),
        master: text(link['master']) ?? null,
        // An other end in the same namespace is given by its name.
        peerIndex: kind === 'veth' ? (number(link['link_index']) ?? indexes.get(link['link']) ?? null) : null,
        peerIsElsewhere: link['link_netnsid'] !== undefined,
        peerNamespaceName: kind === 'veth' ? (namespaceNames.get(number(link['link_netnsid']) ?? -1) ?? null) : null,
        addresses: list(link['addr_info']).flatMap(readInterfaceAddress),
      },
    ];
  });
}

/** Parses the output of `ip -j -4|-6 route show table all`. `tables` gives the numbers of named tables. */
export function parseRoutes(json: string, family: Family, tables: ReadonlyMap<string, number> = new Map()): Listed<Route> {
  const remarks: string[] = [];
  const items = readList(json).flatMap((route) => {
    const destination = readPrefix(text(route['dst']), family);
    const table = tableNumber(route['table'] ?? 'main', tables);
    if (destination === undefined || table === undefined) {
      remarks.push(`a route to ${text(route['dst']) ?? 'nowhere'} in the table ${JSON.stringify(route['table'] ?? 'main')}`);
      return [];
    }
    const hops = list(route['nexthops']);
    if (hops.length > 1) {
      remarks.push(`the weights of the ${hops.length} next hops to ${text(route['dst']) ?? ''}: each is listed as a route of its own`);
    }
    return (hops.length > 0 ? hops : [route]).map((hop) => ({
      family,
      type: text(route['type']) ?? 'unicast',
      destination,
      gateway: address(text(hop['gateway']) ?? text(object(hop['via'])['host'])),
      device: text(hop['dev']) ?? null,
      preferredSource: address(text(route['prefsrc'])),
      table,
      metric: number(route['metric']) ?? 0,
      scope: text(route['scope']) ?? 'global',
    }));
  });
  return { items, remarks };
}

/** Parses the output of `ip -j -4|-6 rule show`. */
export function parseRoutingRules(json: string, family: Family, tables: ReadonlyMap<string, number> = new Map()): Listed<RoutingRule> {
  const remarks: string[] = [];
  const items = readList(json).map((rule) => {
    const priority = number(rule['priority']) ?? 0;
    const others = Object.keys(rule).filter((key) => !RULE_KEYS.has(key));
    if (others.length > 0) {
      remarks.push(`${others.join(', ')} of the routing rule with priority ${priority}`);
    }
    const mark = text(rule['fwmark']);
    return {
      family,
      priority,
      source: readSelector(text(rule['src']), number(rule['srclen']), family),
      destination: readSelector(text(rule['dst']), number(rule['dstlen']), family),
      mark: mark === undefined ? null : { value: Number(mark), mask: Number(text(rule['fwmask']) ?? 0xffff_ffff) },
      inInterface: text(rule['iif']) ?? null,
      outInterface: text(rule['oif']) ?? null,
      table: tableNumber(rule['table'], tables) ?? null,
      action: text(rule['action']) ?? 'lookup',
    };
  });
  return { items, remarks };
}

/** Parses /etc/iproute2/rt_tables: the names of routing tables with their numbers. */
export function parseTableNames(file: string): ReadonlyMap<string, number> {
  const names = new Map<string, number>();
  for (const line of file.split('\n')) {
    const match = /^\s*(\d{1,10}|0x[0-9a-f]{1,8})\s+(\S+)/i.exec(line);
    if (match?.[1] !== undefined && match[2] !== undefined) {
      names.set(match[2], Number(match[1]));
    }
  }
  return names;
}

function readInterfaceAddress(info: JsonObject): InterfaceAddress[] {
  const parsed = address(text(info['local']));
  const prefixLength = number(info['prefixlen']);
  if (parsed === null || prefixLength === undefined) {
    return [];
  }
  const scope = text(info['scope']);
  return [{ address: parsed, prefixLength, scope: scope === 'host' || scope === 'link' ? scope : 'global' }];
}

function readPrefix(prefix: string | undefined, family: Family): Route['destination'] | undefined {
  if (prefix === 'default' || prefix === 'all') {
    return { address: toIpAddress(family === 'ipv4' ? '0.0.0.0' : '::'), prefixLength: 0 };
  }
  const [host, length] = prefix?.split('/') ?? [];
  const parsed = address(host);
  return parsed === null ? undefined : { address: parsed, prefixLength: length === undefined ? (family === 'ipv4' ? 32 : 128) : Number(length) };
}

function readSelector(host: string | undefined, length: number | undefined, family: Family): RoutingRule['source'] {
  const prefix = host === undefined || host === 'all' ? undefined : readPrefix(host, family);
  return prefix === undefined ? null : { address: prefix.address, prefixLength: length ?? prefix.prefixLength };
}

function tableNumber(table: unknown, tables: ReadonlyMap<string, number>): number | undefined {
  const name = typeof table === 'number' ? String(table) : text(table);
  if (name === undefined) {
    return undefined;
  }
  return /^\d{1,10}$/.test(name) ? Number(name) : (TABLES[name] ?? tables.get(name));
}

function readList(json: string): readonly JsonObject[] {
  let value: unknown;
  try {
    // Without anything to show ip prints nothing, or an empty list.
    value = json.trim() === '' ? [] : JSON.parse(json);
  } catch (error) {
    throw new MeshpathError(
      {
        code: 'KERNEL_UNSUITABLE',
        message: 'The program ip answered in a form that Meshpath does not read.',
        reason: error instanceof Error ? error.message : String(error),
        remedy: 'Install iproute2 4.18 or newer, which answers in JSON.',
      },
      { cause: error },
    );
  }
  return list(value);
}

function list(value: unknown): readonly JsonObject[] {
  return Array.isArray(value) ? (value as unknown[]).slice(0, MAX_ITEMS).map(object).filter((item) => Object.keys(item).length > 0) : [];
}

function object(value: unknown): JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as JsonObject) : {};
}

function text(value: unknown): string | undefined {
  return typeof value === 'string' ? value : undefined;
}

function number(value: unknown): number | undefined {
  return typeof value === 'number' && Number.isFinite(value) ? value : undefined;
}

function address(host: string | undefined): IpAddress | null {
  return host === undefined ? null : (parseIpAddress(host) ?? null);
}
