import type { ArgumentReader } from './extension.ts';
import { fromText } from './optionArguments.ts';
import { parseNumber } from './numberText.ts';

/** A name of an ICMP type, or of one of its codes; without a code all of them are meant. */
type IcmpName = readonly [name: string, type: number, code?: number];

/** The names of libxt_icmp.h for ICMP (RFC 792, RFC 1812). */
export const ICMP_TYPES: readonly IcmpName[] = [
  ['any', 255], ['echo-reply', 0], ['pong', 0], ['destination-unreachable', 3], ['network-unreachable', 3, 0], ['host-unreachable', 3, 1], ['protocol-unreachable', 3, 2],
  ['port-unreachable', 3, 3], ['fragmentation-needed', 3, 4], ['source-route-failed', 3, 5], ['network-unknown', 3, 6], ['host-unknown', 3, 7], ['network-prohibited', 3, 9],
  ['host-prohibited', 3, 10], ['TOS-network-unreachable', 3, 11], ['TOS-host-unreachable', 3, 12], ['communication-prohibited', 3, 13], ['host-precedence-violation', 3, 14],
  ['precedence-cutoff', 3, 15], ['source-quench', 4], ['redirect', 5], ['network-redirect', 5, 0], ['host-redirect', 5, 1], ['TOS-network-redirect', 5, 2], ['TOS-host-redirect', 5, 3],
  ['echo-request', 8], ['ping', 8], ['router-advertisement', 9], ['router-solicitation', 10], ['time-exceeded', 11], ['ttl-exceeded', 11], ['ttl-zero-during-transit', 11, 0],
  ['ttl-zero-during-reassembly', 11, 1], ['parameter-problem', 12], ['ip-header-bad', 12, 0], ['required-option-missing', 12, 1], ['timestamp-request', 13], ['timestamp-reply', 14],
  ['address-mask-request', 17], ['address-mask-reply', 18],
];

/** The names of libxt_icmp.h for ICMPv6 (RFC 4443, RFC 4861). */
export const ICMPV6_TYPES: readonly IcmpName[] = [
  ['destination-unreachable', 1], ['no-route', 1, 0], ['communication-prohibited', 1, 1], ['beyond-scope', 1, 2], ['address-unreachable', 1, 3], ['port-unreachable', 1, 4],
  ['failed-policy', 1, 5], ['reject-route', 1, 6], ['packet-too-big', 2], ['time-exceeded', 3], ['ttl-exceeded', 3], ['ttl-zero-during-transit', 3, 0],
  ['ttl-zero-during-reassembly', 3, 1], ['parameter-problem', 4], ['bad-header', 4, 0], ['unknown-header-type', 4, 1], ['unknown-option', 4, 2], ['echo-request', 128], ['ping', 128],
  ['echo-reply', 129], ['pong', 129], ['router-solicitation', 133], ['router-advertisement', 134], ['neighbour-solicitation', 135], ['neighbor-solicitation', 135],
  ['neighbour-advertisement', 136], ['neighbor-advertisement', 136], ['redirect', 137],
];

/** Reads `TYPE`, `TYPE/CODE` or a name, of which the beginning is enough where it says which (libxt_icmp.h, ipt_parse_icmp). */
export function icmpType(known: readonly IcmpName[]): ArgumentReader {
  return fromText('an ICMP type such as 8, 3/4 or echo-request', (text) => {
    const [typeText = '', codesText, ...rest] = text.split('/');
    // A range of codes is taken, and only its first is kept in what is printed.
    const [codeText, lastText] = codesText?.split(':', 3) ?? [];
    const last = lastText === undefined ? null : parseNumber(lastText, 255);
    const named = findName(known, text);
    const icmp = named === undefined ? parseNumber(typeText, 255) : named[1];
    const code = named === undefined ? (codeText === undefined ? null : parseNumber(codeText, 255)) : (named[2] ?? null);
    if (icmp === undefined || code === undefined || last === undefined || rest.length > 0) {
      return undefined;
    }
    const printed = icmp === 255 && known === ICMP_TYPES ? 'any' : code === null ? String(icmp) : `${icmp}/${code}`;
    const codes = code === null || printed === 'any' ? { first: 0, last: 255 } : { first: code, last: last ?? code };
    return { value: { type: 'icmp', icmpType: icmp, codes }, text: printed };
  });
}

function findName(known: readonly IcmpName[], text: string): IcmpName | undefined {
  const wanted = text.toLowerCase();
  if (!/^[a-z]/.test(wanted)) {
    return undefined;
  }
  const exact = known.find(([name]) => name.toLowerCase() === wanted);
  const beginning = known.filter(([name]) => name.toLowerCase().startsWith(wanted));
  return exact ?? (beginning.length === 1 ? beginning[0] : undefined);
}
