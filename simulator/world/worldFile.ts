import { isIpv4, parseIpAddress, toIpAddress } from '../../agent/protocol/ipAddress.ts';
import { inputError, MeshpathError } from '../../agent/protocol/errors.ts';
import type { Endpoint, IpAddress } from '../../agent/protocol/scalars.ts';
import { toPortNumber } from '../../agent/protocol/scalars.ts';
import type { ConntrackEntry, ConntrackTuple, InterfaceAddress, NetworkLink, Route, RoutingRule, SocketInfo } from '../../agent/protocol/snapshot.ts';
import type { DescribedWorld } from './describedWorld.ts';
import { Address, isMany } from '../netfilter/address.ts';
import { describeLink, describeSocket, networkOf } from './describedWorld.ts';
import { JsonValue } from './jsonReader.ts';

/** The longest world file that is read, in characters. */
export const MAX_WORLD_CHARACTERS = 8 * 1024 * 1024;

const LINK_KINDS = ['physical', 'veth', 'bridge', 'dummy', 'loopback'];
const ROUTE_TYPES = ['unicast', 'local', 'broadcast', 'blackhole', 'unreachable', 'prohibit', 'throw'];
const TABLE_NAMES: ReadonlyMap<string, number> = new Map([['local', 255], ['main', 254], ['default', 253]]);
const MAX_UINT32 = 0xffff_ffff;

/**
 * Reads a world file: JSON that describes one network namespace, every member of which may be left out.
 *
 *     links      [{ name, kind, addresses: ["10.1.0.3/24"], groups: ["224.0.0.251"], up, mtu, mac, master }]
 *     routes     ["default via 10.1.0.1 dev eth0"], as ip route takes them
 *     rules      ["fwmark 0x1/0xf lookup 100"], as ip rule takes them
 *     sysctls    { "net.ipv4.ip_forward": 1 }
 *     sockets    [{ listen: "tcp 0.0.0.0:8080", uid, gid, command, transparent }]
 *     conntrack  [{ protocol, original: "10.0.0.1:4000 > 10.0.0.2:80", reply, state, mark, zone }]
 *
 * Throws a MeshpathError: INPUT_INVALID names the place in the document, LIMIT_EXCEEDED is for one that is too long.
 */
export function readWorldFile(text: string): DescribedWorld {
  if (text.length > MAX_WORLD_CHARACTERS) {
    throw new MeshpathError({
      code: 'LIMIT_EXCEEDED', message: 'The world is too long.', reason: `It has more than ${MAX_WORLD_CHARACTERS} characters.`, remedy: 'Leave out what the flows do not meet.',
    });
  }
  const root = new JsonValue(parseJson(text), '');
  const { links, routes, rules, sysctls, sockets, conntrack } = root.members(['links', 'routes', 'rules', 'sysctls', 'sockets', 'conntrack']);
  const readLinks = links.items().map(readLink);
  const names = readLinks.map(({ name }) => name);
  const double = names.find((name, index) => names.indexOf(name) !== index);
  if (double !== undefined) {
    throw new JsonValue(double, 'links').wrong('the name of one link only');
  }
  return {
    links: readLinks,
    routes: routes.items().map((route) => readRoute(route, names)),
    routingRules: readRoutingRules(rules.items()),
    sysctls: Object.fromEntries(sysctls.entries().map(([name, value]) => [name, readSysctl(name, value)])),
    sockets: sockets.items().map(readSocket),
    conntrack: conntrack.items().map(readConntrack),
  };
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new MeshpathError(
      inputError('The world cannot be used.', `It is not JSON: ${error instanceof Error ? error.message : String(error)}.`, 'Write it as JSON; docs/commandLine.md describes the world file.').toJSON(),
      { cause: error },
    );
  }
}

function readGroup(value: JsonValue): IpAddress {
  const group = parseIpAddress(value.text());
  if (group === undefined || !isMany(Address.of(group))) {
    throw value.wrong('a multicast address such as 224.0.0.251 or ff02::fb');
  }
  return group;
}

