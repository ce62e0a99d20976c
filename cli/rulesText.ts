import { inputError } from '../agent/protocol/errors.ts';
import type { RuleSetOptions } from '../simulator/netfilter/readRuleSet.ts';
import type { ParsedRuleSet, RuleProblem } from '../simulator/netfilter/ruleSet.ts';
import type { CommandArguments, OptionDefinitions } from './command.ts';
import { escapeText } from './text/escape.ts';

/** Gives a problem of a rule set as one line: `FILE:LINE:COLUMN: error: what is wrong Expected: …`. */
export function formatProblem(path: string, { severity, line, column, message, expected }: RuleProblem): string {
  return `${escapeText(path)}:${line}:${column}: ${severity}: ${escapeText(message)} Expected: ${escapeText(expected)}.`;
}

/** Says on standard error that a file was not UTF-8. */
export function tellDamage(isDamaged: boolean, note: (line: string) => void): void {
  if (isDamaged) {
    note('Some bytes of the rules are not UTF-8; they are shown as \uFFFD.');
  }
}

/** Gives a rule set as JSON: tables, chains and rules in order; counters and other 64-bit numbers as decimal text. */
export function ruleSetJson({ tables, family, problems }: ParsedRuleSet): unknown {
  const document = { family, tables: tables.map((table) => ({ name: table.name, chains: [...table.chains.values()] })), problems };
  return JSON.parse(JSON.stringify(document, (_, value: unknown) => (typeof value === 'bigint' ? String(value) : value)));
}

/** The options by which a command says how rules are read. */
export const READING_OPTIONS: OptionDefinitions = {
  backend: { type: 'string', valueName: 'BACKEND', description: 'Answer as iptables of "nft" or of "legacy" does (nft); they differ in details.' },
  family: { type: 'string', valueName: 'FAMILY', description: 'The rules are of "ipv4" or "ipv6"; found by what they hold where it is left out.' },
};

/** Reads READING_OPTIONS; throws a MeshpathError INPUT_INVALID for anything else. */
export function readingOptions(args: CommandArguments): RuleSetOptions {
  const backend = args.text('backend');
  const family = args.text('family');
  if (backend !== undefined && backend !== 'nft' && backend !== 'legacy') {
    throw inputError(`There is no backend '${escapeText(backend.slice(0, 40))}'.`, 'iptables has the backends nft and legacy.', 'Give --backend nft or --backend legacy.');
  }
  if (family !== undefined && family !== 'ipv4' && family !== 'ipv6') {
    throw inputError(`There is no family '${escapeText(family.slice(0, 40))}'.`, 'Rules are of ipv4 or of ipv6.', 'Give --family ipv4 or --family ipv6.');
  }
  return { ...(backend === undefined ? {} : { backend }), ...(family === undefined ? {} : { family }) };
}

/** Says whether nothing but warnings was found. */
export function isReadable(problems: readonly RuleProblem[]): boolean {
  return problems.every(({ severity }) => severity === 'warning');
}
