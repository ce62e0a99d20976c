import type { ArgumentReader, Extension } from './extension.ts';
import { findOption, impliedOption } from './extension.ts';
import { SyntaxProblem } from './wordReader.ts';
import { flag, fromText, number, plainText, prefixLength } from './optionArguments.ts';
import type { ExtensionOption } from './ruleSet.ts';

/** Parts of a second in which xt_limit and xt_hashlimit keep periods (XT_LIMIT_SCALE, XT_HASHLIMIT_SCALE_v2). */
const LIMIT_SCALE = 10_000n;
const HASH_LIMIT_SCALE = 1_000_000n;

/** Units in the order in which iptables-save tries them: the first that is not exact enough ends the search (libxt_limit.c, print_rate). */
const UNITS: readonly (readonly [string, bigint])[] = [['day', 86_400n], ['hour', 3600n], ['min', 60n], ['sec', 1n]];
const UNIT_NAMES: readonly (readonly [string, bigint])[] = [['second', 1n], ['minute', 60n], ['hour', 3600n], ['day', 86_400n]];

const DEFAULT_LIMIT = '3/hour';
const DEFAULT_BURST = 5;

/** `-m limit` (libxt_limit.c). */
export const packetLimit: Extension = {
  name: 'limit',
  options: [{ name: 'limit', read: rate }, { name: 'limit-burst', read: number({ max: 10_000 }) }],
  complete: (options) => {
    const burst = findOption(options, 'limit-burst');
    const limit = findOption(options, 'limit') ?? impliedOption('limit', rateData(parsePeriod(DEFAULT_LIMIT, LIMIT_SCALE) ?? 0n, LIMIT_SCALE));
    return [limit, ...(burst === undefined || burst.text === String(DEFAULT_BURST) ? [] : [burst])];
  },
  check: ({ backend }, options) => (backend === 'legacy' && findOption(options, 'limit-burst')?.text === '0' ? 'The burst of limit cannot be 0.' : null),
};

function rate(...[take, family, peek]: Parameters<ArgumentReader>): ReturnType<ArgumentReader> {
  return fromText('a rate such as 5/minute', (text) => {
    const period = parsePeriod(text, LIMIT_SCALE);
    return period === undefined || period === 0n ? undefined : rateData(period, LIMIT_SCALE);
  })(take, family, peek);
}

function rateData(period: bigint, scale: bigint): ReturnType<ArgumentReader> {
  return { value: { type: 'rate', period: Number((period * LIMIT_SCALE) / scale) }, text: periodText(period, scale).text };
}

/** Reads `COUNT[/UNIT]`, where the beginning of a unit is enough; undefined where it is none, 0 where it is too fast to be kept. */
function parsePeriod(text: string, scale: bigint): bigint | undefined {
  const [, countText = '', unitText] = /^(\d{1,10})(?:\/(.*))?$/.exec(text) ?? [];
  const count = Number(countText);
  const unit = unitText === undefined ? UNIT_NAMES[0] : UNIT_NAMES.find(([name]) => unitText !== '' && name.startsWith(unitText.toLowerCase()));
  return count === 0 || unit === undefined ? undefined : (scale * unit[1]) / BigInt(count);
}

function periodText(period: bigint, scale: bigint): { readonly text: string; readonly seconds: bigint } {
  let index = 1;
  for (; index < UNITS.length; index += 1) {
    const multiple = (UNITS[index]?.[1] ?? 1n) * scale;
    if (period > multiple || multiple / period < multiple % period) {
      break;
    }
  }
  const [name, seconds] = UNITS[index - 1] ?? ['sec', 1n];
  return { text: `${(seconds * scale) / period}/${name}`, seconds };
}

