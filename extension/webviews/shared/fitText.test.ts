import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { fitEnd, fitMiddle } from './fitText.ts';

const measure = (text: string): number => text.length * 7;

test('a text that fits stays as it is; one that does not loses its end or its middle', () => {
  assert.equal(fitEnd('envoy', 35, measure), 'envoy');
  assert.equal(fitEnd('meshpath-lab-pod-a', 70, measure), 'meshpath-…');
  assert.equal(fitMiddle('meshpath-lab-pod-a', 70, measure), 'mesh…pod-a');
  assert.equal(fitEnd('anything', 3, measure), '…');
});

test('whatever the text is, what is given fits where an ellipsis does, and holds no half of a character', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'grapheme', maxLength: 300 }), fc.integer({ min: 7, max: 400 }), (text, width) => {
      for (const fitted of [fitEnd(text, width, measure), fitMiddle(text, width, measure)]) {
        assert.ok(measure(fitted) <= width);
        assert.doesNotMatch(fitted, /\p{Surrogate}/u);
      }
    }),
  );
});
