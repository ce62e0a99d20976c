/** One word of a rule with the place where it begins. */
export interface Word {
  readonly text: string;
  /** From 1. */
  readonly column: number;
}

/** A line that does not split into words. */
export interface UnfinishedQuote {
  readonly unfinishedQuoteAt: number;
}

/**
 * Splits a line of iptables-save text into words: white space separates, double quotes hold words together, and inside
 * of them a backslash makes the next character plain (iptables/xshared.c, add_param_to_argv; iptables-save writes
 * quotes so in libxtables/xtables.c, xtables_save_string).
 */
export function splitWords(line: string): readonly Word[] | UnfinishedQuote {
  const words: Word[] = [];
  let position = 0;
  while (position < line.length) {
    if (isBlank(line[position])) {
      position += 1;
      continue;
    }
    const start = position;
    let text = '';
    let quoteAt = -1;
    while (position < line.length) {
      const character = line[position] ?? '';
      if (quoteAt < 0 && isBlank(character)) {
        break;
      }
      if (quoteAt >= 0 && character === '\\' && position + 1 < line.length) {
        text += line[position + 1] ?? '';
        position += 2;
        continue;
      }
      if (character === '"') {
        quoteAt = quoteAt < 0 ? position : -1;
      } else {
        text += character;
      }
      position += 1;
    }
    if (quoteAt >= 0) {
      return { unfinishedQuoteAt: quoteAt + 1 };
    }
    words.push({ text, column: start + 1 });
  }
  return words;
}

/**
 * Writes a word so that splitWords reads it back: bare where it has only letters, digits, `-` and `_`, else in quotes
 * with `"`, `'` and `\` escaped (libxtables/xtables.c, xtables_save_string).
 */
export function quoteWord(word: string): string {
  return /^[A-Za-z0-9_-]+$/.test(word) ? word : `"${word.replaceAll(/["'\\]/g, (character) => `\\${character}`)}"`;
}

function isBlank(character: string | undefined): boolean {
  return character === ' ' || character === '\t' || character === '\r' || character === '\v' || character === '\f';
}
