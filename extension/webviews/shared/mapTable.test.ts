import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { DecodedValue, MapEntry } from '../../../agent/protocol/mapEntries.ts';
import type { HexText, IpAddress, PortNumber, Uint64Text } from '../../../agent/protocol/scalars.ts';
import { MAX_CELL_CHARACTERS, MAX_COLUMNS, createTableBuilder, selectRows, spellRow, spellValue } from './mapTable.ts';

function endpoint(address: string, port: number): DecodedValue {
  return {
    kind: 'struct',
    typeName: 'struct endpoint',
    fields: [
      { name: 'address', value: { kind: 'address', value: address as IpAddress } },
      { name: 'port', value: { kind: 'port', value: port as PortNumber } },
    ],
  };
}

function connection(local: string, port: number, bytes: string): MapEntry {
  return {
    key: { bytes: '0a000002' as HexText, decoded: { kind: 'struct', typeName: 'struct key', fields: [{ name: 'local', value: endpoint(local, port) }] } },
    values: [{ bytes: '01' as HexText, decoded: { kind: 'wide', value: bytes as Uint64Text } }],
  };
}

const entries = [connection('10.0.0.10', 8080, '18446744073709551615'), connection('10.0.0.9', 80, '9'), connection('10.0.0.2', 443, '10')];

test('nested fields become columns and readable addresses and ports', () => {
  const builder = createTableBuilder({ type: 'hash' }, 'decoded');
  builder.add(entries);
  const { columns, rows } = builder.table;
  assert.deepEqual(
    columns.map((column) => [column.part, column.title, column.kind]),
    [
      ['key', 'local.address', 'address'],
      ['key', 'local.port', 'port'],
      ['value', 'value', 'number'],
    ],
  );
  assert.equal(spellRow(rows[0] ?? assert.fail(), columns), '10.0.0.10\t8080\t18446744073709551615');
});

function tuple(reserved: number): MapEntry {
  const fields = {
    netns_cookie: { kind: 'wide', value: '5738' as Uint64Text },
    raw: { kind: 'bytes', value: '0102' as HexText },
    source: { kind: 'address', value: '10.0.0.1' as IpAddress },
    destination: { kind: 'address', value: '10.0.0.2' as IpAddress },
    source_port: { kind: 'port', value: 40_000 as PortNumber },
    destination_port: { kind: 'port', value: 80 as PortNumber },
    reserved: { kind: 'array', elements: [{ kind: 'number', value: reserved }, { kind: 'number', value: 0 }], omitted: 0 },
    __pad2: { kind: 'number', value: 0 },
    padded: { kind: 'number', value: 0 },
  } as const satisfies Record<string, DecodedValue>;
  return { key: { bytes: '00' as HexText, decoded: { kind: 'struct', typeName: 'struct key', fields: Object.entries(fields).map(([name, value]) => ({ name, value })) } }, values: [] };
}

test('addresses come first, each with its port, and padding has no column unless it holds something', () => {
  const titlesOf = (...reserved: readonly number[]): readonly string[] => {
    const builder = createTableBuilder({ type: 'hash' }, 'decoded');
    builder.add(reserved.map(tuple));
    return builder.table.columns.map((column) => column.title);
  };
  const telling = ['source', 'source_port', 'destination', 'destination_port', 'netns_cookie'];
  assert.deepEqual(titlesOf(0, 0), [...telling, 'padded', 'raw']);
  assert.deepEqual(titlesOf(0, 7), [...telling, 'reserved', 'padded', 'raw']);
});

test('raw shows bytes only', () => {
  const builder = createTableBuilder({ type: 'hash' }, 'raw');
  builder.add(entries);
  assert.equal(spellRow(builder.table.rows[0] ?? assert.fail(), builder.table.columns), '0a 00 00 02\t01');
});

test('rows sort by meaning: addresses by their bytes, numbers beyond 2^53 exactly, missing ones last', () => {
  const builder = createTableBuilder({ type: 'hash' }, 'decoded');
  builder.add([...entries, { key: { bytes: '00' as HexText, decoded: { kind: 'struct', typeName: 'x', fields: [] } }, values: [] }]);
  const order = (column: string, descending: boolean): number[] => selectRows(builder.table, '', { column, descending }).map((row) => row.index);
  assert.deepEqual(
    { address: order('key.local.address', false), port: order('key.local.port', true), value: order('value.value', false), unknown: order('gone', true) },
    { address: [2, 1, 0, 3], port: [0, 2, 1, 3], value: [1, 2, 0, 3], unknown: [0, 1, 2, 3] },
  );
});

test('the filter looks into every cell', () => {
  const builder = createTableBuilder({ type: 'hash' }, 'decoded');
  builder.add(entries);
  assert.deepEqual(
    selectRows(builder.table, ' 443 ', null).map((row) => row.index),
    [2],
  );
});

test('a per-CPU map has a column a CPU and their total', () => {
  const builder = createTableBuilder({ type: 'percpu_array' }, 'decoded');
  const value = (number: string) => ({ bytes: '00' as HexText, decoded: { kind: 'wide', value: number } as const });
  builder.add([{ key: { bytes: '00' as HexText, decoded: { kind: 'number', value: 3 } }, values: [value('18446744073709551615'), value('1')] }]);
  assert.deepEqual(
    builder.table.columns.map((column) => column.title),
    ['key', 'total', 'CPU 0', 'CPU 1'],
  );
  assert.equal(builder.table.rows[0]?.cells.get('value.total')?.text, '18446744073709551616');
});

test('columns and cells have limits', () => {
  const wide: DecodedValue = {
    kind: 'struct',
    typeName: 'wide',
    fields: Array.from({ length: MAX_COLUMNS + 20 }, (_, index) => ({ name: `f${index}`, value: { kind: 'number', value: index } })),
  };
  const builder = createTableBuilder({ type: 'hash' }, 'decoded');
  builder.add([{ key: { bytes: '' as HexText, decoded: wide }, values: [] }]);
  assert.equal(builder.table.columns.length, MAX_COLUMNS);
  assert.equal(spellValue({ kind: 'text', value: 'x'.repeat(10_000) }).length, MAX_CELL_CHARACTERS + 1);
});
