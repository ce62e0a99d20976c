import fc from 'fast-check';
import { isIpv4, toIpAddress } from '../../agent/protocol/ipAddress.ts';
import { toPortNumber } from '../../agent/protocol/scalars.ts';
import type { JudgeLink, JudgeNamespace, JudgeRoute, JudgeRoutingRule, JudgeSocket, JudgeWorld } from './judgeCase.ts';

/**
 * Worlds of three namespaces: `node`, whose rules are judged, between `left` and `right`. The addresses are few, so that
 * rules, routes and packets that are drawn apart meet.
 */

export const LEFT = { ipv4: '10.1.0.2', other: '10.1.0.3', ipv6: 'fd01::2' } as const;
export const RIGHT = { ipv4: '10.2.0.2', other: '10.2.0.3', ipv6: 'fd02::2' } as const;
export const NODE = { left4: '10.1.0.1', right4: '10.2.0.1', left6: 'fd01::1', right6: 'fd02::1', lan4: '10.3.0.1', lan6: 'fd03::1' } as const;
/** Behind `right`, in worlds that have it. */
export const FAR = { ipv4: '10.6.0.2', ipv6: 'fd06::2', gateway4: '10.6.0.1', gateway6: 'fd06::1' } as const;
/** Nobody has it; the default route leads it to `right`. */
export const ELSEWHERE = { ipv4: '192.0.2.7', ipv6: '2001:db8::7' } as const;
export const MAC = { left: '02:00:00:00:01:01', nodeLeft: '02:00:00:00:02:01', nodeRight: '02:00:00:00:02:02', lan: '02:00:00:00:02:03', right: '02:00:00:00:03:01', rightLan: '02:00:00:00:03:02', rightFar: '02:00:00:00:03:03', far: '02:00:00:00:04:01' } as const;
/** Marks that have routing rules of their own: to lo (what TPROXY needs), to the left, to nowhere. */
export const ROUTED_MARKS = { local: 1, left: 2, prohibit: 3 } as const;
export const UIDS = [0, 1000, 1337] as const;
const MAIN_TABLE = 254;
const SOURCE_TABLE = 103;

/** What the random part of a world is. */
export interface WorldChoices {
  readonly leftDevice: string;
  readonly rightDevice: string;
  readonly forwards: boolean;
  readonly rpFilter: 0 | 1 | 2;
  readonly routeLocalnet: boolean;
  readonly marksRoute: boolean;
  readonly denies: boolean;
  /** Addresses that the node has besides. */
  readonly ownAddresses: readonly string[];
  /** Whether `right` forwards to one more namespace, `far`. */
  readonly hasFar: boolean;
  /** Whether routing asks where packets come from, too. */
  readonly asksSources: boolean;
  /** Sysctls of the node besides. */
  readonly settings: Readonly<Record<string, string>>;
  /** Networks behind `left`; everything else that nobody has is behind `right`. */
  readonly leftNetworks: readonly { readonly address: string; readonly prefixLength: number }[];
}

/** Random worlds; half of them are the plain one. */
export const worldChoices: fc.Arbitrary<WorldChoices> = fc.record({
  leftDevice: fc.constant('eth0'),
  rightDevice: fc.constantFrom('eth1', 'wlan0.7'),
  forwards: fc.constantFrom(true, true, true, false),
  rpFilter: fc.constantFrom(0, 0, 1, 2),
  routeLocalnet: fc.constantFrom(false, false, true),
  marksRoute: fc.constantFrom(true, true, false),
  denies: fc.constantFrom(false, true),
  ownAddresses: fc.constant([]),
  hasFar: fc.constantFrom(false, false, true),
  asksSources: fc.constantFrom(false, false, true),
  settings: fc.constantFrom<Readonly<Record<string, string>>>(
    {}, {}, {}, {},
    { 'net.ipv4.ip_early_demux': '0' }, { 'net.netfilter.nf_conntrack_tcp_loose': '0' }, { 'net.ipv4.fwmark_reflect': '1', 'net.ipv6.fwmark_reflect': '1' },
    { 'net.ipv4.conf.all.src_valid_mark': '1' }, { 'net.ipv4.conf.all.accept_local': '1' }, { 'net.ipv4.icmp_echo_ignore_all': '1', 'net.ipv6.icmp.echo_ignore_all': '1' },
  ),
  leftNetworks: fc.constant([]),
});

