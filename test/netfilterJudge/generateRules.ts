import fc from 'fast-check';
import type { TableName } from '../../agent/protocol/trace.ts';
import { BUILT_IN_CHAINS } from '../../simulator/netfilter/ruleSet.ts';
import { ELSEWHERE, LEFT, MAC, NODE, RIGHT, ROUTED_MARKS, UIDS } from './generateWorld.ts';

/**
 * Random rule sets, weighted by what real ones use. Constants come from the few that the worlds and packets have. Every
 * rule set loads, or is thrown away by who loads it: not every combination of matches is one that iptables takes.
 */

type Family = 'ipv4' | 'ipv6';

/** Ports of the packets and sockets. */
export const PORTS = [53, 80, 8080, 9000, 15_001, 15_006, 15_053] as const;
/** Ports from which packets come. */
export const SOURCE_PORTS = [4000, 4001, 4002, 4003, 4004, 4005] as const;
const USER_CHAINS = ['ALPHA', 'BETA', 'GAMMA'] as const;
const DEVICES = ['eth0', 'eth1', 'eth+', 'lo', 'wlan0.7', 'lan0'] as const;

const weighted = (...entries: readonly (readonly [number, fc.Arbitrary<string>])[]): fc.Arbitrary<string> =>
  fc.oneof(...entries.map(([weight, arbitrary]) => ({ weight, arbitrary })));
const just = (...texts: readonly string[]): fc.Arbitrary<string> => fc.constantFrom(...texts);
const not = (arbitrary: fc.Arbitrary<string>): fc.Arbitrary<string> => fc.tuple(just('', '', '', '! '), arbitrary).map(([negation, text]) => `${negation}${text}`);
const port: fc.Arbitrary<string> = weighted([6, just(...PORTS.map(String))], [1, just('1:1024', '8000:9000', '15000:15053', ':100', '4000:')]);
const sourcePort: fc.Arbitrary<string> = weighted([4, just(...SOURCE_PORTS.map(String))], [1, just('4000:4002', '1024:')]);

function address(family: Family): fc.Arbitrary<string> {
  return family === 'ipv4'
    ? weighted(
        [5, just(LEFT.ipv4, RIGHT.ipv4, NODE.left4, NODE.right4, ELSEWHERE.ipv4, '127.0.0.1')],
        [3, just('10.1.0.0/24', '10.2.0.0/16', '10.0.0.0/8', '127.0.0.0/8', '192.0.2.0/24', '10.1.0.0/255.255.255.252')],
        [1, just(LEFT.other, RIGHT.other, NODE.lan4, '224.0.0.0/4', '10.1.0.255', '255.255.255.255', '224.0.0.251', '10.0.0.2/255.0.0.255')],
      )
    : weighted([5, just(LEFT.ipv6, RIGHT.ipv6, NODE.left6, NODE.right6, ELSEWHERE.ipv6, '::1')], [3, just('fd01::/64', 'fd02::/16', 'fd00::/8', '::1/128', '2001:db8::/32', 'ff02::/16', 'ff00::/8')]);
}

const mark = just('0x1', '0x2', '0x3', '0x10', '0x1/0xf', '0x10/0xf0', '0/0xff', '0x0');

interface MatchDraft {
  /** What `-p` it needs; '' for none. */
  readonly protocol: string;
  readonly text: string;
}

const draft = (protocol: string, arbitrary: fc.Arbitrary<string>): fc.Arbitrary<MatchDraft> => arbitrary.map((text) => ({ protocol, text }));

const tcpFlags = just('--syn', '! --syn', '--tcp-flags SYN,ACK SYN,ACK', '--tcp-flags RST RST', '--tcp-flags ALL SYN', '--tcp-flags FIN,SYN,RST,PSH,ACK,URG NONE', '! --tcp-flags SYN,RST,ACK,FIN SYN', '--tcp-flags FIN,ACK FIN,ACK');
const portsList = just('80,8080', '53,15053', '80,15000:15010', '9000', '4000:4002,53', '1,2,3,80');
const states = just('NEW', 'ESTABLISHED,RELATED', 'RELATED,ESTABLISHED', 'INVALID', 'NEW,ESTABLISHED', 'UNTRACKED', 'RELATED', 'NEW,UNTRACKED,INVALID');

