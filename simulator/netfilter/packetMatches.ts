import type { Extension, OptionDefinition } from './extension.ts';
import { findOption } from './extension.ts';
import {
  addressRange, anyPorts, choice, flag, fromText, hardwareAddress, MAX_UINT16, maskedMark, names, number, plainText, ports, quotedText, range, rangeText, splitRange, parsePort, WHOLE_UINT32,
} from './optionArguments.ts';
import { hexText } from './numberText.ts';
import { ICMP_TYPES, ICMPV6_TYPES, icmpType } from './icmpTypes.ts';
import { dscpClass } from './dscpClasses.ts';
import { typeOfService } from './typeOfService.ts';
import { bytecode } from './bytecode.ts';
import { isHexPattern, searchBytes, searchString } from './searchText.ts';
import { u32Tests } from './u32Tests.ts';
import type { TcpFlag } from './ruleSet.ts';
import { TCP_FLAGS } from './ruleSet.ts';

const PORT_PROTOCOLS = ['tcp', 'udp', 'udplite', 'sctp', 'dccp'] as const;

/** The address types of addrtype (libxt_addrtype.c). */
const ADDRESS_TYPES = ['UNSPEC', 'UNICAST', 'LOCAL', 'BROADCAST', 'ANYCAST', 'MULTICAST', 'BLACKHOLE', 'UNREACHABLE', 'PROHIBIT', 'THROW', 'NAT', 'XRESOLVE'] as const;

const DCCP_TYPES = ['REQUEST', 'RESPONSE', 'DATA', 'ACK', 'DATAACK', 'CLOSEREQ', 'CLOSE', 'RESET', 'SYNC', 'SYNCACK', 'INVALID'] as const;

/** Numbers of SCTP chunks by name (RFC 9260, 3.2, and its extensions), as libxt_sctp.c names them. */
const SCTP_CHUNKS: readonly (readonly [string, number])[] = [
  ['DATA', 0], ['INIT', 1], ['INIT_ACK', 2], ['SACK', 3], ['HEARTBEAT', 4], ['HEARTBEAT_ACK', 5], ['ABORT', 6], ['SHUTDOWN', 7], ['SHUTDOWN_ACK', 8], ['ERROR', 9],
  ['COOKIE_ECHO', 10], ['COOKIE_ACK', 11], ['ECN_ECNE', 12], ['ECN_CWR', 13], ['SHUTDOWN_COMPLETE', 14], ['I_DATA', 64], ['ASCONF_ACK', 128], ['RE_CONFIG', 130], ['PAD', 132],
  ['ASCONF', 193], ['FORWARD_TSN', 192], ['I_FORWARD_TSN', 194],
];

/** Flags of those chunks that have some, from bit 7 to bit 0; `-` has no name. */
const SCTP_CHUNK_FLAGS: Readonly<Record<string, string>> = { DATA: '----IUBE', I_DATA: '----IUBE', ABORT: '-------T', SHUTDOWN_COMPLETE: '-------T' };

/** Reads the two lists of `--tcp-flags`; every spelling of a flag is taken (libxt_tcp.c). */
const tcpFlags: OptionDefinition = {
  name: 'tcp-flags',
  negatable: true,
  excludes: ['syn'],
  read: (take, family, peek) => {
    const list = names([...TCP_FLAGS, 'ALL', 'NONE'], { anyCase: true });
    const [mask, set] = [flagsOf(list(take, family, peek).text), flagsOf(list(take, family, peek).text)];
    return { value: { type: 'names', names: [...mask, '/', ...set] }, text: `${flagText(mask)} ${flagText(set)}` };
  },
};