/** The world that real rule sets are judged in. */
export const PLAIN_WORLD: WorldChoices = { leftDevice: 'eth0', rightDevice: 'eth1', forwards: true, rpFilter: 0, routeLocalnet: false, marksRoute: true, denies: false, ownAddresses: [], hasFar: false, asksSources: false, settings: {}, leftNetworks: [] };

/** Makes the world of some choices. */
export function makeWorld(choices: WorldChoices): JudgeWorld {
  const { leftDevice, rightDevice } = choices;
  return {
    namespaces: [
      outside('left', { name: 'wire0', macAddress: MAC.left, peer: { namespace: 'node', name: leftDevice }, addresses: addresses([LEFT.ipv4, 24], [LEFT.other, 24], [LEFT.ipv6, 64]) }, [NODE.left4, NODE.left6]),
      {
        name: 'node',
        links: [
          { name: leftDevice, macAddress: MAC.nodeLeft, peer: { namespace: 'left', name: 'wire0' }, addresses: addresses([NODE.left4, 24], ...choices.ownAddresses.map((address) => [address, isIpv4(toIpAddress(address)) ? 32 : 128] as const), [NODE.left6, 64]) },
          { name: rightDevice, macAddress: MAC.nodeRight, peer: { namespace: 'right', name: 'wire0' }, addresses: addresses([NODE.right4, 24], [NODE.right6, 64]) },
          { name: 'lan0', macAddress: MAC.lan, peer: { namespace: 'right', name: 'wire1' }, addresses: addresses([NODE.lan4, 24], [NODE.lan6, 64]) },
        ],
        routes: nodeRoutes(choices),
        routingRules: [...(choices.marksRoute ? MARK_RULES : []), ...(choices.asksSources ? sourceRules(choices.rightDevice) : [])],
        sysctls: {
          'net.ipv4.ip_forward': choices.forwards ? '1' : '0',
          'net.ipv6.conf.all.forwarding': choices.forwards ? '1' : '0',
          // Forwarding turns redirects on again.
          'net.ipv4.conf.all.send_redirects': '0',
          'net.ipv4.conf.all.rp_filter': String(choices.rpFilter),
          ...Object.fromEntries([leftDevice, rightDevice, 'lan0', 'lo'].flatMap((device) => [
            [`net.ipv4.conf.${device}.rp_filter`, '0'],
            [`net.ipv4.conf.${device}.send_redirects`, '0'],
            [`net.ipv4.conf.${device}.route_localnet`, choices.routeLocalnet ? '1' : '0'],
          ])),
          ...choices.settings,
        },
        sockets: NODE_SOCKETS,
        ipSets: nodeSets(choices),
      },
      outside('right', { name: 'wire0', macAddress: MAC.right, peer: { namespace: 'node', name: rightDevice }, addresses: addresses([RIGHT.ipv4, 24], [RIGHT.other, 24], [RIGHT.ipv6, 64]) }, [NODE.right4, NODE.right6], [{ name: 'wire1', macAddress: MAC.rightLan, peer: { namespace: 'node', name: 'lan0' }, addresses: [] }, ...(choices.hasFar ? [RIGHT_TO_FAR] : [])], choices.hasFar),
      ...(choices.hasFar ? [outside('far', { name: 'wire0', macAddress: MAC.far, peer: { namespace: 'right', name: RIGHT_TO_FAR.name }, addresses: addresses([FAR.ipv4, 24], [FAR.ipv6, 64]) }, [FAR.gateway4, FAR.gateway6])] : []),
    ],
  };
}

const RIGHT_TO_FAR: JudgeLink = { name: 'wire2', macAddress: MAC.rightFar, peer: { namespace: 'far', name: 'wire0' }, addresses: addresses([FAR.gateway4, 24], [FAR.gateway6, 64]) };
/** What `right` would send back where it forwards, without end. */
const NOWHERE = [['192.0.2.0', 24], ['10.4.0.0', 24], ['10.5.0.0', 24], ['10.9.0.0', 24], ['2001:db8::', 64], ['fd09::', 64]] as const;

