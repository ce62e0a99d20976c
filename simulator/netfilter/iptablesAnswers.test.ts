import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import { readRuleSet } from './readRuleSet.ts';
import { writeRuleSet } from './writeRuleSet.ts';

/** What iptables 1.8.9 said of a rule, recorded on Linux 6.18; test/kernel/ruleSets.test.ts asks it again. */
interface Answer {
  readonly family: 'ipv4' | 'ipv6';
  readonly table: string;
  readonly chain: string;
  readonly rule: string;
  /** The rules that iptables-legacy-save prints behind `-A CHAIN `; null where the rule was refused. */
  readonly saved: readonly string[] | null;
  /** The same of iptables-nft, where it differs. */
  readonly savedByNft?: readonly string[] | null;
  /** Why the reader answers otherwise; declared differences only. */
  readonly difference?: string;
}

const answers = JSON.parse(readFileSync(new URL('iptablesAnswers.fixture.json', import.meta.url), 'utf8')) as readonly Answer[];

for (const backend of ['legacy', 'nft'] as const) {
  describe(`rules are taken, printed and refused as iptables-${backend} does`, () => {
    for (const { family, table, chain, rule, saved, savedByNft, difference } of answers) {
      const wanted = backend === 'nft' && savedByNft !== undefined ? savedByNft : saved;
      test(`${family} ${table} ${chain} ${rule}`, { skip: difference ?? false }, () => {
        const ruleSet = readRuleSet(`*${table}\n:NEXT - [0:0]\n-A ${chain} ${rule}\nCOMMIT\n`, { family, backend });
        const errors = ruleSet.problems.filter(({ severity }) => severity === 'error');
        if (wanted === null) {
          assert.notEqual(errors.length, 0, 'iptables refuses it');
          return;
        }
        assert.deepEqual(errors, []);
        const printed = ruleSet.tables[0]?.chains.get(chain)?.rules.map(({ text }) => text.slice(`-A ${chain} `.length));
        assert.deepEqual(printed, wanted);
        const text = writeRuleSet(ruleSet, { counters: false });
        const again = readRuleSet(text, { family, backend });
        assert.deepEqual(again.problems, []);
        assert.equal(writeRuleSet(again, { counters: false }), text, 'its own output again');
      });
    }
  });
}

test('the fixture refuses enough to say something', () => {
  assert.ok(answers.filter(({ saved }) => saved === null).length >= 60);
  assert.ok(answers.filter(({ difference }) => difference !== undefined).length <= 8, 'declared differences');
});
