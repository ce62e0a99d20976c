import type { Hook } from '../../agent/protocol/trace.ts';
import { parseIpAddress, toIpAddress } from '../../agent/protocol/ipAddress.ts';
import { Address, networkMask } from '../netfilter/address.ts';
import type { NatTarget } from '../netfilter/traverseTable.ts';
import type { HookContext, WorldPacket } from './hooks.ts';
import type { NatChoice, NatSide } from './nat.ts';
import { selectDeviceAddress } from './routing.ts';
import { findLink } from './world.ts';

const LOOPBACK_IPV4 = Address.of(toIpAddress('127.0.0.1'));
const LOOPBACK_IPV6 = Address.of(toIpAddress('::1'));

/**
 * The address that a target takes from the world: REDIRECT's and MASQUERADE's. Null where the device has none (the packet is
 * then dropped), `unchanged` where the target does nothing, undefined where the target names its addresses itself.
 */
export function addressOfNatTarget(context: HookContext, hook: Hook, packet: WorldPacket, target: NatTarget): Address | 'unchanged' | null | undefined {
  const { namespace } = context;
  if (target.kind === 'redirect') {
    // net/netfilter/nf_nat_redirect.c: the loopback address for what is made here, else the first address of the device.
    if (hook === 'OUTPUT') {
      return packet.isIpv4 ? LOOPBACK_IPV4 : LOOPBACK_IPV6;
    }
    const addresses = (findLink(namespace, packet.inInterface ?? '')?.addresses ?? []).map(({ address }) => Address.of(address)).filter(({ isIpv4 }) => isIpv4 === packet.isIpv4);
    // A device has its IPv6 addresses by their scopes, the widest first (net/ipv6/addrconf.c, ipv6_link_dev_addr).
    const scope = packet.isIpv4 ? null : scopeOf(packet.destination);
    const usable = scope === null ? addresses : addresses.filter((address) => scopeOf(address) === scope);
    return (packet.isIpv4 ? undefined : usable.find((address) => !isLinkLocal(address))) ?? usable[0] ?? null;
  }
  if (target.kind === 'masquerade') {
    // net/netfilter/nf_nat_masquerade.c: a packet from nowhere is left alone.
    if (packet.source.w0 === 0 && packet.isIpv4) {
      return 'unchanged';
    }
    const { route } = context;
    const towards = packet.isIpv4 && route?.kind === 'unicast' ? route.nextHop : packet.destination;
    return selectDeviceAddress(namespace, packet.outInterface ?? '', towards);
  }
  return undefined;
}

/** The scope of an IPv6 address where it is narrower than the world: REDIRECT then takes an address of the same one (nf_nat_redirect.c, nf_nat_redirect_ipv6_usable). */
function scopeOf(address: Address): 'loopback' | 'link' | 'site' | null {
  const { w0, w1, w2, w3 } = address;
  if (w0 >>> 24 === 0xff) {
    return (['loopback', 'link', null, null, 'site'] as const)[((w0 >>> 16) & 15) - 1] ?? null;
  }
  if (isLinkLocal(address) || w0 >>> 22 === 0x3fb) {
    return isLinkLocal(address) ? 'link' : 'site';
  }
  return w0 === 0 && w1 === 0 && w2 === 0 && w3 === 1 ? 'loopback' : null;
}

/** Makes what NAT may choose from of a target; null where the target is not understood. */
export function natChoice(target: NatTarget, address: Address | undefined, side: NatSide, packet: WorldPacket): NatChoice | null {
  if (target.kind === 'extension') {
    return target.name === 'DNAT' ? shiftedChoice(target) : netmapChoice(target, side, packet);
  }
  const random = target.options.some((option) => option.startsWith('--random'));
  const persistent = target.options.includes('--persistent');
  if (target.kind === 'redirect' || target.kind === 'masquerade') {
    return { addresses: address === undefined ? null : { first: address, last: address }, ports: target.ports, random, persistent, basePort: null };
  }
  const { addresses, ports } = target.to;
  return { addresses: addresses === null ? null : { first: Address.of(addresses.first), last: Address.of(addresses.last) }, ports, random, persistent, basePort: null };
}

/** `--to-destination ADDRESS:FIRST-LAST/BASE` (libxt_NAT.c): the port keeps its distance from BASE. */
function shiftedChoice(target: Extract<NatTarget, { kind: 'extension' }>): NatChoice | null {
  const text = target.options.find(({ name }) => name === 'to-destination')?.text ?? '';
  const found = /^(?:\[?([^\]]*?)\]?)?:(\d+)-(\d+)\/(\d+)$/.exec(text);
  if (found === null) {
    return null;
  }
  const [first, last] = (found[1] ?? '').split('-').map(parseIpAddress);
  const addresses = first === undefined ? null : { first: Address.of(first), last: Address.of(last ?? first) };
  return { addresses, ports: { first: Number(found[2]), last: Number(found[3]) }, random: false, persistent: false, basePort: Number(found[4]) };
}

/** net/netfilter/xt_NETMAP.c: the network changes, the host part stays. */
function netmapChoice(target: Extract<NatTarget, { kind: 'extension' }>, side: NatSide, packet: WorldPacket): NatChoice | null {
  const value = target.options.find(({ name }) => name === 'to')?.value;
  if (target.name !== 'NETMAP' || value?.type !== 'prefix') {
    return null;
  }
  const network = Address.of(value.prefix.address);
  const mask = networkMask(value.prefix);
  const old = packet[side];
  const join = (oldWord: number, newWord: number, maskWord: number): number => (oldWord & ~maskWord) | (newWord & maskWord);
  const mapped = old.isIpv4
    ? Address.ofIpv4(join(old.w0, network.w0, mask[0]))
    : Address.ofIpv6(join(old.w0, network.w0, mask[0]), join(old.w1, network.w1, mask[1]), join(old.w2, network.w2, mask[2]), join(old.w3, network.w3, mask[3]));
  return { addresses: { first: mapped, last: mapped }, ports: null, random: false, persistent: false, basePort: null };
}

/** fe80::/10. */
function isLinkLocal({ w0 }: Address): boolean {
  return w0 >>> 22 === 0x3fa;
}
