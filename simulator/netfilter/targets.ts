import type { IpAddress } from '../../agent/protocol/scalars.ts';
import type { ArgumentReader, Extension, OptionDefinition, RuleCheck } from './extension.ts';
import { findOption } from './extension.ts';
import { dscpClass } from './dscpClasses.ts';
import { formatRuleAddress, parseRuleAddress } from './iptablesAddress.ts';
import {
  address, choice, flag, fromText, hardwareAddress, MAX_UINT16, MAX_UINT32, names, number, plainText, parsePort, port, prefixLength, quotedText, rangeText, splitRange, wholeMark, wholeNetwork,
} from './optionArguments.ts';
import { setReference } from './connectionMatches.ts';
import { hexText, parseNumber } from './numberText.ts';
import { typeOfService } from './typeOfService.ts';
import type { AddressFamily, ExtensionOption, Match } from './ruleSet.ts';
import { rejectWord } from './wordReader.ts';

const CT_EVENTS = ['new', 'related', 'destroy', 'reply', 'assured', 'protoinfo', 'helper', 'mark', 'natseqinfo', 'secmark'] as const;

/** Answers of REJECT with the short names that iptables takes too (libipt_REJECT.c, libip6t_REJECT.c), in the order in which a beginning is looked for. */
const REJECT_ANSWERS: Readonly<Record<AddressFamily, readonly (readonly [string, string])[]>> = {
  ipv4: [
    ['icmp-net-unreachable', 'net-unreach'], ['icmp-host-unreachable', 'host-unreach'], ['icmp-proto-unreachable', 'proto-unreach'], ['icmp-port-unreachable', 'port-unreach'],
    ['icmp-net-prohibited', 'net-prohib'], ['icmp-host-prohibited', 'host-prohib'], ['tcp-reset', 'tcp-rst'], ['icmp-admin-prohibited', 'admin-prohib'],
  ],
  ipv6: [
    ['icmp6-no-route', 'no-route'], ['icmp6-adm-prohibited', 'adm-prohibited'], ['icmp6-addr-unreachable', 'addr-unreach'], ['icmp6-port-unreachable', 'port-unreach'],
    ['tcp-reset', 'tcp-reset'], ['icmp6-policy-fail', 'policy-fail'], ['icmp6-reject-route', 'reject-route'],
  ],
};

/** Levels of syslog(3) by name. */
const LOG_LEVELS: readonly (readonly [string, number])[] = [
  ['alert', 1], ['crit', 2], ['debug', 7], ['emerg', 0], ['error', 3], ['info', 6], ['notice', 5], ['panic', 0], ['warning', 4],
];

/** Names of TCP options that TCPOPTSTRIP takes (RFC 9293, RFC 2018, RFC 7323, RFC 2385). */
const TCP_OPTIONS: Readonly<Record<string, number>> = { wscale: 3, mss: 2, 'sack-permitted': 4, sack: 5, timestamp: 8, md5: 19 };

const NAT_PORT_PROTOCOLS = new Set(['tcp', 'udp', 'sctp', 'dccp', 'icmp', 'ipv6-icmp']);

const MARK_OPERATIONS = ['set-xmark', 'set-mark', 'and-mark', 'or-mark', 'xor-mark'] as const;