function readLink(value: JsonValue, index: number): NetworkLink {
  const { name, kind, addresses, groups, up, mtu, mac, master } = value.members(['name', 'kind', 'addresses', 'groups', 'up', 'mtu', 'mac', 'master']);
  const linkName = name.text();
  if (!/^[^\s/]{1,15}$/.test(linkName)) {
    throw name.wrong('the name of a network device: at most 15 characters without white space and slash');
  }
  const linkKind = kind.text(linkName === 'lo' ? 'loopback' : 'physical');
  if (!LINK_KINDS.includes(linkKind)) {
    throw kind.wrong(`one of ${LINK_KINDS.join(', ')}`);
  }
  const macText = mac.isMissing() ? null : mac.text().toLowerCase();
  if (macText !== null && !/^[0-9a-f]{2}(?::[0-9a-f]{2}){5}$/.test(macText)) {
    throw mac.wrong('a link address such as 02:00:00:00:00:01');
  }
  return describeLink({
    index: index + 2,
    name: linkName,
    kind: linkKind,
    up: up.flag(true),
    mtu: mtu.number(68, 65_536, linkKind === 'loopback' ? 65_536 : 1500),
    macAddress: macText,
    master: master.isMissing() ? null : master.text(),
    addresses: addresses.items().map((address): InterfaceAddress => {
      const prefix = readPrefix(address.text());
      if (prefix === undefined) {
        throw address.wrong('an address with its length such as 10.1.0.3/24');
      }
      return { ...prefix, scope: linkKind === 'loopback' ? 'host' : prefix.address.startsWith('fe80:') ? 'link' : 'global' };
    }),
    ...(groups.isMissing() ? {} : { groups: groups.items().map(readGroup) }),
  });
}

/** Reads a route as ip-route(8) takes it: `[TYPE] DESTINATION [via GATEWAY] [dev DEVICE] [src ADDRESS] [table T] [metric N] [scope S]`. */
function readRoute(value: JsonValue, links: readonly string[]): Route {
  const words = value.text().trim().split(/\s+/);
  const type = ROUTE_TYPES.includes(words[0] ?? '') ? (words.shift() ?? '') : 'unicast';
  const destination = words.shift() ?? '';
  const options = readPairs(value, words, ['via', 'dev', 'src', 'table', 'metric', 'scope']);
  const address = (name: string): IpAddress | null => {
    const text = options.get(name);
    return text === undefined ? null : (parseIpAddress(text) ?? fail(value.wrong(`a route: '${text}' after ${name} is no address`)));
  };
  const gateway = address('via');
  const source = address('src');
  const given = destination === 'default' ? undefined : readPrefix(destination);
  if (destination !== 'default' && given === undefined) {
    throw value.wrong(`a route: '${destination}' is no destination such as default or 10.0.0.0/8`);
  }
  const ofIpv4 = isIpv4(given?.address ?? gateway ?? source ?? toIpAddress('0.0.0.0'));
  if ([given?.address, gateway, source].some((one) => one !== undefined && one !== null && isIpv4(one) !== ofIpv4)) {
    throw value.wrong('a route of one family');
  }
  const device = options.get('dev') ?? null;
  if (device !== null && device !== 'lo' && !links.includes(device)) {
    throw value.wrong(`a route: there is no link '${device}'`);
  }
  if (device === null && gateway === null && (type === 'unicast' || type === 'local')) {
    throw value.wrong('a route that says where to: via GATEWAY or dev DEVICE');
  }
  const prefix = given ?? { address: toIpAddress(ofIpv4 ? '0.0.0.0' : '::'), prefixLength: 0 };
  return {
    family: ofIpv4 ? 'ipv4' : 'ipv6',
    type,
    destination: { address: networkOf(prefix.address, prefix.prefixLength), prefixLength: prefix.prefixLength },
    gateway,
    device,
    preferredSource: source,
    table: readTable(value, options.get('table')) ?? (type === 'local' || type === 'broadcast' ? 255 : 254),
    metric: readOption(value, 'metric', options.get('metric')) ?? (ofIpv4 ? 0 : 1024),
    scope: options.get('scope') ?? (type === 'local' ? 'host' : gateway === null ? 'link' : 'global'),
  };
}

