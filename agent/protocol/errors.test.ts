import assert from 'node:assert/strict';
import { test } from 'node:test';
import { MeshpathError, cancelledError, toMeshpathError } from './errors.ts';

const wire = { code: 'MAP_NOT_FOUND', message: 'm', reason: 'r', remedy: 'd' } as const;

test('an error of another copy of the class is known, as bundles of one process have one each', async () => {
  const other = (await import(`${new URL('./errors.ts', import.meta.url).href}?copy`)) as { MeshpathError: typeof MeshpathError };
  assert.notEqual(other.MeshpathError, MeshpathError);
  const error = new other.MeshpathError(wire);
  assert.ok(error instanceof MeshpathError);
  assert.ok(MeshpathError.is(error, 'MAP_NOT_FOUND'));
  assert.equal(toMeshpathError(error), error);
});

test('what is not one becomes INTERNAL and keeps its cause', () => {
  const cause = new TypeError('broken');
  const error = toMeshpathError(cause);
  assert.deepEqual([error.code, error.reason, error.cause], ['INTERNAL', 'broken', cause]);
  for (const other of [cause, null, undefined, 'MeshpathError', { ...wire }]) {
    assert.equal(MeshpathError.is(other), false);
  }
});

test('JSON holds what travels and nothing else', () => {
  assert.deepEqual(JSON.parse(JSON.stringify(new MeshpathError(wire))), wire);
  assert.equal(MeshpathError.is(cancelledError('Reading'), 'CANCELLED'), true);
});
