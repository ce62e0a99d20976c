import type { Word } from './words.ts';

/** What is wrong at one place of a line. Thrown while a rule is read, and turned into a RuleProblem by the reader. */
export class SyntaxProblem extends Error {
  /** From 1. */
  readonly column: number;
  /** The length of what is wrong; 0 at the end of a line. */
  readonly length: number;
  readonly found: string;
  readonly expected: string;

  constructor(place: Word | number, message: string, expected: string) {
    super(message);
    this.name = 'SyntaxProblem';
    this.column = typeof place === 'number' ? place : place.column;
    this.length = typeof place === 'number' ? 0 : place.length;
    this.found = typeof place === 'number' ? '' : shorten(place.text);
    this.expected = expected;
  }
}

/** Reads the words of one line from left to right. */
export class WordReader {
  readonly #words: readonly Word[];
  readonly #endColumn: number;
  #position = 0;

  constructor(words: readonly Word[], endColumn: number) {
    this.#words = words;
    this.#endColumn = endColumn;
  }

  /** The next word, or undefined at the end; it stays where it is. */
  peek(): Word | undefined {
    return this.#words[this.#position];
  }

  /** The word after the next one. */
  peekSecond(): Word | undefined {
    return this.#words[this.#position + 1];
  }

  /** Gives the next word and goes on; throws a SyntaxProblem at the end of the line. */
  take(expected: string): Word {
    const word = this.#words[this.#position];
    if (word === undefined) {
      throw new SyntaxProblem(this.#endColumn, 'The line ends too early.', expected);
    }
    this.#position += 1;
    return word;
  }
}

/** Throws the problem that a word is not what was expected. */
export function rejectWord(word: Word, expected: string): never {
  throw new SyntaxProblem(word, `'${shorten(word.text)}' is not understood here.`, expected);
}

/** Cuts untrusted text to a length that fits into a message. */
export function shorten(text: string): string {
  return text.length > 60 ? `${text.slice(0, 59)}…` : text;
}