/** Rules that ask for the source of a packet, and for the device that it came by. */
function sourceRules(rightDevice: string): readonly JudgeRoutingRule[] {
  const from = (family: 'ipv4' | 'ipv6', address: string, prefixLength: number): JudgeRoutingRule => ({ family, priority: 90, mark: null, source: { address: toIpAddress(address), prefixLength }, inInterface: null, table: SOURCE_TABLE });
  return [
    from('ipv4', LEFT.other, 32), from('ipv6', NODE.left6, 128),
    { family: 'ipv4', priority: 91, mark: null, source: null, inInterface: rightDevice, table: SOURCE_TABLE },
    { family: 'ipv4', priority: 92, mark: { value: 0x10, mask: 0xf0 }, source: { address: toIpAddress('10.0.0.0'), prefixLength: 8 }, inInterface: 'lo', table: SOURCE_TABLE },
  ];
}

/** What `-m set` of generateRules looks at. */
function nodeSets({ leftDevice, rightDevice }: Pick<WorldChoices, 'leftDevice' | 'rightDevice'>): string {
  const ofFamily = (end: '4' | '6', family: string, left: string, right: string, elsewhere: string, network: string, wide: string): readonly string[] => [
    `create ip${end} hash:ip family ${family}`, `add ip${end} ${left}`, `add ip${end} ${elsewhere}`,
    `create net${end} hash:net family ${family}`, `add net${end} ${network}`, `add net${end} ${right} nomatch`, `add net${end} ${elsewhere}`,
    `create ipport${end} hash:ip,port family ${family}`, `add ipport${end} ${right},tcp:80`, `add ipport${end} ${right},udp:53`, `add ipport${end} ${left},tcp:4000`, `add ipport${end} ${right},${end === '4' ? 'icmp:8/0' : 'icmpv6:128/0'}`,
    `create netiface${end} hash:net,iface family ${family}`, `add netiface${end} ${network},${leftDevice}`, `add netiface${end} ${wide},${rightDevice}`,
    `create ipportip${end} hash:ip,port,ip family ${family}`, `add ipportip${end} ${left},tcp:80,${right}`, `add ipportip${end} ${right},udp:53,${left}`,
    `create ipportnet${end} hash:ip,port,net family ${family}`, `add ipportnet${end} ${left},tcp:8080,${wide}`, `add ipportnet${end} ${right},tcp:80,${network}`,
    `create netport${end} hash:net,port family ${family}`, `add netport${end} ${wide},tcp:80`, `add netport${end} ${right},tcp:80 nomatch`, `add netport${end} ${network},udp:53`,
    `create list${end} list:set`, `add list${end} ip${end}`, `add list${end} net${end}`,
  ];
  return [
    ...ofFamily('4', 'inet', LEFT.ipv4, RIGHT.ipv4, ELSEWHERE.ipv4, '10.1.0.0/16', '10.0.0.0/8'),
    ...ofFamily('6', 'inet6', LEFT.ipv6, RIGHT.ipv6, ELSEWHERE.ipv6, 'fd01::/32', 'fd00::/8'),
    'create ports bitmap:port range 0-20000', 'add ports 80', 'add ports 4000-4002', 'add ports 15006',
    'create range bitmap:ip range 10.1.0.0-10.1.255.255', `add range ${LEFT.ipv4}`, 'add range 10.1.0.8-10.1.0.9', '',
  ].join('\n');
}

const both = (protocol: 'tcp' | 'udp', port: number, uid: number, transparent = false): readonly JudgeSocket[] =>
  ['0.0.0.0', '::'].map((address) => ({ protocol, address: toIpAddress(address), port: toPortNumber(port), uid, gid: uid, transparent }));

const NODE_SOCKETS: readonly JudgeSocket[] = [
  ...both('tcp', 80, 0), ...both('tcp', 8080, 1000), ...both('tcp', 15_001, 1337), ...both('tcp', 15_006, 1337, true), ...both('udp', 53, 1000), ...both('udp', 15_053, 1337),
  { protocol: 'tcp', address: toIpAddress('127.0.0.1'), port: toPortNumber(9000), uid: 1000, gid: 1000, transparent: false },
];