/** The targets of iptables 1.8.9 but ACCEPT, DROP, RETURN and QUEUE. */
export const TARGETS: readonly Extension[] = [
  { name: 'AUDIT', options: [{ name: 'type', required: true, read: choice(['accept', 'drop', 'reject'], { anyCase: true }) }] },
  { name: 'CHECKSUM', tables: ['mangle'], options: [{ name: 'checksum-fill', required: true, read: flag }] },
  { name: 'CLASSIFY', hooks: ['FORWARD', 'OUTPUT', 'POSTROUTING'], options: [{ name: 'set-class', required: true, read: trafficClass }] },
  {
    name: 'CLUSTERIP',
    family: 'ipv4',
    hooks: ['INPUT'],
    options: [
      { name: 'new', read: flag },
      { name: 'hashmode', read: choice(['sourceip', 'sourceip-sourceport', 'sourceip-sourceport-destport']) },
      { name: 'clustermac', read: clusterMac },
      { name: 'total-nodes', read: number({ min: 1, max: 16 }) },
      { name: 'local-node', read: number({ max: 16 }) },
      { name: 'hash-init', read: number() },
    ],
  },
  { name: 'CONNMARK', requiresOneOf: ['set-xmark', 'set-mark', 'and-mark', 'or-mark', 'xor-mark', 'save-mark', 'restore-mark'], options: connectionMarkOptions() },
  { name: 'CONNSECMARK', tables: ['mangle', 'security'], requiresOneOf: ['save', 'restore'], options: [{ name: 'save', excludes: ['restore'], read: flag }, { name: 'restore', excludes: ['save'], read: flag }] },
  {
    name: 'CT',
    tables: ['raw'],
    options: [
      { name: 'notrack', read: flag },
      { name: 'helper', read: plainText({ max: 15, cut: true }) },
      { name: 'timeout', read: plainText({ max: 31, cut: true }) },
      { name: 'ctevents', read: names(CT_EVENTS) },
      { name: 'expevents', read: names(['new']) },
      ...['zone-orig', 'zone-reply', 'zone'].map((name, _, all): OptionDefinition => ({ name, excludes: all.filter((other) => other !== name), read: zone })),
    ],
    complete: (options) => options.filter(({ name, text }) => !(name.startsWith('zone') && text === '0')),
    check: ({ protocol, protocolNegated }, options) =>
      options.some(({ name }) => name === 'helper' || name === 'timeout') && (protocol === null || protocol === 'all' || protocolNegated) ? 'CT needs -p with a helper or a timeout.' : null,
  },
  {
    name: 'DNAT',
    tables: ['nat'],
    hooks: ['PREROUTING', 'OUTPUT'],
    options: [{ name: 'to-destination', required: true, read: natRange(true) }, { name: 'random', read: flag }, { name: 'persistent', read: flag }],
    check: needsPortProtocol('to-destination'),
  },
  {
    name: 'SNAT',
    tables: ['nat'],
    hooks: ['POSTROUTING', 'INPUT'],
    options: [{ name: 'to-source', required: true, read: natRange(false) }, { name: 'random', read: flag }, { name: 'random-fully', read: flag }, { name: 'persistent', read: flag }],
    check: needsPortProtocol('to-source'),
  },
  { name: 'MASQUERADE', tables: ['nat'], hooks: ['POSTROUTING'], options: [{ name: 'to-ports', read: natPorts }, { name: 'random', read: flag }, { name: 'random-fully', read: flag }], check: needsPortProtocol('to-ports') },
  { name: 'REDIRECT', tables: ['nat'], hooks: ['PREROUTING', 'OUTPUT'], options: [{ name: 'to-ports', read: natPorts }, { name: 'random', read: flag }], check: needsPortProtocol('to-ports') },
  { name: 'NETMAP', tables: ['nat'], hooks: ['PREROUTING', 'INPUT', 'OUTPUT', 'POSTROUTING'], options: [{ name: 'to', required: true, read: wholeNetwork }] },
  { name: 'DNPT', family: 'ipv6', tables: ['mangle'], hooks: ['PREROUTING', 'OUTPUT'], options: prefixPair(), check: checkPrefixPair },
  { name: 'SNPT', family: 'ipv6', tables: ['mangle'], hooks: ['INPUT', 'POSTROUTING'], options: prefixPair(), check: checkPrefixPair },
  {
    name: 'DSCP',
    tables: ['mangle'],
    requiresOneOf: ['set-dscp', 'set-dscp-class'],
    options: [{ name: 'set-dscp', excludes: ['set-dscp-class'], read: number({ max: 63, print: (value) => hexText(value, 2) }) }, { name: 'set-dscp-class', excludes: ['set-dscp'], read: dscpClass }],
    complete: (options) => options.map((option) => ({ ...option, name: 'set-dscp' })),
  },
  {
    name: 'ECN',
    family: 'ipv4',
    tables: ['mangle'],
    requiresOneOf: ['ecn-tcp-remove', 'ecn-tcp-ece', 'ecn-tcp-cwr', 'ecn-ip-ect'],
    options: [
      { name: 'ecn-tcp-remove', excludes: ['ecn-tcp-ece', 'ecn-tcp-cwr'], read: flag },
      { name: 'ecn-tcp-ece', excludes: ['ecn-tcp-remove'], read: number({ max: 1 }) },
      { name: 'ecn-tcp-cwr', excludes: ['ecn-tcp-remove'], read: number({ max: 1 }) },
      { name: 'ecn-ip-ect', read: number({ max: 3 }) },
    ],
    check: ({ protocol, protocolNegated }, options) =>
      options.some(({ name }) => name.startsWith('ecn-tcp')) && (protocol !== 'tcp' || protocolNegated) ? 'ECN changes TCP flags in packets of TCP only.' : null,
  },
  {
    name: 'HL', family: 'ipv6', tables: ['mangle'], ...hopLimitTarget('hl'),
  },
  { name: 'TTL', family: 'ipv4', tables: ['mangle'], ...hopLimitTarget('ttl') },
  {
    name: 'HMARK',
    requiresOneOf: ['hmark-src-prefix', 'hmark-dst-prefix', 'hmark-sport-mask', 'hmark-dport-mask', 'hmark-spi-mask', 'hmark-tuple'],
    options: [
      { name: 'hmark-src-prefix', read: prefixLength },
      { name: 'hmark-dst-prefix', read: prefixLength },
      { name: 'hmark-sport-mask', excludes: ['hmark-spi-mask'], read: paddedHex(MAX_UINT16, 4) },
      { name: 'hmark-dport-mask', excludes: ['hmark-spi-mask'], read: paddedHex(MAX_UINT16, 4) },
      { name: 'hmark-spi-mask', excludes: ['hmark-sport-mask', 'hmark-dport-mask'], read: paddedHex(MAX_UINT32, 8) },
      { name: 'hmark-sport', read: paddedHex(MAX_UINT16, 4) },
      { name: 'hmark-dport', read: paddedHex(MAX_UINT16, 4) },
      { name: 'hmark-spi', read: paddedHex(MAX_UINT32, 8) },
      { name: 'hmark-proto-mask', read: paddedHex(MAX_UINT16, 2) },
      { name: 'hmark-rnd', required: true, read: paddedHex(MAX_UINT32, 8) },
      { name: 'hmark-mod', required: true, read: number({ min: 1 }) },
      { name: 'hmark-offset', read: number() },
      { name: 'hmark-tuple', read: hashTuple },
    ],
    complete: completeHashMark,
  },
  { name: 'IDLETIMER', options: [{ name: 'timeout', required: true, read: number({ min: 1 }) }, { name: 'label', required: true, read: plainText({ min: 1, max: 27, cut: true }) }, { name: 'alarm', read: flag }] },
  { name: 'LED', options: [{ name: 'led-trigger-id', required: true, read: ledName }, { name: 'led-delay', read: ledDelay }, { name: 'led-always-blink', read: flag }], complete: (options) => options.filter(({ name, text }) => !(name === 'led-delay' && text === '0')) },
  {
    name: 'LOG',
    options: [
      { name: 'log-prefix', read: quotedText({ min: 1, max: 29, cut: true }) },
      { name: 'log-level', read: logLevel },
      ...['log-tcp-sequence', 'log-tcp-options', 'log-ip-options', 'log-uid', 'log-macdecode'].map((name): OptionDefinition => ({ name, read: flag })),
    ],
    complete: (options) => options.filter(({ name, text }) => !(name === 'log-level' && text === '4')),
  },
  { name: 'MARK', requiresOneOf: ['set-xmark', 'set-mark', 'and-mark', 'or-mark', 'xor-mark'], options: markOptions() },
  {
    name: 'NFLOG',
    options: [
      { name: 'nflog-prefix', read: quotedText({ min: 1, max: 127, cut: true }) },
      { name: 'nflog-group', read: number({ max: MAX_UINT16 }) },
      { name: 'nflog-size', excludes: ['nflog-range'], read: number() },
      { name: 'nflog-range', excludes: ['nflog-size'], read: number() },
      { name: 'nflog-threshold', read: number({ max: MAX_UINT16 }) },
    ],
    complete: (options) => options.filter(({ name, text }) => !(text === '0' && (name === 'nflog-group' || name === 'nflog-range')) && !(name === 'nflog-threshold' && text === '0')),
  },
  {
    name: 'NFQUEUE',
    options: [
      { name: 'queue-balance', excludes: ['queue-num'], read: queueRange },
      { name: 'queue-num', excludes: ['queue-balance'], read: number({ max: MAX_UINT16 }) },
      { name: 'queue-bypass', read: flag },
      { name: 'queue-cpu-fanout', needs: ['queue-balance'], read: flag },
    ],
    complete: (options) => (options.some(({ name }) => name === 'queue-num' || name === 'queue-balance') ? options : [{ name: 'queue-num', negated: false, value: { type: 'number', value: 0 }, text: '0' }, ...options]),
  },
  { name: 'NOTRACK', tables: ['raw'], options: [] },
  {
    name: 'RATEEST',
    options: [{ name: 'rateest-name', required: true, read: plainText({ min: 1, max: 15, cut: true }) }, { name: 'rateest-interval', required: true, read: estimatorTime }, { name: 'rateest-ewmalog', required: true, read: estimatorTime }],
  },
  {
    name: 'REJECT',
    tables: ['filter'],
    hooks: ['INPUT', 'FORWARD', 'OUTPUT'],
    options: [{ name: 'reject-with', read: rejectAnswer }],
    complete: (options: readonly ExtensionOption[], family: AddressFamily): readonly ExtensionOption[] => {
      const answer = family === 'ipv4' ? 'icmp-port-unreachable' : 'icmp6-port-unreachable';
      return options.length > 0 ? options : [{ name: 'reject-with', negated: false, value: { type: 'text', text: answer }, text: answer }];
    },
    check: ({ protocol, protocolNegated }, options) => (findOption(options, 'reject-with')?.text === 'tcp-reset' && (protocol !== 'tcp' || protocolNegated) ? 'REJECT can answer with tcp-reset to packets of TCP only.' : null),
  },
  { name: 'SECMARK', tables: ['mangle', 'security'], options: [{ name: 'selctx', required: true, read: plainText({ min: 1, max: 255, cut: true }) }] },
  {
    name: 'SET',
    requiresOneOf: ['add-set', 'del-set', 'map-set'],
    options: [
      { name: 'add-set', excludes: ['map-set'], read: setReference },
      { name: 'exist', read: flag },
      { name: 'timeout', read: number({ max: 4_294_967 }) },
      { name: 'del-set', excludes: ['map-set'], read: setReference },
      { name: 'map-set', read: setReference },
      ...['map-mark', 'map-prio', 'map-queue'].map((name): OptionDefinition => ({ name, needs: ['map-set'], read: flag })),
    ],
  },
  {
    name: 'SYNPROXY',
    hooks: ['INPUT', 'FORWARD'],
    options: [{ name: 'sack-perm', read: flag }, { name: 'timestamp', read: flag }, { name: 'wscale', read: number({ print: (value) => String(value % 256) }) }, { name: 'mss', read: number({ print: (value) => String(value % 0x1_0000) }) }, { name: 'ecn', read: flag }],
    check: needsTcp('SYNPROXY'),
  },
  {
    name: 'TCPMSS',
    requiresOneOf: ['set-mss', 'clamp-mss-to-pmtu'],
    options: [{ name: 'set-mss', read: number({ max: 65_515 }) }, { name: 'clamp-mss-to-pmtu', read: flag }],
    complete: (options) => (options.some(({ name }) => name === 'clamp-mss-to-pmtu') ? options.filter(({ name }) => name !== 'set-mss') : options),
    check: (rule, options) => needsTcp('TCPMSS')(rule, options) ?? (rule.backend === 'legacy' && !rule.matches.some(looksForSyn) ? 'TCPMSS needs -p tcp with a match of SYN, such as --syn.' : null),
  },
  { name: 'TCPOPTSTRIP', tables: ['mangle'], options: [{ name: 'strip-options', read: stripOptions }], check: needsTcp('TCPOPTSTRIP') },
  { name: 'TEE', options: [{ name: 'gateway', required: true, read: address }, { name: 'oif', read: plainText({ min: 1, max: 15, cut: true }) }] },
  {
    name: 'TOS',
    tables: ['mangle'],
    requiresOneOf: ['set-tos', 'and-tos', 'or-tos', 'xor-tos'],
    options: [{ name: 'set-tos', excludes: ['and-tos', 'or-tos', 'xor-tos'], read: typeOfService(0x3f) }, ...(['and', 'or', 'xor'] as const).map((operation): OptionDefinition => ({ name: `${operation}-tos`, excludes: ['set-tos'], read: tosOperation(operation) }))],
    complete: (options) => options.map((option) => ({ ...option, name: 'set-tos' })),
  },
  {
    name: 'TPROXY',
    tables: ['mangle'],
    hooks: ['PREROUTING'],
    options: [{ name: 'on-port', required: true, read: port }, { name: 'on-ip', read: address }, { name: 'tproxy-mark', read: wholeMark }],
    check: ({ protocol, protocolNegated }) => ((protocol === 'tcp' || protocol === 'udp') && !protocolNegated ? null : 'TPROXY needs -p tcp or -p udp.'),
  },
  { name: 'TRACE', tables: ['raw'], options: [] },
  {
    name: 'ULOG',
    family: 'ipv4',
    options: [
      { name: 'ulog-prefix', read: quotedText({ min: 1, max: 31, cut: true }) },
      { name: 'ulog-nlgroup', read: number({ min: 1, max: 32 }) },
      { name: 'ulog-cprange', read: number() },
      { name: 'ulog-qthreshold', read: number({ min: 1, max: 50 }) },
    ],
    complete: (options) => options.filter(({ name, text }) => !(text === '1' && name !== 'ulog-cprange' && name !== 'ulog-prefix') && !(name === 'ulog-cprange' && text === '0')),
  },
];

