import { isIpv4, parseIpAddress } from '../../agent/protocol/ipAddress.ts';
import type { MarkChange, MaskedValue, NatRange, NumberRange, TcpFlag } from './ruleSet.ts';
import { TCP_FLAGS } from './ruleSet.ts';
import type { Word } from './words.ts';
import { rejectWord } from './wordReader.ts';

const MAX_PORT = 65_535;
const MAX_UINT32 = 0xffff_ffff;

/** Service names that Debian's rules are written with; iptables-save itself prints numbers. */
const SERVICE_PORTS: ReadonlyMap<string, number> = new Map([
  ['ftp', 21], ['ssh', 22], ['telnet', 23], ['smtp', 25], ['domain', 53], ['bootps', 67], ['bootpc', 68], ['http', 80], ['pop3', 110],
  ['ntp', 123], ['imap', 143], ['imap2', 143], ['snmp', 161], ['https', 443], ['imaps', 993], ['pop3s', 995],
]);

/** Reads a whole number in decimal, 0x hexadecimal or 0 octal, as strtoul(3) with base 0; undefined where it is none of 32 bits. */
export function parseNumber(text: string): number | undefined {
  if (!/^(?:0x[0-9a-f]{1,8}|0[0-7]{0,11}|[1-9]\d{0,9})$/i.test(text)) {
    return undefined;
  }
  const octal = /^0[0-7]+$/.test(text);
  const value = octal ? Number.parseInt(text, 8) : Number(text);
  return value <= MAX_UINT32 ? value : undefined;
}

/** Reads a port or a range with `separator` between its ends; an end that is left out is the least or the greatest port. */
export function readPortRange(word: Word, text: string, separator: ':' | '-'): NumberRange {
  const parts = text.split(separator);
  const first = parts[0] === '' && parts.length === 2 ? 0 : parsePort(parts[0] ?? '');
  const last = parts.length === 1 ? first : parts[1] === '' ? MAX_PORT : parsePort(parts[1] ?? '');
  if (parts.length > 2 || text === separator || first === undefined || last === undefined || first > last) {
    return rejectWord(word, `a port or a range of ports such as 80${separator}90`);
  }
  return { first, last };
}

/** Reads the comma list of `-m multiport`: at most 15 places, of which a range takes two (libxt_multiport). */
export function readPortList(word: Word): readonly NumberRange[] {
  const ranges = word.text.split(',', 17).map((part) => readPortRange(word, part, ':'));
  const places = ranges.reduce((sum, range) => sum + (range.first === range.last ? 1 : 2), 0);
  return places <= 15 ? ranges : rejectWord(word, 'at most 15 ports, of which a range counts as two');
}

/** Reads `N` or `N-M` of user or group ids. */
export function readIdRange(word: Word): NumberRange {
  const [firstText = '', lastText, ...rest] = word.text.split('-');
  const first = parseNumber(firstText);
  const last = lastText === undefined ? first : parseNumber(lastText);
  if (first === undefined || last === undefined || first > last || rest.length > 0) {
    return rejectWord(word, 'a numeric id or a range such as 1000-1999');
  }
  return { first, last };
}

/** Reads `VALUE` or `VALUE/MASK`. */
export function readMaskedValue(word: Word): MaskedValue {
  const [valueText = '', maskText, ...rest] = word.text.split('/');
  const value = parseNumber(valueText);
  const mask = maskText === undefined ? MAX_UINT32 : parseNumber(maskText);
  if (value === undefined || mask === undefined || rest.length > 0) {
    return rejectWord(word, 'a mark such as 0x1 or 0x1/0xff');
  }
  return { value, mask };
}

/** Reads a mask alone. */
export function readMask(word: Word): number {
  return parseNumber(word.text) ?? rejectWord(word, 'a mask such as 0xffffffff');
}

/** Gives `--set-mark V/M` as the `--set-xmark V/(V|M)` that iptables stores and prints (libxt_MARK.c). */
export function setMarkChange({ value, mask }: MaskedValue): MarkChange {
  return { value, mask: (value | mask) >>> 0 };
}

/** Reads a list of TCP flags, `ALL` or `NONE`. */
export function readTcpFlags(word: Word): readonly TcpFlag[] {
  if (word.text === 'ALL') {
    return TCP_FLAGS;
  }
  if (word.text === 'NONE') {
    return [];
  }
  const named = new Set(word.text.split(',', 7));
  const flags = TCP_FLAGS.filter((flag) => named.has(flag));
  return flags.length === named.size ? flags : rejectWord(word, `a comma list of ${TCP_FLAGS.join(', ')}, or ALL or NONE`);
}

/** Reads the `[ADDRESS[-ADDRESS]][:PORT[-PORT]]` of DNAT and SNAT (`[v6]:port` for IPv6 with a port). */
export function readNatRange(word: Word): NatRange {
  const match = /^(?:\[([^\]]*)\]|([^[\]]*?))(?::(\d+(?:-\d+)?))?$/.exec(word.text);
  const bracketed = match?.[1];
  const plain = match?.[2] ?? '';
  const plainIsIpv6 = bracketed === undefined && word.text.split(':').length > 2;
  const addressText = bracketed ?? (plainIsIpv6 ? word.text : plain);
  const portText = plainIsIpv6 ? undefined : match?.[3];
  const addresses = addressText === '' ? null : parseAddressRange(addressText);
  if (match === null || addresses === undefined || (addresses === null && portText === undefined)) {
    return rejectWord(word, 'an address, a range of addresses, and perhaps :PORT or :PORT-PORT');
  }
  return { addresses, ports: portText === undefined ? null : readPortRange(word, portText, '-') };
}

function parseAddressRange(text: string): NatRange['addresses'] | undefined {
  const [firstText = '', lastText, ...rest] = text.split('-');
  const first = parseIpAddress(firstText);
  const last = lastText === undefined ? first : parseIpAddress(lastText);
  if (first === undefined || last === undefined || rest.length > 0 || isIpv4(first) !== isIpv4(last)) {
    return undefined;
  }
  return { first, last };
}

function parsePort(text: string): number | undefined {
  const port = /^\d{1,5}$/.test(text) ? Number(text) : SERVICE_PORTS.get(text);
  return port !== undefined && port <= MAX_PORT ? port : undefined;
}
