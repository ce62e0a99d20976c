import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { compareCase } from './compareCase.ts';
import { readFixtures } from './fixtures.ts';
import { findDeclared } from './ledger.ts';
import { predictCase } from './simulatorRun.ts';

/** What a kernel did, recorded: the simulator must say the same, also where there is no root. */
describe('what the kernel did before', () => {
  for (const [name, { title, judged, kernel }] of readFixtures()) {
    test(`${name}: ${title}`, () => {
      const { difference, dependsOn, agreed } = compareCase(judged, kernel, predictCase(judged));
      if (difference !== null && findDeclared(judged, difference) === undefined) {
        assert.fail(`${difference.aspect}\nkernel:    ${difference.kernel}\nsimulator: ${difference.simulator}`);
      }
      assert.ok(difference !== null || agreed === kernel.length, `not decided: ${dependsOn.join('; ')}`);
    });
  }
});