/** Bytes are kept as a cost, in units of 16 bytes (libxt_hashlimit.c, bytes_to_cost and cost_to_bytes). */
const BYTE_SHIFT = 4n;
const MAX_COST = 0xffff_ffffn;
const FACTORS: Readonly<Record<string, bigint>> = { k: 1024n, m: 1024n * 1024n };
const BYTE_UNITS: readonly (readonly [string, bigint])[] = [['m', 1024n * 1024n], ['k', 1024n], ['', 1n]];
const BYTE_EXPIRE_SECONDS = 15n;
const BYTE_EXPIRE_BURST_SECONDS = 60n;
const MAX_BURST = 1_000_000n;
const MODES = ['srcip', 'srcport', 'dstip', 'dstport'] as const;

/** `-m hashlimit`, revision 3 (libxt_hashlimit.c). */
export const hashLimitMatch: Extension = {
  name: 'hashlimit',
  requiresOneOf: ['hashlimit-upto', 'hashlimit-above'],
  options: [
    { name: 'hashlimit-upto', aliases: ['hashlimit'], negatable: true, excludes: ['hashlimit-above'], read: hashRate },
    { name: 'hashlimit-above', negatable: true, excludes: ['hashlimit-upto'], read: hashRate },
    { name: 'hashlimit-burst', read: burst },
    { name: 'hashlimit-mode', read: modes },
    { name: 'hashlimit-name', required: true, read: plainText({ min: 1, max: 254, cut: true }) },
    { name: 'hashlimit-htable-size', read: number() },
    { name: 'hashlimit-htable-max', read: number() },
    { name: 'hashlimit-htable-gcinterval', read: number() },
    { name: 'hashlimit-htable-expire', read: number() },
    { name: 'hashlimit-srcmask', read: prefixLength },
    { name: 'hashlimit-dstmask', read: prefixLength },
    { name: 'hashlimit-rate-match', read: flag },
    { name: 'hashlimit-rate-interval', read: number({ min: 1 }) },
  ],
  complete: (options, family) => completeHashLimit(options, family === 'ipv4' ? '32' : '128'),
  check: (_, options) => {
    const limit = findOption(options, 'hashlimit-upto') ?? findOption(options, 'hashlimit-above');
    const size = findOption(options, 'hashlimit-burst')?.value;
    if (limit?.value.type !== 'bigNumber') {
      return size?.type === 'bigNumber' && size.value > MAX_BURST ? `The burst of hashlimit is at most ${MAX_BURST}.` : null;
    }
    return null;
  },
};

function hashRate(...[take, family, peek]: Parameters<ArgumentReader>): ReturnType<ArgumentReader> {
  return fromText('a rate such as 5/minute or 512kb/s', (text) => {
    const cost = parseCost(text);
    if (cost !== undefined) {
      return { value: { type: 'bigNumber', value: costToBytes(cost) }, text: bytesText(cost) };
    }
    const period = parsePeriod(text, HASH_LIMIT_SCALE);
    return period === undefined || period === 0n ? undefined : rateData(period, HASH_LIMIT_SCALE);
  })(take, family, peek);
}

function parseCost(text: string): bigint | undefined {
  const [, digits = '', unit = ''] = /^(\d{1,15})([a-z]?)b\/s/.exec(text) ?? [];
  const bytes = digits === '' ? 0n : BigInt(digits) * (Object.hasOwn(FACTORS, unit) ? (FACTORS[unit] ?? 1n) : 1n);
  const cost = bytes === 0n ? 0n : bytesToCost(bytes);
  return cost === 0n ? undefined : cost;
}

function bytesToCost(bytes: bigint): bigint {
  return MAX_COST / (((bytes >> BYTE_SHIFT) & MAX_COST) + 1n);
}

function costToBytes(cost: bigint): bigint {
  const units = cost === 0n ? MAX_COST : MAX_COST / cost;
  return (units - 1n) << BYTE_SHIFT;
}

function bytesText(cost: bigint): string {
  const bytes = costToBytes(cost);
  const [name, size] = BYTE_UNITS.find(([, threshold]) => threshold === 1n || (bytes >= threshold && bytesToCost(bytes & ~(threshold - 1n)) === cost)) ?? ['', 1n];
  return `${bytes / size}${name}b/s`;
}