function protocolMatch(family: Family): fc.Arbitrary<MatchDraft> {
  const icmp = family === 'ipv4' ? 'icmp' : 'ipv6-icmp';
  const icmpMatch = family === 'ipv4'
    ? just('-m icmp --icmp-type 8', '-m icmp --icmp-type 0', '-m icmp --icmp-type 3', '-m icmp --icmp-type 3/3', '-m icmp ! --icmp-type 8/0', '-m icmp --icmp-type any', '-m icmp --icmp-type 11')
    : just('-m icmp6 --icmpv6-type 128', '-m icmp6 --icmpv6-type 129', '-m icmp6 --icmpv6-type 1', '-m icmp6 --icmpv6-type 1/4', '-m icmp6 ! --icmpv6-type 128/0', '-m icmp6 --icmpv6-type 3');
  return fc.oneof(
    { weight: 6, arbitrary: draft('tcp', fc.tuple(not(just('--dport')), port).map(([option, value]) => `-m tcp ${option} ${value}`)) },
    { weight: 2, arbitrary: draft('tcp', fc.tuple(not(just('--sport')), weighted([1, port], [1, sourcePort])).map(([option, value]) => `-m tcp ${option} ${value}`)) },
    { weight: 3, arbitrary: draft('tcp', tcpFlags.map((text) => `-m tcp ${text}`)) },
    { weight: 1, arbitrary: draft('tcp', fc.tuple(port, tcpFlags).map(([value, flags]) => `-m tcp --dport ${value} ${flags}`)) },
    { weight: 4, arbitrary: draft('udp', fc.tuple(not(just('--dport')), port).map(([option, value]) => `-m udp ${option} ${value}`)) },
    { weight: 1, arbitrary: draft('udp', fc.tuple(not(just('--sport')), sourcePort).map(([option, value]) => `-m udp ${option} ${value}`)) },
    { weight: 3, arbitrary: draft(icmp, icmpMatch) },
    { weight: 3, arbitrary: draft('', just('-p tcp', '-p udp', `-p ${icmp}`, '! -p tcp', '! -p udp', '-p 47')) },
    { weight: 4, arbitrary: fc.tuple(just('tcp', 'udp'), not(just('--dports', '--sports', '--ports')), portsList).map(([protocol, option, list]) => ({ protocol, text: `-m multiport ${option} ${list}` })) },
  );
}

function anyMatch(family: Family, table: TableName, chain: string): fc.Arbitrary<MatchDraft> {
  const hop = family === 'ipv4' ? 'ttl --ttl' : 'hl --hl';
  const range = family === 'ipv4' ? just('10.1.0.1-10.1.0.9', '10.2.0.2-10.2.0.2', '127.0.0.0-127.0.0.9') : just('fd01::1-fd01::9', '::1-::2', 'fd02::2-fd02::2');
  const types = weighted(
    [6, family === 'ipv4' ? just('LOCAL', 'UNICAST', 'BROADCAST', 'MULTICAST') : just('LOCAL', 'UNICAST', 'MULTICAST')],
    [1, just('UNSPEC', 'ANYCAST', 'UNREACHABLE', 'LOCAL,UNICAST', ...(family === 'ipv4' ? ['BROADCAST,MULTICAST', 'THROW', 'BLACKHOLE', 'PROHIBIT', 'BLACKHOLE,UNREACHABLE,PROHIBIT'] : ['MULTICAST,LOCAL']))],
  );
  const isUser = !/^[A-Z]+ING$|PUT$|WARD$/.test(chain);
  const goesIn = isUser || /PREROUTING|INPUT|FORWARD/.test(chain);
  const goesOut = isUser || /OUTPUT|FORWARD|POSTROUTING/.test(chain);
  const interfaces = [
    ...(goesIn && !isUser ? [{ weight: 3, arbitrary: draft('', fc.tuple(not(just('-i')), just(...DEVICES)).map((parts) => parts.join(' '))) }] : []),
    ...(goesOut && !isUser ? [{ weight: 3, arbitrary: draft('', fc.tuple(not(just('-o')), just(...DEVICES)).map((parts) => parts.join(' '))) }] : []),
  ];
  const owner = chain === 'OUTPUT' || chain === 'POSTROUTING'
    ? [{ weight: 4, arbitrary: draft('', weighted([4, fc.tuple(not(just('--uid-owner', '--gid-owner')), just(...UIDS.map(String), '500-1500')).map(([option, value]) => `-m owner ${option} ${value}`)], [1, just('-m owner --socket-exists', '-m owner ! --socket-exists', '-m owner --uid-owner 1337 --gid-owner 1337')])) }]
    : [];
  const mac = /PREROUTING|INPUT|FORWARD/.test(chain) ? [{ weight: 2, arbitrary: draft('', not(just('--mac-source')).chain((option) => just(MAC.left, MAC.right).map((value) => `-m mac ${option} ${value.toUpperCase()}`))) }] : [];
  const socket = chain === 'PREROUTING' || chain === 'INPUT' ? [{ weight: 1, arbitrary: draft('', just('-m socket', '-m socket --transparent', '-m socket --nowildcard')) }] : [];
  const limitInterface = chain === 'PREROUTING' || chain === 'INPUT' ? just(' --limit-iface-in', '', '') : just('');
  return fc.oneof(
    ...interfaces, ...owner, ...mac, ...socket,
    { weight: 4, arbitrary: rememberingMatch(family) },
    { weight: 3, arbitrary: draft('', setMatch(family)) },
    { weight: 3, arbitrary: rareMatch(family, table, chain) },
    { weight: 14, arbitrary: protocolMatch(family) },
    { weight: 8, arbitrary: draft('', fc.tuple(not(just('-s', '-d')), address(family)).map((parts) => parts.join(' '))) },
    { weight: 5, arbitrary: draft('', fc.tuple(not(just('-m state --state', '-m conntrack --ctstate')), states).map(([option, value]) => negateInside(option, value))) },
    { weight: 2, arbitrary: draft('', conntrackMatch(family)) },
    { weight: 3, arbitrary: draft('', fc.tuple(just('-m mark', '-m connmark'), not(just('--mark')), mark).map((parts) => parts.join(' '))) },
    { weight: 3, arbitrary: draft('', fc.tuple(not(just('--dst-type', '--src-type')), types, limitInterface).map(([option, value, limit]) => `-m addrtype ${option} ${value}${limit}`)) },
    { weight: 2, arbitrary: draft('', fc.tuple(not(just('--src-range', '--dst-range')), range).map(([option, value]) => `-m iprange ${option} ${value}`)) },
    { weight: 1, arbitrary: draft('', fc.tuple(just('-eq', '-lt', '-gt'), just('1', '63', '64')).map(([compare, value]) => `-m ${hop}${compare} ${value}`)) },
    { weight: 1, arbitrary: draft('', just('-m length --length 0:60', '-m length --length 28', '-m length ! --length 40:65535', '-m dscp --dscp 0x04', '-m dscp ! --dscp 0x00', '-m tos --tos 0x10', '-m pkttype --pkt-type unicast', '-m pkttype ! --pkt-type broadcast', '-m comment --comment "a b"')) },
  );
}

