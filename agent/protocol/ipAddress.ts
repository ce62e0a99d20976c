import type { IpAddress, IpPrefix } from './scalars.ts';

const ZERO = 48;
const DOT = 46;

const IPV4_BYTES = 4;
const IPV6_BYTES = 16;

/**
 * Reads an IPv4 or IPv6 address and gives its canonical form (RFC 5952; an IPv4-mapped address as IPv4).
 * Gives undefined where the text is not an address. Zone ids (`%eth0`), prefixes and octets with leading zeros are not addresses.
 */
export function parseIpAddress(text: string): IpAddress | undefined {
  const bytes = parseIpv4(text) ?? parseIpv6(text);
  return bytes === undefined ? undefined : formatIpAddress(bytes);
}

/** Like parseIpAddress, for text that the program itself wrote: throws a RangeError where it is not an address. */
export function toIpAddress(text: string): IpAddress {
  const address = parseIpAddress(text);
  if (address === undefined) {
    throw new RangeError(`'${text.slice(0, 60)}' is not an IP address`);
  }
  return address;
}

/**
 * Reads a range of addresses (RFC 4632, RFC 4291 2.3) and gives its canonical form, with the bits behind the prefix
 * cleared as iptables clears them; an address alone is a range of one. Gives undefined where the text is not a range.
 */
export function parseIpPrefix(text: string): IpPrefix | undefined {
  const slash = text.indexOf('/');
  const length = slash === -1 ? undefined : text.slice(slash + 1);
  const address = parseIpAddress(slash === -1 ? text : text.slice(0, slash));
  if (address === undefined || (length !== undefined && !/^(0|[1-9]\d{0,2})$/.test(length))) {
    return undefined;
  }
  const bytes = ipAddressBytes(address);
  const bits = length === undefined ? bytes.length * 8 : Number(length);
  if (bits > bytes.length * 8) {
    return undefined;
  }
  const network = bytes.map((byte, index) => byte & ~(0xff >> Math.min(Math.max(bits - index * 8, 0), 8)));
  return `${formatIpAddress(network)}/${bits}` as IpPrefix;
}

/** Gives the address of a range and how many bits its prefix has. */
export function splitIpPrefix(prefix: IpPrefix): { readonly address: IpAddress; readonly bits: number } {
  const slash = prefix.indexOf('/');
  return { address: toIpAddress(prefix.slice(0, slash)), bits: Number(prefix.slice(slash + 1)) };
}

/** Says whether every address of the range `inner` is in the range `outer`; ranges of IPv4 and of IPv6 have none in common. */
export function isWithin(inner: IpPrefix, outer: IpPrefix): boolean {
  const [small, large] = [splitIpPrefix(inner), splitIpPrefix(outer)];
  return isIpv4(small.address) === isIpv4(large.address) && small.bits >= large.bits && parseIpPrefix(`${small.address}/${large.bits}`) === outer;
}

/** Gives the bytes of an address in network order: 4 for IPv4, 16 for IPv6. */
export function ipAddressBytes(address: IpAddress): Uint8Array {
  const bytes = parseIpv4(address) ?? parseIpv6(address);
  if (bytes === undefined) {
    throw new RangeError(`'${address.slice(0, 60)}' is not an IP address`);
  }
  return bytes;
}

/** Gives 16 bytes in network order: IPv6 as it is, IPv4 as the mapped address ::ffff:a.b.c.d (RFC 4291, 2.5.5.2). */
export function mappedAddressBytes(address: IpAddress): Uint8Array {
  const bytes = ipAddressBytes(address);
  if (bytes.length === IPV6_BYTES) {
    return bytes;
  }
  const mapped = new Uint8Array(IPV6_BYTES);
  mapped.set([0xff, 0xff], 10);
  mapped.set(bytes, 12);
  return mapped;
}

/** Writes 4 or 16 bytes in network order as an address; a mapped address comes out as IPv4. Throws a RangeError for another length. */
export function formatIpAddress(bytes: Uint8Array): IpAddress {
  if (bytes.length === IPV4_BYTES) {
    return formatIpv4(bytes, 0);
  }
  if (bytes.length !== IPV6_BYTES) {
    throw new RangeError(`an address has 4 or 16 bytes, not ${bytes.length}`);
  }
  if (isMapped(bytes)) {
    return formatIpv4(bytes, 12);
  }
  const groups = Array.from({ length: 8 }, (_, index) => ((bytes[index * 2] ?? 0) << 8) | (bytes[index * 2 + 1] ?? 0));
  const zeros = longestZeroRun(groups);
  if (zeros.length < 2) {
    return groups.map((group) => group.toString(16)).join(':') as IpAddress;
  }
  const head = groups.slice(0, zeros.start).map((group) => group.toString(16)).join(':');
  const tail = groups.slice(zeros.start + zeros.length).map((group) => group.toString(16)).join(':');
  return `${head}::${tail}` as IpAddress;
}