/** Matches that look at the packet: protocols, ports, addresses, lengths and contents. */
export const PACKET_MATCHES: readonly Extension[] = [
  {
    name: 'tcp',
    protocols: ['tcp'],
    options: [
      ...portOptions(),
      { name: 'tcp-option', negatable: true, read: number({ min: 1, max: 255 }) },
      tcpFlags,
      { name: 'syn', negatable: true, excludes: ['tcp-flags'], read: flag },
    ],
  },
  { name: 'udp', protocols: ['udp'], options: portOptions(anyPorts) },
  {
    name: 'sctp',
    protocols: ['sctp'],
    options: [
      ...portOptions(),
      { name: 'chunk-types', negatable: true, read: chunkTypes },
    ],
  },
  {
    name: 'dccp',
    protocols: ['dccp'],
    options: [
      ...portOptions(),
      { name: 'dccp-types', negatable: true, read: names(DCCP_TYPES, { anyCase: true }) },
      { name: 'dccp-option', negatable: true, read: number({ min: 1, max: 255 }) },
    ],
  },
  {
    name: 'multiport',
    protocols: PORT_PROTOCOLS,
    requiresOneOf: ['sports', 'dports', 'ports'],
    options: [
      { name: 'sports', aliases: ['source-ports'], negatable: true, excludes: ['dports', 'ports'], read: portList },
      { name: 'dports', aliases: ['destination-ports'], negatable: true, excludes: ['sports', 'ports'], read: portList },
      { name: 'ports', negatable: true, excludes: ['sports', 'dports'], read: portList },
    ],
  },
  { name: 'icmp', family: 'ipv4', protocols: ['icmp'], options: [{ name: 'icmp-type', negatable: true, required: true, read: icmpType(ICMP_TYPES) }] },
  { name: 'icmp6', family: 'ipv6', protocols: ['ipv6-icmp'], options: [{ name: 'icmpv6-type', negatable: true, required: true, read: icmpType(ICMPV6_TYPES) }] },
  { name: 'esp', protocols: ['esp'], options: [{ name: 'espspi', negatable: true, read: range(WHOLE_UINT32.last) }], complete: dropWhole('espspi') },
  { name: 'ah', family: 'ipv4', protocols: ['ah'], options: [{ name: 'ahspi', negatable: true, read: range(WHOLE_UINT32.last) }], complete: dropWhole('ahspi') },
  { name: 'ipcomp', protocols: ['ipcomp'], options: [{ name: 'ipcompspi', negatable: true, read: range(WHOLE_UINT32.last) }, { name: 'compres', read: flag }], complete: dropWhole('ipcompspi') },
  {
    name: 'ecn',
    requiresOneOf: ['ecn-tcp-ece', 'ecn-tcp-cwr', 'ecn-ip-ect'],
    options: [
      { name: 'ecn-tcp-ece', negatable: true, read: flag },
      { name: 'ecn-tcp-cwr', negatable: true, read: flag },
      { name: 'ecn-ip-ect', negatable: true, read: number({ max: 3 }) },
    ],
    check: ({ protocol, protocolNegated }, options) =>
      options.some(({ name }) => name.startsWith('ecn-tcp')) && (protocol !== 'tcp' || protocolNegated) ? 'ecn looks at TCP flags in packets of TCP only.' : null,
  },
  { name: 'iprange', requiresOneOf: ['src-range', 'dst-range'], options: [{ name: 'src-range', negatable: true, read: addressRange }, { name: 'dst-range', negatable: true, read: addressRange }] },
  { name: 'length', options: [{ name: 'length', negatable: true, required: true, read: range(MAX_UINT16) }] },
  { name: 'tcpmss', protocols: ['tcp'], options: [{ name: 'mss', negatable: true, required: true, read: range(MAX_UINT16, { ordered: true }) }] },
  { name: 'ttl', family: 'ipv4', ...hopLimit('ttl') },
  { name: 'hl', family: 'ipv6', ...hopLimit('hl') },
  {
    name: 'dscp',
    requiresOneOf: ['dscp', 'dscp-class'],
    options: [
      { name: 'dscp', negatable: true, excludes: ['dscp-class'], read: number({ max: 63, print: (value) => hexText(value, 2) }) },
      { name: 'dscp-class', negatable: true, excludes: ['dscp'], read: dscpClass },
    ],
    complete: (options) => options.map((option) => (option.name === 'dscp-class' ? { ...option, name: 'dscp' } : option)),
  },
  { name: 'tos', options: [{ name: 'tos', negatable: true, required: true, read: typeOfService(0x3f) }] },
  { name: 'mac', hooks: ['PREROUTING', 'INPUT', 'FORWARD'], options: [{ name: 'mac-source', negatable: true, required: true, read: hardwareAddress }] },
  { name: 'pkttype', options: [{ name: 'pkt-type', negatable: true, required: true, read: packetType }] },
  {
    name: 'addrtype',
    requiresOneOf: ['src-type', 'dst-type'],
    options: [
      { name: 'src-type', negatable: true, read: names(ADDRESS_TYPES, { anyCase: true }) },
      { name: 'dst-type', negatable: true, read: names(ADDRESS_TYPES, { anyCase: true }) },
      { name: 'limit-iface-in', excludes: ['limit-iface-out'], read: flag },
      { name: 'limit-iface-out', excludes: ['limit-iface-in'], read: flag },
    ],
  },
  { name: 'string', ...stringMatch() },
  { name: 'u32', options: [{ name: 'u32', negatable: true, required: true, read: u32Tests }] },
  {
    name: 'bpf',
    requiresOneOf: ['bytecode', 'object-pinned'],
    options: [{ name: 'bytecode', excludes: ['object-pinned'], read: bytecode }, { name: 'object-pinned', excludes: ['bytecode'], read: plainText({ min: 1, max: 511 }) }],
  },
  { name: 'mark', options: [{ name: 'mark', negatable: true, required: true, read: maskedMark }] },
  { name: 'realm', family: 'ipv4', hooks: ['INPUT', 'FORWARD', 'OUTPUT', 'POSTROUTING'], options: [{ name: 'realm', negatable: true, required: true, read: maskedMark }] },
  { name: 'comment', options: [{ name: 'comment', required: true, read: quotedText({ max: 255, cut: true }) }] },
  {
    name: 'physdev',
    requiresOneOf: ['physdev-is-in', 'physdev-in', 'physdev-is-out', 'physdev-out', 'physdev-is-bridged'],
    options: [
      { name: 'physdev-is-in', negatable: true, read: flag },
      { name: 'physdev-in', negatable: true, read: plainText({ min: 1, max: 15 }) },
      { name: 'physdev-is-out', negatable: true, read: flag },
      { name: 'physdev-out', negatable: true, read: plainText({ min: 1, max: 15 }) },
      { name: 'physdev-is-bridged', negatable: true, read: flag },
    ],
  },
  { name: 'devgroup', requiresOneOf: ['src-group', 'dst-group'], options: [{ name: 'src-group', negatable: true, read: maskedMark }, { name: 'dst-group', negatable: true, read: maskedMark }] },
];

