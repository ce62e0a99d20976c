import type { ArgumentReader, OptionData } from './extension.ts';
import { formatRuleAddress, formatRulePrefix, parseRuleAddress, parseRulePrefix } from './iptablesAddress.ts';
import { hexText, parseBigNumber, parseNumber } from './numberText.ts';
import { parseProtocolNumber } from './protocols.ts';
import { findService } from './services.ts';
import { quoteWord, utf8Length } from './words.ts';
import type { Word } from './words.ts';
import { rejectWord } from './wordReader.ts';

export const MAX_UINT8 = 0xff;
export const MAX_UINT16 = 0xffff;
export const MAX_UINT32 = 0xffff_ffff;
const MAX_UINT64 = 0xffff_ffff_ffff_ffffn;

/** Readers of the arguments of options: the types of libxtables/xtoptions.c, and those that several extensions share. */

/** An option without an argument. */
export const flag: ArgumentReader = () => ({ value: { type: 'flag' }, text: null });

/** A number from `min` to `max`, printed by `print`. */
export function number({ min = 0, max = MAX_UINT32, print = String }: { readonly min?: number; readonly max?: number; readonly print?: (value: number) => string } = {}): ArgumentReader {
  return fromText(`a number from ${min} to ${max}`, (text) => {
    const value = parseNumber(text, max);
    return value === undefined || value < min ? undefined : { value: { type: 'number', value }, text: print(value) };
  });
}

/** A number of 64 bits. */
export const bigNumber: ArgumentReader = fromText('a number of 64 bits', (text) => {
  const value = parseBigNumber(text, MAX_UINT64);
  return value === undefined ? undefined : { value: { type: 'bigNumber', value }, text: String(value) };
});

/** `N`, `N:M`, `N:` or `:M`; iptables does not ask that N is the smaller one, unless `ordered`. */
export function range(max: number, { ordered = false }: { readonly ordered?: boolean } = {}): ArgumentReader {
  return fromText(`a number or a range such as 1:${Math.min(max, 20)}`, (text) => {
    const ends = splitRange(text, (end) => parseNumber(end, max), 0, max);
    if (ends === undefined || (ordered && ends.first > ends.last)) {
      return undefined;
    }
    return { value: { type: 'range', ...ends }, text: rangeText(ends, ':') };
  });
}

/** A range that says nothing where it is whole: iptables-save leaves it out then. */
export const WHOLE_UINT32 = { first: 0, last: MAX_UINT32 } as const;

/** A port, a service, or a range of them with colons. */
export const ports: ArgumentReader = fromText('a port, a service, or a range such as 80:90', (text) => {
  const ends = splitRange(text, parsePort, 0, MAX_UINT16);
  return ends === undefined || ends.first > ends.last ? undefined : { value: { type: 'range', ...ends }, text: rangeText(ends, ':') };
});

/** Like ports, where the first may be the greater: such a range holds no port. */
export const anyPorts: ArgumentReader = fromText('a port, a service, or a range such as 80:90', (text) => {
  const ends = splitRange(text, parsePort, 0, MAX_UINT16);
  return ends === undefined ? undefined : { value: { type: 'range', ...ends }, text: rangeText(ends, ':') };
});

/** One port or service. */
export const port: ArgumentReader = fromText('a port or a service', (text) => {
  const value = parsePort(text);
  return value === undefined ? undefined : { value: { type: 'number', value }, text: String(value) };
});

/** Any text, printed as xtables_save_string does; longer ones are refused, or cut where `cut`. */
export function quotedText({ max = Infinity, min = 0, cut = false }: { readonly max?: number; readonly min?: number; readonly cut?: boolean } = {}): ArgumentReader {
  return (take) => {
    const word = take('text');
    const bytes = utf8Length(word.text);
    if (bytes < min || (bytes > max && !cut)) {
      return rejectWord(word, `text of ${min} to ${max} bytes`);
    }
    const text = bytes > max ? cutText(word.text, max) : word.text;
    return { value: { type: 'text', text }, text: quoteWord(text) };
  };
}