/** Rules without a priority come before those that every namespace has, the later ones first (fib_rules.c, fib_default_rule_pref). */
function readRoutingRules(values: readonly JsonValue[]): readonly RoutingRule[] {
  const next = { ipv4: 32_765, ipv6: 32_765 };
  return values.map((value) => {
    const rule = readRoutingRule(value);
    if (rule.priority >= 0) {
      return rule;
    }
    const priority = next[rule.family];
    next[rule.family] -= 1;
    return { ...rule, priority };
  });
}

/** Reads a rule as ip-rule(8) takes it: `[-4|-6] [from P] [to P] [fwmark M[/MASK]] [iif D] [oif D] [pref N] lookup T`. */
function readRoutingRule(value: JsonValue): RoutingRule {
  const words = value.text().trim().split(/\s+/);
  const flag = words[0] === '-4' || words[0] === '-6' ? words.shift() : undefined;
  const options = readPairs(value, words, ['from', 'to', 'fwmark', 'iif', 'oif', 'pref', 'priority', 'lookup', 'table']);
  const prefix = (name: string): RoutingRule['source'] => {
    const text = options.get(name);
    if (text === undefined || text === 'all') {
      return null;
    }
    return readPrefix(text) ?? fail(value.wrong(`a rule: '${text}' after ${name} is no network`));
  };
  const source = prefix('from');
  const destination = prefix('to');
  const table = readTable(value, options.get('lookup') ?? options.get('table'));
  if (table === undefined) {
    throw value.wrong('a rule that says which table: lookup TABLE');
  }
  const family = flag === '-6' || [source, destination].some((one) => one !== null && !isIpv4(one.address)) ? 'ipv6' : 'ipv4';
  if (flag === '-4' && family !== 'ipv4') {
    throw value.wrong('a rule of one family');
  }
  return {
    family, source, destination, table,
    priority: readOption(value, 'pref', options.get('pref') ?? options.get('priority')) ?? -1,
    mark: readMark(value, options.get('fwmark')),
    inInterface: options.get('iif') ?? null,
    outInterface: options.get('oif') ?? null,
    action: 'lookup',
  };
}

function readMark(value: JsonValue, text: string | undefined): RoutingRule['mark'] {
  if (text === undefined) {
    return null;
  }
  const match = /^(0x[0-9a-f]{1,8}|\d{1,10})(?:\/(0x[0-9a-f]{1,8}|\d{1,10}))?$/i.exec(text);
  const mark = Number(match?.[1]);
  const mask = match?.[2] === undefined ? MAX_UINT32 : Number(match[2]);
  if (match === null || mark > MAX_UINT32 || mask > MAX_UINT32) {
    throw value.wrong(`a rule: '${text}' after fwmark is no mark such as 0x1 or 0x1/0xff`);
  }
  return { value: mark, mask };
}

function readTable(value: JsonValue, text: string | undefined): number | undefined {
  return text === undefined ? undefined : (TABLE_NAMES.get(text) ?? readOption(value, 'table', text));
}

function readOption(value: JsonValue, name: string, text: string | undefined): number | undefined {
  if (text === undefined) {
    return undefined;
  }
  if (!/^\d{1,10}$/.test(text) || Number(text) > MAX_UINT32) {
    throw value.wrong(`what is understood: '${text}' after ${name} is no number`);
  }
  return Number(text);
}

