import type { MapInfo } from '../agent/protocol/kernelObjects.ts';
import type { MapEntry } from '../agent/protocol/mapEntries.ts';
import { formatCount } from './text/count.ts';
import { countOf, flattenBytes, formatValue } from './text/decodedValue.ts';
import { escapeText } from './text/escape.ts';
import { formatTable } from './text/table.ts';
import type { Column, TableOptions } from './text/table.ts';
import { padText, textWidth, truncateText } from './text/width.ts';

/** A map with as many of its entries as were asked for. */
export interface MapListing {
  readonly map: MapInfo;
  readonly entries: readonly MapEntry[];
  /** True where the map has more. */
  readonly truncated: boolean;
  /** True where entries changed while they were read: some may be missing or seen twice. */
  readonly changedDuringRead: boolean;
}

/**
 * Gives a map's entries as a table: a column for each field of key and value, or, where that is wider than the
 * terminal, a line for each field. Values of per-CPU maps stand side by side, after their sum where they are numbers.
 * Reserved fields that are zero are left out.
 */
export function formatMapListing(listing: MapListing, options: TableOptions): string[] {
  const { map, entries } = listing;
  const title = options.style.bold(`${escapeText(map.name)} (${map.id}): ${escapeText(map.type)}, ${describeCount(listing)}`);
  const rows = entries.map((entry) => [...columnsOf('key', flattenBytes(entry.key)), ...valueColumns(entry)].filter((cell) => !isEmptyReserve(cell)));
  const names = [...new Set(rows.flatMap((row) => row.map(({ name }) => name)))];
  const isWide = Math.max(0, ...rows.map((row) => tableWidth(row, names))) > options.width;
  const body = isWide ? formatRecords(rows, options) : formatEntries(rows, names, options);
  const notes = listing.changedDuringRead ? ['The map changed while it was read: entries may be missing or seen twice.'] : [];
  return [title, ...(entries.length === 0 ? [] : body), ...notes];
}

interface Cell {
  readonly name: string;
  readonly text: string;
}

function formatEntries(rows: readonly (readonly Cell[])[], names: readonly string[], options: TableOptions): string[] {
  return formatTable(
    names.map((name): Column => ({ title: escapeText(name), align: rows.every((row) => isNumeric(cellOf(row, name))) ? 'right' : 'left' })),
    rows.map((row) => names.map((name) => cellOf(row, name))),
    options,
  );
}

/** One line a field, with an empty line between entries. */
function formatRecords(rows: readonly (readonly Cell[])[], { width, style }: TableOptions): string[] {
  const nameWidth = Math.max(0, ...rows.flatMap((row) => row.map(({ name }) => textWidth(escapeText(name)))));
  return rows.flatMap((row, index) => [
    ...(index === 0 ? [] : ['']),
    ...row.map(({ name, text }) => `  ${style.dim(padText(escapeText(name), nameWidth))}  ${truncateText(escapeText(text), width - nameWidth - 4)}`),
  ]);
}

/** How wide a row of the table is at least. */
function tableWidth(row: readonly Cell[], names: readonly string[]): number {
  return names.reduce((sum, name) => sum + 2 + Math.max(textWidth(name), textWidth(cellOf(row, name))), -2);
}

/** Padding that a struct names, as long as it holds nothing. */
function isEmptyReserve({ name, text }: Cell): boolean {
  return name.endsWith('.reserved') && /^(?:0x)?0+$/.test(text);
}

function describeCount({ entries, truncated, map }: MapListing): string {
  const count = formatCount(entries.length, 'entry', 'entries');
  return truncated ? `the first ${count} (--limit N shows more)` : `${count} of at most ${map.maxEntries}`;
}

function columnsOf(side: 'key' | 'value', scalars: readonly { readonly path: string; readonly text: string }[]): Cell[] {
  return scalars.map(({ path, text }) => ({ name: path === '' ? side : `${side}.${path}`, text }));
}

function valueColumns(entry: MapEntry): Cell[] {
  const [first, ...others] = entry.values;
  if (first === undefined) {
    return [];
  }
  if (others.length === 0) {
    return columnsOf('value', flattenBytes(first));
  }
  const counts = entry.values.map(({ decoded }) => countOf(decoded));
  const sum = counts.every((count) => count !== undefined) ? counts.reduce((total, count) => total + count, 0n) : undefined;
  const each = entry.values.map(({ decoded, bytes }) => (decoded === null ? `0x${bytes}` : formatValue(decoded))).join(' | ');
  return [...(sum === undefined ? [] : [{ name: 'value', text: String(sum) }]), { name: 'value of each CPU', text: each }];
}

function cellOf(row: readonly Cell[], name: string): string {
  return row.find((cell) => cell.name === name)?.text ?? '';
}

function isNumeric(text: string): boolean {
  return /^-?\d+$/.test(text);
}