function markOptions(more: readonly string[] = []): OptionDefinition[] {
  const all = [...MARK_OPERATIONS, ...more];
  const word = number();
  return MARK_OPERATIONS.map((name) => ({ name, excludes: all.filter((other) => other !== name), read: name.startsWith('set-') ? wholeMark : word }));
}

function connectionMarkOptions(): OptionDefinition[] {
  const copies = ['save-mark', 'restore-mark'] as const;
  const all = [...MARK_OPERATIONS, ...copies];
  return [
    ...markOptions(copies),
    ...copies.map((name): OptionDefinition => ({ name, excludes: all.filter((other) => other !== name), read: flag })),
    { name: 'nfmask', excludes: ['mask'], read: number() },
    { name: 'ctmask', excludes: ['mask'], read: number() },
    { name: 'mask', excludes: ['nfmask', 'ctmask'], read: number() },
    { name: 'left-shift-mark', excludes: ['right-shift-mark'], read: number({ max: 32 }) },
    { name: 'right-shift-mark', excludes: ['left-shift-mark'], read: number({ max: 32 }) },
  ];
}

function hopLimitTarget(name: 'ttl' | 'hl'): Pick<Extension, 'options' | 'requiresOneOf'> {
  const all = ['set', 'dec', 'inc'].map((operation) => `${name}-${operation}`);
  return {
    requiresOneOf: all,
    options: all.map((option) => ({ name: option, excludes: all.filter((other) => other !== option), read: number({ min: option.endsWith('set') ? 0 : 1, max: 255 }) })),
  };
}