const MARK_RULES: readonly JudgeRoutingRule[] = [
  ...(['ipv4', 'ipv6'] as const).flatMap((family) =>
    [[ROUTED_MARKS.local, 100], [ROUTED_MARKS.left, 101], [ROUTED_MARKS.prohibit, 102]].map(([value = 0, table = 0]) => ({
      family, priority: 100 + value, mark: { value, mask: 0xff }, source: null, inInterface: null, table,
    })),
  ),
];

function nodeRoutes({ leftDevice, rightDevice, marksRoute, denies, asksSources, leftNetworks }: WorldChoices): readonly JudgeRoute[] {
  const marked: readonly JudgeRoute[] = [
    route('local', '0.0.0.0', 0, null, 'lo', 100), route('local', '::', 0, null, 'lo', 100),
    route('unicast', '0.0.0.0', 0, LEFT.ipv4, leftDevice, 101), route('unicast', '::', 0, LEFT.ipv6, leftDevice, 101),
    // Answers to packets that may not be forwarded are limited to one a second by a setting of the whole machine (ip_error).
    route('blackhole', '0.0.0.0', 0, null, null, 102), route('prohibit', '::', 0, null, null, 102),
  ];
  const denied: readonly JudgeRoute[] = [
    route('blackhole', '10.4.0.0', 24, null, null, MAIN_TABLE), route('prohibit', '10.5.0.0', 24, null, null, MAIN_TABLE),
    route('unreachable', '2001:db8::', 64, null, null, MAIN_TABLE),
  ];
  return [
    route('unicast', '0.0.0.0', 0, RIGHT.ipv4, rightDevice, MAIN_TABLE), route('unicast', '::', 0, RIGHT.ipv6, rightDevice, MAIN_TABLE),
    ...leftNetworks.map(({ address, prefixLength }) => route('unicast', address, prefixLength, isIpv4(toIpAddress(address)) ? LEFT.ipv4 : LEFT.ipv6, leftDevice, MAIN_TABLE)),
    ...(asksSources ? [route('throw', RIGHT.ipv4, 32, null, null, SOURCE_TABLE), route('blackhole', ELSEWHERE.ipv4, 32, null, null, SOURCE_TABLE), route('unicast', '0.0.0.0', 0, LEFT.ipv4, leftDevice, SOURCE_TABLE), route('unicast', 'fd02::', 64, LEFT.ipv6, leftDevice, SOURCE_TABLE)] : []),
    ...(marksRoute ? marked : []), ...(denies ? denied : []),
  ];
}

/** A namespace beyond the node: it answers for itself, and everything else is behind the node. */
function outside(name: string, link: JudgeLink, [gateway4, gateway6]: readonly [string, string], others: readonly JudgeLink[] = [], forwards = false): JudgeNamespace {
  return {
    name,
    links: [link, ...others],
    routes: [route('unicast', '0.0.0.0', 0, gateway4, link.name, MAIN_TABLE), route('unicast', '::', 0, gateway6, link.name, MAIN_TABLE), ...(forwards ? NOWHERE.map(([address, prefixLength]) => route('blackhole', address, prefixLength, null, null, MAIN_TABLE)) : [])],
    routingRules: [],
    sysctls: {
      'net.ipv4.ip_forward': forwards ? '1' : '0', 'net.ipv6.conf.all.forwarding': forwards ? '1' : '0', 'net.ipv4.conf.all.send_redirects': '0', 'net.ipv4.conf.all.rp_filter': '0',
      ...Object.fromEntries([link, ...others].map(({ name: device }) => [`net.ipv4.conf.${device}.send_redirects`, '0'])), [`net.ipv4.conf.${link.name}.rp_filter`]: '0',
    },
    sockets: [...both('tcp', 80, 0), ...both('tcp', 8080, 1000), ...both('udp', 53, 0)],
    ...(name === 'right' ? { ipSets: nodeSets({ leftDevice: 'wire1', rightDevice: 'wire0' }) } : {}),
  };
}

function route(type: JudgeRoute['type'], address: string, prefixLength: number, gateway: string | null, device: string | null, table: number): JudgeRoute {
  return { type, destination: { address: toIpAddress(address), prefixLength }, gateway: gateway === null ? null : toIpAddress(gateway), device, table };
}

function addresses(...list: readonly (readonly [string, number])[]): JudgeLink['addresses'] {
  return list.map(([address, prefixLength]) => ({ address: toIpAddress(address), prefixLength }));
}
