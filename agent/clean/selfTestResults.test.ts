import assert from 'node:assert/strict';
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { cleanSelfTestResults } from './selfTestResults.ts';

test('removes the results of self-tests, and their folder unless labs are in it', async () => {
  const home = mkdtempSync(join(tmpdir(), 'meshpath-clean-'));
  const folder = join(home, 'meshpath');
  try {
    assert.deepEqual(await cleanSelfTestResults(false, folder), []);
    for (const isLabUp of [true, false]) {
      mkdirSync(join(folder, 'labs'), { recursive: true });
      writeFileSync(join(folder, 'self-tests-a.json'), '');
      if (!isLabUp) {
        rmSync(join(folder, 'labs'), { recursive: true });
      }
      assert.deepEqual((await cleanSelfTestResults(true, folder)).map(({ kind, where, isRemoved }) => [kind, where, isRemoved]), [['self-test-results', folder, false]]);
      assert.deepEqual((await cleanSelfTestResults(false, folder)).map(({ isRemoved, problem }) => [isRemoved, problem]), [[true, null]]);
      assert.deepEqual([existsSync(join(folder, 'self-tests-a.json')), existsSync(folder)], [false, isLabUp]);
    }
  } finally {
    rmSync(home, { recursive: true, force: true });
  }
});
