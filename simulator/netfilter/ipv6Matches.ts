import type { ArgumentReader, Extension, OptionDefinition, RuleSurroundings } from './extension.ts';
import { findOption } from './extension.ts';
import { flag, fromText, MAX_UINT16, number, range, looseNetwork, splitRange, WHOLE_UINT32 } from './optionArguments.ts';
import { formatRuleAddress, parseRuleAddress } from './iptablesAddress.ts';
import { parseNumber } from './numberText.ts';
import { parseProtocolNumber } from './protocols.ts';
import type { ExtensionOption } from './ruleSet.ts';

/** Names of mobility headers (RFC 6275), as libip6t_mh.c takes them. */
const MOBILITY_HEADERS: readonly (readonly [string, number])[] = [
  ['binding-refresh-request', 0], ['brr', 0], ['home-test-init', 1], ['hoti', 1], ['careof-test-init', 2], ['coti', 2], ['home-test', 3], ['hot', 3],
  ['careof-test', 4], ['cot', 4], ['binding-update', 5], ['bu', 5], ['binding-acknowledgement', 6], ['ba', 6], ['binding-error', 7], ['be', 7],
];

/** Extension headers as ipv6header prints them, in its order, with their numbers. */
const HEADERS: readonly (readonly [string, number])[] = [['hop-by-hop', 0], ['ipv6-opts', 60], ['ipv6-route', 43], ['ipv6-frag', 44], ['ah', 51], ['esp', 50], ['ipv6-nonxt', 59], ['protocol', 255]];
const HEADER_ALIASES: Readonly<Record<string, number>> = { hop: 0, dst: 60, route: 43, frag: 44, auth: 51, none: 59, prot: 255, protocol: 255, 'hop-by-hop': 0 };

const SEGMENT_FIELDS = ['hdr-len', 'segs-left', 'last-entry'].flatMap((field) => ['eq', 'gt', 'lt'].map((operator) => `srh-${field}-${operator}`));

/** Matches of ip6tables for extension headers. */
export const IPV6_MATCHES: readonly Extension[] = [
  {
    name: 'ah',
    family: 'ipv6',
    options: [{ name: 'ahspi', negatable: true, read: range(WHOLE_UINT32.last) }, { name: 'ahlen', negatable: true, read: number() }, { name: 'ahres', read: flag }],
    complete: (options) => dropWhole(options, 'ahspi').filter(({ name, text, negated }) => !(name === 'ahlen' && text === '0' && !negated)),
  },
  { name: 'dst', family: 'ipv6', options: headerOptions('dst') },
  { name: 'hbh', family: 'ipv6', options: headerOptions('hbh') },
  { name: 'eui64', family: 'ipv6', hooks: ['PREROUTING', 'INPUT', 'FORWARD'], options: [] },
  {
    name: 'frag',
    family: 'ipv6',
    options: [
      { name: 'fragid', negatable: true, read: range(WHOLE_UINT32.last) },
      { name: 'fraglen', negatable: true, read: number() },
      { name: 'fragres', read: flag },
      { name: 'fragfirst', read: flag },
      { name: 'fragmore', excludes: ['fraglast'], read: flag },
      { name: 'fraglast', excludes: ['fragmore'], read: flag },
    ],
    complete: (options) => dropWhole(options, 'fragid'),
  },
  { name: 'ipv6header', family: 'ipv6', options: [{ name: 'header', negatable: true, required: true, read: headers }, { name: 'soft', read: flag }] },
  { name: 'mh', family: 'ipv6', protocols: ['mobility-header'], options: [{ name: 'mh-type', negatable: true, read: mobilityHeaders }], complete: (options) => options.filter(({ text }) => text !== '0:255') },
  {
    name: 'rt',
    family: 'ipv6',
    options: [
      { name: 'rt-type', negatable: true, read: number() },
      { name: 'rt-segsleft', negatable: true, read: range(WHOLE_UINT32.last) },
      { name: 'rt-len', negatable: true, read: number() },
      { name: 'rt-0-res', read: flag },
      { name: 'rt-0-addrs', read: routeAddresses },
      { name: 'rt-0-not-strict', needs: ['rt-0-addrs'], read: flag },
    ],
    complete: (options) => dropWhole(options, 'rt-segsleft'),
    check: (_: RuleSurroundings, options: readonly ExtensionOption[]): string | null => {
      const type = findOption(options, 'rt-type');
      const asksType0 = options.some(({ name }) => name.startsWith('rt-0-'));
      return asksType0 && (type?.text !== '0' || type.negated) ? 'rt takes options of type 0 with --rt-type 0 only.' : null;
    },
  },
  {
    name: 'srh',
    family: 'ipv6',
    options: [
      { name: 'srh-next-hdr', negatable: true, read: number({ max: 255 }) },
      ...SEGMENT_FIELDS.map((name): OptionDefinition => ({ name, negatable: true, read: number({ max: 255 }) })),
      { name: 'srh-tag', negatable: true, read: number({ max: MAX_UINT16 }) },
      ...['srh-psid', 'srh-nsid', 'srh-lsid'].map((name): OptionDefinition => ({ name, negatable: true, read: looseNetwork })),
    ],
  },
];

