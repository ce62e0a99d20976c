import type { ArgumentReader, Extension, OptionDefinition, RuleSurroundings } from './extension.ts';
import { findOption, impliedOption } from './extension.ts';
import { hashLimitMatch, packetLimit } from './rateLimits.ts';
import { timeMatch } from './timeMatch.ts';
import {
  address, bigNumber, choice, flag, fromText, maskedMark, MAX_UINT32, names, network, number, plainText, port, ports, prefixLength, protocolNumber, quotedText, range, rangeText,
} from './optionArguments.ts';
import { hexText, parseBigNumber, parseNumber } from './numberText.ts';
import { parseProtocolNumber, protocolName } from './protocols.ts';
import type { AddressFamily, ExtensionOption } from './ruleSet.ts';

/** XT_RECENT_MAX_NSTAMPS less one (net/netfilter/xt_recent.c). */
const MAX_HITS = 65_535;

const STATES = ['INVALID', 'NEW', 'RELATED', 'ESTABLISHED', 'UNTRACKED'] as const;
const STATUSES = ['NONE', 'EXPECTED', 'SEEN_REPLY', 'ASSURED', 'CONFIRMED'] as const;

/** Root is the one name that is the same on every machine. Ranges may have a colon too (extensions/libxt_owner.c). */
/** The greatest id; the next one stands for none (libxt_owner.c). */
const MAX_ID = 0xffff_fffe;
const ids: ArgumentReader = fromText('a numeric id or a range such as 1000-1999', (text) => {
  const [firstText = '', lastText, ...rest] = (text === 'root' ? '0' : text).split(/[-:]/);
  const first = parseNumber(firstText);
  const last = lastText === undefined ? first : parseNumber(lastText);
  if (first === undefined || last === undefined || rest.length > 0 || first > last || last > MAX_ID) {
    return undefined;
  }
  return { value: { type: 'range', first, last }, text: rangeText({ first, last }, '-') };
});