function trafficClass(...[take, family, peek]: Parameters<ArgumentReader>): ReturnType<ArgumentReader> {
  return fromText('a class such as 1:10, in hexadecimal', (text) => {
    const [, major = '', minor = ''] = /^(?:0x)?([0-9a-f]{1,8}):(?:0x)?([0-9a-f]{1,8})$/i.exec(text) ?? [];
    const parts = [major, minor].map((part) => Number.parseInt(part, 16) % 0x1_0000);
    return major === '' ? undefined : { value: { type: 'numbers', numbers: parts }, text: parts.map((part) => part.toString(16).padStart(4, '0')).join(':') };
  })(take, family, peek);
}

function clusterMac(...[take, family, peek]: Parameters<ArgumentReader>): ReturnType<ArgumentReader> {
  const data = hardwareAddress(take, family, peek);
  return { value: data.value, text: data.text?.toUpperCase() ?? null };
}

function zone(...[take, family, peek]: Parameters<ArgumentReader>): ReturnType<ArgumentReader> {
  return fromText('a zone from 0 to 65535, or mark', (text) => {
    const value = parseNumber(text, MAX_UINT16);
    return text === 'mark' ? { value: { type: 'text', text }, text } : value === undefined ? undefined : { value: { type: 'number', value }, text: String(value) };
  })(take, family, peek);
}

