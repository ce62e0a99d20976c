import fc from 'fast-check';
import { isIpv4, parseIpAddress, toIpAddress } from '../../agent/protocol/ipAddress.ts';
import type { IpAddress } from '../../agent/protocol/scalars.ts';
import { toPortNumber } from '../../agent/protocol/scalars.ts';
import { formatAddressPrefix, maskAddress } from '../../simulator/netfilter/addressPrefix.ts';
import type { PacketDraft, TransportDraft } from '../../simulator/netfilter/packetDraft.ts';
import type { WorldChoices } from './generateWorld.ts';
import { ELSEWHERE, LEFT, MAC, NODE, PLAIN_WORLD, RIGHT, UIDS } from './generateWorld.ts';
import type { Stimulus } from './judgeCase.ts';

/** Flows for a rule set that somebody wrote: made of its own addresses, ports and devices, so that they meet its rules. */

const MAX_WORLDS = 4;
const MAX_OWN_ADDRESSES = 3;
const MAX_LEFT_NETWORKS = 4;
/** IFNAMSIZ - 1 */
const MAX_DEVICE_NAME = 15;
const FIRST_SOURCE_PORT = 20_000;

/** What one rule wants of a packet, as far as it is simple; undefined where the rule does not say. */
interface RuleWish {
  readonly protocol: 'tcp' | 'udp' | 'icmp' | undefined;
  readonly source: string | undefined;
  readonly destination: string | undefined;
  readonly sourcePort: number | undefined;
  readonly destinationPort: number | undefined;
  readonly inDevice: string | undefined;
  readonly outDevice: string | undefined;
  readonly icmpType: number | undefined;
  readonly macSource: string | undefined;
}

/** Gives worlds in which the devices and some of the addresses are those of the rule set. */
export function worldsFor(text: string): readonly WorldChoices[] {
  const devices = [...new Set([...text.matchAll(/ -[io] (\S+)/g)].map(([, name = '']) => name.replace(/\+$/, '9')))].filter((name) => name !== 'lo' && name.length <= MAX_DEVICE_NAME && /^[\w.@-]+$/.test(name) && name !== 'lan0');
  const own = [...new Set([...text.matchAll(/^-A INPUT.* -d (\d+\.\d+\.\d+\.\d+)(?:\/32)? /gm)].map(([, address = '']) => address))].filter((address) => isUsable(address)).slice(0, MAX_OWN_ADDRESSES);
  const written = [...text.matchAll(/ -d (\d+\.\d+\.\d+\.\d+\/(?:2[0-9]|3[0-2]|1[6-9])) /g)].map(([, network = '']) => {
    const [address = '', length = ''] = network.split('/');
    return { address: maskAddress(toIpAddress(address), Number(length)), prefixLength: Number(length) };
  });
  const networks = [...new Map(written.map((network) => [formatAddressPrefix(network), network])).values()].filter(({ address }) => isUsable(address) && !own.includes(address));
  const step = Math.max(1, Math.floor(networks.length / MAX_LEFT_NETWORKS));
  const leftNetworks = networks.filter((_, index) => index % step === 0).slice(0, MAX_LEFT_NETWORKS);
  const worlds: WorldChoices[] = [];
  for (let index = 0; index < Math.max(1, Math.min(MAX_WORLDS, Math.ceil(devices.length / 2))); index += 1) {
    const leftDevice = devices[index * 2] ?? (devices.includes('eth0') ? 'eth8' : 'eth0');
    const rightDevice = devices[index * 2 + 1] ?? (devices.includes('eth1') ? 'eth7' : 'eth1');
    worlds.push({ ...PLAIN_WORLD, leftDevice, rightDevice, ownAddresses: own, leftNetworks });
  }
  return worlds;
}

/** Random flows for a rule set in one of its worlds, each from a port of its own. */
export function flowsFor(texts: { readonly ipv4: string; readonly ipv6: string }, choices: WorldChoices, count: number, seed: number): readonly Stimulus[] {
  const wishes = { ipv4: readWishes(texts.ipv4), ipv6: readWishes(texts.ipv6) };
  const families: readonly ('ipv4' | 'ipv6')[] = wishes.ipv6.length > 0 ? ['ipv4', 'ipv6'] : ['ipv4'];
  const flow = fc.constantFrom(...families).chain((family) => flowArbitrary(family, wishes[family], choices));
  return fc.sample(flow, { seed, numRuns: count }).map((stimulus, index) => withSourcePort(stimulus, FIRST_SOURCE_PORT + index));
}