/** Matches that count or remember; times are so long that none goes by. */
function rememberingMatch(family: Family): fc.Arbitrary<MatchDraft> {
  const ofAny = (...texts: readonly string[]): fc.Arbitrary<MatchDraft> => draft('', just(...texts));
  const [mask, whole] = family === 'ipv4' ? ['24', '32'] : ['64', '128'];
  const recentMask = family === 'ipv4' ? ' --mask 255.255.255.0' : ' --mask ffff:ffff:ffff:ffff::';
  const recent = fc
    .tuple(just('--set', '--set', '--rcheck', '--update', '--remove', '! --rcheck', '! --update'), just('', ' --seconds 9000', ' --hitcount 2', ' --seconds 9000 --hitcount 2', ' --seconds 9000 --reap', ' --rttl'), just('', ` --name one${family}`, ` --name two${family}`), just('', ' --rsource', ' --rdest', recentMask))
    .map(([action, condition, name, side]) => `-m recent ${action}${/set|remove/.test(action) ? '' : condition}${name}${side}`);
  return fc.oneof(
    { weight: 2, arbitrary: ofAny('-m limit --limit 1/hour --limit-burst 1', '-m limit --limit 1/day --limit-burst 3', '-m limit --limit 2/hour', '-m limit --limit 1/hour --limit-burst 2') },
    { weight: 3, arbitrary: draft('', recent) },
    { weight: 2, arbitrary: draft('', fc.tuple(just('--hashlimit-upto', '--hashlimit-above'), just('', '', ' --hashlimit-mode srcip', ' --hashlimit-mode dstip', ' --hashlimit-mode srcip,dstport', ' --hashlimit-mode srcip,dstip,srcport,dstport', ` --hashlimit-mode srcip --hashlimit-srcmask ${mask}`), just('one', 'two', 'three'), just(' --hashlimit-burst 1', ' --hashlimit-burst 2', '')).map(([option, mode, name, burst]) => `-m hashlimit ${option} 1/hour${burst}${mode} --hashlimit-name ${name}${family === 'ipv4' ? '4' : '6'}`)) },
    { weight: 2, arbitrary: draft('', fc.tuple(just('--connlimit-above', '--connlimit-upto'), just('0', '1', '2', '3'), just('', ` --connlimit-mask ${mask}`, ' --connlimit-mask 0', ` --connlimit-mask ${whole}`), just('', ' --connlimit-saddr', ' --connlimit-daddr')).map(([option, count, bits, side]) => `-m connlimit ${option} ${count}${bits}${side}`)) },
    { weight: 2, arbitrary: ofAny('-m statistic --mode nth --every 2 --packet 0', '-m statistic --mode nth --every 3 --packet 2', '-m statistic --mode nth ! --every 2 --packet 1', '-m statistic --mode random --probability 0', '-m statistic --mode random --probability 1') },
    { weight: 1, arbitrary: ofAny('-m quota --quota 100', '-m quota --quota 0', '-m quota ! --quota 60', '-m quota --quota 500') },
    { weight: 1, arbitrary: draft('', fc.tuple(just('1', '2:', '0:60', '100:1000', '3:5'), just('packets', 'bytes', 'avgpkt'), just('original', 'reply', 'both'), just('', '! ')).map(([range, mode, direction, negation]) => `-m connbytes ${negation}--connbytes ${range} --connbytes-mode ${mode} --connbytes-dir ${direction}`)) },
  );
}