/** `[ADDRESS[-ADDRESS]][:PORT[-PORT][/BASE]]`, with IPv6 addresses in brackets where a port follows (libxt_NAT.c, parse_to). */
function natRange(mayShift: boolean): ArgumentReader {
  return (take, family) => {
    const word = take('an address, a range of addresses, and perhaps :PORT or :PORT-PORT');
    const found = /^(?:\[([^\]]*)\]|([^[\]]*?))(?::([^:[\]]*))?$/.exec(word.text);
    const plainIsIpv6 = found?.[1] === undefined && word.text.split(':').length > 2;
    const addressText = found?.[1] ?? (plainIsIpv6 ? word.text : (found?.[2] ?? ''));
    const portText = plainIsIpv6 ? undefined : found?.[3];
    const ports = portText === undefined ? null : parseNatPorts(portText, mayShift);
    const addresses = addressText === '' ? null : parseAddresses(addressText, family);
    const bracketsInIpv4 = family === 'ipv4' && found?.[1] !== undefined;
    if ((found === null && !plainIsIpv6) || addresses === undefined || ports === undefined || bracketsInIpv4 || (addresses === null && ports === null)) {
      return rejectWord(word, 'an address, a range of addresses, and perhaps :PORT or :PORT-PORT');
    }
    const range = addresses === null ? '' : addresses.map((end) => formatRuleAddress(end, family)).join('-');
    const text = ports === null ? range : `${family === 'ipv6' && range !== '' ? `[${range}]` : range}:${ports}`;
    return { value: { type: 'names', names: [...(addresses ?? []), ...(ports === null ? [] : [`:${ports}`])] }, text };
  };
}

