import { formatIpAddress, ipAddressBytes, isIpv4 } from '../../agent/protocol/ipAddress.ts';
import type { IpAddress } from '../../agent/protocol/scalars.ts';

/** A network: an address with the number of leading bits that count. The other bits are zero. */
export interface AddressPrefix {
  readonly address: IpAddress;
  readonly prefixLength: number;
  /** A mask with holes (`255.0.255.0`), which iptables takes too; `prefixLength` is then the length up to its first zero. */
  readonly mask?: IpAddress;
}

/** Says whether an address lies in a network; an address of the other family never does. */
export function prefixContains(prefix: AddressPrefix, address: IpAddress): boolean {
  if (prefix.prefixLength === 0 && prefix.mask === undefined) {
    return isIpv4(prefix.address) === isIpv4(address);
  }
  const wanted = ipAddressBytes(prefix.address);
  const actual = ipAddressBytes(address);
  if (wanted.length !== actual.length) {
    return false;
  }
  if (prefix.mask !== undefined) {
    const mask = ipAddressBytes(prefix.mask);
    return wanted.every((byte, index) => byte === ((actual[index] ?? 0) & (mask[index] ?? 0)));
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

/** Clears the bits of an address behind a prefix. */
export function maskAddress(address: IpAddress, prefixLength: number): IpAddress {
  if (!address.includes(':')) {
    return maskIpv4(address, prefixLength);
  }
  const bytes = ipAddressBytes(address).map((byte, index) => {
    const kept = Math.min(8, Math.max(0, prefixLength - index * 8));
    return byte & (0xff << (8 - kept)) & 0xff;
  });
  return formatIpAddress(bytes);
}

function maskIpv4(address: IpAddress, prefixLength: number): IpAddress {
  const bits = address.split('.').reduce((sum, octet) => sum * 256 + Number(octet), 0);
  const kept = prefixLength === 0 ? 0 : (bits & (0xffff_ffff << (32 - prefixLength))) >>> 0;
  return kept === bits ? address : formatIpAddress(Uint8Array.of(kept >>> 24, (kept >>> 16) & 0xff, (kept >>> 8) & 0xff, kept & 0xff));
}

/** Gives how many bits a mask begins with that are set. */
export function prefixLengthOf(mask: IpAddress): number {
  const digits = [...ipAddressBytes(mask)].map((byte) => byte.toString(2).padStart(8, '0')).join('');
  const zero = digits.indexOf('0');
  return zero < 0 ? digits.length : zero;
}

/** Writes a network as `ADDRESS/LENGTH`, or with its mask where that has holes. */
export function formatAddressPrefix(prefix: AddressPrefix): string {
  return `${prefix.address}/${prefix.mask ?? prefix.prefixLength}`;
}
