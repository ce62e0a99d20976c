import type { ExtensionMatch } from './compileExtension.ts';
import { BUILT_IN_CHAINS } from './ruleSet.ts';
import type { Chain, Rule, Table } from './ruleSet.ts';

/**
 * Lists that rules name (`-m recent --name`, `-m hashlimit --hashlimit-name`) are made by the first rule that names them, and
 * kept as that rule says: its masks, keys and rates hold for all others (net/netfilter/xt_hashlimit.c, htable_find_get; xt_recent.c,
 * recent_mt_check).
 */
export interface NamedLists {
  /** Who hands the rules to the kernel. */
  readonly backend: 'nft' | 'legacy';
  readonly makers: ReadonlyMap<string, ExtensionMatch>;
}

/** Gives the rule that made the list of a match: the match itself where no other did. */
export function makerOf(lists: NamedLists | undefined, match: ExtensionMatch): ExtensionMatch {
  return lists?.makers.get(listKey(match)) ?? match;
}

/** Finds who makes each list, in the order in which a backend hands rules to the kernel: nft in that of their lines, legacy chain by chain, user chains by name. */
export function findNamedLists(tables: readonly Table[], backend: NamedLists['backend']): NamedLists {
  const makers = new Map<string, ExtensionMatch>();
  for (const table of tables) {
    for (const { matches } of backend === 'nft' ? rulesOf([...table.chains.values()]).toSorted((left, right) => left.line - right.line) : rulesOf(chainsInMemory(table))) {
      for (const match of matches) {
        if (match.kind === 'extension' && (match.module === 'recent' || match.module === 'hashlimit') && !makers.has(listKey(match))) {
          makers.set(listKey(match), match);
        }
      }
    }
  }
  return { backend, makers };
}

function rulesOf(chains: readonly Chain[]): readonly Rule[] {
  return chains.flatMap(({ rules }) => rules);
}

function chainsInMemory({ name, chains }: Table): readonly Chain[] {
  const builtIn: readonly string[] = BUILT_IN_CHAINS[name];
  const user = [...chains.values()].filter((chain) => !builtIn.includes(chain.name)).toSorted((left, right) => (left.name < right.name ? -1 : 1));
  return [...builtIn.flatMap((chain) => chains.get(chain) ?? []), ...user];
}

function listKey({ module, options }: ExtensionMatch): string {
  return `${module} ${options.find(({ name }) => name === 'name' || name === 'hashlimit-name')?.text ?? ''}`;
}
