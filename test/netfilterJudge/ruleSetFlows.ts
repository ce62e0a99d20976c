import { formatIpAddress, ipAddressBytes, isIpv4, toIpAddress } from '../../agent/protocol/ipAddress.ts';
import type { IpAddress, PortNumber } from '../../agent/protocol/scalars.ts';
import { toPortNumber } from '../../agent/protocol/scalars.ts';
import type { Hook } from '../../agent/protocol/trace.ts';
import { formatAddressPrefix, maskAddress, prefixContains } from '../../simulator/netfilter/addressPrefix.ts';
import type { AddressPrefix } from '../../simulator/netfilter/addressPrefix.ts';
import type { PacketDraft, TransportDraft } from '../../simulator/netfilter/packetDraft.ts';
import { hasPorts, PROTOCOL, protocolNumber } from '../../simulator/netfilter/protocolNumbers.ts';
import type { AddressFamily, NumberRange, TcpFlag } from '../../simulator/netfilter/ruleSet.ts';
import { createRandom } from '../soak/programs/plan.ts';
import { reverse } from './generateCase.ts';
import type { WorldChoices } from './generateWorld.ts';
import { ELSEWHERE, LEFT, MAC, NODE, PLAIN_WORLD, RIGHT, UIDS } from './generateWorld.ts';
import type { Stimulus } from './judgeCase.ts';
import type { AddressChoice, RuleWish, Wish } from './ruleWishes.ts';
import { emptyWish, wishesOf } from './ruleWishes.ts';

/** Flows for a rule set that somebody wrote: made of what its rules want, so that they meet them. */

const MAX_WORLDS = 6;
const MAX_OWN_ADDRESSES = 8;
const MAX_LEFT_NETWORKS = 12;
/** IFNAMSIZ - 1 */
const MAX_DEVICE_NAME = 15;
const FIRST_SOURCE_PORT = 20_000;
const FAMILIES: readonly AddressFamily[] = ['ipv4', 'ipv6'];
/** Hosts of a wanted network that are tried for one that no condition excludes. */
const MAX_HOSTS = 8;

export interface RuleTexts {
  readonly ipv4: string;
  readonly ipv6: string;
}

/** What is wanted of a rule set, by family. */
function readWishes(texts: RuleTexts): readonly (RuleWish & { readonly family: AddressFamily })[] {
  return FAMILIES.flatMap((family) => wishesOf(texts[family], family).map((wish) => ({ ...wish, family })));
}

/** Gives worlds in which the devices, some of the node's addresses and what is behind its devices are those of the rule set. */
export function worldsFor(texts: RuleTexts): readonly WorldChoices[] {
  const wishes = readWishes(texts);
  return pairDevices(wishes).slice(0, MAX_WORLDS).map(([leftDevice, rightDevice]) => {
    const here = wishes.filter((wish) => fits(wish, [leftDevice, rightDevice]));
    const own = FAMILIES.flatMap((family) => ownAddresses(here.filter((wish) => wish.family === family)).slice(0, MAX_OWN_ADDRESSES));
    const networks = FAMILIES.flatMap((family) => networksBehind(here.filter((wish) => wish.family === family), leftDevice, rightDevice).slice(0, MAX_LEFT_NETWORKS));
    return { ...PLAIN_WORLD, leftDevice, rightDevice, ownAddresses: own, leftNetworks: networks.filter((network) => !own.some((address) => formatAddressPrefix(network).startsWith(`${address}/`))) };
  });
}

