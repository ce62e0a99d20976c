import type { Extension, OptionDefinition, RuleSurroundings } from './extension.ts';
import type { IndexedExtension } from './extensionIndex.ts';
import type { AddressFamily, ExtensionOption } from './ruleSet.ts';
import type { Word } from './words.ts';
import type { WordReader } from './wordReader.ts';
import { SyntaxProblem } from './wordReader.ts';

/** An extension while its options are read. */
export class ExtensionReading {
  readonly name: Word;
  readonly extension: Extension;
  readonly #index: IndexedExtension;
  readonly #options: ExtensionOption[] = [];

  constructor(name: Word, index: IndexedExtension) {
    this.name = name;
    this.extension = index.extension;
    this.#index = index;
  }

  /** The names of the options that were given. */
  names(): readonly string[] {
    return this.#options.map(({ name, text }) => (text === null ? name : `${name} ${text}`));
  }

  /** Finds an option by its whole spelling. */
  find(spelling: string): OptionDefinition | undefined {
    return this.#index.spellings.get(spelling);
  }

  /** The options of which a spelling begins so. */
  *findBeginning(beginning: string): Generator<OptionDefinition> {
    for (const [spelling, option] of this.#index.spellings) {
      if (spelling.startsWith(beginning)) {
        yield option;
      }
    }
  }

  /** Reads the argument of an option; throws a SyntaxProblem where it is wrong or cannot stand here. */
  take(option: OptionDefinition, word: Word, negated: boolean, reader: WordReader, family: AddressFamily): void {
    if (negated && option.negatable !== true) {
      throw new SyntaxProblem(word, `The option --${option.name} cannot have a ! before it.`, 'the option without !');
    }
    for (const { name } of this.#options) {
      if (name === option.name && option.repeatable !== true) {
        throw new SyntaxProblem(word, `The option --${option.name} is given twice.`, 'each option once');
      }
      if (option.excludes?.includes(name) === true) {
        throw new SyntaxProblem(word, `The options --${option.name} and --${name} cannot stand together.`, 'one of them');
      }
    }
    const { after } = option;
    if (after !== undefined && !this.#options.some(({ name }) => name === after)) {
      throw new SyntaxProblem(word, `The option --${option.name} needs --${after} before it.`, `--${after}`);
    }
    const { value, text } = option.read(
      (expected) => reader.take(expected),
      family,
      () => reader.peek(),
    );
    this.#options.push({ name: option.name, negated, value, text });
  }

  /** Gives the options as the kernel keeps them; throws a SyntaxProblem where one is missing. */
  finish(family: AddressFamily): readonly ExtensionOption[] {
    const { extension } = this;
    const has = (name: string): boolean => this.#options.some((option) => option.name === name);
    const missing = extension.options.find((option) => option.required === true && !has(option.name));
    if (missing !== undefined) {
      throw new SyntaxProblem(this.name, `${extension.name} needs --${missing.name}.`, `--${missing.name}`);
    }
    if (extension.requiresOneOf !== undefined && !extension.requiresOneOf.some(has)) {
      throw new SyntaxProblem(this.name, `${extension.name} needs an option.`, extension.requiresOneOf.map((name) => `--${name}`).join(' or '));
    }
    for (const option of this.#options) {
      const needed = this.#index.spellings.get(option.name)?.needs?.find((name) => !has(name));
      if (needed !== undefined) {
        throw new SyntaxProblem(this.name, `The option --${option.name} needs --${needed} beside it.`, `--${needed}`);
      }
    }
    const isRepeated = extension.options.some(({ repeatable }) => repeatable === true);
    const sorted = isRepeated ? sortElements(this.#options, this.#index.order) : sortOptions(this.#options, this.#index.order);
    return extension.complete?.(sorted, family) ?? sorted;
  }

  /** Throws a SyntaxProblem where the rule as a whole cannot have the extension. */
  check(rule: RuleSurroundings, options: readonly ExtensionOption[]): void {
    const { protocols, name, check } = this.extension;
    if (protocols !== undefined && (rule.protocol === null || !protocols.includes(rule.protocol) || rule.protocolNegated)) {
      throw new SyntaxProblem(this.name, `${name} needs -p with its protocol.`, protocols.map((protocol) => `-p ${protocol}`).join(' or '));
    }
    const refusal = check?.(rule, options) ?? null;
    if (refusal !== null) {
      throw new SyntaxProblem(this.name, refusal, `what ${name} takes`);
    }
  }
}

function sortOptions(options: readonly ExtensionOption[], order: ReadonlyMap<string, number>): readonly ExtensionOption[] {
  return options.length < 2 ? options : options.toSorted((left, right) => (order.get(left.name) ?? 0) - (order.get(right.name) ?? 0));
}

/** The options between two `--next` belong together. */
function sortElements(options: readonly ExtensionOption[], order: ReadonlyMap<string, number>): readonly ExtensionOption[] {
  const elements: ExtensionOption[][] = [[]];
  for (const option of options) {
    if (option.name === 'next') {
      elements.push([option]);
    } else {
      elements.at(-1)?.push(option);
    }
  }
  return elements.flatMap((element) => (element[0]?.name === 'next' ? [element[0], ...sortOptions(element.slice(1), order)] : sortOptions(element, order)));
}
