import { formatIpAddress, ipAddressBytes, isIpv4, toIpAddress } from '../../agent/protocol/ipAddress.ts';
import type { IpAddress } from '../../agent/protocol/scalars.ts';
import { toPortNumber } from '../../agent/protocol/scalars.ts';
import type { InterfaceAddress, NetworkLink, Route, SocketInfo } from '../../agent/protocol/snapshot.ts';
import type { PacketFlow } from '../../agent/protocol/trace.ts';
import type { AddressPrefix } from '../netfilter/addressPrefix.ts';
import { prefixContains } from '../netfilter/addressPrefix.ts';
import type { Match, ParsedRuleSet, Rule, Target } from '../netfilter/ruleSet.ts';
import { Address, isMany } from '../netfilter/address.ts';
import type { DescribedWorld } from './describedWorld.ts';
import { describeLink, describeSocket } from './describedWorld.ts';

/** A flow, and the device that it is meant to leave by where one was named. */
export interface DerivedFlow {
  readonly flow: PacketFlow;
  readonly outDevice: string | null;
}

/** A world made for flows, and what was taken to be so for it. */
export interface DerivedWorld {
  readonly world: DescribedWorld;
  readonly assumptions: readonly string[];
}

/** Where a local process sends by unless a flow names another device. */
const DEFAULT_DEVICE = 'eth0';
const APPLICATION_UID = 1000;
const DEFAULT_PROXY_UID = 1337;
/** What a machine does to connections that are not its own. */
const FORWARDING_TARGETS: ReadonlySet<Target['kind']> = new Set(['dnat', 'snat', 'masquerade']);
/** How many hosts behind the machine are looked for in its rules. */
const MAX_HOSTS = 256;
/** RFC 1918, RFC 6598 and RFC 4193. */
const PRIVATE_NETWORKS: readonly AddressPrefix[] = ([['10.0.0.0', 8], ['172.16.0.0', 12], ['192.168.0.0', 16], ['100.64.0.0', 10], ['fc00::', 7]] as const).map(([address, prefixLength]) => ({ address: toIpAddress(address), prefixLength }));

/**
 * Makes the plainest world in which flows do what they say: the devices that they name; what arrives with `out` is for somebody
 * behind that device, and without it for this machine, but for what a private address sends to a public one where the rules are
 * those of a router; what a process sends leaves by eth0 unless it is for the machine itself. Somebody listens where the flows
 * go to, and where rules redirect to. Hosts that rules send connections to are behind the devices that rules name with them.
 */
export function deriveWorld(flows: readonly DerivedFlow[], ruleSets: readonly ParsedRuleSet[]): DerivedWorld {
  const rules = ruleSets.flatMap(({ tables }) => tables.flatMap((table) => [...table.chains.values()].flatMap((chain) => chain.rules)));
  const forwards = ruleSets.some(({ tables }) => tables.some(({ chains }) => (chains.get('FORWARD')?.rules.length ?? 0) > 0)) || rules.some(({ target }) => FORWARDING_TARGETS.has(target.kind));
  const builder = new WorldBuilder(flows.flatMap(({ flow }) => [flow.destination.address, ...(flow.source.address === null ? [] : [flow.source.address])]), forwards);
  flows.forEach((flow) => {
    builder.add(flow);
  });
  builder.addProxies(rules);
  builder.addHosts(rules);
  return builder.finish();
}

class WorldBuilder {
  readonly #addresses = new Map<string, Map<IpAddress, InterfaceAddress>>();
  readonly #defaults = new Map<'ipv4' | 'ipv6', string>();
  readonly #sockets = new Map<string, SocketInfo>();
  /** The multicast groups that flows arrive for. */
  readonly #groups = new Set<IpAddress>();
  /** Addresses that are somebody's already. */
  readonly #named: readonly IpAddress[];
  #forwards: boolean;

  constructor(named: readonly IpAddress[], forwards: boolean) {
    this.#named = named;
    this.#forwards = forwards;
  }

  add({ flow, outDevice }: DerivedFlow): void {
    if (flow.from.kind === 'arrival') {
      this.#addArrival(flow, flow.from.device, outDevice);
    } else {
      this.#addSent(flow, outDevice ?? DEFAULT_DEVICE);
    }
  }

  /** Whoever rules redirect to is there, as the user that rules leave alone. */
  addProxies(rules: readonly Rule[]): void {
    const uid = rules.map(ownerOf).find((owner) => owner !== null) ?? DEFAULT_PROXY_UID;
    for (const rule of rules) {
      const port = redirectPort(rule);
      if (port !== null) {
        for (const protocol of protocolsOf(rule)) {
          this.#listen(protocol, port, { uid, command: 'proxy', transparent: rule.target.kind === 'tproxy' });
        }
      }
    }
  }

