import { open, stat } from 'node:fs/promises';
import { inputError, MeshpathError } from '../agent/protocol/errors.ts';
import { MAX_RULE_SET_CHARACTERS } from '../simulator/netfilter/readRuleSet.ts';
import { escapeText } from './text/escape.ts';

/** The text of a rule set file. */
export interface RulesText {
  readonly text: string;
  /** True where bytes that are not UTF-8 were read as U+FFFD. */
  readonly isDamaged: boolean;
}

/**
 * Reads a rule set from a file, or from standard input where the path is `-`. Rejects with a MeshpathError: INPUT_INVALID
 * where it cannot be read, LIMIT_EXCEEDED where it is longer than is read of one.
 */
export async function readRulesFile(path: string): Promise<RulesText> {
  const bytes = path === '-' ? await readInput() : await readFileBytes(path);
  try {
    return { text: new TextDecoder('utf-8', { fatal: true, ignoreBOM: false }).decode(bytes), isDamaged: false };
  } catch (error) {
    if (!(error instanceof TypeError)) {
      throw error;
    }
    return { text: new TextDecoder().decode(bytes), isDamaged: true };
  }
}

async function readInput(): Promise<Uint8Array> {
  const pieces: Buffer[] = [];
  let length = 0;
  for await (const piece of process.stdin as AsyncIterable<Buffer>) {
    pieces.push(piece);
    length += piece.length;
    checkLength(length);
  }
  return Buffer.concat(pieces);
}

async function readFileBytes(path: string): Promise<Uint8Array> {
  try {
    checkLength((await stat(path)).size);
    const file = await open(path, 'r');
    try {
      return await file.readFile();
    } finally {
      await file.close();
    }
  } catch (error) {
    if (error instanceof MeshpathError) {
      throw error;
    }
    const reason = error instanceof Error ? error.message : String(error);
    throw new MeshpathError(
      inputError(`The rules ${escapeText(path)} could not be read.`, escapeText(reason), 'Check the name of the file and who may read it; - is standard input.').toJSON(),
      { cause: error },
    );
  }
}

function checkLength(bytes: number): void {
  if (bytes > MAX_RULE_SET_CHARACTERS) {
    throw new MeshpathError({
      code: 'LIMIT_EXCEEDED',
      message: 'The rule set is too long.',
      reason: `It has more than ${MAX_RULE_SET_CHARACTERS} bytes, the most that is read of one.`,
      remedy: 'Cut it into its tables, and give those one by one.',
    });
  }
}
