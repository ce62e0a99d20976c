import { formatIpAddress, ipAddressBytes, isIpv4, parseIpAddress } from '../../agent/protocol/ipAddress.ts';
import type { IpAddress } from '../../agent/protocol/scalars.ts';

/** A network: an address with the number of leading bits that count. The other bits are zero. */
export interface AddressPrefix {
  readonly address: IpAddress;
  readonly prefixLength: number;
}

/**
 * Reads `10.0.0.0/8`, `10.0.0.0/255.0.0.0`, `10.1.2.3` or an IPv6 prefix; host bits are cleared, as iptables does.
 * Gives undefined for anything else: a mask with holes (`255.0.255.0`) and a host name are not prefixes.
 */
export function parseAddressPrefix(text: string): AddressPrefix | undefined {
  const slash = text.indexOf('/');
  const address = parseIpAddress(slash < 0 ? text : text.slice(0, slash));
  if (address === undefined) {
    return undefined;
  }
  const bits = isIpv4(address) ? 32 : 128;
  const prefixLength = slash < 0 ? bits : parseMask(text.slice(slash + 1), bits);
  return prefixLength === undefined ? undefined : { address: maskAddress(address, prefixLength), prefixLength };
}

/** Says whether an address lies in a network; an address of the other family never does. */
export function prefixContains(prefix: AddressPrefix, address: IpAddress): boolean {
  if (prefix.prefixLength === 0) {
    return isIpv4(prefix.address) === isIpv4(address);
  }
  const wanted = ipAddressBytes(prefix.address);
  const actual = ipAddressBytes(address);
  if (wanted.length !== actual.length) {
    return false;
  }
  const whole = prefix.prefixLength >> 3;
  for (let index = 0; index < whole; index += 1) {
    if (wanted[index] !== actual[index]) {
      return false;
    }
  }
  const rest = prefix.prefixLength & 7;
  return rest === 0 || (((wanted[whole] ?? 0) ^ (actual[whole] ?? 0)) >> (8 - rest)) === 0;
}

/** Writes a network as iptables-save does: always with its length. */
export function formatAddressPrefix(prefix: AddressPrefix): string {
  return `${prefix.address}/${prefix.prefixLength}`;
}

function parseMask(text: string, bits: number): number | undefined {
  if (/^\d{1,3}$/.test(text)) {
    return Number(text) <= bits ? Number(text) : undefined;
  }
  const mask = parseIpAddress(text);
  if (mask === undefined || isIpv4(mask) !== (bits === 32)) {
    return undefined;
  }
  const digits = [...ipAddressBytes(mask)].map((byte) => byte.toString(2).padStart(8, '0')).join('');
  return /^1*0*$/.test(digits) ? digits.lastIndexOf('1') + 1 : undefined;
}

function maskAddress(address: IpAddress, prefixLength: number): IpAddress {
  const bytes = ipAddressBytes(address).map((byte, index) => {
    const kept = Math.min(8, Math.max(0, prefixLength - index * 8));
    return byte & (0xff << (8 - kept)) & 0xff;
  });
  return formatIpAddress(bytes);
}
