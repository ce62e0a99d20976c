import type { Hook, TableName } from '../../agent/protocol/trace.ts';
import type { AddressFamily, Backend, ExtensionOption, Match, OptionValue } from './ruleSet.ts';
import type { Word } from './words.ts';

/** What an option's argument says, and how iptables-save prints it. */
export interface OptionData {
  readonly value: OptionValue;
  readonly text: string | null;
}

/** Takes the words that belong to an option; `take` gives the next one. Throws a SyntaxProblem. */
export type ArgumentReader = (take: (expected: string) => Word, family: AddressFamily, peek: () => Word | undefined) => OptionData;

/** An option of a match module or target. */
export interface OptionDefinition {
  /** Without dashes; as iptables-save prints it. */
  readonly name: string;
  readonly aliases?: readonly string[];
  readonly read: ArgumentReader;
  readonly negatable?: boolean;
  /** The rule is refused without it. */
  readonly required?: boolean;
  /** Options that it cannot stand beside. */
  readonly excludes?: readonly string[];
  /** Options of which it needs each. */
  readonly needs?: readonly string[];
  /** An option that has to stand before it. */
  readonly after?: string;
  /** May be given more than once. */
  readonly repeatable?: boolean;
}

/** What a match module or target refuses where the whole rule is known, or null where it takes it. */
export type RuleCheck = (rule: RuleSurroundings, options: readonly ExtensionOption[]) => string | null;

/** What of a rule a match module or target looks at when it is loaded. */
export interface RuleSurroundings {
  readonly family: AddressFamily;
  readonly backend: Backend;
  /** The protocol of the rule as iptables-save prints it; null where there is none. */
  readonly protocol: string | null;
  readonly protocolNegated: boolean;
  readonly matches: readonly Match[];
}

/** A match module or target of iptables 1.8.9. */
export interface Extension {
  readonly name: string;
  /** Where it is only for one of the two programs. */
  readonly family?: AddressFamily;
  /** In the order in which iptables-save prints them. */
  readonly options: readonly OptionDefinition[];
  /** The rule is refused unless one of these options is there. */
  readonly requiresOneOf?: readonly string[];
  /** The kernel takes it in these tables only. */
  readonly tables?: readonly TableName[];
  /** The kernel takes it only where packets come from these hooks. */
  readonly hooks?: readonly Hook[];
  /** The rule must have -p with one of these protocols, not negated. */
  readonly protocols?: readonly string[];
  /** Brings the options into the form that the kernel keeps: adds what is implied, drops what says nothing. Options come and go in printed order. */
  readonly complete?: (options: readonly ExtensionOption[], family: AddressFamily) => readonly ExtensionOption[];
  /** What else the program or the kernel refuses. */
  readonly check?: RuleCheck;
}

/** Finds an option by its name. */
export function findOption(options: readonly ExtensionOption[], name: string): ExtensionOption | undefined {
  return options.find((option) => option.name === name);
}

/** Makes an option that the rule does not spell out but the kernel has. */
export function impliedOption(name: string, { value, text }: OptionData): ExtensionOption {
  return { name, negated: false, value, text };
}
