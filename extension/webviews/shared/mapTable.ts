import type { MapInfo } from '../../../agent/protocol/kernelObjects.ts';
import type { DecodedValue, MapEntry, TypedBytes } from '../../../agent/protocol/mapEntries.ts';
import { ipAddressBytes } from '../../../agent/protocol/ipAddress.ts';

/** The most columns a table gets; the rest of a value is shown as one text in the last of them. */
export const MAX_COLUMNS = 64;
/** The longest text of a cell. */
export const MAX_CELL_CHARACTERS = 512;
/** How many elements of an array are spelled out. */
const MAX_ARRAY_ELEMENTS = 32;

/** What a column holds, for alignment and order. */
export type CellKind = 'number' | 'port' | 'address' | 'text' | 'bytes';

export interface Cell {
  readonly text: string;
  readonly kind: CellKind;
}

export interface Column {
  /** Unique in its table: `key.local.port`, `value[2].bytes`. */
  readonly id: string;
  readonly part: 'key' | 'value';
  /** What its header says: `local.port`. */
  readonly title: string;
  readonly kind: CellKind;
}

/** A row as cells by column id; what it lacks has no cell. */
export interface Row {
  /** The place of its entry in the order of reading, from 0. */
  readonly index: number;
  readonly cells: ReadonlyMap<string, Cell>;
}

export interface MapTable {
  readonly columns: readonly Column[];
  readonly rows: readonly Row[];
}

/** How the bytes of a map are shown. */
export type Presentation = 'decoded' | 'raw';

function cut(text: string): string {
  return text.length <= MAX_CELL_CHARACTERS ? text : `${text.slice(0, MAX_CELL_CHARACTERS)}…`;
}

/** Gives bytes in pairs of digits: `0a 00 00 02`. */
export function spellBytes(hex: string): string {
  return cut(hex.replaceAll(/(..)(?!$)/g, '$1 '));
}

function scalarCell(value: Exclude<DecodedValue, { kind: 'struct' | 'array' }>): Cell {
  switch (value.kind) {
    case 'number':
    case 'port':
      return { text: String(value.value), kind: value.kind };
    case 'wide':
      return { text: value.value, kind: 'number' };
    case 'boolean':
      return { text: String(value.value), kind: 'text' };
    case 'enum':
      return { text: cut(value.name ?? String(value.value)), kind: 'text' };
    case 'text':
      return { text: cut(value.value), kind: 'text' };
    case 'address':
      return { text: value.value, kind: 'address' };
    case 'bytes':
      return { text: spellBytes(value.value), kind: 'bytes' };
  }
}

/** Gives a value as one text, however deep it is. */
export function spellValue(value: DecodedValue): string {
  switch (value.kind) {
    case 'struct':
      return cut(`{${value.fields.map((field) => `${field.name}: ${spellValue(field.value)}`).join(', ')}}`);
    case 'array': {
      const spelled = value.elements.slice(0, MAX_ARRAY_ELEMENTS).map(spellValue);
      const omitted = value.omitted + Math.max(0, value.elements.length - MAX_ARRAY_ELEMENTS);
      return cut(`[${[...spelled, ...(omitted > 0 ? [`… ${omitted} more`] : [])].join(', ')}]`);
    }
    default:
      return scalarCell(value).text;
  }
}

function flatten(value: DecodedValue, path: string, add: (path: string, cell: Cell) => void): void {
  if (value.kind === 'struct' && value.fields.length > 0) {
    for (const field of value.fields) {
      flatten(field.value, path === '' ? field.name : `${path}.${field.name}`, add);
    }
  } else if (value.kind === 'struct' || value.kind === 'array') {
    add(path, { text: spellValue(value), kind: 'text' });
  } else {
    add(path, scalarCell(value));
  }
}

function presentBytes(typed: TypedBytes, presentation: Presentation, add: (path: string, cell: Cell) => void): void {
  if (presentation === 'raw' || typed.decoded === null) {
    add('', { text: spellBytes(typed.bytes), kind: 'bytes' });
  } else {
    flatten(typed.decoded, '', add);
  }
}

/** Says whether a field is there only to fill its structure up, by what such fields are called. */
function isNamedAsPadding(column: Column): boolean {
  return /^_*(reserved|pad|padding|unused)_?\d*$/i.test(column.title.split(/[. ]/).at(-1) ?? '');
}

/** Says whether a cell holds nothing but zeros, alone or in an array. */
function isZero(cell: Cell | undefined): boolean {
  return cell === undefined || /^[[\]0, ]*$/.test(cell.text);
}

/** Says whether `port` is the port that belongs to an address: `source` and `source_port`, `local.address` and `local.port`. */
function belongsTo(port: Column, address: Column): boolean {
  const stem = address.title.replace(/(^|[._ ])(address|addr|ip|ip4|ip6)$/, '');
  return [`${stem}_port`, `${stem}.port`, stem === '' ? 'port' : `${stem} port`].includes(port.title);
}

/** Puts what tells most first: addresses with their ports, then all else as it is declared, bytes that nobody decoded last. */
function orderColumns(columns: readonly Column[]): readonly Column[] {
  const ports = new Set(columns.filter((column) => column.kind === 'port'));
  const endpoints = columns
    .filter((column) => column.kind === 'address')
    .flatMap((address) => {
      const own = [...ports].find((port) => belongsTo(port, address));
      if (own === undefined) {
        return [address];
      }
      ports.delete(own);
      return [address, own];
    });
  const telling = [...endpoints, ...ports];
  const others = columns.filter((column) => !telling.includes(column));
  return [...telling, ...others.filter((column) => column.kind !== 'bytes'), ...others.filter((column) => column.kind === 'bytes')];
}

