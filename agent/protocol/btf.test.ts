import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import fc from 'fast-check';

import { findMapTypes, parseBtf, sizeOfType, typeName } from './btf.ts';
import { createDecoder, decodeValue } from './btfValues.ts';
import { MeshpathError } from './errors.ts';

/** Writes BTF, so that tests say in C's terms what they read. */
class BtfWriter {
  readonly #words: number[] = [];
  readonly #strings: number[] = [0];
  #count = 0;

  add(kind: number, name: string, sizeOrType: number, options: { count?: number; flag?: boolean; data?: readonly (number | string)[] } = {}): number {
    const info = ((options.flag === true ? 0x8000_0000 : 0) | (kind << 24) | (options.count ?? 0)) >>> 0;
    this.#words.push(this.#string(name), info, sizeOrType);
    this.#words.push(...(options.data ?? []).map((item) => (typeof item === 'string' ? this.#string(item) : item >>> 0)));
    this.#count += 1;
    return this.#count;
  }

  int(name: string, size: number, encoding = 0, bits = size * 8): number {
    return this.add(1, name, size, { data: [(encoding << 24) | bits] });
  }

  pointer(type: number): number {
    return this.add(2, '', type);
  }

  array(type: number, length: number): number {
    return this.add(3, '', 0, { data: [type, type, length] });
  }

  struct(name: string, size: number, members: readonly (readonly [string, number, number, number?])[], kind = 4): number {
    const flag = members.some((member) => member[3] !== undefined);
    return this.add(kind, name, size, {
      count: members.length,
      flag,
      data: members.flatMap(([member, type, bit, width]) => [member, type, flag ? ((width ?? 0) << 24) | bit : bit]),
    });
  }

  typedef(name: string, type: number): number {
    return this.add(8, name, type);
  }

  bytes(littleEndian = true): Uint8Array {
    const types = this.#words.length * 4;
    const bytes = new Uint8Array(24 + types + this.#strings.length);
    const view = new DataView(bytes.buffer);
    view.setUint16(0, 0xeb9f, littleEndian);
    view.setUint8(2, 1);
    [24, 0, types, types, this.#strings.length].forEach((value, index) => {
      view.setUint32(4 + index * 4, value, littleEndian);
    });
    this.#words.forEach((value, index) => {
      view.setUint32(24 + index * 4, value, littleEndian);
    });
    bytes.set(this.#strings, 24 + types);
    return bytes;
  }

  #string(text: string): number {
    if (text === '') {
      return 0;
    }
    const at = this.#strings.length;
    this.#strings.push(...new TextEncoder().encode(text), 0);
    return at;
  }
}

const SIGNED = 1;
const BOOL = 4;