function withSourcePort(stimulus: Stimulus, port: number): Stimulus {
  if (stimulus.kind === 'connect') {
    return { ...stimulus, port: toPortNumber(port) };
  }
  const { transport } = stimulus.packet;
  const changed: TransportDraft = transport.kind === 'icmp' ? { ...transport, identifier: port } : transport.kind === 'other' || transport.sourcePort < FIRST_SOURCE_PORT ? transport : { ...transport, sourcePort: toPortNumber(port) };
  return { ...stimulus, packet: { ...stimulus.packet, transport: changed } };
}

function flowArbitrary(family: 'ipv4' | 'ipv6', wishes: readonly RuleWish[], choices: WorldChoices): fc.Arbitrary<Stimulus> {
  const isV4 = family === 'ipv4';
  const sources = collect(wishes, 'source', isV4 ? [LEFT.ipv4, ELSEWHERE.ipv4] : [LEFT.ipv6, ELSEWHERE.ipv6]);
  const destinations = collect(wishes, 'destination', isV4 ? [RIGHT.ipv4, ELSEWHERE.ipv4] : [RIGHT.ipv6, ELSEWHERE.ipv6]);
  const ports = collect(wishes, 'destinationPort', [80, 53, 8080]);
  const own = isV4 ? [NODE.left4, NODE.right4, ...choices.ownAddresses] : [NODE.left6, NODE.right6];
  const loopback = isV4 ? '127.0.0.1' : '::1';
  const devices = [choices.leftDevice, choices.rightDevice];
  const noWish: RuleWish = { protocol: undefined, source: undefined, destination: undefined, sourcePort: undefined, destinationPort: undefined, inDevice: undefined, outDevice: undefined, icmpType: undefined, macSource: undefined };
  return fc
    .record({
      wish: fc.constantFrom(...(wishes.length === 0 ? [noWish] : wishes)),
      keeps: fc.array(fc.boolean(), { minLength: 6, maxLength: 6 }),
      keepsAll: fc.boolean(),
      source: fc.constantFrom(...sources),
      destination: fc.constantFrom(...destinations),
      port: fc.constantFrom(...ports),
      protocol: fc.constantFrom('tcp' as const, 'tcp' as const, 'udp' as const, 'icmp' as const),
      device: fc.constantFrom(...devices),
      way: fc.constantFrom('forward', 'forward', 'in', 'out', 'out', 'connect'),
      local: fc.constantFrom(...own, ...own, loopback),
      flags: fc.constantFrom(['SYN'] as const, ['SYN'] as const, ['SYN'] as const, ['ACK'] as const, ['SYN', 'ACK'] as const, ['RST'] as const),
      uid: fc.constantFrom(...UIDS),
      ttl: fc.constantFrom(64, 64, 64, 3),
    })
    .map(({ wish, keeps, keepsAll, way, ...drawn }): Stimulus => {
      const keep = <Value>(index: number, wished: Value | undefined, other: Value): Value => ((keepsAll || keeps[index] === true) && wished !== undefined ? wished : other);
      const protocol = keep(0, wish.protocol, drawn.protocol);
      const source = toIpAddress(keep(1, wish.source, drawn.source));
      const wanted = toIpAddress(keep(2, wish.destination, drawn.destination));
      const destinationPort = toPortNumber(keep(3, wish.destinationPort, drawn.port));
      const sourcePort = toPortNumber(keep(4, wish.sourcePort, FIRST_SOURCE_PORT));
      const user = { uid: drawn.uid, gid: drawn.uid };
      const destination = way === 'in' ? toIpAddress(own[destinationPort % own.length] ?? loopback) : way === 'forward' ? wanted : drawn.source === source ? wanted : toIpAddress(drawn.local);
      if (way === 'connect') {
        return { kind: 'connect', namespace: drawn.device === choices.leftDevice ? 'node' : 'left', user, mark: 0, address: null, port: sourcePort, destination: { address: wanted, port: destinationPort } };
      }
      const packet: PacketDraft = { source: way === 'out' ? toIpAddress(drawn.local) : source, destination: way === 'out' ? wanted : destination, ttl: drawn.ttl, payload: 8, transport: makeTransport(protocol, isV4, sourcePort, destinationPort, drawn.flags, wish.icmpType) };
      if (way === 'out') {
        return { kind: 'send', namespace: 'node', user, mark: 0, packet };
      }
      const device = wish.inDevice !== undefined && devices.includes(wish.inDevice) ? wish.inDevice : drawn.device;
      return { kind: 'arrive', namespace: 'node', device, packet: { ...packet, macSource: keep(5, wish.macSource, device === choices.leftDevice ? MAC.left : MAC.right) } };
    });
}

