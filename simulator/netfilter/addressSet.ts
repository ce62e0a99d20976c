import type { IpAddress } from '../../agent/protocol/scalars.ts';
import type { AddressPrefix } from './addressPrefix.ts';
import { prefixContains } from './addressPrefix.ts';
import type { NumberRange } from './ruleSet.ts';

/** Sets as ipset keeps them, by name. */
export interface AddressSets {
  readonly sets: ReadonlyMap<string, AddressSet>;
  readonly problems: readonly SetProblem[];
}

export interface SetProblem {
  /** From 1. */
  readonly line: number;
  readonly column: number;
  readonly message: string;
  readonly expected: string;
}

/** One dimension of a set's type. */
export type SetDimension = 'ip' | 'net' | 'port' | 'mac' | 'mark' | 'iface' | 'set';

export interface AddressSet {
  readonly name: string;
  /** As ipset names it: `hash:net,port`, `bitmap:ip`, `list:set`. */
  readonly type: string;
  readonly dimensions: readonly SetDimension[];
  readonly family: 'ipv4' | 'ipv6';
  readonly entries: readonly SetEntry[];
  /** The prefix that addresses are cut to before they are looked for. */
  readonly netmask?: number;
  /** What of a bitmap there is room for. */
  readonly bounds?: readonly SetPart[];
}

export interface SetEntry {
  /** One part for each dimension. */
  readonly parts: readonly SetPart[];
  /** `nomatch`: what fits it is no member, though a wider network of the set holds it. */
  readonly isException: boolean;
}

export type SetPart =
  | { readonly kind: 'prefix'; readonly prefix: AddressPrefix }
  | { readonly kind: 'addresses'; readonly first: IpAddress; readonly last: IpAddress }
  /** `protocol` as a number; null for bitmap:port, which looks at TCP and UDP ports alike. For ICMP the port is type and code. */
  | { readonly kind: 'ports'; readonly protocol: number | null; readonly range: NumberRange }
  | { readonly kind: 'mac'; readonly mac: string }
  | { readonly kind: 'mark'; readonly mark: number }
  /** `isWildcard`: every name that begins so. */
  | { readonly kind: 'interface'; readonly name: string; readonly isBridgePort: boolean; readonly isWildcard?: boolean }
  | { readonly kind: 'set'; readonly name: string };

/** What of a packet stands for each dimension of a set. */
export type PacketPart =
  | { readonly kind: 'address'; readonly address: IpAddress }
  | { readonly kind: 'port'; readonly protocol: number; readonly port: number }
  | { readonly kind: 'mac'; readonly mac: string }
  | { readonly kind: 'mark'; readonly mark: number }
  | { readonly kind: 'interface'; readonly name: string };

/**
 * Says whether a packet is a member of a set that is no list of sets (net/netfilter/ipset/ip_set_core.c, ip_set_test). `parts` holds one
 * part for each dimension. Of the entries that hold a packet the one with the longest prefix decides, an exception against it; with
 * `wantsException` the other way round (--return-nomatch).
 */
export function isMember(set: Pick<AddressSet, 'entries' | 'type'>, parts: readonly PacketPart[], wantsException = false): boolean {
  let best: { readonly length: number; readonly isException: boolean } | undefined;
  // Of networks with interfaces only the longest that holds the address is asked for its interfaces (ip_set_hash_netiface.c, mtype_test_cidrs).
  const decisive = set.type === 'hash:net,iface' ? longestNetwork(set.entries, parts[0]) : null;
  for (const entry of set.entries) {
    if ((decisive === null || lengthOf(entry.parts[0]) === decisive) && entry.parts.every((part, index) => fits(part, parts[index]))) {
      const length = entry.parts.reduce((sum, part) => sum + lengthOf(part), 0);
      if (best === undefined || length > best.length) {
        best = { length, isException: entry.isException };
      }
    }
  }
  return best?.isException === wantsException;
}

function lengthOf(part: SetPart | undefined): number {
  return part?.kind === 'prefix' ? part.prefix.prefixLength : 0;
}

function longestNetwork(entries: readonly SetEntry[], address: PacketPart | undefined): number {
  return entries.reduce((longest, { parts: [part] }) => (part !== undefined && lengthOf(part) > longest && fits(part, address) ? lengthOf(part) : longest), 0);
}

function fits(part: SetPart, packet: PacketPart | undefined): boolean {
  switch (part.kind) {
    case 'prefix':
      return packet?.kind === 'address' && prefixContains(part.prefix, packet.address);
    case 'addresses':
      return packet?.kind === 'address' && isBetween(packet.address, part.first, part.last);
    case 'ports':
      return packet?.kind === 'port' && (part.protocol === null ? packet.protocol === 6 || packet.protocol === 17 : part.protocol === packet.protocol) && packet.port >= part.range.first && packet.port <= part.range.last;
    case 'mac':
      return packet?.kind === 'mac' && packet.mac === part.mac;
    case 'mark':
      return packet?.kind === 'mark' && packet.mark === part.mark;
    case 'interface':
      return packet?.kind === 'interface' && (part.isWildcard === true ? packet.name.startsWith(part.name) : packet.name === part.name);
    case 'set':
      return false;
  }
}

/** IPv4 only: ipset takes ranges of IPv4 addresses apart, or keeps them in bitmaps. */
function isBetween(address: IpAddress, first: IpAddress, last: IpAddress): boolean {
  const value = ipv4Number(address);
  return value !== null && value >= (ipv4Number(first) ?? Infinity) && value <= (ipv4Number(last) ?? -1);
}

/** Gives an IPv4 address as a number; null for IPv6. */
export function ipv4Number(address: IpAddress): number | null {
  return address.includes(':') ? null : address.split('.').reduce((sum, octet) => sum * 256 + Number(octet), 0);
}
