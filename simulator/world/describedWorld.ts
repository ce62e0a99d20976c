import { formatIpAddress, ipAddressBytes, isIpv4, toIpAddress } from '../../agent/protocol/ipAddress.ts';
import type { Endpoint, IpAddress, NamespaceId } from '../../agent/protocol/scalars.ts';
import { toPortNumber, toUint64Text } from '../../agent/protocol/scalars.ts';
import type { ConntrackEntry, InterfaceAddress, NetworkLink, Route, RoutingRule, RuleSet, Snapshot, SocketInfo } from '../../agent/protocol/snapshot.ts';
import { SNAPSHOT_FORMAT, SNAPSHOT_VERSION } from '../../agent/protocol/snapshot.ts';

/** The one network namespace of a described world. */
export const DESCRIBED_NAMESPACE = '1' as NamespaceId;

/** One network namespace as somebody describes it; what the kernel adds by itself is left out. */
export interface DescribedWorld {
  readonly links: readonly NetworkLink[];
  /** Beside those that addresses bring. */
  readonly routes: readonly Route[];
  /** Beside the three that every namespace has. */
  readonly routingRules: readonly RoutingRule[];
  readonly sysctls: Readonly<Record<string, string>>;
  readonly sockets: readonly SocketInfo[];
  readonly conntrack: readonly ConntrackEntry[];
}

/** The rules that packets meet in a described world. */
export interface DescribedRules {
  readonly ruleSets: readonly RuleSet[];
  /** As `ipset save` prints them; null where there are none. */
  readonly ipSets: string | null;
}

/**
 * Makes a snapshot of a described world, with what the kernel adds by itself: the loopback device, the routes of addresses
 * (net/ipv4/fib_frontend.c, fib_add_ifaddr), the three routing rules, and sysctls that were left out, which are off.
 */
export function createWorldSnapshot(world: DescribedWorld, rules: DescribedRules): Snapshot {
  const links = world.links.some(({ kind }) => kind === 'loopback') ? world.links : [describeLink({ index: 1, name: 'lo', kind: 'loopback', addresses: [] }), ...world.links];
  return {
    format: SNAPSHOT_FORMAT,
    formatVersion: SNAPSHOT_VERSION,
    takenAt: '2026-01-01T00:00:00.000Z',
    node: { hostname: 'described', kernelRelease: '6.18.0-simulated', machine: 'x86_64', kind: 'simulated' },
    namespaces: [
      {
        id: DESCRIBED_NAMESPACE,
        names: ['host'],
        links,
        routes: [...links.flatMap(routesOfLink), ...world.routes],
        routingRules: [...defaultRules(), ...world.routingRules].toSorted((left, right) => left.priority - right.priority),
        sysctls: { ...defaultSysctls(links), ...world.sysctls },
        ruleSets: rules.ruleSets,
        conntrack: world.conntrack,
        sockets: world.sockets,
        ...(rules.ipSets === null ? {} : { ipSets: rules.ipSets }),
      },
    ],
    pods: [],
    cgroups: [],
    bpf: { programs: [], maps: [], links: [], contents: [] },
    accelerations: [],
    omissions: [],
  };
}

/** Makes a link with what most links have; the loopback device gets its addresses. */
export function describeLink(link: Pick<NetworkLink, 'index' | 'name' | 'kind' | 'addresses'> & Partial<NetworkLink>): NetworkLink {
  const isLoopback = link.kind === 'loopback';
  const own: readonly InterfaceAddress[] = isLoopback
    ? [{ address: toIpAddress('127.0.0.1'), prefixLength: 8, scope: 'host' }, { address: toIpAddress('::1'), prefixLength: 128, scope: 'host' }]
    : [];
  const missing = own.filter(({ address }) => !link.addresses.some((entry) => entry.address === address));
  return { up: true, mtu: isLoopback ? 65_536 : 1500, macAddress: null, master: null, peer: null, ...link, addresses: [...missing, ...link.addresses] };
}