function burst(...[take, family, peek]: Parameters<ArgumentReader>): ReturnType<ArgumentReader> {
  return fromText('a number of packets, or of bytes such as 1mb', (text) => {
    const [, digits = '', unit = ''] = /^(\d{1,15})([km]?)b?$/.exec(text) ?? [];
    const value = digits === '' ? 0n : BigInt(digits) * (Object.hasOwn(FACTORS, unit) ? (FACTORS[unit] ?? 1n) : 1n);
    return value === 0n ? undefined : { value: { type: 'bigNumber', value }, text: String(value) };
  })(take, family, peek);
}

function modes(...[take, family, peek]: Parameters<ArgumentReader>): ReturnType<ArgumentReader> {
  return fromText(`a comma list of ${MODES.join(', ')}`, (text) => {
    const given = text.split(/[,|]/, 20).filter((word) => word !== '');
    // Source comes before destination, and each address before its port (libxt_hashlimit.c, print_mode).
    const known = MODES.filter((mode) => given.includes(mode));
    return given.some((word) => !(MODES as readonly string[]).includes(word)) ? undefined : { value: { type: 'names', names: known }, text: known.join(',') };
  })(take, family, peek);
}

function completeHashLimit(options: readonly ExtensionOption[], wholeMask: string): readonly ExtensionOption[] {
  const limit = findOption(options, 'hashlimit-upto') ?? findOption(options, 'hashlimit-above');
  const given = findOption(options, 'hashlimit-burst');
  const isBytes = limit?.value.type === 'bigNumber';
  const burstOption = isBytes ? byteBurst(limit, given) : (given ?? impliedOption('hashlimit-burst', { value: { type: 'bigNumber', value: BigInt(DEFAULT_BURST) }, text: String(DEFAULT_BURST) }));
  const above = (limit?.name === 'hashlimit-above') !== (limit?.negated === true);
  const matchesRate = options.some(({ name }) => name === 'hashlimit-rate-match');
  const period = limit?.value.type === 'rate' ? /\/(\w+)$/.exec(limit.text ?? '')?.[1] : undefined;
  const seconds = isBytes ? (burstOption === undefined ? BYTE_EXPIRE_SECONDS : BYTE_EXPIRE_BURST_SECONDS) : (UNITS.find(([name]) => name === period)?.[1] ?? 1n);
  const silent: Readonly<Record<string, string>> = {
    'hashlimit-htable-size': '0', 'hashlimit-htable-max': '0', 'hashlimit-htable-gcinterval': '1000', 'hashlimit-htable-expire': String(seconds * 1000n),
    'hashlimit-srcmask': wholeMask, 'hashlimit-dstmask': wholeMask, 'hashlimit-rate-interval': '1', 'hashlimit-mode': '',
  };
  const rest = options.filter(
    (option) => option !== limit && option !== given && !(Object.hasOwn(silent, option.name) && silent[option.name] === option.text) && !(option.name === 'hashlimit-rate-interval' && !matchesRate),
  );
  return [...(limit === undefined ? [] : [{ ...limit, negated: false, name: above ? 'hashlimit-above' : 'hashlimit-upto' }]), ...(burstOption === undefined ? [] : [burstOption]), ...rest];
}

/** A burst of bytes is kept as a multiple of the rate. */
function byteBurst(limit: ExtensionOption, given: ExtensionOption | undefined): ExtensionOption | undefined {
  const bytes = limit.value.type === 'bigNumber' ? limit.value.value : 0n;
  if (given?.value.type !== 'bigNumber' || bytes === 0n) {
    return undefined;
  }
  if (given.value.value < bytes) {
    throw new SyntaxProblem(1, 'The burst of hashlimit cannot be smaller than its rate.', `at least ${bytes} bytes`);
  }
  const value = ((given.value.value + bytes - 1n) / bytes) * bytes;
  const [name, size] = BYTE_UNITS.find(([, threshold]) => threshold === 1n || value >= threshold) ?? ['', 1n];
  return { ...given, value: { type: 'bigNumber', value }, text: `${value / size}${name}b` };
}