  /** Hosts that rules send connections to: a rule that names such a host and a device to leave by says where it is. */
  addHosts(rules: readonly Rule[]): void {
    const hosts = new Set(rules.flatMap(({ target }) => (target.kind === 'dnat' && target.to.addresses !== null ? [target.to.addresses.first] : [])));
    const ways = rules.flatMap(({ matches }) => {
      const device = matches.find((match): match is Extract<Match, { kind: 'inInterface' | 'outInterface' }> => match.kind === 'outInterface');
      const to = matches.find((match): match is Extract<Match, { kind: 'source' | 'destination' }> => match.kind === 'destination');
      return device?.negated === false && !device.name.endsWith('+') && to?.negated === false && to.prefix.prefixLength > 0 ? [{ device: device.name, prefix: to.prefix }] : [];
    });
    for (const host of [...hosts].slice(0, MAX_HOSTS)) {
      const way = ways.find(({ prefix }) => prefixContains(prefix, host));
      if (way !== undefined && isUnicast(host)) {
        this.#own(way.device, neighbourOf(host, [...this.#named, ...hosts]), host);
      }
    }
  }

  finish(): DerivedWorld {
    const links = [...this.#addresses].map(([name, addresses], index): NetworkLink =>
      describeLink({ index: index + 2, name, kind: name === 'lo' ? 'loopback' : 'physical', addresses: [...addresses.values()], ...(this.#groups.size === 0 ? {} : { groups: [...this.#groups] }) }),
    );
    const world: DescribedWorld = {
      links,
      routes: [...this.#defaults].map(([family, device]) => defaultRoute(family, device)),
      routingRules: [],
      sysctls: this.#forwards ? { 'net.ipv4.ip_forward': '1', ...Object.fromEntries(['all', ...links.map(({ name }) => name)].map((name) => [`net.ipv6.conf.${name}.forwarding`, '1'])) } : {},
      sockets: [...this.#sockets.values()],
      conntrack: [],
    };
    return { world, assumptions: this.#assumptions(world) };
  }

  #addArrival({ protocol, source, destination }: PacketFlow, device: string, outDevice: string | null): void {
    const from = source.address ?? destination.address;
    if (outDevice === null && device !== DEFAULT_DEVICE && this.#forwards && isPrivate(from) && isUnicast(destination.address) && !isPrivate(destination.address)) {
      this.#own(device, neighbourOf(from, this.#named), from);
      this.#defaultRoute(destination.address, DEFAULT_DEVICE);
      return;
    }
    this.#defaultRoute(from, outDevice ?? device);
    if (outDevice !== null) {
      this.#forwards = true;
      this.#own(device, neighbourOf(from, this.#named), from);
      this.#own(outDevice, neighbourOf(destination.address, this.#named), destination.address);
      return;
    }
    if (isUnicast(destination.address)) {
      this.#own(device, destination.address, destination.address);
    } else if (isMany(Address.of(destination.address)) && destination.address !== '255.255.255.255') {
      this.#groups.add(destination.address);
    }
    if (!sharesNetwork(from, destination.address)) {
      this.#own(device, neighbourOf(from, this.#named), from);
    }
    this.#serve(protocol, destination.port);
  }

  #addSent({ protocol, source, destination }: PacketFlow, device: string): void {
    const to = destination.address;
    const from = source.address;
    if (isLoopback(to)) {
      this.#device(device);
      this.#serve(protocol, destination.port);
    } else if (from === to) {
      this.#own(device, to, to);
      this.#serve(protocol, destination.port);
    }
    if (from !== null && !isLoopback(from)) {
      this.#own(device, from, from);
    } else if (!isLoopback(to)) {
      this.#own(device, neighbourOf(to, this.#named), to);
    }
    this.#defaultRoute(to, device);
  }

  #serve(protocol: PacketFlow['protocol'], port: number): void {
    if (protocol === 'tcp' || protocol === 'udp') {
      this.#listen(protocol, port, { uid: APPLICATION_UID, command: 'application', transparent: false });
    }
  }

  #listen(protocol: 'tcp' | 'udp', port: number, process: { readonly uid: number; readonly command: string; readonly transparent: boolean }): void {
    const key = `${protocol} ${port}`;
    if (!this.#sockets.has(key) && port !== 0) {
      const local = { address: toIpAddress('::'), port: toPortNumber(port) };
      this.#sockets.set(key, describeSocket({ protocol, local, gid: process.uid, ...process, number: this.#sockets.size }));
    }
  }

  #device(name: string): Map<IpAddress, InterfaceAddress> {
    const addresses = this.#addresses.get(name) ?? new Map<IpAddress, InterfaceAddress>();
    this.#addresses.set(name, addresses);
    return addresses;
  }

  /** Gives a device an address in the network of `like`, unless another device has it. */
  #own(device: string, address: IpAddress, like: IpAddress): void {
    const isTaken = [...this.#addresses.values()].some((addresses) => addresses.has(address));
    const addresses = this.#device(device);
    if (!isTaken && !isLoopback(address)) {
      addresses.set(address, { address, prefixLength: isIpv4(like) ? 24 : 64, scope: address.startsWith('fe80:') ? 'link' : 'global' });
    }
  }

  #defaultRoute(address: IpAddress, device: string): void {
    const family = isIpv4(address) ? 'ipv4' : 'ipv6';
    if (!this.#defaults.has(family) && device !== 'lo') {
      this.#device(device);
      this.#defaults.set(family, device);
    }
  }