function parseAddresses(text: string, family: AddressFamily): readonly IpAddress[] | undefined {
  const [firstText = '', lastText, ...rest] = text.split('-');
  const isWhole = (end: string): boolean => family === 'ipv6' || end.split('.').length === 4;
  const first = isWhole(firstText) ? parseRuleAddress(firstText, family) : undefined;
  const last = lastText === undefined ? first : isWhole(lastText) ? parseRuleAddress(lastText, family) : undefined;
  return first === undefined || last === undefined || rest.length > 0 ? undefined : first === last ? [first] : [first, last];
}

/** `PORT[-PORT][/BASE]`; gives the printed form. A service may only stand alone, or as the base. */
function parseNatPorts(text: string, mayShift: boolean): string | undefined {
  const [rangePart = '', baseText, ...tooMany] = text.split('/');
  const [firstText = '', lastText, ...rest] = rangePart.split('-');
  const named = parsePort(rangePart);
  const first = named ?? parseNumber(firstText, MAX_UINT16);
  const last = named !== undefined || lastText === undefined ? first : parseNumber(lastText, MAX_UINT16);
  const base = baseText === undefined ? undefined : parsePort(baseText);
  if (first === undefined || last === undefined || (named === undefined && rest.length > 0) || tooMany.length > 0 || first > last) {
    return undefined;
  }
  if (baseText !== undefined && (!mayShift || base === undefined || base === 0)) {
    return undefined;
  }
  return `${rangeText({ first, last }, '-')}${base === undefined ? '' : `/${base}`}`;
}

function natPorts(...[take, family, peek]: Parameters<ArgumentReader>): ReturnType<ArgumentReader> {
  return fromText('a port or a range such as 80-90', (text) => {
    const printed = parseNatPorts(text, false);
    return printed === undefined ? undefined : { value: { type: 'names', names: [`:${printed}`] }, text: printed };
  })(take, family, peek);
}

