import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { FrameLimit } from './frameLimit.ts';

const encode = (text: string): Uint8Array => new TextEncoder().encode(text);
const frame = (body: string): string => `Content-Length: ${encode(body).length}\r\n\r\n${body}`;

test('takes frames up to the limit, in any pieces', () => {
  fc.assert(
    fc.property(fc.array(fc.string({ unit: 'binary', maxLength: 30 }), { maxLength: 5 }), fc.array(fc.nat({ max: 40 })), (bodies, cuts) => {
      const bytes = encode(bodies.map(frame).join(''));
      const limit = new FrameLimit(120);
      let at = 0;
      for (const cut of [...cuts, bytes.length]) {
        limit.accept(bytes.subarray(at, at + cut));
        at += cut;
      }
    }),
  );
});

test('refuses longer frames at their header, and what is no header', () => {
  for (const text of [
    'Content-Length: 11\r\n\r\n',
    'Content-Length: 99999999999999999999\r\n\r\n',
    'Content-Length: -1\r\n\r\n',
    'Content-Type: text\r\n\r\n',
    'Connection\u0001',
    'x'.repeat(5000),
    `${frame('ok')}Content-Length: 12\r\n\r\n`,
  ]) {
    assert.throws(() => {
      new FrameLimit(10).accept(encode(text));
    }, RangeError);
  }
  new FrameLimit(10).accept(encode(frame('0123456789')));
});
