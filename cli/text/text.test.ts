import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import type { DecodedValue } from '../../agent/protocol/mapEntries.ts';
import type { HexText, IpAddress, Uint64Text } from '../../agent/protocol/scalars.ts';
import { countOf, flattenBytes, formatValue } from './decodedValue.ts';
import { escapeText } from './escape.ts';
import { chooseStyle, COLOUR_STYLE, PLAIN_STYLE } from './style.ts';
import { formatTable } from './table.ts';
import { padText, textWidth, truncateText, wrapText } from './width.ts';

test('what moves the cursor, colours, hides or turns text around is escaped', () => {
  assert.equal(escapeText('\u001b[2J\u009b31mA\tB\r\n\u007f'), '\\x1b[2J\\x9b31mA\\tB\\r\\n\\x7f');
  assert.equal(escapeText('user\u202egnp.exe\u2066\u200b\ufeff'), 'user\\u{202e}gnp.exe\\u{2066}\\u{200b}\\u{feff}');
  assert.equal(escapeText('half \ud800 pair'), 'half \\u{d800} pair');
  assert.equal(escapeText('Grüße, 世界 👋🏽'), 'Grüße, 世界 👋🏽');
});

test('no text whatever leaves a control character behind', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (text) => {
      const controls = new RegExp('[\\u0000-\\u001f\\u007f-\\u009f\\u202a-\\u202e\\u2066-\\u2069]', 'u');
      assert.doesNotMatch(escapeText(text), controls);
    }),
  );
});

test('width counts columns of a terminal', () => {
  assert.equal(textWidth('plain'), 5);
  assert.equal(textWidth('世界'), 4);
  assert.equal(textWidth('e\u0301'), 1);
  assert.equal(truncateText('世界世界', 5), '世界…');
  assert.equal(truncateText('short', 5), 'short');
  assert.equal(truncateText('any', 0), '');
  assert.equal(padText('7', 3, 'right'), '  7');
});

test('a truncated text never takes more than its width', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'grapheme' }), fc.nat(20), (text, width) => {
      assert.ok(textWidth(truncateText(escapeText(text), width)) <= width);
    }),
  );
});

test('wrapping breaks at spaces and keeps every word', () => {
  assert.deepEqual(wrapText('one two three', 7), ['one two', 'three']);
  assert.deepEqual(wrapText('averylongword b', 5), ['averylongword', 'b']);
  assert.deepEqual(wrapText('', 5), ['']);
});

test('a table is aligned, and cut to the terminal where it is too wide', () => {
  const columns = [{ title: 'ID', align: 'right' }, { title: 'NAME' }, { title: 'OWNER' }] as const;
  const rows = [
    ['7', 'connections', 'agent (12)'],
    ['1234', 'a name that goes on and on', '/sys/fs/bpf/x'],
  ];
  assert.deepEqual(formatTable(columns, rows, { width: Infinity, style: PLAIN_STYLE }), [
    '  ID  NAME                        OWNER',
    '   7  connections                 agent (12)',
    '1234  a name that goes on and on  /sys/fs/bpf/x',
  ]);
  assert.deepEqual(formatTable(columns, rows, { width: 36, style: PLAIN_STYLE }), [
    '  ID  NAME             OWNER',
    '   7  connections      agent (12)',
    '1234  a name that go…  /sys/fs/bpf/x',
  ]);
});

test('a table too narrow for its columns still shows the start of each', () => {
  const lines = formatTable([{ title: 'FIRST COLUMN' }, { title: 'SECOND COLUMN' }], [['0123456789', 'abcdefghij']], { width: 5, style: PLAIN_STYLE });
  assert.deepEqual(lines, ['FIRST C…  SECOND …', '0123456…  abcdefg…']);
});

test('cells of a table cannot break its lines', () => {
  const [, row] = formatTable([{ title: 'A' }], [['x\ny\u001b[31m']], { width: Infinity, style: PLAIN_STYLE });
  assert.equal(row, 'x\\ny\\x1b[31m');
});

test('colours are for terminals that want them', () => {
  assert.equal(chooseStyle(true, {}), COLOUR_STYLE);
  assert.equal(chooseStyle(false, {}), PLAIN_STYLE);
  assert.equal(chooseStyle(true, { NO_COLOR: '1' }), PLAIN_STYLE);
  assert.equal(chooseStyle(true, { NO_COLOR: '' }), COLOUR_STYLE);
  assert.equal(chooseStyle(true, { TERM: 'dumb' }), PLAIN_STYLE);
  assert.equal(COLOUR_STYLE.good('yes'), '\u001b[32myes\u001b[39m');
  assert.equal(COLOUR_STYLE.good(''), '');
});

test('decoded values are written as people write them', () => {
  const value: DecodedValue = {
    kind: 'struct',
    typeName: 'connection',
    fields: [
      { name: 'peer', value: { kind: 'struct', typeName: 'endpoint', fields: [{ name: 'address', value: { kind: 'address', value: '10.0.0.1' as IpAddress } }] } },
      { name: 'state', value: { kind: 'enum', value: 3, name: 'OPEN' } },
      { name: 'other', value: { kind: 'enum', value: 9, name: null } },
      { name: 'comm', value: { kind: 'text', value: 'a"b' } },
      { name: 'list', value: { kind: 'array', elements: [{ kind: 'number', value: 1 }, { kind: 'boolean', value: true }], omitted: 2 } },
      { name: 'raw', value: { kind: 'bytes', value: '00ff' as HexText } },
    ],
  };
  assert.equal(formatValue(value), '{peer: {address: 10.0.0.1}, state: OPEN, other: 9, comm: "a\\"b", list: [1, true, … 2 more], raw: 0x00ff}');
  assert.deepEqual(
    flattenBytes({ bytes: '' as HexText, decoded: value }).map(({ path }) => path),
    ['peer.address', 'state', 'other', 'comm', 'list', 'raw'],
  );
  assert.deepEqual(flattenBytes({ bytes: '0a00' as HexText, decoded: null }), [{ path: '', text: '0x0a00' }]);
});

test('only whole numbers are added up', () => {
  assert.equal(countOf({ kind: 'number', value: 3 }), 3n);
  assert.equal(countOf({ kind: 'wide', value: '18446744073709551615' as Uint64Text }), 18446744073709551615n);
  assert.equal(countOf({ kind: 'wide', value: 'not a number' }), undefined);
  assert.equal(countOf({ kind: 'number', value: 0.5 }), undefined);
  assert.equal(countOf(null), undefined);
});
