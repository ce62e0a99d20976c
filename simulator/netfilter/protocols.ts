import { parseNumber } from './numberText.ts';

/** IP protocols by the names that Debian's /etc/protocols gives (IANA, Assigned Internet Protocol Numbers); the first name of a number is the one that is printed. */
const PROTOCOLS: readonly (readonly [string, number])[] = [
  ['ip', 0], ['hopopt', 0], ['icmp', 1], ['igmp', 2], ['ggp', 3], ['ipencap', 4], ['st', 5], ['tcp', 6], ['egp', 8], ['igp', 9],
  ['pup', 12], ['udp', 17], ['hmp', 20], ['xns-idp', 22], ['rdp', 27], ['iso-tp4', 29], ['dccp', 33], ['xtp', 36], ['ddp', 37],
  ['idpr-cmtp', 38], ['ipv6', 41], ['ipv6-route', 43], ['ipv6-frag', 44], ['idrp', 45], ['rsvp', 46], ['gre', 47], ['esp', 50],
  ['ah', 51], ['skip', 57], ['ipv6-icmp', 58], ['ipv6-nonxt', 59], ['ipv6-opts', 60], ['rspf', 73], ['vmtp', 81], ['eigrp', 88],
  ['ospf', 89], ['ax.25', 93], ['ipip', 94], ['etherip', 97], ['encap', 98], ['pim', 103], ['ipcomp', 108], ['vrrp', 112],
  ['l2tp', 115], ['isis', 124], ['sctp', 132], ['fc', 133], ['mobility-header', 135], ['udplite', 136], ['mpls-in-ip', 137],
  ['manet', 138], ['hip', 139], ['shim6', 140], ['wesp', 141], ['rohc', 142], ['ethernet', 143],
];

/** Names that iptables knows without /etc/protocols (libxtables/xtables.c, xtables_chain_protos), and `all`. */
const OTHER_NAMES: readonly (readonly [string, number])[] = [['icmpv6', 58], ['mh', 135], ['all', 0]];

const NUMBERS: ReadonlyMap<string, number> = new Map([...PROTOCOLS.toReversed(), ...OTHER_NAMES]);
const NAMES: ReadonlyMap<number, string> = new Map(PROTOCOLS.toReversed().map(([name, number]) => [number, name]));

/** Gives the number of a protocol by its name or number; 0 stands for all of them. Undefined where there is none. */
export function parseProtocolNumber(text: string): number | undefined {
  return parseNumber(text, 255) ?? NUMBERS.get(text);
}

/** Gives the name by which iptables-save prints a protocol, or its number. */
export function protocolName(number: number): string {
  return number === 0 ? 'all' : (NAMES.get(number) ?? String(number));
}