describe('decodeValue', () => {
  it('reads integers of all sizes and signs', () => {
    const writer = new BtfWriter();
    const s8 = writer.int('signed char', 1, SIGNED);
    const u32 = writer.int('unsigned int', 4);
    const s64 = writer.int('long', 8, SIGNED);
    const u64 = writer.int('unsigned long', 8);
    const wide = writer.int('unsigned __int128', 16);
    const bool = writer.int('_Bool', 1, BOOL);
    const btf = parseBtf(writer.bytes());
    assert.deepEqual(decodeValue(btf, s8, Uint8Array.of(0xfe)), { kind: 'number', value: -2 });
    assert.deepEqual(decodeValue(btf, u32, Uint8Array.of(0xff, 0xff, 0xff, 0xff)), { kind: 'number', value: 0xffff_ffff });
    assert.deepEqual(decodeValue(btf, s64, new Uint8Array(8).fill(0xff)), { kind: 'wide', value: '-1' });
    assert.deepEqual(decodeValue(btf, u64, new Uint8Array(8).fill(0xff)), { kind: 'wide', value: '18446744073709551615' });
    assert.deepEqual(decodeValue(btf, wide, new Uint8Array(16).fill(0xff)), { kind: 'wide', value: (2n ** 128n - 1n).toString() });
    assert.deepEqual(decodeValue(btf, bool, Uint8Array.of(1)), { kind: 'boolean', value: true });
    assert.deepEqual(decodeValue(btf, bool, Uint8Array.of(7)), { kind: 'number', value: 7 });
  });

  it('reads numbers of a big-endian machine', () => {
    const writer = new BtfWriter();
    const u32 = writer.int('unsigned int', 4);
    const flags = writer.struct('flags', 4, [['a', u32, 0, 3], ['b', u32, 3, 29]]);
    const btf = parseBtf(writer.bytes(false));
    assert.equal(btf.littleEndian, false);
    assert.deepEqual(decodeValue(btf, u32, Uint8Array.of(0, 0, 1, 2)), { kind: 'number', value: 258 });
    assert.deepEqual(decodeValue(btf, flags, Uint8Array.of(0b1010_0000, 0, 0, 1)), {
      kind: 'struct',
      typeName: 'struct flags',
      fields: [{ name: 'a', value: { kind: 'number', value: 5 } }, { name: 'b', value: { kind: 'number', value: 1 } }],
    });
  });

  it('shows addresses and ports as such', () => {
    const writer = new BtfWriter();
    const u16 = writer.int('unsigned short', 2);
    const u32 = writer.int('unsigned int', 4);
    const be16 = writer.typedef('__be16', writer.typedef('__u16', u16));
    const be32 = writer.typedef('__be32', writer.typedef('__u32', u32));
    const address = writer.struct('ip_address', 16, [['word', writer.array(be32, 4), 0]]);
    const key = writer.struct('key', 48, [
      ['local', address, 0],
      ['remote', address, 128],
      ['saddr', be32, 256],
      ['local_port', u16, 288],
      ['dport', be16, 304],
      ['remote_port', u32, 320],
      ['h_proto', be16, 352],
      ['support', u16, 368],
    ]);
    const btf = parseBtf(writer.bytes());
    const bytes = new Uint8Array(48);
    bytes.set([0xff, 0xff, 10, 0, 0, 1], 10);
    bytes.set([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9], 16);
    bytes.set([192, 168, 7, 1], 32);
    bytes.set([0x50, 0x00, 0x3a, 0x99, 0x99, 0x3a, 1, 0, 8, 0, 5, 0], 36);
    assert.deepEqual(decodeValue(btf, key, bytes), {
      kind: 'struct',
      typeName: 'struct key',
      fields: [
        { name: 'local', value: { kind: 'address', value: '10.0.0.1' } },
        { name: 'remote', value: { kind: 'address', value: 'fd00::9' } },
        { name: 'saddr', value: { kind: 'address', value: '192.168.7.1' } },
        { name: 'local_port', value: { kind: 'port', value: 80 } },
        { name: 'dport', value: { kind: 'port', value: 15_001 } },
        // Does not fit a port: it is shown as the number that it is.
        { name: 'remote_port', value: { kind: 'number', value: 80_537 } },
        { name: 'h_proto', value: { kind: 'number', value: 0x0800 } },
        { name: 'support', value: { kind: 'number', value: 5 } },
      ],
    });
  });

  it('reads text, enums, pointers, arrays, unions and bitfields', () => {
    const writer = new BtfWriter();
    const char = writer.int('char', 1, SIGNED);
    const u32 = writer.int('unsigned int', 4);
    const state = writer.add(6, 'state', 4, { count: 2, flag: true, data: ['CLOSED', -1, 'OPEN', 3] });
    const big = writer.add(19, 'big', 8, { count: 1, data: ['HUGE', 0, 0x8000_0000] });
    const choice = writer.struct('', 4, [['number', u32, 0], ['name', writer.array(char, 4), 0]], 5);
    const all = writer.struct('all', 48, [
      ['name', writer.array(char, 8), 0, 0],
      ['state', state, 64, 0],
      ['bit', u32, 96, 1],
      ['rest', u32, 97, 31],
      ['big', big, 128, 0],
      ['next', writer.pointer(0), 192, 0],
      ['counts', writer.array(u32, 2), 256, 0],
      ['choice', choice, 320, 0],
    ]);
    const anonymous = writer.typedef('pair_t', writer.struct('', 4, [['one', u32, 0]]));
    const constant = writer.add(10, '', writer.add(9, '', choice));
    assert.deepEqual(
      [anonymous, constant].map((id) => {
        const value = decodeValue(parseBtf(writer.bytes()), id, new Uint8Array(4));
        return value.kind === 'struct' ? value.typeName : value.kind;
      }),
      ['pair_t', 'union {…}'],
    );
    const btf = parseBtf(writer.bytes());
    const bytes = new Uint8Array(48);
    bytes.set(new TextEncoder().encode('pod-a'), 0);
    bytes.set([0xff, 0xff, 0xff, 0xff, 0b101, 0, 0, 0], 8);
    bytes.set([0x80], 23);
    bytes.set([0xef, 0xbe], 24);
    bytes.set([1, 0, 0, 0, 2, 0, 0, 0, 0x61, 0x62, 0, 0], 32);
    assert.deepEqual(decodeValue(btf, all, bytes), {
      kind: 'struct',
      typeName: 'struct all',
      fields: [
        { name: 'name', value: { kind: 'text', value: 'pod-a' } },
        { name: 'state', value: { kind: 'enum', value: -1, name: 'CLOSED' } },
        { name: 'bit', value: { kind: 'number', value: 1 } },
        { name: 'rest', value: { kind: 'number', value: 2 } },
        { name: 'big', value: { kind: 'wide', value: '9223372036854775808' } },
        { name: 'next', value: { kind: 'wide', value: '0xbeef' } },
        {
          name: 'counts',
          value: { kind: 'array', elements: [{ kind: 'number', value: 1 }, { kind: 'number', value: 2 }], omitted: 0 },
        },
        {
          name: 'choice',
          value: {
            kind: 'struct',
            typeName: 'union {…}',
            fields: [
              { name: 'number', value: { kind: 'number', value: 0x6261 } },
              { name: 'name', value: { kind: 'text', value: 'ab' } },
            ],
          },
        },
      ],
    });
  });

  it('shows bytes where the size is not that of the type, and bounds long arrays', () => {
    const writer = new BtfWriter();
    const u16 = writer.int('unsigned short', 2);
    const many = writer.array(u16, 1_000);
    const btf = parseBtf(writer.bytes());
    assert.deepEqual(decodeValue(btf, u16, Uint8Array.of(1)), { kind: 'bytes', value: '01' });
    const decoded = decodeValue(btf, many, new Uint8Array(2_000));
    assert.equal(decoded.kind, 'array');
    assert.deepEqual([decoded.elements.length, decoded.omitted], [256, 744]);
  });

  it('ends for types that contain themselves', () => {
    const writer = new BtfWriter();
    // Type 1 is a struct of 4 bytes that has two members of its own type.
    const self = writer.struct('self', 4, [['a', 1, 0], ['b', 1, 0]]);
    const btf = parseBtf(writer.bytes());
    assert.equal(decodeValue(btf, self, new Uint8Array(4)).kind, 'struct');
    const loop = new BtfWriter();
    loop.typedef('round', 2);
    loop.typedef('and_round', 1);
    assert.throws(() => decodeValue(parseBtf(loop.bytes()), 1, new Uint8Array(4)), { code: 'BPF_OBJECT_INVALID' });
  });
});

