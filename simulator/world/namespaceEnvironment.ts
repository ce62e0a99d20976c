import type { Hook } from '../../agent/protocol/trace.ts';
import { Address, isMany } from '../netfilter/address.ts';
import type { CountedConnection, Known, MatchEnvironment, SocketFacts } from '../netfilter/matchEnvironment.ts';
import { changeSet } from '../netfilter/changeSet.ts';
import { POISONED } from '../netfilter/matchState.ts';
import type { MatchState } from '../netfilter/matchState.ts';
import type { Packet } from '../netfilter/packet.ts';
import { PROTOCOL, hasPorts } from '../netfilter/protocolNumbers.ts';
import type { AddressSet, PacketPart, SetDimension } from '../netfilter/addressSet.ts';
import { isMember } from '../netfilter/addressSet.ts';
import type { Connection, Zone } from './conntrack.ts';
import { DEFAULT_ZONE } from './conntrack.ts';
import { addressType, familyOf, findRoute, routeMtu } from './routing.ts';
import type { NamespaceState, Simulation } from './simulation.ts';
import type { FoundSocket, SocketAddress } from './sockets.ts';
import type { Tuple } from './tuple.ts';
import { tupleOf } from './tuple.ts';
import type { WorldNamespace } from './world.ts';
import { findLink } from './world.ts';

function describeCounted({ source, destination, ...ports }: Tuple, zone: Zone) {
  return { ...ports, source: source.text, destination: destination.text, zone };
}

function writeCounted(tuple: Tuple, zone: Zone): string {
  return JSON.stringify(describeCounted(tuple, zone));
}

/** What matches and targets ask of one namespace in a simulation. */
export class NamespaceEnvironment implements MatchEnvironment {
  hook: Hook = 'OUTPUT';
  readonly #simulation: Simulation;
  readonly namespace: WorldNamespace;
  readonly #state: NamespaceState;

  constructor(simulation: Simulation, namespace: WorldNamespace) {
    this.#simulation = simulation;
    this.namespace = namespace;
    this.#state = simulation.stateOf(namespace);
  }

  get now(): number {
    return this.#simulation.now;
  }

  get state(): MatchState {
    return this.#state.matches;
  }

  addressType(address: Address, device: string | null): Known<string> {
    return addressType(this.namespace, address, device);
  }

  readsMarks(packet: Packet): boolean {
    return familyOf(this.namespace, packet.source).readsMarks;
  }

  /** net/ipv4/netfilter/ipt_rpfilter.c and net/ipv6/netfilter/ip6t_rpfilter.c. */
  reversePath(packet: Packet, options: { readonly loose: boolean; readonly validMark: boolean; readonly acceptLocal: boolean }): Known<boolean> {
    const { source, destination, inInterface } = packet;
    if (inInterface === null || findLink(this.namespace, inInterface)?.kind === 'loopback') {
      return true;
    }
    const isLimited = destination.w0 === -1 || destination.w0 >>> 8 === 0xe0_0000;
    if ((source.w0 | source.w1 | source.w2 | source.w3) === 0 && (isLimited || !packet.isIpv4)) {
      return true;
    }
    // ipt_rpfilter.c, rpfilter_get_saddr; ip6t_rpfilter.c, rpfilter_addr_unicast.
    const towards = isMany(destination) ? null : destination;
    const back = findRoute(this.namespace, { destination: source, source: towards, mark: options.validMark ? packet.mark : 0, inInterface: packet.isIpv4 ? 'lo' : inInterface, outInterface: options.loose || packet.isIpv4 ? null : inInterface });
    switch (back.kind) {
      case 'unknown':
        return null;
      case 'unicast':
        return options.loose || back.device === inInterface;
      case 'local':
        return options.acceptLocal && (options.loose || back.route.device === inInterface);
      case 'many':
      case 'refuse':
        return false;
    }
  }