/** Matches that look at connections, sockets, counters and other state that is not in the packet. */
export const CONNECTION_MATCHES: readonly Extension[] = [
  {
    name: 'conntrack',
    options: [
      { name: 'ctstate', negatable: true, read: names([...STATES.slice(0, 4), 'UNTRACKED', 'SNAT', 'DNAT'], { anyCase: true }) },
      { name: 'ctproto', negatable: true, read: protocolNumber },
      ...['ctorigsrc', 'ctorigdst', 'ctreplsrc', 'ctrepldst'].map((name): OptionDefinition => ({ name, negatable: true, read: network })),
      ...['ctorigsrcport', 'ctorigdstport', 'ctreplsrcport', 'ctrepldstport'].map((name): OptionDefinition => ({ name, negatable: true, read: ports })),
      { name: 'ctstatus', negatable: true, read: names(STATUSES, { anyCase: true }) },
      { name: 'ctexpire', negatable: true, read: range(MAX_UINT32) },
      { name: 'ctdir', read: choice(['ORIGINAL', 'REPLY'], { anyCase: true }) },
    ],
    requiresOneOf: ['ctstate', 'ctproto', 'ctorigsrc', 'ctorigdst', 'ctreplsrc', 'ctrepldst', 'ctorigsrcport', 'ctorigdstport', 'ctreplsrcport', 'ctrepldstport', 'ctstatus', 'ctexpire', 'ctdir'],
  },
  { name: 'state', options: [{ name: 'state', negatable: true, required: true, read: names(STATES, { anyCase: true }) }] },
  { name: 'connmark', options: [{ name: 'mark', negatable: true, required: true, read: maskedMark }] },
  {
    name: 'connbytes',
    options: [
      { name: 'connbytes', negatable: true, required: true, read: connectionBytes },
      { name: 'connbytes-mode', required: true, read: choice(['packets', 'bytes', 'avgpkt']) },
      { name: 'connbytes-dir', required: true, read: choice(['original', 'reply', 'both']) },
    ],
  },
  {
    name: 'connlimit',
    requiresOneOf: ['connlimit-upto', 'connlimit-above'],
    options: [
      { name: 'connlimit-upto', negatable: true, excludes: ['connlimit-above'], read: number() },
      { name: 'connlimit-above', negatable: true, excludes: ['connlimit-upto'], read: number() },
      { name: 'connlimit-mask', read: prefixLength },
      { name: 'connlimit-saddr', excludes: ['connlimit-daddr'], read: flag },
      { name: 'connlimit-daddr', excludes: ['connlimit-saddr'], read: flag },
    ],
    complete: (options: readonly ExtensionOption[], family: AddressFamily): readonly ExtensionOption[] => {
      const limit = findOption(options, 'connlimit-upto') ?? findOption(options, 'connlimit-above');
      const upto = (limit?.name === 'connlimit-upto') !== (limit?.negated === true);
      const bits = family === 'ipv4' ? 32 : 128;
      return [
        ...(limit === undefined ? [] : [{ ...limit, negated: false, name: upto ? 'connlimit-upto' : 'connlimit-above' }]),
        findOption(options, 'connlimit-mask') ?? impliedOption('connlimit-mask', { value: { type: 'number', value: bits }, text: String(bits) }),
        findOption(options, 'connlimit-daddr') ?? impliedOption('connlimit-saddr', { value: { type: 'flag' }, text: null }),
      ];
    },
  },
  { name: 'connlabel', options: [{ name: 'label', negatable: true, required: true, read: connectionLabel }, { name: 'set', read: flag }] },
  { name: 'helper', options: [{ name: 'helper', negatable: true, required: true, read: quotedText({ max: 29, cut: true }) }] },
  packetLimit,
  hashLimitMatch,
  timeMatch,
  {
    name: 'recent',
    requiresOneOf: ['set', 'rcheck', 'update', 'remove'],
    options: [
      ...['set', 'rcheck', 'update', 'remove'].map((name, _, all): OptionDefinition => ({ name, negatable: true, excludes: all.filter((other) => other !== name), read: flag })),
      { name: 'seconds', read: number({ min: 1 }) },
      { name: 'reap', needs: ['seconds'], read: flag },
      { name: 'hitcount', read: number() },
      { name: 'rttl', excludes: ['set', 'remove'], read: flag },
      { name: 'name', read: plainText({ max: 199, cut: true }) },
      { name: 'mask', read: address },
      { name: 'rsource', excludes: [], read: flag },
      { name: 'rdest', read: flag },
    ],
    complete: (options: readonly ExtensionOption[], family: AddressFamily): readonly ExtensionOption[] => {
      const mask = family === 'ipv4' ? '255.255.255.255' : 'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff';
      const ends = new Set(['name', 'mask', 'rsource', 'rdest']);
      return [
        ...options.filter(({ name, text }) => !ends.has(name) && !(name === 'hitcount' && text === '0')),
        findOption(options, 'name') ?? impliedOption('name', { value: { type: 'text', text: 'DEFAULT' }, text: 'DEFAULT' }),
        findOption(options, 'mask') ?? impliedOption('mask', { value: { type: 'text', text: mask }, text: mask }),
        findOption(options, 'rdest') ?? impliedOption('rsource', { value: { type: 'flag' }, text: null }),
      ];
    },
    check: (_: RuleSurroundings, options: readonly ExtensionOption[]): string | null => {
      const count = findOption(options, 'hitcount')?.value;
      const name = findOption(options, 'name')?.text ?? '';
      if (count?.type === 'number' && count.value > MAX_HITS) {
        return `recent counts up to ${MAX_HITS} hits.`;
      }
      if (count !== undefined && options.some((option) => option.name === 'set' || option.name === 'remove')) {
        return 'recent takes --hitcount with --rcheck and --update only.';
      }
      return options.some((option) => option.name === 'seconds') && options.some((option) => option.name === 'set' || option.name === 'remove')
        ? 'recent takes --seconds with --rcheck and --update only.'
        : name.includes('/') ? 'A name of recent cannot hold a slash.' : null;
    },
  },
  {
    name: 'set',
    requiresOneOf: ['match-set'],
    options: [
      { name: 'match-set', aliases: ['set'], negatable: true, read: setReference },
      { name: 'return-nomatch', read: flag },
      { name: 'update-counters', negatable: true, read: flag },
      { name: 'update-subcounters', negatable: true, read: flag },
      { name: 'packets-eq', negatable: true, excludes: ['packets-lt', 'packets-gt'], read: bigNumber },
      { name: 'packets-lt', excludes: ['packets-eq', 'packets-gt'], read: bigNumber },
      { name: 'packets-gt', excludes: ['packets-eq', 'packets-lt'], read: bigNumber },
      { name: 'bytes-eq', negatable: true, excludes: ['bytes-lt', 'bytes-gt'], read: bigNumber },
      { name: 'bytes-lt', excludes: ['bytes-eq', 'bytes-gt'], read: bigNumber },
      { name: 'bytes-gt', excludes: ['bytes-eq', 'bytes-lt'], read: bigNumber },
    ],
    complete: (options) => options.filter(({ name, negated }) => !name.startsWith('update-') || negated),
  },
  {
    name: 'owner',
    hooks: ['OUTPUT', 'POSTROUTING'],
    requiresOneOf: ['socket-exists', 'uid-owner', 'gid-owner'],
    options: [
      { name: 'socket-exists', negatable: true, read: flag },
      { name: 'uid-owner', negatable: true, read: ids },
      { name: 'gid-owner', negatable: true, read: ids },
      { name: 'suppl-groups', after: 'gid-owner', read: flag },
    ],
  },
  {
    name: 'cgroup',
    hooks: ['INPUT', 'OUTPUT', 'POSTROUTING'],
    requiresOneOf: ['path', 'cgroup'],
    options: [{ name: 'path', negatable: true, excludes: ['cgroup'], read: quotedText({ min: 1, max: 511 }) }, { name: 'cgroup', negatable: true, excludes: ['path'], read: number() }],
  },
  { name: 'socket', hooks: ['PREROUTING', 'INPUT'], options: ['transparent', 'nowildcard', 'restore-skmark'].map((name) => ({ name, read: flag })) },
  { name: 'rpfilter', tables: ['raw', 'mangle'], hooks: ['PREROUTING'], options: ['loose', 'validmark', 'accept-local', 'invert'].map((name) => ({ name, read: flag })) },
  {
    name: 'policy',
    requiresOneOf: ['dir'],
    options: [
      { name: 'dir', read: choice(['in', 'out']) },
      { name: 'pol', read: choice(['ipsec', 'none']) },
      { name: 'strict', read: flag },
      { name: 'reqid', negatable: true, repeatable: true, read: number() },
      { name: 'spi', negatable: true, repeatable: true, read: number({ print: hexText }) },
      { name: 'proto', negatable: true, repeatable: true, read: namedProtocol },
      { name: 'mode', negatable: true, repeatable: true, read: choice(['transport', 'tunnel']) },
      { name: 'tunnel-dst', negatable: true, repeatable: true, read: network },
      { name: 'tunnel-src', negatable: true, repeatable: true, read: network },
      { name: 'next', needs: ['strict'], repeatable: true, read: flag },
    ],
    check: (_: RuleSurroundings, options: readonly ExtensionOption[]): string | null => checkPolicy(options),
  },
  {
    name: 'statistic',
    options: [
      { name: 'mode', required: true, read: choice(['random', 'nth']) },
      { name: 'probability', negatable: true, excludes: ['every', 'packet'], read: probability },
      { name: 'every', negatable: true, excludes: ['probability'], needs: ['packet'], read: number({ min: 1 }) },
      { name: 'packet', excludes: ['probability'], needs: ['every'], read: number() },
    ],
    check: (_: RuleSurroundings, options: readonly ExtensionOption[]): string | null => {
      const every = findOption(options, 'every')?.value;
      const packet = findOption(options, 'packet')?.value;
      const mode = findOption(options, 'mode')?.text;
      if ((mode === 'random') !== options.some(({ name }) => name === 'probability')) {
        return 'statistic needs --probability with --mode random, and --every with --mode nth.';
      }
      return every?.type === 'number' && packet?.type === 'number' && packet.value >= every.value ? 'The --packet of statistic must be less than its --every.' : null;
    },
  },
  { name: 'quota', options: [{ name: 'quota', negatable: true, required: true, read: bigNumber }] },
  { name: 'cpu', options: [{ name: 'cpu', negatable: true, required: true, read: number() }] },
  {
    name: 'osf',
    family: 'ipv4',
    protocols: ['tcp'],
    hooks: ['PREROUTING', 'INPUT', 'FORWARD'],
    options: [{ name: 'genre', negatable: true, required: true, read: plainText({ max: 31, cut: true }) }, { name: 'ttl', read: number({ max: 2 }) }, { name: 'log', read: number({ max: 2 }) }],
  },
  {
    name: 'ipvs',
    requiresOneOf: ['ipvs', 'vproto', 'vaddr', 'vport', 'vdir', 'vmethod', 'vportctl'],
    options: [
      { name: 'ipvs', negatable: true, read: flag },
      { name: 'vproto', negatable: true, read: protocolNumber },
      { name: 'vaddr', negatable: true, read: network },
      { name: 'vport', negatable: true, read: port },
      { name: 'vdir', read: choice(['ORIGINAL', 'REPLY'], { anyCase: true }) },
      { name: 'vmethod', negatable: true, read: choice(['GATE', 'IPIP', 'MASQ'], { anyCase: true }) },
      { name: 'vportctl', negatable: true, read: port },
    ],
    complete: (options) => (options.length > 1 ? options.filter(({ name }) => name !== 'ipvs') : options),
  },
  { name: 'nfacct', options: [{ name: 'nfacct-name', required: true, read: plainText({ min: 1, max: 31, cut: true }) }] },
  {
    name: 'rateest',
    requiresOneOf: ['rateest', 'rateest1'],
    options: [
      { name: 'rateest-delta', read: flag },
      { name: 'rateest', excludes: ['rateest1'], read: plainText({ max: 15 }) },
      { name: 'rateest1', excludes: ['rateest'], read: plainText({ max: 15 }) },
      { name: 'rateest-bps1', read: optionalRate('bit') },
      { name: 'rateest-pps1', read: optionalRate('') },
      { name: 'rateest-lt', negatable: true, excludes: ['rateest-gt', 'rateest-eq'], read: flag },
      { name: 'rateest-gt', negatable: true, excludes: ['rateest-lt', 'rateest-eq'], read: flag },
      { name: 'rateest-eq', negatable: true, excludes: ['rateest-lt', 'rateest-gt'], read: flag },
      { name: 'rateest-bps', excludes: ['rateest-bps2'], read: optionalRate('bit') },
      { name: 'rateest-bps2', read: optionalRate('bit') },
      { name: 'rateest-pps', excludes: ['rateest-pps2'], read: optionalRate('') },
      { name: 'rateest-pps2', read: optionalRate('') },
      { name: 'rateest2', read: plainText({ max: 15 }) },
    ],
  },
  {
    name: 'cluster',
    requiresOneOf: ['cluster-local-node', 'cluster-local-nodemask'],
    options: [
      { name: 'cluster-local-nodemask', negatable: true, excludes: ['cluster-local-node'], read: number({ min: 1, print: (value) => hexText(value, 8) }) },
      { name: 'cluster-local-node', negatable: true, excludes: ['cluster-local-nodemask'], read: number({ min: 1, max: 32 }) },
      { name: 'cluster-total-nodes', required: true, read: number({ min: 1, max: 32 }) },
      { name: 'cluster-hash-seed', required: true, read: number({ print: (value) => hexText(value, 8) }) },
    ],
    complete: (options) =>
      options.map((option) => {
        const node = option.name === 'cluster-local-node' && option.value.type === 'number' ? option.value.value : undefined;
        const mask = node === undefined ? 0 : (1 << (node - 1)) >>> 0;
        return node === undefined ? option : { ...option, name: 'cluster-local-nodemask', value: { type: 'number', value: mask }, text: hexText(mask, 8) };
      }),
    check: (_: RuleSurroundings, options: readonly ExtensionOption[]): string | null => {
      const [mask, total] = ['cluster-local-nodemask', 'cluster-total-nodes'].map((name) => findOption(options, name)?.value);
      return mask?.type === 'number' && total?.type === 'number' && mask.value >= 2 ** total.value ? 'A local node of cluster is beyond its nodes.' : null;
    },
  },
];

