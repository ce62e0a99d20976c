import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { RULE_SPELLINGS } from './ruleSpellings.fixture.ts';
import { MAX_RESTORE_CHARACTERS, readRuleSet } from './readRuleSet.ts';
import { MAX_CHAINS } from './ruleSetBuilder.ts';
import type { ParsedRuleSet } from './ruleSet.ts';
import { UNREADABLE_RULE } from './ruleSet.ts';
import { writeRuleSet } from './writeRuleSet.ts';

function rulesOf(parsed: ParsedRuleSet, table: string, chain: string): readonly string[] {
  return parsed.tables.find(({ name }) => name === table)?.chains.get(chain)?.rules.map((rule) => rule.text) ?? [];
}

/** Reads a rule, where NEXT is a chain, and gives how iptables-save would print it. */
function canonical(rule: string, table = 'filter', chain = 'FORWARD'): { readonly text: string | undefined; readonly problems: ParsedRuleSet['problems'] } {
  const parsed = readRuleSet(`*${table}\n:NEXT - [0:0]\n-A ${chain} ${rule}\nCOMMIT\n`);
  return { text: rulesOf(parsed, table, chain)[0]?.replace(`-A ${chain} `, ''), problems: parsed.problems };
}

for (const { written, saved, table, chain } of RULE_SPELLINGS) {
  test(`reads ${written}`, () => {
    const { text, problems } = canonical(written, table, chain);
    assert.deepEqual(problems, []);
    assert.equal(text, saved);
    assert.equal(canonical(saved, table, chain).text, saved, 'its own output again');
  });
}

test('counters, policies and user chains are kept, and printed in the order of iptables-save', () => {
  const text = '*filter\n:INPUT DROP [3:180]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [9:540]\n:WEB - [0:0]\n[2:120] -A INPUT -p tcp -j WEB\n[1:60] -A WEB -j RETURN\nCOMMIT\n';
  const parsed = readRuleSet(text);
  assert.deepEqual(parsed.problems, []);
  assert.equal(writeRuleSet(parsed, { counters: true }), text);
  assert.equal(parsed.tables[0]?.chains.get('WEB')?.rules[0]?.line, 7);
});

test('what iptables does not have keeps its words and its place, with a warning', () => {
  const { text, problems } = canonical('-p tcp -m weird --string "GET /" --algo bm ! --to 65 -m tcp --dport 80 -j WEIRD --level 3');
  assert.deepEqual(problems.map(({ severity, found }) => [severity, found]), [['warning', 'weird'], ['warning', 'WEIRD']]);
  assert.equal(text, '-p tcp -m weird --string "GET /" --algo bm ! --to 65 -m tcp --dport 80 -j WEIRD --level 3');
});

test('a bad line is a problem with its place, and loses nothing else', () => {
  const parsed = readRuleSet('*nat\n-A OUTPUT -p tcp --dport 99999 -j RETURN\n-A OUTPUT -m comment --comment "open\n-A NOWHERE -j RETURN\nnonsense\n-A OUTPUT -j RETURN\nCOMMIT\n*what\n');
  assert.deepEqual(
    parsed.problems.map(({ line, column }) => [line, column]).toSorted(),
    [[2, 26], [3, 32], [4, 4], [5, 1], [8, 1]],
  );
  const rules = parsed.tables[0]?.chains.get('OUTPUT')?.rules ?? [];
  assert.deepEqual(rules.map((rule) => rule.target.kind), ['unknown', 'unknown', 'return'], 'unreadable rules keep their place and stay unknown');
});

test('-I puts a rule where it says', () => {
  const parsed = readRuleSet('*nat\n-A PREROUTING -i a -j RETURN\n-I PREROUTING 1 -i b -j RETURN\n-I PREROUTING -i c -j RETURN\n-I PREROUTING 4 -i d -j RETURN\n-I PREROUTING 9 -i e -j RETURN\nCOMMIT\n');
  assert.deepEqual(rulesOf(parsed, 'nat', 'PREROUTING').map((text) => text.split(' ')[3]), ['c', 'b', 'a', 'd']);
  assert.equal(parsed.problems[0]?.line, 6);
});

test('what is too much is refused, not read for ever', () => {
  assert.equal(readRuleSet(`*filter\n-A INPUT -m comment --comment ${'x'.repeat(10_000_000)} -j DROP\nCOMMIT\n`).problems[0]?.expected, `at most ${MAX_RESTORE_CHARACTERS} characters`);
  const chains = Array.from({ length: MAX_CHAINS + 10 }, (_, index) => `:C${index} - [0:0]`).join('\n');
  const full = readRuleSet(`*filter\n${chains}\nCOMMIT\n`);
  assert.deepEqual([full.problems.length, full.problems[0]?.line], [1, MAX_CHAINS + 2], 'what follows is not read');
  assert.match(readRuleSet('*filter\n-A INPUT -j A\0B\nCOMMIT\n').problems[0]?.message ?? '', /NUL/);
});