  /**
   * net/ipv4/netfilter/nf_socket_ipv4.c, nf_sk_lookup_slow_v4, and nf_socket_ipv6.c: an ICMP error belongs to the socket that sent what it is about;
   * the addresses before source NAT count where the packet answers such a connection, but for errors of ICMPv6.
   */
  findSocket(packet: Packet): Known<SocketFacts> | undefined {
    const { about } = packet;
    const protocol = about?.protocol ?? packet.protocol;
    const local = about === null ? { address: packet.destination, port: packet.destinationPort } : { address: about.source, port: about.sourcePort };
    const remote = about === null ? { address: packet.source, port: packet.sourcePort } : { address: about.destination, port: about.destinationPort };
    if (protocol !== PROTOCOL.tcp && protocol !== PROTOCOL.udp) {
      return undefined;
    }
    const tracking = packet.tracking as { readonly connection: Connection; readonly isReply: boolean } | null;
    // Of IPv6 as well since Linux 6.15 (net/ipv6/netfilter/nf_socket_ipv6.c).
    const original = tracking?.isReply === true && tracking.connection.sourceTranslated && (packet.isIpv4 || about === null) ? tracking.connection.original : null;
    // What TPROXY assigned counts, and nobody else is looked for (net/netfilter/xt_socket.c, socket_match).
    const found = (packet.assigned as FoundSocket | null) ?? this.lookUpSocket(packet.inInterface, protocol, original === null ? local : { address: original.source, port: original.sourcePort }, remote);
    if (found === undefined) {
      return undefined;
    }
    if (found.kind === 'open') {
      return { isWildcard: false, isTransparent: found.socket.isTransparent, mark: found.socket.owner.mark };
    }
    const { address } = found.info.local;
    return { isWildcard: address === '0.0.0.0' || address === '::', isTransparent: found.info.transparent ?? null, mark: 0 };
  }

  /** net/ipv4/netfilter/nf_tproxy_ipv4.c: a connection of the packet's own addresses first, else who listens at the address asked for, else at the device's. */
  assignSocket(packet: Packet, address: Address | null, port: number): Known<boolean> {
    const remote: SocketAddress = { address: packet.source, port: packet.sourcePort };
    const direct = { address: packet.destination, port: packet.destinationPort };
    if (packet.protocol !== PROTOCOL.tcp && packet.protocol !== PROTOCOL.udp) {
      return false;
    }
    const connected = this.#state.sockets.connectedBy(packet.inInterface, packet.protocol, direct, remote);
    if (connected !== undefined) {
      return this.#assign(packet, { kind: 'open', socket: connected }, connected.isTransparent);
    }
    const local = { address: address ?? this.#deviceAddress(packet), port: port === 0 ? packet.destinationPort : port };
    const info = this.#state.sockets.listener(packet.protocol, local);
    return info === undefined ? false : this.#assign(packet, { kind: 'listener', info }, info.transparent ?? null);
  }

  /** net/netfilter/nf_conncount.c, get_ct_or_tuple_from_skb. */
  countedConnection(packet: Packet): CountedConnection {
    const { tracking } = packet as Packet<Connection>;
    if (tracking !== null && packet.zoneRule === null) {
      const { original, zoneRule: zone, confirmed } = tracking.connection;
      return { id: writeCounted(original, zone), zone: zone.id, isConfirmed: confirmed };
    }
    const zone = packet.zoneRule ?? DEFAULT_ZONE;
    const tuple = tupleOf(packet);
    return { id: writeCounted(tuple, zone), zone: zone.id, isConfirmed: this.#state.tracker.findInZone(tuple, zone) !== undefined };
  }

  isConnectionOpen(id: string): boolean {
    const { zone, source, destination, ...ports } = JSON.parse(id) as ReturnType<typeof describeCounted>;
    const found = this.#state.tracker.findInZone({ ...ports, source: Address.of(source), destination: Address.of(destination) }, zone);
    return found !== undefined && found.connection.tcpState !== 'TIME_WAIT' && found.connection.tcpState !== 'CLOSE';
  }

  /** net/netfilter/xt_TCPMSS.c, tcpmss_reverse_mtu. */
  pathMtu(packet: Packet): Known<number> {
    const query = (destination: Address): Parameters<typeof findRoute>[1] => ({ destination, source: null, mark: 0, inInterface: 'lo' });
    const back = findRoute(this.namespace, query(packet.source));
    const forth = packet.outInterface === null ? undefined : findLink(this.namespace, packet.outInterface)?.mtu;
    const most = packet.isIpv4 ? 65_535 : 65_575;
    return forth === undefined || back.kind === 'unknown' ? null : Math.min(forth, routeMtu(this.namespace, back, packet.isIpv4) ?? most, most);
  }

  readonly assume = (sentence: string): void => {
    this.#simulation.assumptions.add(sentence);
  };

  /** net/netfilter/xt_set.c: of sets that rules have changed, what they are then. */
  testSet(name: string, packet: Packet, directions: readonly ('src' | 'dst')[], wantsException: boolean): Known<boolean> {
    const set = this.#setNamed(name);
    return set === null ? null : this.#testMembership(set, packet, directions, wantsException);
  }

  /** A list takes what the first of its sets takes (ip_set_list_set.c, list_set_uadd). */
  changeSet(name: string, packet: Packet, directions: readonly ('src' | 'dst')[], action: 'add' | 'remove', overwrites: boolean): void {
    const set = this.#setNamed(name);
    if (set === null || set.type === 'list:set') {
      this.state.set(setKey(name), POISONED);
      return;
    }
    const parts = this.#partsOf(set, packet, directions);
    if (parts === 'none') {
      return;
    }
    this.state.set(setKey(name), (parts === null ? null : changeSet(set, parts, action, overwrites)) ?? POISONED);
  }

  #testMembership(set: AddressSet, packet: Packet, directions: readonly ('src' | 'dst')[], wantsException: boolean): Known<boolean> {
    if (set.type === 'list:set') {
      let result: Known<boolean> = false;
      for (const part of set.entries.flatMap((entry) => entry.parts)) {
        const inner = part.kind === 'set' ? this.#setNamed(part.name) : null;
        const found = inner === null || inner.type === 'list:set' ? null : this.#testMembership(inner, packet, directions, wantsException);
        if (found === true) {
          return true;
        }
        result = found === null ? null : result;
      }
      return result;
    }
    const parts = this.#partsOf(set, packet, directions);
    return parts === null ? null : parts !== 'none' && isMember(set, parts, wantsException);
  }

  /** What of a packet a set looks at; `none` where it is nothing for the set, null where that is not known (ip_set_core.c, ip_set_test). */
  #partsOf(set: AddressSet, packet: Packet, directions: readonly ('src' | 'dst')[]): readonly PacketPart[] | 'none' | null {
    const isOfFamily = set.dimensions.some((dimension) => dimension === 'ip' || dimension === 'net');
    if (directions.length < set.dimensions.length || (isOfFamily && (set.family === 'ipv4') !== packet.isIpv4)) {
      return 'none';
    }
    const parts = set.dimensions.map((dimension, index) => partOf(dimension, packet, directions[index] ?? 'src'));
    // A packet that does not come by a device, or go by one, is no member (ip_set_hash_netiface.c, hash_netiface4_kadt).
    if (parts.includes('none')) {
      return 'none';
    }
    const known = parts.filter((part) => part !== null && part !== 'none');
    return known.length === parts.length ? known : null;
  }