/** Pairs of devices that rules name together come first, then those that rules exclude beside one that no rule names, then the others two by two. */
function pairDevices(wishes: readonly RuleWish[]): readonly (readonly [string, string])[] {
  const counts = new Map<string, number>();
  const names = new Set<string>();
  const excluded = new Map<string, number>();
  for (const { inDevice, outDevice } of wishes) {
    for (const name of [...inDevice.unwanted, ...outDevice.unwanted].map(deviceName)) {
      if (name !== undefined) {
        excluded.set(name, (excluded.get(name) ?? 0) + 1);
      }
    }
    const [from, to] = [deviceName(inDevice.wanted), deviceName(outDevice.wanted)];
    for (const name of [from, to]) {
      if (name !== undefined) {
        names.add(name);
      }
    }
    if (from !== undefined && to !== undefined && from !== to) {
      const key = [from, to].toSorted().join(' ');
      counts.set(key, (counts.get(key) ?? 0) + 1);
    }
  }
  const byCount = (map: ReadonlyMap<string, number>): readonly string[] => [...map].toSorted(([, left], [, right]) => right - left).map(([key]) => key);
  const together = byCount(counts).map((key): readonly [string, string] => [key.split(' ')[0] ?? '', key.split(' ')[1] ?? '']);
  const apart = byCount(excluded).slice(0, MAX_WORLDS / 2).map((name): readonly [string, string] => [name, ['eth0', 'eth1', 'wan0'].find((other) => other !== name && !names.has(other)) ?? 'wan1']);
  const pairs = [...together.slice(0, MAX_WORLDS - apart.length), ...apart];
  const paired = new Set(pairs.flat());
  const rest = [...names].filter((name) => !paired.has(name));
  const others: (readonly [string, string])[] = [];
  for (let index = 0; index < rest.length; index += 2) {
    const first = rest[index] ?? 'eth0';
    others.push([first, rest[index + 1] ?? (first === 'eth1' ? 'eth0' : 'eth1')]);
  }
  const all = [...pairs.slice(0, Math.max(1, MAX_WORLDS - others.length)), ...others, ...pairs.slice(Math.max(1, MAX_WORLDS - others.length))];
  return all.length === 0 ? [['eth0', 'eth1']] : all;
}

/** A name of a device that a rule wants; undefined where any would do, or where worlds have it anyhow. */
function deviceName(wanted: string | null): string | undefined {
  const name = wanted?.replace(/\+$/, '9');
  return name === undefined || name === '9' || name === 'lo' || name === 'lan0' || name.length > MAX_DEVICE_NAME || !/^[\w.@-]+$/.test(name) ? undefined : name;
}

function isDevice(wish: Wish<string>, device: string): boolean {
  const matches = (name: string): boolean => (name.endsWith('+') ? device.startsWith(name.slice(0, -1)) : device === name);
  return (wish.wanted === null || matches(wish.wanted)) && !wish.unwanted.some(matches);
}

function fits({ inDevice, outDevice }: RuleWish, devices: readonly string[]): boolean {
  return [inDevice, outDevice].every((wish) => [...devices, 'lo'].some((device) => isDevice(wish, device)));
}

function ownAddresses(wishes: readonly RuleWish[]): readonly string[] {
  const found = wishes.flatMap(({ hook, source, destination, sourceType, destinationType }) => [
    ...(hook === 'INPUT' || destinationType.wanted === 'LOCAL' ? [destination] : []),
    ...(hook === 'OUTPUT' || sourceType.wanted === 'LOCAL' ? [source] : []),
  ]);
  const given = [...Object.values(NODE), '127.0.0.1', '::1'].map(toIpAddress);
  return [...new Set(found.filter((wish) => wish.wanted !== null && !given.some((address) => isWanted(wish, address))).flatMap((wish) => hostsOf(wish).slice(0, 1)))].filter(isUsable);
}

