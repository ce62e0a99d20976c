import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { ByteStream, readHeaderSeed, requestHeader, responseHeader } from './programs/byteStream.ts';
import { MAX_BYTES, planOf } from './programs/plan.ts';

const FIRST_SEED = 0x2000_0001;
const plans = Array.from({ length: 20_000 }, (_, index) => planOf(FIRST_SEED + index));

suite('the plans of the soak', () => {
  test('are the same for a seed', () => {
    assert.deepEqual(planOf(FIRST_SEED), plans[0]);
    assert.notDeepEqual(planOf(FIRST_SEED + 1), plans[0]);
  });

  test('have sizes from one byte to 4 MiB, mostly small', () => {
    const sizes = plans.flatMap(({ requestBytes, responseBytes }) => [requestBytes, responseBytes]).sort((left, right) => left - right);
    assert.equal(sizes[0], 1);
    const largest = sizes.at(-1) ?? 0;
    assert.ok(largest > MAX_BYTES * 0.9 && largest <= MAX_BYTES, String(largest));
    assert.ok((sizes[sizes.length / 2] ?? 0) < 4_096);
  });

  test('have every ending and every way to behave', () => {
    assert.deepEqual([...new Set(plans.map(({ ending }) => ending))].sort(), ['abort', 'client_ends', 'client_leaves', 'rounds', 'server_ends']);
    for (const has of [plans.some(({ isServerFirst }) => isServerFirst), plans.some(({ delaysAck }) => delaysAck), plans.some(({ pauses }) => pauses !== null)]) {
      assert.ok(has);
    }
    assert.ok(plans.every(({ isServerFirst, ending }) => !isServerFirst || ending === 'client_ends'));
  });
});

suite('a stream of the soak', () => {
  const stream = (seed: number): ByteStream => new ByteStream('request', seed, requestHeader(seed, 7), 3_000_000);

  /** Gives all bytes, in pieces of the length that is asked for. */
  function read(from: ByteStream, pieceBytes: number): Buffer {
    const pieces: Uint8Array[] = [];
    for (let position = 0; position < from.length; position += pieces.at(-1)?.length ?? 1) {
      pieces.push(from.slice(position, pieceBytes));
    }
    return Buffer.concat(pieces);
  }

  test('is the same in pieces of any size, and begins with its header', () => {
    const whole = read(stream(5), 1_000_000);
    assert.equal(whole.length, stream(5).length);
    assert.ok(whole.equals(read(stream(5), 1_009)));
    assert.deepEqual(whole.subarray(0, 12), requestHeader(5, 7));
    assert.equal(readHeaderSeed(whole.subarray(0, 12)), 5);
    assert.equal(stream(5).findDifference(0, whole), -1);
    assert.equal(stream(5).findDifference(9, whole.subarray(9)), -1);
  });

  test('shows a wrong, lost, repeated and surplus byte, and those of another connection', () => {
    const whole = read(stream(5), 65_536);
    const wrong = Buffer.from(whole);
    wrong.writeUInt8((wrong.readUInt8(2_000_000) + 1) % 256, 2_000_000);
    assert.equal(stream(5).findDifference(0, wrong), 2_000_000);
    assert.ok(stream(5).findDifference(1_000, whole.subarray(1_001)) >= 1_000);
    assert.ok(stream(5).findDifference(1_000, whole.subarray(999)) >= 1_000);
    assert.equal(stream(5).findDifference(whole.length, Buffer.alloc(1)), whole.length);
    assert.ok(stream(5).findDifference(100, read(stream(6), 65_536).subarray(100, 200)) >= 0);
    assert.equal(stream(5).findDifference(0, responseHeader(6)), 7);
  });

  test('is known by its magic number', () => {
    assert.equal(readHeaderSeed(Buffer.alloc(8)), null);
  });
});