/** Sets of the node, by generateWorld. */
function setMatch(family: Family): fc.Arbitrary<string> {
  const end = family === 'ipv4' ? '4' : '6';
  return fc
    .tuple(
      fc.oneof(
        { weight: 3, arbitrary: fc.tuple(just('ip', 'net'), just('src', 'dst')) },
        { weight: 2, arbitrary: fc.tuple(just('ipport'), just('src,src', 'dst,dst', 'src,dst', 'dst,src')) },
        { weight: 1, arbitrary: fc.tuple(just('netiface'), just('src,src', 'dst,dst', 'src,dst')) },
        { weight: 1, arbitrary: fc.tuple(just('ipportip', 'ipportnet'), just('src,dst,dst', 'dst,dst,src')) },
        { weight: 1, arbitrary: fc.tuple(just('netport'), just('src,dst', 'dst,dst')) },
        { weight: 2, arbitrary: fc.tuple(just('ports'), just('src', 'dst')) },
        { weight: 1, arbitrary: fc.tuple(just('list'), just('src', 'dst', 'src,dst', 'dst,dst')) },
        { weight: 1, arbitrary: fc.tuple(just(...(family === 'ipv4' ? ['range'] : ['ip'])), just('src', 'dst')) },
      ),
      just('', '', '! '),
    )
    .map(([[name, directions], negation]) => `-m set ${negation}--match-set ${name}${name === 'ports' || name === 'range' ? '' : end} ${directions}`);
}

/** What few rule sets use. */
function rareMatch(family: Family, table: TableName, chain: string): fc.Arbitrary<MatchDraft> {
  const hop = family === 'ipv4' ? 'ttl --ttl' : 'hl --hl';
  const hooks = chain === 'PREROUTING' || chain === 'INPUT' || chain === 'FORWARD' ? ['in'] : chain === 'POSTROUTING' || chain === 'OUTPUT' ? ['out'] : [];
  const policy = hooks.length === 0 ? [] : [{ weight: 1, arbitrary: draft('', just(...hooks).chain((direction) => just(`-m policy --dir ${direction} --pol none`, `-m policy --dir ${direction} --pol ipsec`))) }];
  const own = family === 'ipv4'
    ? ['-f', '! -f', '-m ecn --ecn-ip-ect 0', '-m ecn ! --ecn-ip-ect 2']
    : ['-m frag --fragfirst', '-m rt --rt-type 0', '-m hbh', '-m dst', '-m ipv6header --header frag', '-m ipv6header --header hop --soft', '-m ipv6header ! --header route', '-m ah', '-m srh', ...(hooks[0] === 'in' ? ['-m eui64'] : [])];
  return fc.oneof(
    ...policy,
    { weight: 2, arbitrary: draft('tcp', just('-m tcpmss --mss 1460', '-m tcpmss --mss 1:1400', '-m tcpmss ! --mss 536', '-m tcpmss ! --mss 1:1400', '-m tcp --tcp-option 2', '-m tcp ! --tcp-option 8', '-m tcp --tcp-option 3', '-m ecn --ecn-tcp-ece', '-m ecn ! --ecn-tcp-cwr')) },
    { weight: 1, arbitrary: draft('', just('-m helper --helper ftp', '-m helper ! --helper sip', '-m physdev --physdev-is-bridged', '-m physdev ! --physdev-is-bridged')) },
    { weight: 1, arbitrary: draft('', just(...own)) },
    { weight: 1, arbitrary: draft('', fc.tuple(just('-eq', '-lt', '-gt'), just('1', '2', '62', '63', '255')).map(([compare, value]) => `-m ${hop}${compare} ${value}`)) },
    { weight: 1, arbitrary: draft('', just('-m dscp --dscp-class EF', '-m dscp ! --dscp-class AF11', '-m tos --tos 0x10/0x3f', '-m tos ! --tos 0/0xff', '-m length --length 60', '-m length --length 40:48', '-m length ! --length 0:39', '-m pkttype --pkt-type multicast', '-m pkttype --pkt-type broadcast', '-m pkttype ! --pkt-type unicast')) },
    { weight: 1, arbitrary: draft('', family === 'ipv4' && chain === 'PREROUTING' && (table === 'raw' || table === 'mangle') ? just('-m rpfilter', '-m rpfilter --loose', '-m rpfilter --invert', '-m rpfilter --validmark --accept-local') : just('-m comment --comment x')) },
    { weight: 1, arbitrary: draft('', fc.tuple(just('-m mark', '-m connmark'), just('0x1/0x1', '! 0x2/0x3', '0/0', '0xffffffff', '0x10/0x10')).map(([module, value]) => (value.startsWith('! ') ? `${module} ! --mark ${value.slice(2)}` : `${module} --mark ${value}`))) },
  );
}

