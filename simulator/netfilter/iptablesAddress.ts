import { formatIpAddress, ipAddressBytes, isIpv4, parseIpAddress } from '../../agent/protocol/ipAddress.ts';
import type { IpAddress } from '../../agent/protocol/scalars.ts';
import type { AddressPrefix } from './addressPrefix.ts';
import { maskAddress, prefixLengthOf } from './addressPrefix.ts';
import { parseNumber } from './numberText.ts';
import type { AddressFamily } from './ruleSet.ts';

/**
 * Reads an address as iptables takes it (libxtables/xtables.c, xtables_numeric_to_ipaddr): IPv4 octets may be octal or
 * hexadecimal, and those that are left out at the end are zero. Undefined for a name and for the other family.
 */
export function parseRuleAddress(text: string, family: AddressFamily): IpAddress | undefined {
  if (family === 'ipv6') {
    return text.includes(':') ? parseIpAddress(text) : undefined;
  }
  if (isCanonicalIpv4(text)) {
    return text;
  }
  const octets = text.split('.', 5).map((octet) => parseNumber(octet, 255));
  if (octets.length > 4 || octets.includes(undefined)) {
    return undefined;
  }
  return formatIpAddress(Uint8Array.from({ length: 4 }, (_, index) => octets[index] ?? 0));
}

/** Reads `ADDRESS`, `ADDRESS/LENGTH` or `ADDRESS/MASK` as iptables does: bits outside of the mask are cleared. */
export function parseRulePrefix(text: string, family: AddressFamily): AddressPrefix | undefined {
  const slash = text.indexOf('/');
  const host = slash < 0 ? text : text.slice(0, slash);
  const address = host === 'localhost' ? parseRuleAddress(family === 'ipv4' ? '127.0.0.1' : '::1', family) : parseRuleAddress(host, family);
  if (address === undefined) {
    return undefined;
  }
  const bits = family === 'ipv4' ? 32 : 128;
  if (slash < 0) {
    return prefixOf(address, bits, family);
  }
  const maskText = text.slice(slash + 1);
  if (/^\d+$/.test(maskText)) {
    const length = parseNumber(maskText, bits);
    return length === undefined ? undefined : prefixOf(address, length, family);
  }
  const mask = maskText.includes(family === 'ipv4' ? '.' : ':') ? parseRuleAddress(maskText, family) : undefined;
  if (mask === undefined) {
    return undefined;
  }
  const length = prefixLengthOf(mask);
  if (isWholePrefix(mask, length)) {
    return prefixOf(address, length, family);
  }
  const maskBytes = ipAddressBytes(mask);
  return { address: formatIpAddress(ipAddressBytes(address).map((byte, index) => byte & (maskBytes[index] ?? 0))), prefixLength: length, mask };
}

/** Writes an address as inet_ntop(3) of the GNU C library does in the family of the rule. */
export function formatRuleAddress(address: IpAddress, family: AddressFamily): string {
  if (!address.includes(':')) {
    return family === 'ipv6' ? `::ffff:${address}` : address;
  }
  // Addresses of which exactly the first 96 bits are zero come out in dotted form.
  const compatible = /^::([0-9a-f]{1,4}):([0-9a-f]{1,4})$/.exec(address);
  return compatible === null ? address : `::${formatIpAddress(ipAddressBytes(address).subarray(12))}`;
}

/** Writes a network as iptables-save does: always with its length, and a mask with holes as a mask. */
export function formatRulePrefix(prefix: AddressPrefix, family: AddressFamily): string {
  const { address, prefixLength, mask } = prefix;
  const isMapped = family === 'ipv6' && !address.includes(':');
  return `${formatRuleAddress(address, family)}/${mask === undefined ? prefixLength + (isMapped ? 96 : 0) : formatRuleAddress(mask, family)}`;
}

/** Says whether text is an address as it is printed: most are, and need no more reading. */
function isCanonicalIpv4(text: string): text is IpAddress {
  let octet = -1;
  let dots = 0;
  for (let index = 0; index < text.length; index += 1) {
    const digit = text.charCodeAt(index) - 48;
    if (digit === -2 && octet >= 0) {
      octet = -1;
      dots += 1;
    } else if (digit >= 0 && digit <= 9 && octet !== 0) {
      octet = octet < 0 ? digit : octet * 10 + digit;
      if (octet > 255) {
        return false;
      }
    } else {
      return false;
    }
  }
  return dots === 3 && octet >= 0;
}

function prefixOf(address: IpAddress, length: number, family: AddressFamily): AddressPrefix {
  if (family === 'ipv6' && isIpv4(address)) {
    // A mapped address is written as IPv4 everywhere; a shorter prefix of it leaves nothing of the mapping.
    return length >= 96 ? { address: maskAddress(address, length - 96), prefixLength: length - 96 } : { address: '::' as IpAddress, prefixLength: length };
  }
  return { address: length === (family === 'ipv4' ? 32 : 128) ? address : maskAddress(address, length), prefixLength: length };
}

function isWholePrefix(mask: IpAddress, length: number): boolean {
  return ipAddressBytes(mask).every((byte, index) => byte === ((0xff << (8 - Math.min(8, Math.max(0, length - index * 8)))) & 0xff));
}
