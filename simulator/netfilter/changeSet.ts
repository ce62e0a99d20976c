import type { AddressSet, PacketPart, SetEntry, SetPart } from './addressSet.ts';
import { isMember } from './addressSet.ts';
import { maskAddress } from './addressPrefix.ts';

/** The set types whose entries a rule can change here. */
const CHANGEABLE: ReadonlySet<string> = new Set(['hash:ip', 'hash:net', 'hash:ip,port', 'hash:net,port', 'hash:net,iface', 'hash:ip,port,ip', 'hash:ip,port,net', 'bitmap:port', 'bitmap:ip']);

/**
 * Gives a set after a rule of target SET has put an entry made of a packet into it, or taken it out (net/netfilter/xt_set.c): the same set
 * where nothing changes, null where that is not modelled. `overwrites` is --exist: an entry that is there already then loses what it had.
 */
export function changeSet(set: AddressSet, packet: readonly PacketPart[], action: 'add' | 'remove', overwrites: boolean): AddressSet | null {
  if (!CHANGEABLE.has(set.type)) {
    return null;
  }
  const parts = set.dimensions.map((dimension, index) => entryPart(set, packet[index], dimension === 'net' ? mostSpecific(set, index) : null));
  const known = parts.filter((part) => part !== null);
  if (known.length !== parts.length) {
    return null;
  }
  if (!isWithinBounds(set, packet)) {
    return set;
  }
  const key = JSON.stringify(known);
  if (set.dimensions.includes('net')) {
    const old = set.entries.find((entry) => JSON.stringify(entry.parts) === key);
    if (action === 'add' && old !== undefined && !overwrites) {
      return set;
    }
    const others = old === undefined ? set.entries : set.entries.filter((entry) => entry !== old);
    return { ...set, entries: action === 'add' ? [...others, { parts: known, isException: false }] : others };
  }
  if (isMember(set, packet) === (action === 'add')) {
    return set;
  }
  // Of entries that are as exact the first counts: this one overrides ranges that hold it.
  const own: SetEntry = { parts: known, isException: action === 'remove' };
  return { ...set, entries: [own, ...set.entries.filter((entry) => JSON.stringify(entry.parts) !== key)] };
}

/** Networks are put in with the longest prefix that the set has, or whole addresses where it has none (ip_set_hash_net.c, INIT_CIDR); undefined where that is not known. */
function mostSpecific(set: AddressSet, dimension: number): number | undefined {
  let longest = 0;
  for (const { parts } of set.entries) {
    const part = parts[dimension];
    if (part?.kind !== 'prefix') {
      return undefined;
    }
    longest = Math.max(longest, part.prefix.prefixLength);
  }
  return longest === 0 ? (set.family === 'ipv4' ? 32 : 128) : longest;
}

function entryPart(set: AddressSet, packet: PacketPart | undefined, prefixLength: number | null | undefined): SetPart | null {
  switch (packet?.kind) {
    case 'address': {
      if (prefixLength === undefined) {
        return null;
      }
      const length = prefixLength ?? set.netmask ?? (set.family === 'ipv4' ? 32 : 128);
      return { kind: 'prefix', prefix: { address: maskAddress(packet.address, length), prefixLength: length } };
    }
    case 'port':
      return { kind: 'ports', protocol: set.type === 'bitmap:port' ? null : packet.protocol, range: { first: packet.port, last: packet.port } };
    case 'interface':
      return { kind: 'interface', name: packet.name, isBridgePort: false };
    default:
      return null;
  }
}

/** Bitmaps have room for what they were created for; the bitmap of ports for those of TCP and UDP only. */
function isWithinBounds({ type, bounds }: AddressSet, [part]: readonly PacketPart[]): boolean {
  if (type === 'bitmap:port' && (part?.kind !== 'port' || (part.protocol !== 6 && part.protocol !== 17))) {
    return false;
  }
  if (bounds === undefined || part === undefined) {
    return true;
  }
  return isMember({ type, entries: bounds.map((one) => ({ parts: [one], isException: false })) }, [part]);
}
