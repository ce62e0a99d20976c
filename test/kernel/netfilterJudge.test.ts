import assert from 'node:assert/strict';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import type { Tally } from '../netfilterJudge/judge.ts';
import { describeDifference, describeTally, emptyTally, judgeRandomCases } from '../netfilterJudge/judge.ts';
import type { SourcesJudgement } from '../netfilterJudge/judgeSources.ts';
import { judgeSources } from '../netfilterJudge/judgeSources.ts';
import { judgeRuleSet } from '../netfilterJudge/judgeRuleSet.ts';
import { readRuleSetFile } from '../netfilterJudge/ruleSetFile.ts';
import { findCommand, missingForKernel } from '../requirements.ts';

/**
 * The simulator before its judge: random rule sets, worlds and packets, and the rule sets of real people and of Istio with
 * packets made of their own constants.
 */

const BACKENDS = ['nft', 'legacy'] as const;
/** On each backend. */
const RANDOM_FLOWS = 2_000;
const RANDOM_WORLDS_OF_SOURCES = 6;
const FLOWS_PER_RULE_SET = 200;
/** The same lot at each run, so that a run that fails fails again; `npm run fuzz:netfilter` goes on with others. */
const SEED = Number(process.env['MESHPATH_SEED'] ?? 713);
const DATA = join(import.meta.dirname, '../../../shared/data');

function assertNothingFound(tally: Tally): void {
  const described = tally.found.map(describeDifference).join('\n');
  assert.equal(tally.found.length, 0, `the simulator differs from the kernel (again: MESHPATH_SEED=${SEED}):\n${described}`);
}

const missingProgram = findCommand('nft') === undefined ? 'needs nft (Debian package nftables)' : findCommand('ipset') === undefined ? 'needs ipset (Debian package ipset)' : false;
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

    test('the sources that reach a port', async (context) => {
      context.diagnostic(`seed ${SEED}; to do the same again: MESHPATH_SEED=${SEED}`);
      const judged: SourcesJudgement[] = [];
      for (let world = 0; world < RANDOM_WORLDS_OF_SOURCES; world += 1) {
        const one = await judgeSources(backend, SEED + world);
        if (one !== null) {
          judged.push(one);
        }
      }
      const count = (of: (one: SourcesJudgement) => number): number => judged.reduce((sum, one) => sum + of(one), 0);
      context.diagnostic(`${judged.length} worlds, ${count(({ ranges }) => ranges)} ranges (${count(({ undecided }) => undecided)} not decided), ${count(({ tried }) => tried)} sources tried`);
      assert.deepEqual(judged.flatMap(({ wrong }) => wrong), [], `again: MESHPATH_SEED=${SEED}`);
      assert.ok(count(({ tried }) => tried) > 0);
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
