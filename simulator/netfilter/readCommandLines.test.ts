import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { readCommandLines } from './readCommandLines.ts';
import type { ParsedRuleSet } from './ruleSet.ts';

function rulesOf(ruleSet: ParsedRuleSet, table: string): readonly string[] {
  return [...(ruleSet.tables.find(({ name }) => name === table)?.chains.values() ?? [])].flatMap(({ rules }) => rules.map(({ text }) => text));
}

test('lines of a script change the rule sets that they name', () => {
  const { ipv4, ipv6 } = readCommandLines(`#!/bin/sh
set -e
IPT=/sbin/iptables
iptables -N WEB   # a comment
sudo /sbin/iptables -w 5 -t nat -A PREROUTING -p tcp --dport 80 -j REDIRECT --to-ports 8080
/usr/sbin/iptables-nft --wait --table=filter -A INPUT -p tcp --dport http -j WEB && iptables -P INPUT DROP; ip6tables -A INPUT -s fe80::/10 -j ACCEPT
iptables -A WEB -m comment --comment 'it is "mine"' \\
  -j ACCEPT
iptables -p udp -I INPUT 1 --dport 53 -j ACCEPT
iptables -A INPUT -s 10.0.0.1,10.0.0.2 -j DROP
iptables -D INPUT -s 10.0.0.1 -j DROP
iptables -L -n -v
iptables -t nat -S
echo iptables is fine
`);
  assert.deepEqual([...ipv4.problems, ...ipv6.problems], []);
  assert.deepEqual(rulesOf(ipv4, 'nat'), ['-A PREROUTING -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 8080']);
  assert.deepEqual(rulesOf(ipv4, 'filter').toSorted(), [
    '-A INPUT -p tcp -m tcp --dport 80 -j WEB', '-A INPUT -p udp -m udp --dport 53 -j ACCEPT', '-A INPUT -s 10.0.0.2/32 -j DROP', '-A WEB -m comment --comment "it is \\"mine\\"" -j ACCEPT',
  ]);
  assert.equal(ipv4.tables.find(({ name }) => name === 'filter')?.chains.get('INPUT')?.policy, 'DROP');
  assert.deepEqual(rulesOf(ipv6, 'filter'), ['-A INPUT -s fe80::/10 -j ACCEPT']);
});

test('a line that is wrong is a problem with its place, and the others are read', () => {
  const { ipv4 } = readCommandLines("iptables -A INPUT -s $HOST -j DROP\niptables -A INPUT -j DROP\niptables -t what -F\niptables -A INPUT -m comment --comment 'open\n");
  assert.deepEqual(ipv4.problems.map(({ line, column }) => [line, column]), [[1, 22], [3, 13], [4, 40]]);
  assert.deepEqual(rulesOf(ipv4, 'filter').at(-1), '-A INPUT -j DROP');
});

test('no text makes it throw', () => {
  const word = fc.oneof(fc.constantFrom('iptables', 'ip6tables', 'sudo', '-t', 'nat', '-A', '-E', '-X', 'INPUT', '-j', 'DROP', '-s', '1.1.1.1', "'", '"', '\\', ';', '&&', '\n', '--wait', '!'), fc.string({ maxLength: 6 }));
  fc.assert(fc.property(fc.array(word, { maxLength: 30 }).map((words) => words.join(' ')), (text) => {
    readCommandLines(text);
  }), { numRuns: 1_500, seed: 3 });
});
