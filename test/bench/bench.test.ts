import assert from 'node:assert/strict';
import { test } from 'node:test';
import { median, summarizeSamples } from './bench.ts';

test('the median is the middle, whatever the order', () => {
  assert.equal(median([9, 1, 5]), 5);
  assert.equal(median([4, 1, 3, 2]), 2.5);
  assert.throws(() => median([]), RangeError);
});

test('a figure has the medians, their ratio and the spread of the value', () => {
  const samples = [
    { value: 10, baseline: 100 },
    { value: 30, baseline: 60 },
    { value: 20, baseline: 40 },
  ];
  assert.deepEqual(summarizeSamples({ name: 'page', unit: 'ms', baseline: 'bpftool' }, samples), {
    name: 'page',
    unit: 'ms',
    value: 20,
    baseline: 60,
    baselineName: 'bpftool',
    ratio: 1 / 3,
    runs: 3,
    spread: 1,
  });
});

test('a figure without a baseline has no ratio', () => {
  const { baseline, baselineName, ratio } = summarizeSamples({ name: 'size', unit: 'bytes' }, [{ value: 7 }]);
  assert.deepEqual([baseline, baselineName, ratio], [null, null, null]);
});