function readPairs(value: JsonValue, words: readonly string[], names: readonly string[]): ReadonlyMap<string, string> {
  const pairs = new Map<string, string>();
  for (let index = 0; index < words.length; index += 2) {
    const name = words[index] ?? '';
    const word = words[index + 1];
    if (!names.includes(name) || word === undefined || pairs.has(name)) {
      throw value.wrong(`what is understood: '${name}' is not one of ${names.join(', ')} with its value`);
    }
    pairs.set(name, word);
  }
  return pairs;
}

function readSysctl(name: string, value: JsonValue): string {
  if (!/^net\.[\w./@:-]{1,120}$/.test(name)) {
    throw value.wrong(`of a sysctl: '${name.slice(0, 60)}' does not begin with net.`);
  }
  return value.isNumber() ? String(value.number(-MAX_UINT32, MAX_UINT32)) : value.text();
}

function readSocket(value: JsonValue, index: number): SocketInfo {
  const { listen, uid, gid, command, transparent } = value.members(['listen', 'uid', 'gid', 'command', 'transparent']);
  const match = /^(tcp|udp)\s+(\S+)$/.exec(listen.text());
  const local = match?.[2] === undefined ? undefined : readEndpoint(match[2]);
  if (match === null || local === undefined || local.port === 0) {
    throw listen.wrong('a protocol and an end such as tcp 0.0.0.0:8080 or udp [::]:53');
  }
  const owner = uid.number(0, MAX_UINT32, 0);
  return describeSocket({
    protocol: match[1] === 'udp' ? 'udp' : 'tcp',
    local, uid: owner,
    gid: gid.number(0, MAX_UINT32, owner),
    command: command.text(`user ${owner}`),
    transparent: transparent.flag(false),
    number: index,
  });
}

function readConntrack(value: JsonValue): ConntrackEntry {
  const { protocol, state, original, reply, mark, zone } = value.members(['protocol', 'state', 'original', 'reply', 'mark', 'zone']);
  const name = (['tcp', 'udp', 'icmp', 'icmpv6', 'other'] as const).find((known) => known === protocol.text('tcp'));
  if (name === undefined) {
    throw protocol.wrong('one of tcp, udp, icmp, icmpv6, other');
  }
  const there = readTuple(original);
  return {
    protocol: name,
    state: state.isMissing() ? (name === 'tcp' ? 'ESTABLISHED' : null) : state.text(),
    original: there,
    reply: reply.isMissing() ? { source: there.destination, destination: there.source } : readTuple(reply),
    mark: mark.number(0, MAX_UINT32, 0),
    zone: zone.number(0, 65_535, 0),
    timeoutSeconds: null,
  };
}

function readTuple(value: JsonValue): ConntrackTuple {
  const [source, destination, ...rest] = value.text().split('>').map((text) => readEndpoint(text.trim()));
  if (source === undefined || destination === undefined || rest.length > 0 || isIpv4(source.address) !== isIpv4(destination.address)) {
    throw value.wrong('two ends such as 10.0.0.1:4000 > 10.0.0.2:80');
  }
  return { source, destination };
}

function readEndpoint(text: string): Endpoint | undefined {
  const match = /^(?:\[([^\]]+)\]|([^[\]:]+)):(\d{1,5})$/.exec(text);
  const address = parseIpAddress(match?.[1] ?? match?.[2] ?? '');
  const port = Number(match?.[3]);
  return address === undefined || !(port <= 65_535) ? undefined : { address, port: toPortNumber(port) };
}

function readPrefix(text: string): { readonly address: IpAddress; readonly prefixLength: number } | undefined {
  const [addressText = '', lengthText, ...rest] = text.split('/');
  const address = parseIpAddress(addressText);
  if (address === undefined || rest.length > 0) {
    return undefined;
  }
  const bits = isIpv4(address) ? 32 : 128;
  if (lengthText === undefined) {
    return { address, prefixLength: bits };
  }
  return /^\d{1,3}$/.test(lengthText) && Number(lengthText) <= bits ? { address, prefixLength: Number(lengthText) } : undefined;
}

function fail(error: MeshpathError): never {
  throw error;
}