function connectionBytes(...[take]: Parameters<ArgumentReader>): ReturnType<ArgumentReader> {
  return fromText('a number or a range such as 100:200', (text) => {
    const [firstText = '', lastText, ...rest] = text.split(':');
    const greatest = 0xffff_ffff_ffff_ffffn;
    const first = firstText === '' && lastText !== undefined ? 0n : parseBigNumber(firstText);
    const last = lastText === undefined || lastText === '' ? greatest : parseBigNumber(lastText);
    if (first === undefined || last === undefined || rest.length > 0 || first > last) {
      return undefined;
    }
    return { value: { type: 'bigRange', first, last }, text: last === greatest || last === 0n ? String(first) : `${first}:${last}` };
  })(take, 'ipv4', () => undefined);
}

function connectionLabel(...[take, family, peek]: Parameters<ArgumentReader>): ReturnType<ArgumentReader> {
  return fromText('the number of a label from 0 to 127', (text) => {
    const value = parseNumber(text, 127);
    return value === undefined ? undefined : { value: { type: 'number', value }, text: `"${value}"` };
  })(take, family, peek);
}

/** `NAME src|dst[,src|dst…]` of `-m set`. */
export function setReference(...[take]: Parameters<ArgumentReader>): ReturnType<ArgumentReader> {
  const name = plainText({ min: 1, max: 31 })(take, 'ipv4', () => undefined);
  const directions = fromText('src or dst, up to six with commas between', (text) => {
    const given = text.split(',', 7);
    const known = given.flatMap((word) => (word === 'src' || word === 'dst' ? [word] : []));
    return known.length !== given.length || known.length > 6 ? undefined : { value: { type: 'names', names: known }, text };
  })(take, 'ipv4', () => undefined);
  const setName = name.value.type === 'text' ? name.value.text : '';
  const words = directions.value.type === 'names' ? directions.value.names : [];
  return { value: { type: 'set', name: setName, directions: words.map((word) => (word === 'src' ? 'src' : 'dst')) }, text: `${name.text ?? ''} ${directions.text ?? ''}` };
}