test('what iptables-restore refuses of the form of lines is told and read nonetheless', () => {
  for (const [text, line] of [['\uFEFF*filter\n-A INPUT -j DROP\nCOMMIT\n', 1], ['*filter\r\n-A INPUT -j DROP\r\nCOMMIT\r\n', 1], ['*filter\n-A INPUT -j DROP\n COMMIT\n', 3], ['*filter\n-A INPUT -j DROP\nCOMMIT \n', 3], ['*filter\n # x\n-A INPUT -j DROP\nCOMMIT\n', 2], [' *filter\n-A INPUT -j DROP\nCOMMIT\n', 1]] as const) {
    const { problems, tables } = readRuleSet(text);
    assert.deepEqual(problems.map((problem) => [problem.severity, problem.line]), [['error', line]], text);
    assert.deepEqual(tables[0]?.chains.get('INPUT')?.rules.map((rule) => rule.text), ['-A INPUT -j DROP']);
  }
});

test('what iptables-restore takes without looking at it is taken', () => {
  for (const lines of [':INPUT DROP [a:b]', ':INPUT ACCEPT [1:2]x', ':"a" - [0:0]\n-A INPUT -j ACCEPT', '[x:y] -A INPUT -j DROP', '-j DROP -A INPUT', '-4 -A INPUT -j DROP', '-6 -A INPUT -s ::1 -j DROP', '-P FORWARD DROP -c 1 2', ':PREROUTING - [0:0]\n-A INPUT -j PREROUTING', '# a\r']) {
    assert.deepEqual(readRuleSet(`*filter\n${lines}\nCOMMIT\n`, { family: 'ipv4' }).problems, [], lines);
  }
  assert.deepEqual([...readRuleSet('*filter\n:"a" - [0:0]\nCOMMIT\n').tables[0]?.chains.keys() ?? []], ['"a"']);
});

test('what iptables-restore refuses is refused', () => {
  for (const lines of ['-N LOG', `-A INPUT ${'-v '.repeat(260)}-j DROP`, `-A INPUT -m comment --comment ${'c'.repeat(1_100)} -j DROP`, `# ${'c'.repeat(11_000)}`]) {
    assert.equal(readRuleSet(`*filter\n${lines}\nCOMMIT\n`).problems[0]?.line, 2, lines.slice(0, 40));
  }
  assert.equal(readRuleSet('*nat\n-P OUTPUT DROP\nCOMMIT\n').problems[0]?.line, 2);
});

test('names of properties that every object has are names like any other', () => {
  for (const name of ['constructor', '__proto__', 'toString', 'hasOwnProperty']) {
    const parsed = readRuleSet(`*filter\n-A INPUT -m ${name} --${name} 1 -j ${name}\n-A INPUT --${name} 1\n*${name}\n`);
    assert.equal(parsed.tables[0]?.chains.get('INPUT')?.rules.length, 2);
  }
});

const word = fc.oneof(
  fc.constantFrom('-A', '-I', '-N', '-P', '-D', '-R', '-X', '-F', '-E', '-Z', '-m limit', '-m recent --set', '-m set --match-set a src', '--limit=5/min', '-m string --algo bm', '--string', '--probability', '-m statistic --mode random', '-m time', '--weekdays Mon', '-m conntrack', '--ctorigsrc', 'icmp', '--icmp-type', '-j REJECT', '-j LOG --log-prefix', '-m u32 --u32', '0=1', '-4', '-6', 'B', ':B - [0:0]', '-j', '-g', '-m', '-p', '-s', '-d', '-i', '-o', '!', 'tcp', 'udp', 'owner', 'multiport', 'mark', 'conntrack', 'comment', 'INPUT', 'OUTPUT', 'A', 'ACCEPT', 'DNAT', 'MARK', 'CONNMARK', 'TPROXY',
    '--dport', '--dports', '--ctstate', '--uid-owner', '--mark', '--to-destination', '--set-xmark', '--comment', '1', '80:90', '0x1/0xff', '10.0.0.0/8', '::1', '"', '"a b"', '*nat', '*filter', ':A', '-', '[0:0]', 'COMMIT', '#', '\\', ','),
  fc.string({ maxLength: 12 }),
);

test('no text makes the reader throw, and what it prints reads the same again', () => {
  const lines = fc.array(fc.array(word, { maxLength: 14 }).map((words) => words.join(' ')), { maxLength: 12 });
  fc.assert(
    fc.property(fc.oneof(lines.map((all) => `*filter\n:A - [0:0]\n${all.join('\n')}\nCOMMIT\n`), fc.string({ maxLength: 400 })), (text) => {
      const parsed = readRuleSet(text);
      const readable = parsed.tables.every((table) => [...table.chains.values()].every((chain) => chain.rules.every((rule) => !(rule.target.kind === 'unknown' && rule.target.name === UNREADABLE_RULE))));
      if (readable) {
        const printed = writeRuleSet(parsed, { counters: true });
        const again = readRuleSet(printed);
        assert.deepEqual(again.problems, [], printed);
        assert.equal(writeRuleSet(again, { counters: true }), printed);
      }
    }),
    { numRuns: 3_000, seed: 7 },
  );
});

test('a table that comes again begins anew, but for its policies under legacy', () => {
  const text = '*filter\n:FORWARD DROP [7:41]\n-A INPUT -j LOG\nCOMMIT\n*filter\n-A INPUT -j DROP\nCOMMIT\n';
  for (const [backend, policy] of [['nft', 'ACCEPT'], ['legacy', 'DROP']] as const) {
    assert.equal(
      writeRuleSet(readRuleSet(text, { backend }), { counters: false }).replaceAll(/^#.*\n/gm, ''),
      `*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ${policy} [0:0]\n:OUTPUT ACCEPT [0:0]\n-A INPUT -j DROP\nCOMMIT\n`,
    );
  }
});