function needsPortProtocol(option: string): RuleCheck {
  return ({ protocol }, options) => {
    const given = findOption(options, option)?.value;
    const hasPort = given?.type === 'names' && given.names.some((name) => /^:\d/.test(name));
    return hasPort && (protocol === null || !NAT_PORT_PROTOCOLS.has(protocol)) ? 'Ports need -p tcp, udp, sctp, dccp or icmp.' : null;
  };
}

function needsTcp(target: string): RuleCheck {
  return ({ protocol, protocolNegated }) => (protocol === 'tcp' && !protocolNegated ? null : `${target} needs -p tcp.`);
}

/** xt_TCPMSS.c, find_syn_match; nft does not show the kernel its own matches, so that it is not asked there. */
function looksForSyn(match: Match): boolean {
  return match.kind === 'tcpFlags' && !match.negated && match.set.includes('SYN');
}

function prefixPair(): OptionDefinition[] {
  return [{ name: 'src-pfx', required: true, read: wholeNetwork }, { name: 'dst-pfx', required: true, read: wholeNetwork }];
}

/** net/ipv6/netfilter/ip6t_NPT.c takes prefixes of up to 64 bits. */
function checkPrefixPair(_: unknown, options: readonly ExtensionOption[]): string | null {
  return options.some(({ value }) => value.type === 'prefix' && value.prefix.prefixLength > 64) ? 'A prefix may have up to 64 bits here.' : null;
}

function paddedHex(max: number, digits: number): ArgumentReader {
  return number({ max, print: (value) => hexText(value, digits) });
}

/** `--hmark-tuple` stands for masks that are whole (libxt_HMARK.c). */
function hashTuple(...[take, family, peek]: Parameters<ArgumentReader>): ReturnType<ArgumentReader> {
  return names(['src', 'dst', 'sport', 'dport', 'spi', 'ct'])(take, family, peek);
}

function completeHashMark(options: readonly ExtensionOption[], family: AddressFamily): readonly ExtensionOption[] {
  const tuple = findOption(options, 'hmark-tuple');
  const parts = tuple?.value.type === 'names' ? tuple.value.names : [];
  const bits = family === 'ipv4' ? 32 : 128;
  const implied: Readonly<Record<string, readonly [string, number, string]>> = {
    src: ['hmark-src-prefix', bits, String(bits)], dst: ['hmark-dst-prefix', bits, String(bits)],
    sport: ['hmark-sport-mask', MAX_UINT16, '0xffff'], dport: ['hmark-dport-mask', MAX_UINT16, '0xffff'], spi: ['hmark-spi-mask', MAX_UINT32, '0xffffffff'],
  };
  const order = ['hmark-src-prefix', 'hmark-dst-prefix', 'hmark-sport-mask', 'hmark-dport-mask', 'hmark-spi-mask'];
  const added = parts.flatMap((part): ExtensionOption[] => {
    const option = Object.hasOwn(implied, part) ? implied[part] : undefined;
    return option === undefined ? [] : [{ name: option[0], negated: false, value: { type: 'number', value: option[1] }, text: option[2] }];
  });
  const masks = order.flatMap((name) => findOption(added, name) ?? findOption(options, name) ?? []);
  const rest = options.filter((option) => option !== tuple && !order.includes(option.name));
  return [...masks, ...rest, ...(parts.includes('ct') && tuple !== undefined ? [{ ...tuple, value: { type: 'names', names: ['ct'] } as const, text: 'ct' }] : [])];
}

function ledName(...[take, family, peek]: Parameters<ArgumentReader>): ReturnType<ArgumentReader> {
  const { value } = quotedText({ max: 17 })(take, family, peek);
  return { value, text: `"${(value.type === 'text' ? value.text : '').replaceAll(/["\\]/g, '\\$&')}"` };
}

function ledDelay(...[take, family, peek]: Parameters<ArgumentReader>): ReturnType<ArgumentReader> {
  return fromText('a delay in milliseconds, or inf', (text) => {
    const value = parseNumber(text, 0x7fff_ffff);
    return text === 'inf' ? { value: { type: 'text', text }, text } : value === undefined ? undefined : { value: { type: 'number', value }, text: String(value) };
  })(take, family, peek);
}

