import type { AddressFamily, Counters, Match, Rule, RuleBody, Target } from './ruleSet.ts';
import { writeRule } from './writeRuleSet.ts';

/** Where a rule stands in its text, with its counters; see Rule. */
export type RulePlace = Pick<Rule, 'counters' | 'line' | 'column' | 'length'>;

/** A rule that could be read. Its text is written when it is asked for: of most it never is, and it took a quarter of the time of reading. */
export class WrittenRule implements Rule {
  readonly matches: readonly Match[];
  readonly target: Target;
  readonly counters: Counters | null;
  readonly line: number;
  readonly column: number;
  readonly length: number;
  readonly #chain: string;
  readonly #family: AddressFamily;
  #text: string | undefined;

  constructor(chain: string, family: AddressFamily, { matches, target }: RuleBody, { counters, line, column, length }: RulePlace) {
    this.matches = matches;
    this.target = target;
    this.counters = counters;
    this.line = line;
    this.column = column;
    this.length = length;
    this.#chain = chain;
    this.#family = family;
  }

  get text(): string {
    this.#text ??= writeRule(this.#chain, this, this.#family);
    return this.#text;
  }
}