/** Makes a listening or receiving socket of a process. */
export function describeSocket(socket: { readonly protocol: 'tcp' | 'udp'; readonly local: Endpoint; readonly uid: number; readonly gid: number; readonly command: string; readonly transparent: boolean; readonly number: number }): SocketInfo {
  const { protocol, local, uid, gid, command, transparent, number } = socket;
  const anyone = toIpAddress(isIpv4(local.address) ? '0.0.0.0' : '::');
  return {
    protocol,
    state: protocol === 'tcp' ? 'listen' : 'other',
    local,
    remote: { address: anyone, port: toPortNumber(0) },
    dualStack: local.address === '::',
    uid,
    inode: toUint64Text(BigInt(1000 + number)),
    cookie: toUint64Text(BigInt(1000 + number)),
    owner: { pid: 1000 + number, command, cgroup: null, gid },
    transparent,
  };
}

/** Gives the address of a network: the one whose bits after `prefixLength` are zero. */
export function networkOf(address: IpAddress, prefixLength: number): IpAddress {
  const bytes = ipAddressBytes(address).map((byte, index) => {
    const kept = Math.min(8, Math.max(0, prefixLength - index * 8));
    return byte & (0xff << (8 - kept)) & 0xff;
  });
  return formatIpAddress(bytes);
}

const LOCAL_TABLE = 255;
const MAIN_TABLE = 254;

function routesOfLink(link: NetworkLink): readonly Route[] {
  if (!link.up) {
    return [];
  }
  return link.addresses.flatMap(({ address, prefixLength }): readonly Route[] => {
    const ofIpv4 = isIpv4(address);
    const bits = ofIpv4 ? 32 : 128;
    const shared = { family: ofIpv4 ? 'ipv4' : 'ipv6', gateway: null, device: link.name, preferredSource: ofIpv4 ? address : null, metric: ofIpv4 ? 0 : 256 } as const;
    const local: Route = { ...shared, type: 'local', destination: { address, prefixLength: bits }, table: LOCAL_TABLE, scope: 'host' };
    const network = networkOf(address, prefixLength);
    if (link.kind === 'loopback') {
      return ofIpv4 && prefixLength < bits ? [{ ...local, destination: { address: network, prefixLength } }, local] : [local];
    }
    const connected: readonly Route[] = prefixLength < bits ? [{ ...shared, type: 'unicast', destination: { address: network, prefixLength }, table: MAIN_TABLE, scope: 'link' }] : [];
    const broadcast: readonly Route[] = ofIpv4 && prefixLength < 31 ? [{ ...shared, type: 'broadcast', destination: { address: lastOf(network, prefixLength), prefixLength: bits }, table: LOCAL_TABLE, scope: 'link' }] : [];
    return [local, ...broadcast, ...connected];
  });
}

function lastOf(network: IpAddress, prefixLength: number): IpAddress {
  const bytes = ipAddressBytes(network).map((byte, index) => byte | (0xff >> Math.min(8, Math.max(0, prefixLength - index * 8))));
  return formatIpAddress(bytes);
}

/** net/ipv4/fib_rules.c, fib_default_rules_init; IPv6 has no table default. */
function defaultRules(): readonly RoutingRule[] {
  const lookup = (family: 'ipv4' | 'ipv6', priority: number, table: number): RoutingRule => ({
    family, priority, source: null, destination: null, mark: null, inInterface: null, outInterface: null, table, action: 'lookup',
  });
  return [lookup('ipv4', 0, LOCAL_TABLE), lookup('ipv4', 32_766, MAIN_TABLE), lookup('ipv4', 32_767, 253), lookup('ipv6', 0, LOCAL_TABLE), lookup('ipv6', 32_766, MAIN_TABLE)];
}

function defaultSysctls(links: readonly NetworkLink[]): Readonly<Record<string, string>> {
  const settings = new Map([['net.ipv4.ip_forward', '0']]);
  for (const name of ['all', 'default', ...links.map((link) => link.name)]) {
    settings.set(`net.ipv4.conf.${name}.rp_filter`, '0').set(`net.ipv4.conf.${name}.route_localnet`, '0');
    settings.set(`net.ipv6.conf.${name}.forwarding`, '0');
  }
  return Object.fromEntries(settings);
}