/** `! -m state --state X` is written `-m state ! --state X`. */
function negateInside(option: string, value: string): string {
  return option.startsWith('! ') ? `${option.slice(2).replace(' --', ' ! --')} ${value}` : `${option} ${value}`;
}

function conntrackMatch(family: Family): fc.Arbitrary<string> {
  return weighted(
    [2, fc.tuple(not(just('--ctorigsrc', '--ctorigdst', '--ctreplsrc', '--ctrepldst')), address(family).filter((text) => !text.includes('/255.'))).map(([option, value]) => `-m conntrack ${option} ${value}`)],
    [2, just('-m conntrack --ctorigdstport 80', '-m conntrack --ctorigsrcport 4000:4002', '-m conntrack --ctreplsrcport 8080', '-m conntrack ! --ctorigdstport 53')],
    [2, just('-m conntrack --ctdir ORIGINAL', '-m conntrack --ctdir REPLY', '-m conntrack --ctproto 6', '-m conntrack ! --ctproto 17')],
    [2, just('-m conntrack --ctstatus SEEN_REPLY', '-m conntrack --ctstatus ASSURED', '-m conntrack --ctstatus CONFIRMED', '-m conntrack ! --ctstatus NONE', '-m conntrack --ctstate DNAT', '-m conntrack --ctstate SNAT,NEW', '-m conntrack ! --ctstate DNAT')],
  );
}

const toAddress = (family: Family): fc.Arbitrary<string> =>
  family === 'ipv4' ? just(RIGHT.ipv4, LEFT.ipv4, NODE.left4, NODE.right4, '127.0.0.1', ELSEWHERE.ipv4, RIGHT.other) : just(RIGHT.ipv6, LEFT.ipv6, NODE.left6, NODE.right6, '::1', ELSEWHERE.ipv6);
const withPort = (family: Family, value: string, toPort: string): string => (toPort === '' ? value : family === 'ipv4' ? `${value}:${toPort}` : `[${value}]:${toPort}`);

/** A target, with the protocol that it needs. */
function target(family: Family, table: TableName, chain: string): fc.Arbitrary<MatchDraft> {
  const plain = [
    { weight: table === 'nat' ? 2 : 6, arbitrary: draft('', just('-j ACCEPT')) },
    { weight: table === 'nat' || table === 'mangle' ? 0 : 4, arbitrary: draft('', just('-j DROP')) },
    { weight: 3, arbitrary: draft('', just('-j RETURN')) },
    { weight: 1, arbitrary: draft('', just('', '-j LOG --log-prefix "x: "', '-j NFLOG --nflog-group 5')) },
  ];
  const special: readonly { readonly weight: number; readonly arbitrary: fc.Arbitrary<MatchDraft> }[] = specialTargets(family, table, chain);
  return fc.oneof(...plain.filter(({ weight }) => weight > 0), ...special);
}

