/** One word of a rule with its place. */
export interface Word {
  readonly text: string;
  /** From 1. */
  readonly column: number;
  /** In the line, with quotes and backslashes, in UTF-16 units. */
  readonly length: number;
}

/** A line that does not split into words. */
export interface UnfinishedQuote {
  /** The column of the quote, from 1. */
  readonly unfinishedQuoteAt: number;
}

const TAB = 9;
const SPACE = 32;
const DOUBLE_QUOTE = 34;
const BACKSLASH = 92;

/**
 * Splits a line of iptables-save text into words: white space separates, double quotes hold words together, and inside
 * of them a backslash makes the next character plain (iptables/xshared.c, add_param_to_argv; iptables-save writes
 * quotes so in libxtables/xtables.c, xtables_save_string). `from` is where to begin, an offset from 0.
 * A closing quote ends its word, whatever follows.
 */
export function splitWords(line: string, from = 0): readonly Word[] | UnfinishedQuote {
  const words: Word[] = [];
  const { length } = line;
  let position = from;
  for (;;) {
    while (position < length && isBlank(line.charCodeAt(position))) {
      position += 1;
    }
    if (position >= length) {
      return words;
    }
    const start = position;
    let code = line.charCodeAt(position);
    while (position < length && code !== DOUBLE_QUOTE && !isBlank(code)) {
      position += 1;
      code = line.charCodeAt(position);
    }
    if (code !== DOUBLE_QUOTE || position >= length) {
      words.push({ text: line.slice(start, position), column: start + 1, length: position - start });
      continue;
    }
    const quoted = readQuoted(line, start, position);
    if (typeof quoted === 'number') {
      return { unfinishedQuoteAt: quoted };
    }
    position = quoted.end;
    words.push({ text: quoted.text, column: start + 1, length: position - start });
  }
}

/** Reads a word that has a quote in it; gives the column of a quote that is not closed. */
function readQuoted(line: string, start: number, firstQuote: number): { readonly text: string; readonly end: number } | number {
  const pieces = [line.slice(start, firstQuote)];
  let position = firstQuote;
  let quoteAt = -1;
  let pieceFrom = firstQuote;
  for (; position < line.length; position += 1) {
    const code = line.charCodeAt(position);
    if (code === DOUBLE_QUOTE) {
      pieces.push(line.slice(pieceFrom, position));
      pieceFrom = position + 1;
      if (quoteAt >= 0) {
        return { text: pieces.join(''), end: position + 1 };
      }
      quoteAt = position;
    } else if (quoteAt >= 0 && code === BACKSLASH && position + 1 < line.length) {
      pieces.push(line.slice(pieceFrom, position));
      pieceFrom = position + 1;
      position += 1;
    }
  }
  return quoteAt + 1;
}

/**
 * Writes a word so that splitWords reads it back: bare where it has only letters, digits, `-` and `_`, else in quotes
 * with `"`, `'` and `\` escaped (libxtables/xtables.c, xtables_save_string).
 */
export function quoteWord(word: string): string {
  return /^[A-Za-z0-9_-]+$/.test(word) ? word : `"${word.replaceAll(/["'\\]/g, (character) => `\\${character}`)}"`;
}

/** How many bytes text has in UTF-8. */
export function utf8Length(text: string): number {
  // Nearly all of it is ASCII, and an encoder is dear where every name asks for it.
  return /^[\x20-\x7e]*$/.test(text) ? text.length : new TextEncoder().encode(text).length;
}

function isBlank(code: number): boolean {
  return code === SPACE || code === TAB;
}

const COMMAND = /^(?:-[AIDRNXFPEZCLS]|--(?:append|insert|delete|replace|new|new-chain|delete-chain|flush|policy|rename-chain|zero|check|list|list-rules))$/;

/** `-p tcp -A INPUT -j DROP` is `-A INPUT -p tcp -j DROP`: the command goes to the front with the words that belong to it. */
export function commandFirst(words: readonly Word[]): readonly Word[] {
  const at = words.findIndex(({ text }) => COMMAND.test(text));
  if (at <= 0) {
    return words;
  }
  let end = at + 1;
  while (end < words.length && !/^(?:-|!)/.test(words[end]?.text ?? '')) {
    end += 1;
  }
  return [...words.slice(at, end), ...words.slice(0, at), ...words.slice(end)];
}