function networksBehind(wishes: readonly RuleWish[], leftDevice: string, rightDevice: string): readonly AddressPrefix[] {
  const wanted = (side: 'left' | 'right'): readonly AddressPrefix[] => {
    const device = side === 'left' ? leftDevice : rightDevice;
    return wishes.flatMap(({ hook, source, destination, inDevice, outDevice }) => [
      ...(outDevice.wanted !== null && isDevice(outDevice, device) ? toNetworks(destination) : []),
      ...(hook === 'FORWARD' && inDevice.wanted !== null && isDevice(inDevice, device) ? toNetworks(source) : []),
    ]);
  };
  const right = new Set(wanted('right').map(formatAddressPrefix));
  const free = wishes.filter(({ hook, outDevice }) => hook !== 'INPUT' && outDevice.wanted === null).flatMap(({ destination }) => toNetworks(destination)).filter((_, index) => index % 2 === 0);
  const all = [...wanted('left'), ...free].filter((network) => !right.has(formatAddressPrefix(network)));
  return [...new Map(all.map((network) => [formatAddressPrefix(network), network])).values()];
}

/** A network that a route can lead to, where one is wanted. */
function toNetworks({ wanted }: Wish<AddressChoice>): readonly AddressPrefix[] {
  if (wanted === null || !('prefixLength' in wanted) || wanted.mask !== undefined || wanted.prefixLength < 8 || !isUsable(wanted.address)) {
    return [];
  }
  return [{ address: maskAddress(wanted.address, wanted.prefixLength), prefixLength: wanted.prefixLength }];
}

/** One flow: packets that belong together, each after the one before it. */
export type Flow = readonly Stimulus[];

/** Flows for a rule set in one of its worlds: each rule that the world has devices for has its turn; the `first` of them is that many flows after the beginning. */
export function flowsFor(texts: RuleTexts, choices: WorldChoices, first: number, count: number, seed: number): readonly Flow[] {
  const draw = new Draw(createRandom(seed + first * 7));
  const wishes = readWishes(texts).filter((wish) => fits(wish, [choices.leftDevice, choices.rightDevice]));
  const makers = new Map(FAMILIES.map((family) => [family, new FlowMaker(family, choices, wishes.filter((wish) => wish.family === family), draw)]));
  const hooks = ['INPUT', 'FORWARD', 'OUTPUT'] as const;
  return Array.from({ length: count }, (_, index) => {
    const place = first + index;
    const wish = wishes[(place * stride(wishes.length)) % Math.max(1, wishes.length)];
    const family = wish?.family ?? 'ipv4';
    return makers.get(family)?.make(wish ?? emptyWish(hooks[place % hooks.length] ?? 'INPUT'), toPortNumber(FIRST_SOURCE_PORT + place)) ?? [];
  });
}

/** A step that visits all of `length` places, those far apart one after the other. */
function stride(length: number): number {
  const divides = (left: number, right: number): number => (right === 0 ? left : divides(right, left % right));
  for (let step = Math.max(1, Math.floor(length * 0.382)); ; step += 1) {
    if (divides(step, length) === 1 || length <= 1) {
      return step;
    }
  }
}

class Draw {
  readonly #random: () => number;

  constructor(random: () => number) {
    this.#random = random;
  }

  chance(probability: number): boolean {
    return this.#random() < probability;
  }