function specialTargets(family: Family, table: TableName, chain: string): { readonly weight: number; readonly arbitrary: fc.Arbitrary<MatchDraft> }[] {
  switch (table) {
    case 'raw':
      return [
        { weight: 4, arbitrary: draft('', just('-j NOTRACK', '-j CT --notrack')) },
        { weight: 2, arbitrary: draft('', just('-j CT --zone 1', '-j CT --zone-orig 2', '-j CT --zone 3', '-j CT --zone-reply 1', '-j CT --zone mark')) },
        { weight: 1, arbitrary: fc.oneof(draft('tcp', just('-j CT --helper ftp', '-j CT --helper pptp', '-j CT --ctevents new,destroy')), draft('udp', just('-j CT --helper tftp'))) },
        { weight: 2, arbitrary: draft('', setTarget(family)) },
      ];
    case 'mangle':
      return [
        { weight: 8, arbitrary: draft('', just('-j MARK --set-mark 0x1', '-j MARK --set-mark 0x2', '-j MARK --set-xmark 0x3/0xff', '-j MARK --or-mark 0x10', '-j MARK --and-mark 0xf0', '-j MARK --xor-mark 0x1', '-j MARK --set-mark 0x0')) },
        { weight: 5, arbitrary: draft('', just('-j CONNMARK --save-mark', '-j CONNMARK --restore-mark', '-j CONNMARK --set-mark 0x1', '-j CONNMARK --set-xmark 0x10/0xf0', '-j CONNMARK --save-mark --nfmask 0xf --ctmask 0xff', '-j CONNMARK --restore-mark --nfmask 0xff --ctmask 0xf')) },
        { weight: 1, arbitrary: draft('', just('-j CONNMARK --restore-mark --mask 0xf', '-j CONNMARK --save-mark --mask 0xff', '-j CONNMARK --and-mark 0xf', '-j CONNMARK --or-mark 0x20', '-j CONNMARK --xor-mark 0x3', '-j CONNMARK --set-mark 0x2/0x3', '-j MARK --set-mark 0x1/0xf', '-j MARK --set-xmark 0x1/0x0')) },
        { weight: 2, arbitrary: draft('', just('-j TOS --set-tos 0x10/0xff', '-j DSCP --set-dscp 0x04', '-j TOS --or-tos 0x08', '-j TOS --and-tos 0xf0', '-j TOS --xor-tos 0x10', '-j DSCP --set-dscp-class EF')) },
        { weight: 1, arbitrary: draft('', setTarget(family)) },
        { weight: 2, arbitrary: draft('tcp', just('-m tcp --syn -j TCPMSS --set-mss 1000', '-m tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss 9000', '-m tcp --syn -j TCPOPTSTRIP --strip-options timestamp', ...(family === 'ipv4' ? ['-j ECN --ecn-tcp-remove'] : []), ...(/FORWARD|OUTPUT|POSTROUTING/.test(chain) ? ['-m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu'] : []))) },
        { weight: 1, arbitrary: draft('', just('-j CLASSIFY --set-class 1:2', '-j TRACE', '-j CHECKSUM --checksum-fill').filter((text) => !text.includes('TRACE') && (!text.includes('CLASSIFY') || /FORWARD|OUTPUT|POSTROUTING/.test(chain)))) },
        { weight: 1, arbitrary: draft('', just('-j DROP')) },
        { weight: chain === 'PREROUTING' ? 1 : 0, arbitrary: draft('', family === 'ipv4' ? just('-j TTL --ttl-set 10', '-j TTL --ttl-inc 1', '-j TTL --ttl-dec 1', '-j TTL --ttl-set 1', '-j TTL --ttl-dec 63') : just('-j HL --hl-set 10', '-j HL --hl-dec 1', '-j HL --hl-inc 200')) },
        { weight: chain === 'PREROUTING' ? 4 : 0, arbitrary: fc.tuple(just('tcp', 'udp'), just(' --on-port 15006', ' --on-port 15006 --tproxy-mark 0x1/0xff', ' --on-port 8080 --tproxy-mark 0x1', ' --on-port 15053 --tproxy-mark 0x1', ...(family === 'ipv4' ? [' --on-port 15006 --on-ip 127.0.0.1 --tproxy-mark 0x1', ' --on-port 15006 --on-ip 10.1.0.1 --tproxy-mark 0x1'] : [' --on-port 15006 --on-ip ::1 --tproxy-mark 0x1']))).map(([protocol, options]) => ({ protocol, text: `-j TPROXY${options}` })) },
      ].filter(({ weight }) => weight > 0);
    case 'nat':
      return natTargets(family, chain);
    case 'filter':
    case 'security':
      return table === 'security' || chain === '' ? [] : [{ weight: 5, arbitrary: reject(family) }];
  }
}