/**
 * Grows a table by entries as they are read. Padding has no column as long as it is zero in every entry; where it is not, somebody
 * keeps something there.
 */
export interface TableBuilder {
  add(entries: readonly MapEntry[]): void;
  readonly table: MapTable;
}

/** Gives a builder for the entries of `map`. Rows share the builder's list: it only ever grows. */
export function createTableBuilder(map: Pick<MapInfo, 'type'>, presentation: Presentation): TableBuilder {
  const columns = new Map<string, Column>();
  const rows: Row[] = [];
  /** Columns that hold something other than zero. */
  const filled = new Set<string>();
  const perCpu = map.type.startsWith('percpu') || map.type.startsWith('lru_percpu');
  const put = (cells: Map<string, Cell>, part: 'key' | 'value', prefix: string, path: string, cell: Cell): void => {
    const title = [prefix, path].filter((text) => text !== '').join(' ') || part;
    const id = `${part}.${title}`;
    const column = columns.get(id);
    if (column === undefined) {
      if (columns.size >= MAX_COLUMNS) {
        return;
      }
      columns.set(id, { id, part, title, kind: cell.kind });
    } else if (column.kind !== cell.kind) {
      columns.set(id, { ...column, kind: 'text' });
    }
    if (!filled.has(id) && !isZero(cell)) {
      filled.add(id);
    }
    cells.set(id, cell);
  };
  return {
    add: (entries) => {
      for (const entry of entries) {
        const cells = new Map<string, Cell>();
        presentBytes(entry.key, presentation, (path, cell) => {
          put(cells, 'key', '', path, cell);
        });
        if (perCpu && presentation === 'decoded') {
          const total = sumOf(entry.values);
          if (total !== undefined) {
            put(cells, 'value', '', 'total', { text: total.toString(), kind: 'number' });
          }
        }
        for (const [cpu, value] of entry.values.entries()) {
          presentBytes(value, presentation, (path, cell) => {
            put(cells, 'value', perCpu ? `CPU ${cpu}` : '', path, cell);
          });
        }
        rows.push({ index: rows.length, cells });
      }
    },
    get table() {
      const shown = [...columns.values()].filter((column) => filled.has(column.id) || !isNamedAsPadding(column));
      const ofPart = (part: Column['part']): readonly Column[] => orderColumns(shown.filter((column) => column.part === part));
      return { columns: [...ofPart('key'), ...ofPart('value')], rows };
    },
  };
}

/** The sum over all CPUs where every value is a plain number, else undefined. */
function sumOf(values: readonly TypedBytes[]): bigint | undefined {
  let sum = 0n;
  for (const { decoded } of values) {
    if (decoded?.kind === 'number') {
      sum += BigInt(decoded.value);
    } else if (decoded?.kind === 'wide') {
      sum += BigInt(decoded.value);
    } else {
      return undefined;
    }
  }
  return values.length > 0 ? sum : undefined;
}

export interface SortOrder {
  readonly column: string;
  readonly descending: boolean;
}

/** Gives the rows that hold `filter` in any cell (letter case does not matter), in the wanted order; null keeps the order of reading. */
export function selectRows(table: MapTable, filter: string, order: SortOrder | null): readonly Row[] {
  const wanted = filter.trim().toLowerCase();
  const found =
    wanted === '' ? table.rows : table.rows.filter((row) => [...row.cells.values()].some((cell) => cell.text.toLowerCase().includes(wanted)));
  const column = order === null ? undefined : table.columns.find((candidate) => candidate.id === order.column);
  if (order === null || column === undefined) {
    return found;
  }
  const keyed = found.map((row) => ({ row, key: sortKey(row.cells.get(column.id), column.kind) }));
  const sign = order.descending ? -1 : 1;
  keyed.sort((left, right) => {
    // Rows without a value come last, whatever the direction.
    if (left.key === undefined || right.key === undefined) {
      return Number(left.key === undefined) - Number(right.key === undefined) || left.row.index - right.row.index;
    }
    return sign * compareKeys(left.key, right.key) || left.row.index - right.row.index;
  });
  return keyed.map((item) => item.row);
}

function sortKey(cell: Cell | undefined, kind: CellKind): bigint | string | undefined {
  if (cell === undefined) {
    return undefined;
  }
  if (kind === 'number' || kind === 'port') {
    return BigInt(cell.text);
  }
  if (kind === 'address') {
    const bytes = ipAddressBytes(cell.text as Parameters<typeof ipAddressBytes>[0]);
    return bytes.reduce((sum, byte) => (sum << 8n) | BigInt(byte), BigInt(bytes.length) << 128n);
  }
  return cell.text;
}

function compareKeys(left: bigint | string, right: bigint | string): number {
  if (left === right) {
    return 0;
  }
  return left < right ? -1 : 1;
}

/** Gives a row as tab-separated text, for the clipboard. */
export function spellRow(row: Row, columns: readonly Column[]): string {
  return columns.map((column) => (row.cells.get(column.id)?.text ?? '').replaceAll(/[\t\r\n]+/g, ' ')).join('\t');
}