function logLevel(...[take, family, peek]: Parameters<ArgumentReader>): ReturnType<ArgumentReader> {
  return fromText('a level from 0 to 7, or its name', (text) => {
    const value = parseNumber(text, 7) ?? LOG_LEVELS.find(([name]) => name === text)?.[1];
    return value === undefined ? undefined : { value: { type: 'number', value }, text: String(value) };
  })(take, family, peek);
}

function queueRange(...[take, family, peek]: Parameters<ArgumentReader>): ReturnType<ArgumentReader> {
  return fromText('two queues such as 0:3, the first less than the last', (text) => {
    const ends = splitRange(text, (end) => parseNumber(end, MAX_UINT16 - 1), 0, MAX_UINT16 - 1);
    return ends === undefined || ends.first >= ends.last ? undefined : { value: { type: 'range', ...ends }, text: `${ends.first}:${ends.last}` };
  })(take, family, peek);
}

/** A time in seconds where no unit is given; the kernel keeps it as a power of two (libxt_RATEEST.c). */
function estimatorTime(...[take, family, peek]: Parameters<ArgumentReader>): ReturnType<ArgumentReader> {
  const units: Readonly<Record<string, number>> = { '': 1, s: 1e6, sec: 1e6, secs: 1e6, ms: 1e3, msec: 1e3, msecs: 1e3, us: 1, usec: 1, usecs: 1 };
  return fromText('a time such as 250ms', (text) => {
    const [, digits = '', unit = ''] = /^(\d+(?:\.\d+)?)([a-z]*)$/i.exec(text) ?? [];
    const scale = digits === '' || !Object.hasOwn(units, unit.toLowerCase()) ? undefined : units[unit.toLowerCase()];
    const microseconds = scale === undefined ? undefined : Math.floor(Number(digits) * scale);
    if (microseconds === undefined || microseconds > MAX_UINT32) {
      return undefined;
    }
    const printed = microseconds >= 1e6 ? `${(microseconds / 1e6).toFixed(1)}s` : microseconds >= 1e3 ? `${(microseconds / 1e3).toFixed(1)}ms` : `${microseconds}us`;
    return { value: { type: 'number', value: microseconds }, text: printed };
  })(take, family, peek);
}

/** A beginning of an answer or of its short name is enough; the first that fits is taken. */
function rejectAnswer(...[take, family, peek]: Parameters<ArgumentReader>): ReturnType<ArgumentReader> {
  const answers = REJECT_ANSWERS[family];
  return fromText(`one of ${answers.map(([name]) => name).join(', ')}`, (text) => {
    const wanted = text.toLowerCase();
    const answer = wanted === '' ? undefined : answers.find(([name, short]) => name.startsWith(wanted) || short.startsWith(wanted))?.[0];
    return answer === undefined ? undefined : { value: { type: 'text', text: answer }, text: answer };
  })(take, family, peek);
}

function stripOptions(...[take, family, peek]: Parameters<ArgumentReader>): ReturnType<ArgumentReader> {
  return fromText('a comma list of TCP options from 2 to 255, or their names', (text) => {
    const numbers = text.split(',', 256).map((name) => (Object.hasOwn(TCP_OPTIONS, name) ? TCP_OPTIONS[name] : parseNumber(name, 255)));
    const known = numbers.filter((option) => option !== undefined).filter((option) => option >= 2).toSorted((left, right) => left - right);
    return known.length !== numbers.length ? undefined : { value: { type: 'numbers', numbers: known }, text: [...new Set(known)].join(',') };
  })(take, family, peek);
}

function tosOperation(operation: 'and' | 'or' | 'xor'): ArgumentReader {
  return fromText('a number from 0 to 255', (text) => {
    const bits = parseNumber(text, 0xff);
    if (bits === undefined) {
      return undefined;
    }
    const masked = { and: { value: 0, mask: ~bits & 0xff }, or: { value: bits, mask: bits }, xor: { value: bits, mask: 0 } }[operation];
    return { value: { type: 'masked', ...masked }, text: `${hexText(masked.value, 2)}/${hexText(masked.mask, 2)}` };
  });
}

