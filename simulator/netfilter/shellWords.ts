import type { Word } from './words.ts';

/** A command of a shell script: its words, with their places in the line. */
export type ShellCommand = readonly Word[];

/**
 * Splits one line of a shell script into simple commands: quotes, backslashes and comments as POSIX has them (Shell
 * Command Language, 2.2), commands apart at `;`, `&`, `|` and their doubles. Variables and substitutions are not
 * expanded: they stay in their words. Gives the column of a quote that is not closed instead.
 */
export function splitShellLine(line: string): readonly ShellCommand[] | { readonly unfinishedQuoteAt: number } {
  const commands: Word[][] = [[]];
  let position = 0;
  while (position < line.length) {
    const character = line[position] ?? '';
    if (character === ' ' || character === '\t' || character === '\r') {
      position += 1;
    } else if (';&|'.includes(character)) {
      commands.push([]);
      position += 1;
    } else if (character === '#') {
      break;
    } else {
      const read = readShellWord(line, position);
      if (typeof read === 'number') {
        return { unfinishedQuoteAt: read + 1 };
      }
      commands.at(-1)?.push({ text: read.text, column: position + 1, length: read.end - position });
      position = read.end;
    }
  }
  return commands.filter((words) => words.length > 0);
}

/** Reads a word; gives the offset of a quote that is not closed. */
function readShellWord(line: string, start: number): { readonly text: string; readonly end: number } | number {
  const pieces: string[] = [];
  let position = start;
  while (position < line.length && !' \t\r;&|'.includes(line[position] ?? '')) {
    const character = line[position] ?? '';
    if (character === '\\') {
      pieces.push(line[position + 1] ?? '');
      position += 2;
    } else if (character === "'" || character === '"') {
      const end = findQuoteEnd(line, position);
      if (end < 0) {
        return position;
      }
      const inner = line.slice(position + 1, end);
      pieces.push(character === "'" ? inner : inner.replaceAll(/\\(["\\$`])/g, '$1'));
      position = end + 1;
    } else {
      pieces.push(character);
      position += 1;
    }
  }
  return { text: pieces.join(''), end: Math.min(position, line.length) };
}

function findQuoteEnd(line: string, start: number): number {
  const quote = line[start] ?? '';
  for (let position = start + 1; position < line.length; position += 1) {
    if (quote === '"' && line[position] === '\\') {
      position += 1;
    } else if (line[position] === quote) {
      return position;
    }
  }
  return -1;
}