describe('types', () => {
  it('are named as C names them', () => {
    const writer = new BtfWriter();
    const int = writer.int('int', 4, SIGNED);
    const constant = writer.add(10, '', int);
    const pointer = writer.pointer(constant);
    const rows = writer.array(writer.array(int, 3), 2);
    const struct = writer.struct('pair', 8, [['a', int, 0], ['b', int, 32]]);
    const prototype = writer.add(13, '', int, { count: 0 });
    const callback = writer.pointer(prototype);
    const btf = parseBtf(writer.bytes());
    assert.deepEqual(
      [0, int, pointer, rows, struct, callback].map((id) => typeName(btf, id)),
      ['void', 'int', 'const int *', 'int[2][3]', 'struct pair', 'int (*)(…)'],
    );
    assert.equal(sizeOfType(btf, rows), 24);
    assert.equal(sizeOfType(btf, prototype), undefined);
  });

  it('of a map are found in the declaration of the program', () => {
    const writer = new BtfWriter();
    const u64 = writer.int('unsigned long long', 8);
    const key = writer.struct('connection_key', 16, [['a', u64, 0], ['b', u64, 64]]);
    const declare = (name: string): number =>
      writer.add(
        14,
        name,
        writer.struct('', 16, [['key', writer.pointer(key), 0], ['value', writer.pointer(u64), 64]]),
        { data: [1] },
      );
    const variables = [declare('sockets'), declare('a_name_of_more_than_15_bytes')];
    writer.add(15, '.maps', 32, { count: 2, data: variables.flatMap((variable, index) => [variable, index * 16, 16]) });
    const btf = parseBtf(writer.bytes());
    assert.deepEqual(findMapTypes(btf, 'sockets', { key: 16, value: 8 }), { name: 'sockets', key, value: u64 });
    assert.deepEqual(findMapTypes(btf, 'a_name_of_more_', { key: 16, value: 4 }), {
      name: 'a_name_of_more_than_15_bytes',
      key,
      value: null,
    });
    assert.equal(findMapTypes(btf, 'a_name', { key: 16, value: 8 }), undefined);
  });
});