/** Says whether an address is IPv4 (mapped addresses are always written as IPv4). */
export function isIpv4(address: IpAddress): boolean {
  return !address.includes(':');
}

/** Gives the address of the same family that means any: 0.0.0.0 or `::`. */
export function anyAddressLike(address: IpAddress): IpAddress {
  return (isIpv4(address) ? '0.0.0.0' : '::') as IpAddress;
}

/** Says whether an address means any of its family (INADDR_ANY, in6addr_any). */
export function isAnyAddress(address: IpAddress): boolean {
  return address === '0.0.0.0' || address === '::';
}

/** Events come by the thousand: this is several times as fast as join. */
function formatIpv4(bytes: Uint8Array, start: number): IpAddress {
  return `${bytes[start] ?? 0}.${bytes[start + 1] ?? 0}.${bytes[start + 2] ?? 0}.${bytes[start + 3] ?? 0}` as IpAddress;
}

/** Four numbers up to 255 without leading zeros. By characters: rules are compared with each other by the million. */
function parseIpv4(text: string): Uint8Array | undefined {
  const bytes = new Uint8Array(4);
  let octet = 0;
  let start = 0;
  let value = 0;
  for (let position = 0; position < text.length; position += 1) {
    const digit = text.charCodeAt(position) - ZERO;
    if (digit >= 0 && digit <= 9) {
      value = value * 10 + digit;
      if (value > 255 || (position > start && text.charCodeAt(start) === ZERO)) {
        return undefined;
      }
    } else if (text.charCodeAt(position) === DOT && position > start && octet < 3) {
      bytes[octet] = value;
      octet += 1;
      start = position + 1;
      value = 0;
    } else {
      return undefined;
    }
  }
  bytes[octet] = value;
  return octet === 3 && start < text.length ? bytes : undefined;
}

function parseIpv6(text: string): Uint8Array | undefined {
  if (text.length > 45 || !text.includes(':')) {
    return undefined;
  }
  const halves = text.split('::');
  if (halves.length > 2) {
    return undefined;
  }
  const head = parseGroups(halves[0] ?? '', halves.length === 1);
  const tail = halves.length === 2 ? parseGroups(halves[1] ?? '', true) : [];
  if (head === undefined || tail === undefined) {
    return undefined;
  }
  const missing = 8 - head.length - tail.length;
  if (halves.length === 2 ? missing < 1 : missing !== 0) {
    return undefined;
  }
  const groups = [...head, ...new Array<number>(missing).fill(0), ...tail];
  return Uint8Array.from(groups.flatMap((group) => [group >> 8, group & 0xff]));
}

function parseGroups(text: string, dottedTailAllowed: boolean): number[] | undefined {
  if (text === '') {
    return [];
  }
  const groups: number[] = [];
  const parts = text.split(':');
  for (const [index, part] of parts.entries()) {
    if (/^[0-9a-f]{1,4}$/i.test(part)) {
      groups.push(Number.parseInt(part, 16));
      continue;
    }
    const dotted = dottedTailAllowed && index === parts.length - 1 ? parseIpv4(part) : undefined;
    if (dotted === undefined) {
      return undefined;
    }
    groups.push(((dotted[0] ?? 0) << 8) | (dotted[1] ?? 0), ((dotted[2] ?? 0) << 8) | (dotted[3] ?? 0));
  }
  return groups;
}

function isMapped(bytes: Uint8Array): boolean {
  if (bytes[10] !== 0xff || bytes[11] !== 0xff) {
    return false;
  }
  for (let index = 0; index < 10; index += 1) {
    if (bytes[index] !== 0) {
      return false;
    }
  }
  return true;
}

function longestZeroRun(groups: readonly number[]): { start: number; length: number } {
  let best = { start: 0, length: 0 };
  for (let start = 0; start < groups.length; start += 1) {
    let length = 0;
    while (groups[start + length] === 0) {
      length += 1;
    }
    if (length > best.length) {
      best = { start, length };
    }
  }
  return best;
}
