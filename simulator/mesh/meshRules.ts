import type { TableName } from '../../agent/protocol/trace.ts';
import { BUILT_IN_CHAINS } from '../netfilter/ruleSet.ts';

export type RuleFamily = 'ipv4' | 'ipv6';

/** The rules that a mesh's own tool installs in a pod, as it writes them. */
export interface MeshRules {
  /** What it gives `iptables-restore --noflush`; empty where it has no rules. */
  readonly ipv4: string;
  /** What it gives `ip6tables-restore --noflush`; empty where it has no rules. */
  readonly ipv6: string;
  /** What it does beside the rules, as command lines of `ip` and `sysctl`. */
  readonly setup: readonly string[];
  /** The tool's own commands where it runs iptables once for each rule; empty where it uses restore. */
  readonly commands: readonly string[];
  /** What a person should know of these rules: sentences. */
  readonly notes: readonly string[];
}

interface RuleLine {
  readonly table: TableName;
  readonly chain: string;
  /** With its `-A CHAIN` or `-I CHAIN N`. */
  readonly text: string;
  /** The last word, where the one before is `-j`. */
  readonly jump: string | null;
}

const BUILT_IN = new Set<string>(Object.values(BUILT_IN_CHAINS).flat());
const VERDICTS = new Set(['ACCEPT', 'DROP', 'RETURN']);

/** Rules of one family in the order in which a tool makes them, for iptables-restore. */
export class RuleList {
  readonly #lines: RuleLine[] = [];

  /** Adds a rule at the end of a chain: `append('nat', 'OUTPUT', '-j ISTIO_OUTPUT')`. */
  append(table: TableName, chain: string, rule: string): void {
    this.#add(table, chain, `-A ${chain} ${rule}`);
  }

  /** Adds a rule at a place of a chain, from 1; null leaves it to iptables, which takes the first. */
  insert(table: TableName, chain: string, position: number | null, rule: string): void {
    this.#add(table, chain, `-I ${chain} ${position === null ? '' : `${position} `}${rule}`);
  }

  /** The rule lines of a table in their order. */
  lines(table: TableName): readonly string[] {
    return this.#lines.filter((line) => line.table === table).map(({ text }) => text);
  }

  /**
   * Writes blocks of `* TABLE`, `-N` for each user chain, the rules and COMMIT. Chains come in the order in which rules
   * are added to them, then those that are only jumped to; tables without rules are left out.
   */
  restoreText(tables: readonly TableName[]): string {
    return tables.map((table) => formatRestoreBlock(table, this.#userChains(table), this.lines(table))).join('');
  }

  #userChains(table: TableName): readonly string[] {
    const lines = this.#lines.filter((line) => line.table === table);
    const jumps = lines.flatMap(({ jump }) => jump ?? []).filter((target) => !VERDICTS.has(target));
    return [...new Set([...lines.map(({ chain }) => chain), ...jumps])].filter((chain) => !BUILT_IN.has(chain));
  }

  #add(table: TableName, chain: string, text: string): void {
    const words = text.split(' ');
    this.#lines.push({ table, chain, text, jump: words.at(-2) === '-j' ? (words.at(-1) ?? null) : null });
  }
}

/** Writes one table for iptables-restore with a space after `*`, as the meshes do; empty where there are no rules. */
export function formatRestoreBlock(table: TableName, chains: readonly string[], rules: readonly string[]): string {
  return rules.length === 0 ? '' : [`* ${table}`, ...chains.map((chain) => `-N ${chain}`), ...rules, 'COMMIT', ''].join('\n');
}