function namedProtocol(...[take, family, peek]: Parameters<ArgumentReader>): ReturnType<ArgumentReader> {
  return fromText('ah, esp or ipcomp', (text) => {
    const value = parseProtocolNumber(text.toLowerCase());
    return value === undefined ? undefined : { value: { type: 'number', value }, text: protocolName(value) };
  })(take, family, peek);
}

/** The kernel keeps 31 bits of it (libxt_statistic.c). */
function probability(...[take, family, peek]: Parameters<ArgumentReader>): ReturnType<ArgumentReader> {
  return fromText('a probability from 0 to 1', (text) => {
    const given = /^\+?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d{1,3})?$/i.test(text) ? Number(text) : Number.NaN;
    if (!(given >= 0 && given <= 1)) {
      return undefined;
    }
    const kept = roundAway(given * 0x8000_0000);
    return { value: { type: 'number', value: kept / 0x8000_0000 }, text: (kept / 0x8000_0000).toFixed(11) };
  })(take, family, peek);
}

/** As lround(3) does: halves go away from zero. */
function roundAway(value: number): number {
  return Math.floor(value + 0.5);
}

/** `--rateest-bps` and `--rateest-pps` have a rate behind them, or none where two estimators are compared (libxt_rateest.c). */
function optionalRate(unit: 'bit' | ''): ArgumentReader {
  const suffixes: Readonly<Record<string, number>> = {
    bit: 1, kibit: 1024, kbit: 1e3, mibit: 1024 ** 2, mbit: 1e6, gibit: 1024 ** 3, gbit: 1e9, tibit: 1024 ** 4, tbit: 1e12,
    bps: 8, kibps: 8 * 1024, kbps: 8e3, mibps: 8 * 1024 ** 2, mbps: 8e6, gibps: 8 * 1024 ** 3, gbps: 8e9, tibps: 8 * 1024 ** 4, tbps: 8e12,
  };
  return (take, family, peek) => {
    const next = peek()?.text;
    if (next === undefined || next.startsWith('-') || next.startsWith('!')) {
      return { value: { type: 'flag' }, text: null };
    }
    return fromText('a rate', (text) => {
      if (unit === '') {
        const value = parseNumber(text);
        return value === undefined ? undefined : { value: { type: 'number', value }, text: String(value) };
      }
      const [, digits = '', suffix = ''] = /^(\d+(?:\.\d+)?)([a-z]*)$/i.exec(text) ?? [];
      const known = suffix.toLowerCase();
      const scale = suffix === '' ? 1 : Object.hasOwn(suffixes, known) ? suffixes[known] : undefined;
      const bytes = digits === '' || scale === undefined ? undefined : Math.floor((Number(digits) * scale) / 8);
      return bytes === undefined || bytes > MAX_UINT32 ? undefined : { value: { type: 'number', value: bytes }, text: `${bytes * 8}bit` };
    })(take, family, peek);
  };
}

/** libxt_policy.c, policy_check: an element of --strict needs something to compare, and tunnels their mode. */
function checkPolicy(options: readonly ExtensionOption[]): string | null {
  const strict = options.some(({ name }) => name === 'strict');
  const none = findOption(options, 'pol')?.text === 'none';
  const elements: ExtensionOption[][] = [[]];
  for (const option of options) {
    if (option.name === 'next') {
      elements.push([]);
    } else if (!['dir', 'pol', 'strict'].includes(option.name)) {
      elements.at(-1)?.push(option);
    }
  }
  const filled = elements.filter((element) => element.length > 0).length;
  if (none) {
    return strict || filled > 0 ? 'policy takes nothing else with --pol none.' : null;
  }
  if (strict && filled < elements.length) {
    return 'policy needs something to compare in each element of --strict.';
  }
  const tunnelled = elements.find((element) => element.some(({ name }) => name.startsWith('tunnel-')) && !element.some(({ name, text, negated }) => name === 'mode' && (text === 'tunnel') !== negated));
  return strict && tunnelled !== undefined ? 'policy compares the ends of a tunnel with --mode tunnel only.' : null;
}

