import assert from 'node:assert/strict';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import type { Tally } from '../netfilterJudge/judge.ts';
import { describeDifference, describeTally, emptyTally, judgeRandomCases } from '../netfilterJudge/judge.ts';
import { judgeRuleSet } from '../netfilterJudge/judgeRuleSet.ts';
import { readRuleSetFile } from '../netfilterJudge/ruleSetFile.ts';
import { findCommand, missingForKernel } from '../requirements.ts';

/**
 * The simulator before its judge: random rule sets, worlds and packets, another lot at each run, and the rule sets of
 * real people and of Istio with packets made of their own constants.
 */

const BACKENDS = ['nft', 'legacy'] as const;
/** On each backend. */
const RANDOM_FLOWS = 1_250;
const FLOWS_PER_RULE_SET = 200;
/** Always the same, so that a red run is news of the change that it tries; `npm run fuzz:netfilter` takes another one each time. */
const SEED = Number(process.env['MESHPATH_SEED'] ?? 713);
const DATA = join(import.meta.dirname, '../../../shared/data');

function assertNothingFound(tally: Tally): void {
  const described = tally.found.map(describeDifference).join('\n');
  assert.equal(tally.found.length, 0, `the simulator differs from the kernel (again: MESHPATH_SEED=${SEED}):\n${described}`);
}

const missingProgram = findCommand('nft') === undefined ? 'needs nft (Debian package nftables)' : findCommand('ipset') === undefined ? 'needs ipset' : false;
const missing = missingForKernel() === false ? missingProgram : missingForKernel();

for (const backend of BACKENDS) {
  const restore = `iptables-${backend}-restore`;
  const skip = missing === false && findCommand(restore) === undefined ? `needs ${restore}` : missing;
  describe(`the kernel judges the simulator (${backend})`, { skip, concurrency: false }, () => {
    test('random rule sets, worlds and flows', async (context) => {
      context.diagnostic(`seed ${SEED}; to do the same again: MESHPATH_SEED=${SEED}`);
      const tally = emptyTally();
      await judgeRandomCases(backend, SEED, tally, () => tally.flows < RANDOM_FLOWS);
      context.diagnostic(describeTally(tally));
      assertNothingFound(tally);
      assert.ok(tally.flows >= RANDOM_FLOWS);
    });

    for (const [folder, ending] of [['rulesets', '.rules'], ['istio', '.golden']] as const) {
      const path = join(DATA, folder);
      const files = existsSync(path) ? readdirSync(path).filter((name) => name.endsWith(ending)) : [];
      test(`the rule sets of ${folder}`, { skip: files.length === 0 ? 'the shared rule sets are not on this machine' : false }, async (context) => {
        for (const file of files) {
          await context.test(file, async (inner) => {
            const tally = emptyTally();
            const { changes, reachable, reached, falseAlarms } = await judgeRuleSet(readRuleSetFile(join(path, file)), backend, SEED, FLOWS_PER_RULE_SET, tally);
            for (const change of changes) {
              inner.diagnostic(`changed for the kernel: ${change}`);
            }
            inner.diagnostic(`${describeTally(tally)}\n  ${reached.size} of ${reachable.size} rules met`);
            assertNothingFound(tally);
            assert.deepEqual(falseAlarms, [], 'rules of which the lint says that they never match');
            assert.ok(tally.flows >= FLOWS_PER_RULE_SET, describeTally(tally));
          });
        }
      });
    }
  });
}