function portOptions(read = ports): OptionDefinition[] {
  return [
    { name: 'sport', aliases: ['source-port'], negatable: true, read },
    { name: 'dport', aliases: ['destination-port'], negatable: true, read },
  ];
}

/** The comma list of `-m multiport`: at most 15 places, of which a range takes two (libxt_multiport.c). */
function portList(...[take, family, peek]: Parameters<OptionDefinition['read']>): ReturnType<OptionDefinition['read']> {
  return fromText('a comma list of up to 15 ports, of which a range counts as two', (text) => {
    const ranges = text.split(',', 17).map((part) => splitRange(part, parsePort, Number.NaN, Number.NaN));
    const known = ranges.filter((ends) => ends !== undefined);
    const places = known.reduce((sum, { first, last }) => sum + (first === last ? 1 : 2), 0);
    // A range in which both ends are the same, or the first is the greater, is refused (libxt_multiport.c, parse_multi_ports_v1).
    if (known.length !== ranges.length || places > 15 || known.some(({ first, last }) => !(first <= last)) || text.split(',').some((part) => /^(.+):\1$/.test(part))) {
      return undefined;
    }
    return { value: { type: 'names', names: known.map((ends) => rangeText(ends, ':')) }, text: known.map((ends) => rangeText(ends, ':')).join(',') };
  })(take, family, peek);
}

function hopLimit(name: 'ttl' | 'hl'): Pick<Extension, 'options' | 'requiresOneOf'> {
  const all = [`${name}-eq`, `${name}-lt`, `${name}-gt`];
  const others = (own: string): string[] => all.filter((other) => other !== own);
  return {
    requiresOneOf: all,
    options: [
      { name: `${name}-eq`, aliases: [name], negatable: true, excludes: others(`${name}-eq`), read: number({ max: 255 }) },
      { name: `${name}-lt`, excludes: others(`${name}-lt`), read: number({ max: 255 }) },
      { name: `${name}-gt`, excludes: others(`${name}-gt`), read: number({ max: 255 }) },
    ],
  };
}

function packetType(...[take, family, peek]: Parameters<OptionDefinition['read']>): ReturnType<OptionDefinition['read']> {
  const aliases: Readonly<Record<string, string>> = { bcast: 'broadcast', mcast: 'multicast', host: 'unicast' };
  return fromText('unicast, broadcast or multicast', (text) => {
    const given = text.toLowerCase();
    const type = Object.hasOwn(aliases, given) ? aliases[given] : ['unicast', 'broadcast', 'multicast', 'otherhost', 'outgoing', 'loopback', 'fastroute'].find((word) => word === given);
    return type === undefined ? undefined : { value: { type: 'text', text: type }, text: type };
  })(take, family, peek);
}