  of<Value>(values: readonly Value[], otherwise: Value): Value {
    return values[Math.floor(this.#random() * values.length)] ?? otherwise;
  }
}

/** Packets that arrive, go through or leave: what one rule wants of them, now and then only some of it, and the rest as it comes. */
class FlowMaker {
  readonly #family: AddressFamily;
  readonly #choices: WorldChoices;
  readonly #draw: Draw;
  readonly #own: readonly IpAddress[];
  readonly #loopback: IpAddress;
  readonly #ports: readonly number[];
  readonly #addresses: readonly IpAddress[];

  constructor(family: AddressFamily, choices: WorldChoices, wishes: readonly RuleWish[], draw: Draw) {
    const isV4 = family === 'ipv4';
    this.#family = family;
    this.#choices = choices;
    this.#draw = draw;
    this.#own = [...(isV4 ? [NODE.left4, NODE.right4] : [NODE.left6, NODE.right6]), ...choices.ownAddresses].map(toIpAddress).filter((address) => isIpv4(address) === isV4);
    this.#loopback = toIpAddress(isV4 ? '127.0.0.1' : '::1');
    this.#ports = [...new Set([80, 53, 8080, ...wishes.flatMap(({ destinationPort }) => (destinationPort.wanted === null ? [] : [destinationPort.wanted.first]))])];
    this.#addresses = [...new Set(wishes.flatMap(({ source, destination }) => [...hostsOf(source).slice(0, 1), ...hostsOf(destination).slice(0, 1)]))].filter(isUsable);
  }

  make(wanted: RuleWish, port: PortNumber): Flow {
    const wish = this.#draw.chance(0.75) ? wanted : this.#loosen(wanted);
    const way = this.#way(wish);
    const device = this.#device(wish, way);
    const packet = this.#packet(wish, way, device, port);
    const user = this.#user(wish);
    const sent: Stimulus =
      way === 'out' ? { kind: 'send', namespace: 'node', user, mark: this.#mark(wish), packet } : { kind: 'arrive', namespace: 'node', device, packet: { ...packet, macSource: wish.macSource.wanted ?? this.#mac(device) } };
    const { transport } = packet;
    if (isForMany(packet.destination)) {
      return [sent];
    }
    // Lower ports may be those of sockets that wait.
    if (transport.kind === 'tcp' && transport.sourcePort >= FIRST_SOURCE_PORT && transport.flags.join() === 'SYN' && transport.options === undefined && this.#draw.chance(way === 'out' ? 0.4 : 0.2)) {
      const namespace = way === 'out' ? 'node' : device === this.#choices.leftDevice ? 'left' : 'right';
      return [{ kind: 'connect', namespace, user, mark: way === 'out' ? this.#mark(wish) : 0, address: null, port: transport.sourcePort, destination: { address: packet.destination, port: transport.destinationPort } }];
    }
    const { wanted: state } = wish.states;
    return state === 'ESTABLISHED' || state === 'RELATED' ? this.#follow(sent, way, wish, state) : [sent];
  }

  /** Leaves out about half of what is wanted. */
  #loosen(wish: RuleWish): RuleWish {
    const none = emptyWish(wish.hook);
    return { ...none, ...Object.fromEntries(Object.entries(wish).filter(([name]) => name === 'key' || name === 'hook' || this.#draw.chance(0.5))) };
  }

  #way(wish: RuleWish): 'in' | 'forward' | 'out' {
    const isLoopback = [wish.inDevice, wish.outDevice].some((device) => device.wanted === 'lo');
    const ways: Readonly<Record<Hook, readonly ('in' | 'forward' | 'out')[]>> = { PREROUTING: ['in', 'forward'], INPUT: ['in'], FORWARD: ['forward'], OUTPUT: ['out'], POSTROUTING: ['out', 'forward'] };
    if (isLoopback) {
      return 'out';
    }
    return this.#draw.chance(0.1) ? this.#draw.of(['in', 'forward', 'out'] as const, 'in') : this.#draw.of(wish.destinationType.wanted === 'LOCAL' && wish.hook === 'PREROUTING' ? ['in'] : ways[wish.hook], 'in');
  }

  #device(wish: RuleWish, way: 'in' | 'forward' | 'out'): string {
    const { leftDevice, rightDevice } = this.#choices;
    const both = [leftDevice, rightDevice];
    const fitting = [...both, ...(wish.inDevice.unwanted.length > 0 || this.#draw.chance(0.1) ? ['lan0'] : [])].filter((device) => isDevice(wish.inDevice, device));
    // What goes out by one device comes in by the other.
    const other = way === 'forward' && wish.outDevice.wanted !== null ? fitting.filter((device) => both.some((out) => out !== device && isDevice(wish.outDevice, out))) : fitting;
    return this.#draw.of(other.length > 0 ? other : fitting, leftDevice);
  }

  #packet(wish: RuleWish, way: 'in' | 'forward' | 'out', device: string, port: PortNumber): PacketDraft {
    const { leftDevice, rightDevice } = this.#choices;
    const isLoopback = [wish.inDevice, wish.outDevice].some((one) => one.wanted === 'lo');
    const outDevices = [leftDevice, rightDevice].filter((one) => isDevice(wish.outDevice, one) && (way !== 'forward' || one !== device));
    const local = isLoopback ? [this.#loopback, ...this.#own] : this.#own;
    const beyond = this.#hostsAt(this.#draw.of(outDevices, rightDevice));
    const source = this.#address(wish.source, false, way === 'out' ? local : this.#hostsAt(device));
    const destination = this.#address(wish.destination, way === 'in', way === 'in' || isLoopback ? local : wish.destinationType.wanted === 'LOCAL' ? this.#own : beyond);
    const payload = wish.length.wanted === null ? 8 : Math.min(1_400, Math.max(8, wish.length.wanted.first));
    return {
      source,
      destination,
      transport: this.#transport(wish, source, destination, port),
      ttl: wish.ttl.wanted?.last ?? (this.#draw.chance(0.1) ? 3 : 64),
      ...(wish.tos.wanted === null ? {} : { tos: wish.tos.wanted }),
      payload,
    };
  }

  #transport(wish: RuleWish, source: IpAddress, destination: IpAddress, port: PortNumber): TransportDraft {
    const isV4 = this.#family === 'ipv4';
    const number = wish.protocol.wanted === null ? undefined : protocolNumber(wish.protocol.wanted);
    const unwanted = wish.protocol.unwanted.map(protocolNumber);
    const some = [PROTOCOL.tcp, PROTOCOL.tcp, PROTOCOL.udp, isV4 ? PROTOCOL.icmp : PROTOCOL.icmpv6].filter((one) => !unwanted.includes(one));
    const hasFlags = wish.flags.wanted !== null || wish.mss.wanted !== null || wish.tcpOption.wanted !== null;
    const protocol = number !== undefined && number !== PROTOCOL.igmp && number !== 0 ? number : wish.icmpType.wanted !== null ? (isV4 ? PROTOCOL.icmp : PROTOCOL.icmpv6) : hasFlags ? PROTOCOL.tcp : this.#draw.of(some, PROTOCOL.tcp);
    const sourcePort = toPortNumber(wish.sourcePort.wanted === null ? port : this.#number(wish.sourcePort, []));
    const destinationPort = toPortNumber(this.#number(wish.destinationPort, this.#ports));
    if (protocol === PROTOCOL.tcp) {
      const { wanted: flags } = wish.flags;
      const options = [...(wish.tcpOption.wanted === null ? [] : [wish.tcpOption.wanted])];
      return {
        kind: 'tcp', sourcePort, destinationPort,
        flags: flags !== null && flags.length > 0 ? flags : this.#draw.of<readonly TcpFlag[]>(wish.states.wanted === 'INVALID' ? [['RST'], ['SYN', 'FIN'], []] : [['SYN'], ['SYN'], ['SYN'], ['ACK']], ['SYN']),
        ...(options.length === 0 ? {} : { options }),
        ...(wish.mss.wanted === null ? {} : { mss: wish.mss.wanted }),
      };
    }
    if (protocol === PROTOCOL.udp) {
      return { kind: 'udp', sourcePort, destinationPort };
    }
    if (protocol === PROTOCOL.icmp || protocol === PROTOCOL.icmpv6) {
      return this.#icmp(wish, source, destination, port);
    }
    return { kind: 'other', protocol, ...(hasPorts(protocol) ? { sourcePort, destinationPort } : {}) };
  }

  #icmp(wish: RuleWish, source: IpAddress, destination: IpAddress, port: PortNumber): TransportDraft {
    const isV4 = this.#family === 'ipv4';
    const queries = isV4 ? [8, 8, 0, 13] : [128, 128, 129];
    const errors = isV4 ? [3, 11, 12] : [1, 2, 3, 4];
    const { wanted } = wish.icmpType;
    if (wanted !== null && errors.includes(wanted)) {
      return { kind: 'icmp', type: wanted, code: isV4 || wanted !== 1 ? 0 : 3, about: { source: destination, destination: source, transport: { kind: 'udp', sourcePort: port, destinationPort: toPortNumber(53) }, payload: 8 } };
    }
    const allowed = queries.filter((type) => !wish.icmpType.unwanted.includes(type));
    return { kind: 'icmp', type: wanted !== null && queries.includes(wanted) ? wanted : this.#draw.of(allowed, queries[0] ?? 8), code: 0, identifier: port };
  }

  /** Puts what makes a packet part of a connection before it: the packet that it answers, or that it is an error about. */
  #follow(sent: Stimulus, way: 'in' | 'forward' | 'out', wish: RuleWish, state: 'ESTABLISHED' | 'RELATED'): Flow {
    if (sent.kind === 'connect' || sent.kind === 'datagram' || (sent.packet.transport.kind === 'icmp' && sent.packet.transport.about !== undefined)) {
      return [sent];
    }
    const { packet } = sent;
    const { transport } = packet;
    const opened: PacketDraft = reverse(transport.kind === 'tcp' ? { ...packet, transport: { ...transport, flags: ['ACK'] } } : packet);
    const asks: PacketDraft = {
      ...opened,
      transport: opened.transport.kind === 'tcp' ? { ...opened.transport, flags: ['SYN'] } : opened.transport.kind === 'icmp' ? { ...opened.transport, type: this.#family === 'ipv4' ? 8 : 128 } : opened.transport,
    };
    const answer: PacketDraft = { ...packet, transport: transport.kind === 'tcp' ? { ...transport, flags: ['SYN', 'ACK'] } : transport.kind === 'icmp' ? { ...transport, type: this.#family === 'ipv4' ? 0 : 129 } : transport };
    const user = this.#user(wish);
    const { macSource: _, ...about } = asks;
    const error: PacketDraft = { ...packet, transport: { kind: 'icmp', type: this.#family === 'ipv4' ? 3 : 1, code: 1, about } };
    const first: Stimulus = way === 'in' ? { kind: 'send', namespace: 'node', user, mark: 0, packet: withoutMac(asks) } : { kind: 'arrive', namespace: 'node', device: this.#otherDevice(sent), packet: { ...asks, macSource: this.#mac(this.#otherDevice(sent)) } };
    return [first, { ...sent, packet: state === 'RELATED' ? error : answer }];
  }

  #otherDevice(sent: Stimulus): string {
    const { leftDevice, rightDevice } = this.#choices;
    return sent.kind === 'arrive' && sent.device === leftDevice ? rightDevice : sent.kind === 'arrive' ? leftDevice : this.#draw.of([leftDevice, rightDevice], leftDevice);
  }

  #user(wish: RuleWish): { readonly uid: number; readonly gid: number } {
    const uid = this.#number(wish.uid, UIDS);
    return { uid, gid: wish.gid.wanted === null && wish.gid.unwanted.length === 0 ? uid : this.#number(wish.gid, UIDS) };
  }

  #mark({ mark }: RuleWish): number {
    return mark.wanted ?? 0;
  }

  #mac(device: string): string {
    return device === this.#choices.leftDevice ? MAC.left : device === this.#choices.rightDevice ? MAC.right : MAC.rightLan;
  }

  #hostsAt(device: string): readonly IpAddress[] {
    const isV4 = this.#family === 'ipv4';
    const { leftDevice, leftNetworks } = this.#choices;
    const behind = leftNetworks.filter(({ address }) => isIpv4(toIpAddress(address)) === isV4).map(({ address, prefixLength }) => ({ address: toIpAddress(address), prefixLength }));
    const elsewhere = this.#addresses.filter((address) => (device === leftDevice) === behind.some((network) => prefixContains(network, address)));
    const near = device === leftDevice ? LEFT : RIGHT;
    const hosts = isV4 ? [near.ipv4, near.ipv4, near.other] : [near.ipv6, near.ipv6];
    return [...hosts, ...(device === leftDevice ? [] : [isV4 ? ELSEWHERE.ipv4 : ELSEWHERE.ipv6])].map(toIpAddress).concat(elsewhere.length === 0 ? [] : [this.#draw.of(elsewhere, toIpAddress(hosts[0] ?? '::1'))]);
  }

  #address(wish: Wish<AddressChoice>, takesMany: boolean, pool: readonly IpAddress[]): IpAddress {
    const fitting = pool.filter((address) => isWanted(wish, address));
    if (fitting.length > 0 && (wish.wanted === null || this.#draw.chance(0.7))) {
      return this.#draw.of(fitting, this.#loopback);
    }
    return this.#draw.of(hostsOf(wish).filter((address) => isUsable(address) || (takesMany && isForMany(address))), this.#draw.of(pool, this.#loopback));
  }

  /** A number that is wanted, or one of those that rules name. */
  #number({ wanted, unwanted }: Wish<NumberRange>, others: readonly number[]): number {
    const isFree = (value: number): boolean => !unwanted.some(({ first, last }) => value >= first && value <= last);
    const values = wanted === null ? others : [wanted.first, wanted.last, Math.floor((wanted.first + wanted.last) / 2)];
    return this.#draw.of(values.filter(isFree), wanted?.first ?? 40_000);
  }
}

function withoutMac({ macSource: _, ...packet }: PacketDraft): PacketDraft {
  return packet;
}

function isWanted({ wanted, unwanted }: Wish<AddressChoice>, address: IpAddress): boolean {
  return (wanted === null || isIn(wanted, address)) && !unwanted.some((choice) => isIn(choice, address));
}

function isIn(choice: AddressChoice, address: IpAddress): boolean {
  if ('prefixLength' in choice) {
    return prefixContains(choice, address);
  }
  const value = numberOf(address);
  return isIpv4(choice.first) === isIpv4(address) && value >= numberOf(choice.first) && value <= numberOf(choice.last);
}

function numberOf(address: IpAddress): bigint {
  return ipAddressBytes(address).reduce((sum, byte) => (sum << 8n) | BigInt(byte), 0n);
}

/** Some hosts of what is wanted that no condition excludes: for a network its second ones first. */
function hostsOf(wish: Wish<AddressChoice>): readonly IpAddress[] {
  const { wanted } = wish;
  if (wanted === null) {
    return [];
  }
  const first = 'prefixLength' in wanted ? wanted.address : wanted.first;
  const bits = isIpv4(first) ? 32 : 128;
  const isHost = 'prefixLength' in wanted && (wanted.prefixLength === bits || wanted.mask !== undefined);
  const steps = isHost ? [0n] : Array.from({ length: MAX_HOSTS }, (_, index) => ('prefixLength' in wanted ? (index === 0 ? 1n : (1n << BigInt(bits - wanted.prefixLength)) / BigInt(index + 1)) : BigInt(index)));
  return steps.map((step) => fromNumber(numberOf(first) + step, bits)).filter((address) => isWanted(wish, address));
}

function fromNumber(value: bigint, bits: number): IpAddress {
  return formatIpAddress(Uint8Array.from({ length: bits / 8 }, (_, index) => Number((value >> BigInt(bits - 8 - index * 8)) & 0xffn)));
}

/** Groups, and everybody on the link. */
function isForMany(address: string): boolean {
  return /^(?:22[4-9]|23\d)\.|^255\.255\.255\.255$|^ff/.test(address);
}

/** Addresses that a packet can have on both ends: no loopback, multicast, broadcast or unspecified ones. */
function isUsable(address: string): boolean {
  return !/^(?:0|127|22[4-9]|2[345]\d)\.|^10\.[123]\.0\.|^::$|^::1$|^ff|^fe[89ab]/.test(address);
}
