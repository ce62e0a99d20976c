const segmenter = new Intl.Segmenter('en', { granularity: 'grapheme' });

/** East Asian wide and full-width characters and emoji (Unicode TR 11), the ranges that terminals agree on. */
const WIDE =
  /^[\u1100-\u115f\u2e80-\u303e\u3041-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6\u{20000}-\u{3fffd}]|^\p{Emoji_Presentation}/u;

/** Gives how many columns of a terminal a text takes that has no control characters. */
export function textWidth(text: string): number {
  if (/^[\u0020-\u007e]*$/.test(text)) {
    return text.length;
  }
  let width = 0;
  for (const { segment } of segmenter.segment(text)) {
    width += WIDE.test(segment) ? 2 : 1;
  }
  return width;
}

/** Cuts a text to at most `width` columns; one that was cut ends in `…`. */
export function truncateText(text: string, width: number): string {
  if (textWidth(text) <= width) {
    return text;
  }
  let kept = '';
  let used = 0;
  for (const { segment } of segmenter.segment(text)) {
    const columns = WIDE.test(segment) ? 2 : 1;
    if (used + columns > width - 1) {
      break;
    }
    kept += segment;
    used += columns;
  }
  return width <= 0 ? '' : `${kept}…`;
}

/** Breaks a text at spaces into lines of at most `width` columns; a longer word gets a line of its own. */
export function wrapText(text: string, width: number): string[] {
  const lines: string[] = [];
  let line = '';
  for (const word of text.split(' ')) {
    const longer = line === '' ? word : `${line} ${word}`;
    if (line !== '' && textWidth(longer) > width) {
      lines.push(line);
      line = word;
    } else {
      line = longer;
    }
  }
  return [...lines, line];
}

/** Fills a text with spaces to `width` columns, behind it or, for numbers, in front of it. */
export function padText(text: string, width: number, align: 'left' | 'right' = 'left'): string {
  const padding = ' '.repeat(Math.max(0, width - textWidth(text)));
  return align === 'left' ? text + padding : padding + text;
}