/** A name that iptables-save prints without quotes. */
export function plainText({ max = Infinity, min = 0, cut = false }: { readonly max?: number; readonly min?: number; readonly cut?: boolean } = {}): ArgumentReader {
  const read = quotedText({ max, min, cut });
  return (take, family, peek) => {
    const { value } = read(take, family, peek);
    const text = value.type === 'text' ? value.text : '';
    return { value, text: bareWord(text) };
  };
}

/** One of several words. Their case counts unless `anyCase`; the printed form is the one in the list. */
export function choice(words: readonly string[], { anyCase = false }: { readonly anyCase?: boolean } = {}): ArgumentReader {
  return fromText(words.join(' or '), (text) => {
    const found = words.find((word) => word === text || (anyCase && word.toLowerCase() === text.toLowerCase()));
    return found === undefined ? undefined : { value: { type: 'text', text: found }, text: found };
  });
}

/** A comma list of words, printed in the order of `words`. */
export function names(words: readonly string[], { aliases = {}, anyCase = false }: { readonly aliases?: Readonly<Record<string, string>>; readonly anyCase?: boolean } = {}): ArgumentReader {
  return fromText(`a comma list of ${words.join(', ')}`, (text) => {
    const given = text.split(',', words.length * 4 + 1).map((part) => {
      const wanted = anyCase ? part.toUpperCase() : part;
      return Object.hasOwn(aliases, wanted) ? aliases[wanted] : words.find((word) => word === wanted);
    });
    if (given.includes(undefined) || given.length > words.length * 4) {
      return undefined;
    }
    const found = words.filter((word) => given.includes(word));
    return { value: { type: 'names', names: found }, text: found.join(',') };
  });
}

/** `VALUE` or `VALUE/MASK` of 32 bits, printed in hexadecimal; without the mask where that is whole. */
export const maskedMark: ArgumentReader = fromText('a mark such as 0x1 or 0x1/0xff', (text) => {
  const masked = parseMasked(text, MAX_UINT32);
  return masked === undefined ? undefined : { value: { type: 'masked', ...masked }, text: maskedText(masked) };
});

/** A mark that is printed with its mask always. */
export const wholeMark: ArgumentReader = fromText('a mark such as 0x1 or 0x1/0xff', (text) => {
  const masked = parseMasked(text, MAX_UINT32);
  return masked === undefined ? undefined : { value: { type: 'masked', ...masked }, text: `${hexText(masked.value)}/${hexText(masked.mask)}` };
});

/** An address of the rule's family. */
export const address: ArgumentReader = (take, family) => {
  const word = take('an address');
  const found = parseRuleAddress(word.text, family) ?? rejectWord(word, 'an address');
  return { value: { type: 'addresses', first: found, last: found }, text: formatRuleAddress(found, family) };
};

/** A network, printed with its length unless it is one address. */
export const network: ArgumentReader = (take, family) => {
  const word = take('an address or a network');
  const prefix = parseRulePrefix(word.text, family) ?? rejectWord(word, 'an address or a network');
  // The bits behind the prefix are not cleared here.
  const host = parseRuleAddress(word.text.split('/')[0] ?? '', family) ?? prefix.address;
  const mask = formatRulePrefix(prefix, family).split('/')[1] ?? '';
  return { value: { type: 'prefix', prefix }, text: mask === (family === 'ipv4' ? '32' : '128') ? formatRuleAddress(host, family) : `${formatRuleAddress(host, family)}/${mask}` };
};

/** A network that is printed with its length always. */
export const wholeNetwork: ArgumentReader = (take, family) => {
  const word = take('an address or a network');
  const prefix = parseRulePrefix(word.text, family) ?? rejectWord(word, 'an address or a network');
  return { value: { type: 'prefix', prefix }, text: formatRulePrefix(prefix, family) };
};

/** A network of which the address keeps its bits behind the prefix. */
export const looseNetwork: ArgumentReader = (take, family, peek) => {
  let word: Word | undefined;
  const { value } = wholeNetwork((expected) => (word = take(expected)), family, peek);
  const given = parseRuleAddress(word?.text.split('/')[0] ?? '', family);
  const length = value.type === 'prefix' ? value.prefix.prefixLength : 0;
  return { value, text: `${given === undefined ? '' : formatRuleAddress(given, family)}/${length}` };
};