function headerOptions(prefix: 'dst' | 'hbh'): OptionDefinition[] {
  return [
    { name: `${prefix}-len`, negatable: true, read: number() },
    { name: `${prefix}-opts`, read: headerOptionList },
  ];
}

/** `TYPE[:LENGTH],…`: at most 16 options (libip6t_hbh.c, libip6t_dst.c). */
function headerOptionList(...[take, family, peek]: Parameters<ArgumentReader>): ReturnType<ArgumentReader> {
  return fromText('a comma list of options such as 1:2,42', (text) => {
    const parts = text.split(',', 17).map((part) => part.split(':').map((field) => parseNumber(field, 255)));
    if (parts.length > 16 || parts.some((fields) => fields.length > 2 || fields.includes(undefined) || (fields.length === 2 && fields[0] === 0))) {
      return undefined;
    }
    const printed = parts.map(([type, length]) => (length === undefined || length === 255 ? String(type) : `${type}:${length}`));
    return { value: { type: 'names', names: printed }, text: printed.join(',') };
  })(take, family, peek);
}

function headers(...[take, family, peek]: Parameters<ArgumentReader>): ReturnType<ArgumentReader> {
  return fromText(`a comma list of ${HEADERS.map(([name]) => name).join(', ')}`, (text) => {
    const numbers = text.split(',', 20).map((name) => (Object.hasOwn(HEADER_ALIASES, name) ? HEADER_ALIASES[name] : parseProtocolNumber(name)));
    const known = HEADERS.filter(([, header]) => numbers.includes(header));
    if (numbers.some((header) => !HEADERS.some(([, other]) => other === header))) {
      return undefined;
    }
    return { value: { type: 'names', names: known.map(([name]) => name) }, text: known.map(([name]) => name).join(',') };
  })(take, family, peek);
}

function mobilityHeaders(...[take, family, peek]: Parameters<ArgumentReader>): ReturnType<ArgumentReader> {
  return fromText('a type of mobility header such as 5 or binding-update, or a range', (text) => {
    const ends = splitRange(text, mobilityHeader, 0, 255);
    return ends === undefined || ends.first > ends.last ? undefined : { value: { type: 'range', ...ends }, text: ends.first === ends.last ? String(ends.first) : `${ends.first}:${ends.last}` };
  })(take, family, peek);
}

function mobilityHeader(text: string): number | undefined {
  const wanted = text.toLowerCase();
  const exact = MOBILITY_HEADERS.find(([name]) => name === wanted);
  const beginning = wanted === '' ? [] : MOBILITY_HEADERS.filter(([name]) => name.startsWith(wanted));
  return exact?.[1] ?? (beginning.length === 1 ? beginning[0]?.[1] : parseNumber(text, 255));
}

/** At most 16 addresses (libip6t_rt.c). */
function routeAddresses(...[take, family, peek]: Parameters<ArgumentReader>): ReturnType<ArgumentReader> {
  return fromText('a comma list of IPv6 addresses', (text) => {
    const given = text.split(',', 17).map((part) => parseRuleAddress(part, 'ipv6'));
    const known = given.filter((address) => address !== undefined).map((address) => formatRuleAddress(address, 'ipv6'));
    return given.length > 16 || known.length !== given.length ? undefined : { value: { type: 'names', names: known }, text: known.join(',') };
  })(take, family, peek);
}

function dropWhole(options: readonly ExtensionOption[], name: string): readonly ExtensionOption[] {
  return options.filter((option) => !(option.name === name && option.value.type === 'range' && option.value.first === 0 && option.value.last === WHOLE_UINT32.last));
}
