/** IP protocol numbers that the engine knows by name (IANA). */
export const PROTOCOL = { icmp: 1, igmp: 2, tcp: 6, udp: 17, dccp: 33, gre: 47, esp: 50, ah: 51, icmpv6: 58, sctp: 132, udplite: 136 } as const;

const NUMBERS: ReadonlyMap<string, number> = new Map([
  ['ip', 0], ['icmp', 1], ['igmp', 2], ['ggp', 3], ['ipencap', 4], ['st', 5], ['tcp', 6], ['egp', 8], ['igp', 9], ['pup', 12], ['udp', 17], ['hmp', 20], ['xns-idp', 22], ['rdp', 27],
  ['iso-tp4', 29], ['dccp', 33], ['xtp', 36], ['ddp', 37], ['idpr-cmtp', 38], ['ipv6', 41], ['ipv6-route', 43], ['ipv6-frag', 44], ['idrp', 45], ['rsvp', 46], ['gre', 47], ['esp', 50], ['ah', 51],
  ['skip', 57], ['ipv6-icmp', 58], ['icmpv6', 58], ['ipv6-nonxt', 59], ['ipv6-opts', 60], ['rspf', 73], ['vmtp', 81], ['eigrp', 88], ['ospf', 89], ['ax.25', 93], ['ipip', 94], ['etherip', 97], ['encap', 98],
  ['pim', 103], ['ipcomp', 108], ['vrrp', 112], ['l2tp', 115], ['isis', 124], ['sctp', 132], ['fc', 133], ['mobility-header', 135], ['mh', 135], ['udplite', 136], ['mpls-in-ip', 137], ['manet', 138],
  ['hip', 139], ['shim6', 140], ['wesp', 141], ['rohc', 142],
]);

/** Gives the number of a protocol that a rule names (`tcp`, `47`), as /etc/protocols has them; undefined for `all` and what is not known. */
export function protocolNumber(name: string): number | undefined {
  const named = NUMBERS.get(name.toLowerCase());
  if (named !== undefined) {
    return named;
  }
  return /^\d{1,3}$/.test(name) && Number(name) <= 255 ? Number(name) : undefined;
}

const NAMES: ReadonlyMap<number, string> = new Map([...NUMBERS].filter(([name]) => name !== 'icmpv6' && name !== 'mh').map(([name, number]) => [number, name]));

/** Names a protocol for people: `tcp`, or its number. */
export function protocolName(number: number): string {
  return NAMES.get(number) ?? String(number);
}

/** Says whether a protocol's header begins with a source and a destination port. */
export function hasPorts(protocol: number): boolean {
  return protocol === PROTOCOL.tcp || protocol === PROTOCOL.udp || protocol === PROTOCOL.sctp || protocol === PROTOCOL.udplite || protocol === PROTOCOL.dccp;
}