function natTargets(family: Family, chain: string): { readonly weight: number; readonly arbitrary: fc.Arbitrary<MatchDraft> }[] {
  const dnat = [
    { weight: 6, arbitrary: fc.tuple(just('tcp', 'udp'), just('15001', '15006', '8080', '80', '15053', '53')).map(([protocol, value]) => ({ protocol, text: `-j REDIRECT --to-ports ${value}` })) },
    { weight: 1, arbitrary: draft('', just('-j REDIRECT')) },
    { weight: 2, arbitrary: fc.tuple(just('tcp', 'udp'), just('-j REDIRECT --to-ports 8080-8082', '-j REDIRECT --to-ports 15001-15006', `-j DNAT --to-destination ${withPort(family, family === 'ipv4' ? RIGHT.ipv4 : RIGHT.ipv6, '8080-8083')}`, ...(family === 'ipv4' ? [`-j DNAT --to-destination ${RIGHT.ipv4}-${RIGHT.other}`, `-j DNAT --to-destination ${RIGHT.ipv4}-${RIGHT.other}:80`, `-j DNAT --to-destination ${RIGHT.ipv4}-${RIGHT.other} --persistent`, '-j DNAT --to-destination :8080'] : []))).map(([protocol, text]) => ({ protocol, text })) },
    { weight: 6, arbitrary: fc.tuple(just('tcp', 'udp'), toAddress(family), just('', '80', '8080', '53')).map(([protocol, value, toPort]) => ({ protocol, text: `-j DNAT --to-destination ${withPort(family, value, toPort)}` })) },
    { weight: 2, arbitrary: draft('', toAddress(family).map((value) => `-j DNAT --to-destination ${value}`)) },
  ];
  const snat = [
    { weight: 4, arbitrary: draft('', toAddress(family).filter((value) => value !== '::1').map((value) => `-j SNAT --to-source ${value}`)) },
    { weight: 2, arbitrary: fc.tuple(just('tcp', 'udp'), toAddress(family).filter((value) => value !== '::1'), just('5000', '4001', '5000-5003')).map(([protocol, value, toPort]) => ({ protocol, text: `-j SNAT --to-source ${withPort(family, value, toPort)}` })) },
  ];
  const masquerade = [
    { weight: 6, arbitrary: draft('', just('-j MASQUERADE')) },
    { weight: 1, arbitrary: fc.tuple(just('tcp', 'udp'), just('5000', '5000-5003', '6000-6005')).map(([protocol, value]) => ({ protocol, text: `-j MASQUERADE --to-ports ${value}` })) },
  ];
  const netmap = [{ weight: 1, arbitrary: draft('', family === 'ipv4' ? just('-j NETMAP --to 10.2.0.0/24', '-j NETMAP --to 10.1.0.0/16') : just('-j NETMAP --to fd02::/64')) }];
  switch (chain) {
    case 'PREROUTING':
    case 'OUTPUT':
      return [...dnat, ...netmap];
    case 'POSTROUTING':
      return [...snat, ...masquerade, ...netmap];
    case 'INPUT':
      return snat;
    default:
      return [];
  }
}

/** SET of an address of the packet in or out. */
function setTarget(family: Family): fc.Arbitrary<string> {
  const end = family === 'ipv4' ? '4' : '6';
  return fc.tuple(just('--add-set', '--add-set', '--del-set'), just(`ip${end} src`, `ip${end} dst`, `net${end} src`, `ipport${end} src,dst`, `ipport${end} dst,dst`, 'ports dst', `netiface${end} src,src`), just('', ' --exist')).map(([option, set, exist]) => `-j SET ${option} ${set}${option === '--add-set' ? exist : ''}`);
}

function reject(family: Family): fc.Arbitrary<MatchDraft> {
  return fc.oneof(
    { weight: 2, arbitrary: draft('', just('-j REJECT')) },
    { weight: 2, arbitrary: draft('tcp', just('-j REJECT --reject-with tcp-reset')) },
    { weight: 3, arbitrary: draft('', family === 'ipv4'
      ? just('-j REJECT --reject-with icmp-host-prohibited', '-j REJECT --reject-with icmp-admin-prohibited', '-j REJECT --reject-with icmp-net-unreachable', '-j REJECT --reject-with icmp-proto-unreachable', '-j REJECT --reject-with icmp-host-unreachable', '-j REJECT --reject-with icmp-net-prohibited')
      : just('-j REJECT --reject-with icmp6-adm-prohibited', '-j REJECT --reject-with icmp6-no-route', '-j REJECT --reject-with icmp6-addr-unreachable', '-j REJECT --reject-with icmp6-policy-fail', '-j REJECT --reject-with icmp6-reject-route', '-j REJECT --reject-with icmp6-port-unreachable')) },
  );
}

