/** Gives how wide a text is. */
export type MeasureText = (text: string) => number;

const ELLIPSIS = '…';
/** Longer texts are cut to this before anything is measured. */
const MAX_LENGTH = 400;
/** Knows what people take for one character, which may be several code points. */
const segmenter = new Intl.Segmenter('en', { granularity: 'grapheme' });

/** Gives the longest form of a text, made of `keep` characters of it, that is not wider than `width`. */
function fit(text: string, width: number, measure: MeasureText, shorten: (characters: readonly string[], keep: number) => string): string {
  if (text.length <= MAX_LENGTH && measure(text) <= width) {
    return text;
  }
  const characters = Array.from(segmenter.segment(text.slice(0, MAX_LENGTH)), ({ segment }) => segment);
  let [low, high] = [0, characters.length];
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (measure(shorten(characters, middle)) <= width) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low === 0 ? ELLIPSIS : shorten(characters, low);
}

/** Gives a text that is not wider than `width`, with an ellipsis at its end where it had to be cut. */
export function fitEnd(text: string, width: number, measure: MeasureText): string {
  return fit(text, width, measure, (characters, keep) => `${characters.slice(0, keep).join('')}${ELLIPSIS}`);
}

/** The same with the ellipsis in its middle, for names whose ends tell them apart: names of pods. */
export function fitMiddle(text: string, width: number, measure: MeasureText): string {
  return fit(text, width, measure, (characters, keep) => {
    const head = Math.floor(keep / 2);
    return `${characters.slice(0, head).join('')}${ELLIPSIS}${characters.slice(characters.length - (keep - head)).join('')}`;
  });
}