function makeTransport(protocol: 'tcp' | 'udp' | 'icmp', isV4: boolean, sourcePort: ReturnType<typeof toPortNumber>, destinationPort: ReturnType<typeof toPortNumber>, flags: Extract<TransportDraft, { kind: 'tcp' }>['flags'], icmpType: number | undefined): TransportDraft {
  switch (protocol) {
    case 'tcp':
      return { kind: 'tcp', sourcePort, destinationPort, flags };
    case 'udp':
      return { kind: 'udp', sourcePort, destinationPort };
    case 'icmp': {
      const queries = isV4 ? [8, 0, 13, 14] : [128, 129];
      return { kind: 'icmp', type: icmpType !== undefined && queries.includes(icmpType) ? icmpType : isV4 ? 8 : 128, code: 0, identifier: sourcePort };
    }
  }
}

function collect<Key extends 'source' | 'destination' | 'destinationPort', Value extends NonNullable<RuleWish[Key]>>(wishes: readonly RuleWish[], key: Key, others: readonly Value[]): readonly Value[] {
  const found = wishes.flatMap((wish) => (wish[key] === undefined ? [] : [wish[key] as Value]));
  return [...new Set([...found, ...others])];
}

function readWishes(text: string): readonly RuleWish[] {
  return text.split('\n').filter((line) => /^-[AI] /.test(line)).map(readWish);
}

function readWish(line: string): RuleWish {
  const find = (pattern: RegExp): string | undefined => new RegExp(`(?<!!) ${pattern.source}`).exec(line)?.[1];
  const protocol = find(/-p (\S+)/);
  const port = (option: string): number | undefined => {
    const value = find(new RegExp(`--${option}s? (\\d+)`));
    return value === undefined || Number(value) > 65_535 ? undefined : Number(value);
  };
  const address = (option: string): string | undefined => {
    const value = find(new RegExp(`-${option} ([0-9a-fA-F.:]+)(?:/\\S+)?`));
    const parsed = value === undefined ? undefined : parseIpAddress(value);
    return parsed !== undefined && isUsable(parsed) ? hostOf(parsed, line, option) : undefined;
  };
  const icmp = find(/--icmp(?:v6)?-type (\d+)/);
  const device = (option: string): string | undefined => find(new RegExp(`-${option} (\\S+)`))?.replace(/\+$/, '9');
  return {
    protocol: protocol === 'tcp' || protocol === 'udp' || protocol === 'icmp' ? protocol : protocol === 'ipv6-icmp' || protocol === 'icmpv6' ? 'icmp' : undefined,
    source: address('s'),
    destination: address('d'),
    sourcePort: port('sport'),
    destinationPort: port('dport'),
    inDevice: device('i'),
    outDevice: device('o'),
    icmpType: icmp === undefined ? undefined : Number(icmp),
    macSource: find(/--mac-source ([0-9a-fA-F:]{17})/),
  };
}

/** A host of a network: its address where it is one, else the next. */
function hostOf(address: IpAddress, line: string, option: string): string {
  const prefix = Number(new RegExp(`-${option} [0-9a-fA-F.:]+/(\\d+)`).exec(line)?.[1] ?? (isIpv4(address) ? 32 : 128));
  if (prefix >= (isIpv4(address) ? 31 : 127)) {
    return address;
  }
  return isIpv4(address) ? address.replace(/\d+$/, (last) => String((Number(last) & 0xfc) + 1)) : address.replace(/::$/, '::1');
}

/** Addresses that a packet can have on both ends: no loopback, multicast, broadcast or unspecified ones. */
function isUsable(address: string): boolean {
  return !/^(?:0|127|22[4-9]|2[345]\d)\.|^10\.[123]\.0\.|^::$|^ff|^fe80/.test(address);
}