describe('parseBtf', () => {
  const sample = ((): Uint8Array => {
    const writer = new BtfWriter();
    const u32 = writer.int('unsigned int', 4);
    const char = writer.int('char', 1, SIGNED);
    const be32 = writer.typedef('__be32', u32);
    writer.add(6, 'state', 4, { count: 2, data: ['A', 0, 'B', 1] });
    const inner = writer.struct('inner', 8, [['addr', be32, 0], ['name', writer.array(char, 4), 32]]);
    const outer = writer.struct('outer', 24, [['one', inner, 0], ['two', writer.array(inner, 2), 64]]);
    writer.add(15, '.maps', 24, { count: 1, data: [writer.add(14, 'table', outer, { data: [1] }), 0, 24] });
    return writer.bytes();
  })();

  const exercise = (bytes: Uint8Array): void => {
    try {
      const btf = parseBtf(bytes);
      findMapTypes(btf, 'table', { key: 4, value: 4 });
      for (let id = 0; id < btf.typeCount; id += 1) {
        typeName(btf, id);
        const size = sizeOfType(btf, id) ?? 0;
        createDecoder(btf, id)(new Uint8Array(Math.min(size, 4_096)));
      }
    } catch (error) {
      if (!MeshpathError.is(error)) {
        throw error;
      }
    }
  };

  it('refuses what is not BTF', () => {
    for (const bytes of [new Uint8Array(), new Uint8Array(24), sample.subarray(0, 60), sample.subarray(1)]) {
      assert.throws(() => parseBtf(bytes), { code: 'BPF_OBJECT_INVALID' });
    }
  });

  it('meets any damage with a MeshpathError, and ends', () => {
    const damage = fc.array(fc.tuple(fc.nat({ max: sample.length - 1 }), fc.nat({ max: 255 })), { minLength: 1, maxLength: 12 });
    fc.assert(
      fc.property(damage, fc.nat({ max: sample.length }), (changes, length) => {
        const bytes = sample.slice(0, length % 5 === 0 ? length : sample.length);
        for (const [at, value] of changes) {
          bytes[at % Math.max(bytes.length, 1)] = value;
        }
        exercise(bytes);
      }),
      { seed: 20_261_122, numRuns: 3_000 },
    );
  });

  it('meets arbitrary types with a MeshpathError, and ends', () => {
    const type = fc.record({
      kind: fc.integer({ min: 1, max: 19 }),
      reference: fc.nat({ max: 12 }),
      flag: fc.boolean(),
      elements: fc.array(fc.tuple(fc.nat({ max: 12 }), fc.nat({ max: 12 }), fc.nat({ max: 200 })), { maxLength: 4 }),
    });
    fc.assert(
      fc.property(fc.array(type, { maxLength: 12 }), (types) => {
        const writer = new BtfWriter();
        for (const { kind, reference, flag, elements } of types) {
          const [first = [1, 2, 3]] = elements;
          const data =
            kind === 1 ? [(first[0] << 24) | 32] : kind === 3 ? first : kind === 14 || kind === 17 ? [0] : elements.flatMap((element) =>
              kind === 6 || kind === 13 ? element.slice(0, 2) : [4, 5, 15, 19].includes(kind) ? element : []);
          writer.add(kind, 'name', reference, { flag, count: [4, 5, 6, 13, 15, 19].includes(kind) ? elements.length : 0, data });
        }
        exercise(writer.bytes());
      }),
      { seed: 20_261_122, numRuns: 3_000 },
    );
  });
});