  #assumptions({ links, sockets }: DescribedWorld): readonly string[] {
    const devices = links.filter(({ kind }) => kind !== 'loopback').map(({ name, addresses }) => `${name} has ${addresses.map(({ address, prefixLength }) => `${address}/${prefixLength}`).join(' and ') || 'no address'}`);
    const listeners = sockets.map(({ protocol, local, uid, owner }) => `${protocol} port ${local.port} (${owner?.command ?? ''}, uid ${uid})`);
    return [
      ...devices.map((device) => `${device}.`),
      ...[...this.#defaults].map(([family, device]) => `${family === 'ipv4' ? 'IPv4' : 'IPv6'} goes to the rest of the world by ${device}.`),
      ...(this.#groups.size === 0 ? [] : [`Programs have joined ${[...this.#groups].join(', ')}.`]),
      ...(listeners.length === 0 ? [] : [`Somebody listens on ${listeners.join(', ')}.`]),
      `The machine ${this.#forwards ? 'forwards' : 'does not forward'}; the reverse path is not checked (rp_filter is 0).`,
    ];
  }
}

function defaultRoute(family: 'ipv4' | 'ipv6', device: string): Route {
  const address = toIpAddress(family === 'ipv4' ? '0.0.0.0' : '::');
  return { family, type: 'unicast', destination: { address, prefixLength: 0 }, gateway: null, device, preferredSource: null, table: 254, metric: 0, scope: 'link' };
}

/** Another address of the /24 or /64 of an address: the first that is not one of `taken`. */
function neighbourOf(address: IpAddress, taken: readonly IpAddress[]): IpAddress {
  const bytes = ipAddressBytes(address).slice();
  if (!isIpv4(address)) {
    bytes.fill(0, 8);
  }
  for (let last = 1; last < 255; last += 1) {
    bytes[bytes.length - 1] = last;
    const candidate = formatIpAddress(bytes);
    if (!taken.includes(candidate)) {
      return candidate;
    }
  }
  return address;
}

function sharesNetwork(left: IpAddress, right: IpAddress): boolean {
  const length = isIpv4(left) ? 3 : 8;
  const other = ipAddressBytes(right);
  return ipAddressBytes(left).subarray(0, length).every((byte, index) => byte === other[index]);
}

function isLoopback(address: IpAddress): boolean {
  return isIpv4(address) ? address.startsWith('127.') : address === '::1';
}

function isPrivate(address: IpAddress): boolean {
  return PRIVATE_NETWORKS.some((network) => prefixContains(network, address));
}

function isUnicast(address: IpAddress): boolean {
  const first = ipAddressBytes(address)[0] ?? 0;
  return !isLoopback(address) && (isIpv4(address) ? first < 224 && first !== 0 : first !== 0xff && address !== '::');
}

function redirectPort({ target }: Rule): number | null {
  return target.kind === 'redirect' ? (target.ports?.first ?? null) : target.kind === 'tproxy' ? target.port : null;
}

function protocolsOf({ matches }: Rule): readonly ('tcp' | 'udp')[] {
  const wanted = matches.flatMap((match) => (match.kind === 'protocol' && !match.negated ? [match.protocol] : []));
  return (['tcp', 'udp'] as const).filter((protocol) => wanted.length === 0 || wanted.includes(protocol));
}

/** The user that a rule lets go its own way. */
function ownerOf({ matches, target }: Rule): number | null {
  const owner = matches.find((match): match is Extract<Match, { kind: 'owner' }> => match.kind === 'owner' && match.which === 'uid' && !match.negated);
  return owner !== undefined && target.kind === 'return' ? owner.range.first : null;
}