/** The length of a prefix, or a mask, as the length. */
export const prefixLength: ArgumentReader = (take, family) => {
  const word = take('the length of a prefix');
  const bits = family === 'ipv4' ? 32 : 128;
  const length = parseNumber(word.text, bits) ?? parseRulePrefix(`${family === 'ipv4' ? '0.0.0.0' : '::'}/${word.text}`, family)?.prefixLength ?? rejectWord(word, `a length up to ${bits}`);
  return { value: { type: 'number', value: length }, text: String(length) };
};

/** Two addresses with a dash between, or one; printed with both always. */
export const addressRange: ArgumentReader = (take, family) => {
  const word = take('a range of addresses');
  const [firstText = '', lastText, ...rest] = word.text.split('-');
  const first = parseRuleAddress(firstText, family);
  const last = lastText === undefined ? first : parseRuleAddress(lastText, family);
  if (first === undefined || last === undefined || rest.length > 0) {
    return rejectWord(word, 'a range of addresses such as 10.0.0.1-10.0.0.9');
  }
  return { value: { type: 'addresses', first, last }, text: `${formatRuleAddress(first, family)}-${formatRuleAddress(last, family)}` };
};

/** A protocol, printed as its number. */
export const protocolNumber: ArgumentReader = fromText('a protocol', (text) => {
  const value = parseProtocolNumber(text.toLowerCase());
  return value === undefined ? undefined : { value: { type: 'number', value }, text: String(value) };
});

/** The six bytes of a hardware address. */
export const hardwareAddress: ArgumentReader = fromText('a hardware address such as 42:01:02:03:04:05', (text) => {
  const bytes = /^[0-9a-f]{1,2}(?::[0-9a-f]{1,2}){5}$/i.test(text) ? text.split(':').map((byte) => byte.padStart(2, '0').toLowerCase()) : undefined;
  return bytes === undefined ? undefined : { value: { type: 'text', text: bytes.join(':') }, text: bytes.join(':') };
});

/** Makes a reader of one word; what `parse` does not know is not what was expected. */
export function fromText(expected: string, parse: (text: string) => OptionData | undefined): ArgumentReader {
  return (take) => {
    const word = take(expected);
    return parse(word.text) ?? rejectWord(word, expected);
  };
}

/** Reads a port by number or service name. */
export function parsePort(text: string): number | undefined {
  return parseNumber(text, MAX_UINT16) ?? findService(text);
}

/** Reads `VALUE` or `VALUE/MASK`. */
export function parseMasked(text: string, max: number): { readonly value: number; readonly mask: number } | undefined {
  const [valueText = '', maskText, ...rest] = text.split('/');
  const value = parseNumber(valueText, max);
  const mask = maskText === undefined ? max : parseNumber(maskText, max);
  return value === undefined || mask === undefined || rest.length > 0 ? undefined : { value, mask };
}

/** Reads `N`, `N:M`, `N:` and `:M` by a reader of the ends. */
export function splitRange(text: string, parse: (end: string) => number | undefined, least: number, greatest: number): { readonly first: number; readonly last: number } | undefined {
  const [firstText = '', lastText, ...rest] = text.split(':');
  const first = firstText === '' && lastText !== undefined ? least : parse(firstText);
  const last = lastText === undefined ? first : lastText === '' ? greatest : parse(lastText);
  return first === undefined || last === undefined || rest.length > 0 ? undefined : { first, last };
}

/** Writes a range, or one number where its ends are the same. */
export function rangeText({ first, last }: { readonly first: number; readonly last: number }, separator: ':' | '-'): string {
  return first === last ? String(first) : `${first}${separator}${last}`;
}

function maskedText({ value, mask }: { readonly value: number; readonly mask: number }): string {
  return mask === MAX_UINT32 ? hexText(value) : `${hexText(value)}/${hexText(mask)}`;
}

/** iptables-save prints such words bare; quotes are added where they would not read back. */
function bareWord(text: string): string {
  return /^[^\s"'\\]+$/.test(text) ? text : quoteWord(text);
}

/** Cuts text to so many bytes of UTF-8; half a character goes too. */
export function cutText(text: string, bytes: number): string {
  return new TextDecoder().decode(new TextEncoder().encode(text).subarray(0, bytes)).replace(/\uFFFD+$/, '');
}

