import type { Extension, OptionDefinition } from './extension.ts';
import { CONNECTION_MATCHES } from './connectionMatches.ts';
import { IPV6_MATCHES } from './ipv6Matches.ts';
import { PACKET_MATCHES } from './packetMatches.ts';
import type { AddressFamily } from './ruleSet.ts';
import { TARGETS } from './targets.ts';

/** An extension with its options by every spelling. */
export interface IndexedExtension {
  readonly extension: Extension;
  readonly spellings: ReadonlyMap<string, OptionDefinition>;
  /** The place of each option in the order of iptables-save. */
  readonly order: ReadonlyMap<string, number>;
}

/** Match modules under the names that they have beside their own. */
const MATCH_ALIASES: Readonly<Record<AddressFamily, Readonly<Record<string, string>>>> = {
  ipv4: {},
  ipv6: { icmpv6: 'icmp6', 'ipv6-icmp': 'icmp6', 'mobility-header': 'mh' },
};

const MATCHES = [...PACKET_MATCHES, ...CONNECTION_MATCHES, ...IPV6_MATCHES];
const INDEX = {
  match: { ipv4: indexFamily(MATCHES, 'ipv4'), ipv6: indexFamily(MATCHES, 'ipv6') },
  target: { ipv4: indexFamily(TARGETS, 'ipv4'), ipv6: indexFamily(TARGETS, 'ipv6') },
};

/** Gives a match module of iptables or ip6tables by its name; undefined where 1.8.9 has none. */
export function findMatchModule(name: string, family: AddressFamily): IndexedExtension | undefined {
  const aliases = MATCH_ALIASES[family];
  return INDEX.match[family].get(Object.hasOwn(aliases, name) ? (aliases[name] ?? name) : name);
}

/** Gives a target that is an extension by its name; undefined for ACCEPT, DROP, RETURN, chains, and what 1.8.9 does not have. */
export function findTargetModule(name: string, family: AddressFamily): IndexedExtension | undefined {
  return INDEX.target[family].get(name);
}

function indexFamily(extensions: readonly Extension[], family: AddressFamily): ReadonlyMap<string, IndexedExtension> {
  return new Map(
    extensions
      .filter((extension) => extension.family === undefined || extension.family === family)
      .map((extension) => [
        extension.name,
        {
          extension,
          spellings: new Map(extension.options.flatMap((option) => [option.name, ...(option.aliases ?? [])].map((spelling) => [spelling, option]))),
          order: new Map(extension.options.map(({ name }, index) => [name, index])),
        },
      ]),
  );
}
