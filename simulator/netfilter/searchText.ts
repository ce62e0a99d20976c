import type { ArgumentReader, OptionData } from './extension.ts';
import { fromText } from './optionArguments.ts';

/** XT_STRING_MAX_PATTERN_SIZE (include/uapi/linux/netfilter/xt_string.h). */
const MAX_PATTERN_BYTES = 128;
const BACKSLASH = 0x5c;

/** Reads `--string`: the bytes of the text. */
export const searchString: ArgumentReader = fromText(`text of 1 to ${MAX_PATTERN_BYTES} bytes`, (text) => patternOf(new TextEncoder().encode(text)));

/** Reads `--hex-string`: text with bytes in hexadecimal between bars; a backslash makes the next character plain (libxt_string.c). */
export const searchBytes: ArgumentReader = fromText('text with bytes such as |0d 0a|', (text) => {
  const bytes: number[] = [];
  let position = 0;
  while (position < text.length) {
    const character = text[position] ?? '';
    if (character === '|') {
      const end = text.indexOf('|', position + 1);
      const block = end < 0 ? undefined : /^ *(?:[0-9a-f]{2} ?)*$/i.exec(text.slice(position + 1, end))?.[0];
      if (block === undefined) {
        return undefined;
      }
      bytes.push(...(block.match(/[0-9a-f]{2}/gi) ?? []).map((byte) => Number.parseInt(byte, 16)));
      position = end + 1;
    } else {
      const plain = character === '\\' ? position + 1 : position;
      const codePoint = text.codePointAt(plain);
      if (codePoint === undefined) {
        return undefined;
      }
      const letter = String.fromCodePoint(codePoint);
      bytes.push(...new TextEncoder().encode(letter));
      position = plain + letter.length;
    }
  }
  return patternOf(Uint8Array.from(bytes));
});

function patternOf(bytes: Uint8Array): OptionData | undefined {
  if (bytes.length === 0 || bytes.length > MAX_PATTERN_BYTES) {
    return undefined;
  }
  const isPrintable = bytes.every((byte) => byte >= 0x20 && byte <= 0x7e) && bytes.at(-1) !== BACKSLASH;
  const text = isPrintable ? `"${String.fromCharCode(...bytes).replaceAll(/["\\]/g, '\\$&')}"` : `"|${[...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join('')}|"`;
  return { value: { type: 'numbers', numbers: [...bytes] }, text };
}

/** Says whether bytes come out as `--hex-string`. */
export function isHexPattern(bytes: readonly number[]): boolean {
  return !bytes.every((byte) => byte >= 0x20 && byte <= 0x7e) || bytes.at(-1) === BACKSLASH;
}