/** `--chunk-types all|any|only LIST`; a chunk may have flags behind a colon, which are kept as they are. */
function chunkTypes(...[take, family, peek]: Parameters<OptionDefinition['read']>): ReturnType<OptionDefinition['read']> {
  const mode = choice(['any', 'all', 'only'], { anyCase: true })(take, family, peek).text ?? '';
  const list = fromText('a comma list of chunk types, ALL or NONE', (text) => {
    const upper = text.toUpperCase();
    if (upper === 'ALL' || upper === 'NONE') {
      return { value: { type: 'text', text: upper }, text: upper };
    }
    const chunks = text.split(',', 257).map((part) => {
      const [name = '', flags, ...rest] = part.split(':');
      const chunk = SCTP_CHUNKS.find(([known]) => known === name.toUpperCase());
      const printed = chunk === undefined || rest.length > 0 ? undefined : chunkFlags(chunk[0], flags);
      return chunk === undefined || printed === undefined ? undefined : { number: chunk[1], text: `${chunk[0]}${printed}` };
    });
    const known = chunks.filter((chunk) => chunk !== undefined).toSorted((left, right) => left.number - right.number);
    return known.length !== chunks.length ? undefined : { value: { type: 'names', names: known.map((chunk) => chunk.text) }, text: [...new Set(known.map((chunk) => chunk.text))].join(',') };
  })(take, family, peek);
  return { value: { type: 'names', names: [mode, ...(list.text ?? '').split(',')] }, text: `${mode} ${list.text ?? ''}` };
}

/** Flags of a chunk: a capital letter is one that is set, a small one is one that is not; printed from bit 7 on. */
function chunkFlags(chunk: string, flags: string | undefined): string | undefined {
  if (flags === undefined || flags === '') {
    return flags === undefined ? '' : undefined;
  }
  const known = Object.hasOwn(SCTP_CHUNK_FLAGS, chunk) ? (SCTP_CHUNK_FLAGS[chunk] ?? '') : '';
  const letters = flags.split('');
  if (letters.some((letter) => letter === '-' || !known.includes(letter.toUpperCase()))) {
    return undefined;
  }
  const printed = known.split('').flatMap((letter) => (letters.includes(letter) ? [letter] : letters.includes(letter.toLowerCase()) ? [letter.toLowerCase()] : []));
  return `:${printed.join('')}`;
}

function stringMatch(): Pick<Extension, 'options' | 'requiresOneOf' | 'complete'> {
  return {
    requiresOneOf: ['string', 'hex-string'],
    options: [
      { name: 'string', negatable: true, excludes: ['hex-string'], read: searchString },
      { name: 'hex-string', negatable: true, excludes: ['string'], read: searchBytes },
      { name: 'algo', required: true, read: choice(['bm', 'kmp']) },
      { name: 'from', read: number({ max: MAX_UINT16 }) },
      { name: 'to', read: number({ max: MAX_UINT16 }) },
      { name: 'icase', read: flag },
    ],
    complete: (options) =>
      options
        .filter(({ name, text }) => !(name === 'from' && text === '0') && !(name === 'to' && text === String(MAX_UINT16)))
        // Text that can be printed comes out as a string, other text as bytes, whichever way it was given.
        .map((option) => (option.value.type === 'numbers' ? { ...option, name: isHexPattern(option.value.numbers) ? 'hex-string' : 'string' } : option)),
  };
}

function dropWhole(name: string): NonNullable<Extension['complete']> {
  return (options) => {
    const option = findOption(options, name);
    const isWhole = option?.value.type === 'range' && option.value.first === 0 && option.value.last === WHOLE_UINT32.last;
    return isWhole ? options.filter((other) => other !== option) : options;
  };
}

function flagsOf(list: string | null): readonly TcpFlag[] {
  const given = (list ?? '').split(',');
  return TCP_FLAGS.filter((tcpFlag) => given.includes(tcpFlag) || given.includes('ALL'));
}

function flagText(flags: readonly TcpFlag[]): string {
  return flags.length === 0 ? 'NONE' : flags.join(',');
}