/** One rule without its `-A CHAIN`. `base` is the built-in chain that it is in, or the first that leads to its chain. */
function rule(family: Family, table: TableName, base: string, callable: readonly string[]): fc.Arbitrary<string> {
  const jump = callable.length === 0 ? [] : [{ weight: 3, arbitrary: draft('', fc.tuple(just('-j', '-j', '-j', '-g'), just(...callable)).map((parts) => parts.join(' '))) }];
  return fc.tuple(fc.array(anyMatch(family, table, base), { minLength: 0, maxLength: 3 }), fc.oneof({ weight: 9, arbitrary: target(family, table, base) }, ...jump)).map(([matches, chosen]) => joinRule(matches, chosen));
}

/** Joins matches that do not contradict each other in form: one protocol, each option once. */
function joinRule(matches: readonly MatchDraft[], chosen: MatchDraft): string {
  let { protocol } = chosen;
  const used = new Set<string>();
  const parts: string[] = [];
  for (const match of matches) {
    const name = /^(?:! )?(-m \S+|-\w)/.exec(match.text)?.[1] ?? match.text;
    const needsOther = match.protocol !== '' && protocol !== '' && match.protocol !== protocol;
    const namesProtocol = /^(?:! )?-p /.test(match.text);
    if (needsOther || used.has(name) || (namesProtocol && (protocol !== '' || used.has('-p')))) {
      continue;
    }
    if (match.protocol !== '' && used.has('-p')) {
      continue;
    }
    used.add(name);
    protocol = match.protocol === '' ? protocol : match.protocol;
    parts.push(match.text);
  }
  if (protocol !== '' && used.has('-p')) {
    return joinRule(matches.filter(({ text }) => !/^(?:! )?-p /.test(text)), chosen);
  }
  // What counts no open connection at all is dropped by connlimit itself, whatever comes after it in its rule: it comes last here.
  const ordered = parts.toSorted((left, right) => Number(left.startsWith('-m connlimit')) - Number(right.startsWith('-m connlimit')));
  return [...(protocol === '' ? [] : [`-p ${protocol}`]), ...ordered, chosen.text].filter((part) => part !== '').join(' ');
}

/** Lines of one table, with its user chains, each of which calls only later ones. */
function tableText(family: Family, table: TableName): fc.Arbitrary<string> {
  const builtIn = BUILT_IN_CHAINS[table];
  const chainLines = (chain: string, base: string, callable: readonly string[], maxLength: number): fc.Arbitrary<readonly string[]> =>
    fc.array(rule(family, table, base, callable), { maxLength }).map((rules) => rules.map((text) => `-A ${chain} ${text}`));
  const policies = fc.tuple(...builtIn.map(() => just('ACCEPT', 'ACCEPT', 'ACCEPT', 'ACCEPT', ...(table === 'filter' ? ['DROP'] : []))));
  return fc
    .tuple(fc.integer({ min: 0, max: USER_CHAINS.length }), fc.constantFrom(...builtIn), policies)
    .chain(([count, base, chosenPolicies]) => {
      const chains = USER_CHAINS.slice(0, count);
      return fc.tuple(
        fc.constant(chosenPolicies),
        // User chains are called from one built-in chain, so that what they hold is allowed there.
        fc.tuple(...builtIn.map((chain) => chainLines(chain, chain, chain === base ? chains : [], 5))),
        fc.tuple(...chains.map((chain, index) => chainLines(chain, base, chains.slice(index + 1), 4))),
        fc.constant(chains),
      );
    })
    .map(([chosenPolicies, builtInLines, userLines, chains]) => {
      const declared = [...builtIn.map((chain, index) => `:${chain} ${chosenPolicies[index] ?? 'ACCEPT'} [0:0]`), ...chains.map((chain) => `:${chain} - [0:0]`)];
      return [`*${table}`, ...declared, ...builtInLines.flat(), ...userLines.flat(), 'COMMIT', ''].join('\n');
    });
}

/** A rule set of one family; some tables are left out. */
export function ruleSetText(family: Family): fc.Arbitrary<string> {
  const optional = (table: TableName, weight: number): fc.Arbitrary<string> => fc.oneof({ weight, arbitrary: tableText(family, table) }, { weight: 10 - weight, arbitrary: fc.constant('') });
  return fc.tuple(optional('raw', 3), optional('mangle', 5), optional('nat', 7), optional('filter', 7), optional('security', 1)).map((texts) => texts.join(''));
}

/** Marks that lead somewhere, for sockets and packets. */
export const SOCKET_MARKS = [0, 0, 0, 0, ROUTED_MARKS.local, ROUTED_MARKS.left, 0x10] as const;
