import { escapeText } from './escape.ts';
import type { Style } from './style.ts';
import { padText, textWidth, truncateText } from './width.ts';

const GAP = '  ';
/** A column that is cut keeps at least this much. */
const MIN_COLUMN_WIDTH = 8;

export interface Column {
  readonly title: string;
  readonly align?: 'left' | 'right';
}

export interface TableOptions {
  /** Columns of the terminal; Infinity for a pipe, whose lines are never cut. */
  readonly width: number;
  readonly style: Style;
}

/**
 * Gives rows of untrusted text as aligned lines under a line of titles. Where they are wider than the terminal, the
 * widest columns are cut until they fit, as far as columns can be cut.
 */
export function formatTable(columns: readonly Column[], rows: readonly (readonly string[])[], options: TableOptions): string[] {
  const cells = rows.map((row) => columns.map((_, index) => escapeText(row[index] ?? '')));
  const natural = columns.map(({ title }, index) =>
    cells.reduce((widest, row) => Math.max(widest, textWidth(row[index] ?? '')), textWidth(title)),
  );
  const widths = fitWidths(natural, options.width - GAP.length * (columns.length - 1));
  const formatRow = (row: readonly string[]): string =>
    columns
      .map(({ align }, index) => padText(truncateText(row[index] ?? '', widths[index] ?? 0), widths[index] ?? 0, align))
      .join(GAP)
      .trimEnd();
  return [options.style.bold(formatRow(columns.map(({ title }) => title))), ...cells.map(formatRow)];
}

/** Takes width from the widest columns until all fit into `available`. */
function fitWidths(natural: readonly number[], available: number): number[] {
  const widths = [...natural];
  let excess = widths.reduce((sum, width) => sum + width, 0) - available;
  while (excess > 0) {
    const widest = Math.max(...widths);
    if (widest <= MIN_COLUMN_WIDTH) {
      break;
    }
    const index = widths.lastIndexOf(widest);
    const next = Math.max(MIN_COLUMN_WIDTH, ...widths.filter((_, other) => other !== index));
    const cut = Math.min(excess, Math.max(1, widest - next));
    widths[index] = widest - cut;
    excess -= cut;
  }
  return widths;
}