  /** A set as rules have left it; null where it is not known. */
  #setNamed(name: string): AddressSet | null {
    const changed = this.state.get(setKey(name));
    if (changed === POISONED) {
      return null;
    }
    return (changed as AddressSet | undefined) ?? this.namespace.ipSets?.get(name) ?? null;
  }

  /** The socket of two ends: connected, else listening. */
  lookUpSocket(device: string | null, protocol: number, local: SocketAddress, remote: SocketAddress): FoundSocket | undefined {
    const socket = this.#state.sockets.connectedBy(device, protocol, local, remote);
    if (socket !== undefined) {
      return { kind: 'open', socket };
    }
    const info = this.#state.sockets.listener(protocol, local);
    return info === undefined ? undefined : { kind: 'listener', info };
  }

  #assign(packet: Packet, found: FoundSocket, isTransparent: Known<boolean>): Known<boolean> {
    if (isTransparent === true) {
      packet.assigned = found;
    }
    return isTransparent;
  }

  /** nf_tproxy_laddr4: the first address of the device that the packet came by; IPv6 asks for one of a fitting scope. */
  #deviceAddress(packet: Packet): Address {
    const link = findLink(this.namespace, packet.inInterface ?? '');
    const first = link?.addresses.map(({ address }) => Address.of(address)).find((address) => address.isIpv4 === packet.isIpv4);
    return first ?? packet.destination;
  }
}

function setKey(name: string): string {
  return `set ${name}`;
}

/** What of a packet stands for a dimension of a set; `none` where the packet does not have it, null where that is not known. */
function partOf(dimension: SetDimension, packet: Packet, direction: 'src' | 'dst'): PacketPart | 'none' | null {
  const side = direction === 'src' ? 'source' : 'destination';
  switch (dimension) {
    case 'ip':
    case 'net':
      return { kind: 'address', address: packet[side].text };
    case 'port':
      if (!packet.hasTransport) {
        return 'none';
      }
      return hasPorts(packet.protocol)
        ? { kind: 'port', protocol: packet.protocol, port: direction === 'src' ? packet.sourcePort : packet.destinationPort }
        : { kind: 'port', protocol: packet.protocol, port: packet.icmpType * 256 + packet.icmpCode };
    case 'mac':
      return packet.macSource === null || direction === 'dst' ? null : { kind: 'mac', mac: packet.macSource };
    case 'mark':
      return { kind: 'mark', mark: packet.mark };
    case 'iface': {
      const name = direction === 'src' ? packet.inInterface : packet.outInterface;
      return name === null ? 'none' : { kind: 'interface', name };
    }
    case 'set':
      return null;
  }
}
