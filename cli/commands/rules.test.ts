import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { runCli } from '../../test/cliSurroundings.ts';
import type { CliRun } from '../../test/cliSurroundings.ts';
import { rulesLintCommand } from './rulesLint.ts';
import { rulesPrintCommand } from './rulesPrint.ts';

const commands = [rulesPrintCommand, rulesLintCommand];

let folder = '';

before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'meshpath-rules-test-'));
});

after(() => rm(folder, { recursive: true }));

async function runOn(text: string | Uint8Array, ...words: readonly string[]): Promise<CliRun> {
  const file = join(folder, 'rules');
  await writeFile(file, text);
  return runCli(['rules', ...words.map((word) => (word === 'FILE' ? file : word))], { commands });
}

test('rules print prints what iptables-save would', async () => {
  const run = await runOn('*filter\n-A INPUT -p tcp --dport 80 -j ACCEPT\nCOMMIT\n', 'print', 'FILE');
  assert.equal(run.notes, '');
  assert.equal(run.code, 0);
  assert.match(run.output, /^-A INPUT -p tcp -m tcp --dport 80 -j ACCEPT$/m);
});

test('rules print tells what it cannot read and where, and prints the rest', async () => {
  const run = await runOn('*filter\n-A INPUT -p tcp --dport 99999 -j ACCEPT\n-A INPUT -j DROP\nCOMMIT\n', 'print', 'FILE');
  assert.equal(run.code, 1);
  assert.match(run.notes, /rules:2:\d+: /);
  assert.match(run.output, /^-A INPUT -j DROP$/m);
});

test('bytes that are not UTF-8 are told', async () => {
  const run = await runOn(Buffer.from('*filter\n-A INPUT -m comment --comment \xff -j DROP\nCOMMIT\n', 'latin1'), 'print', 'FILE');
  assert.equal(run.code, 1);
  assert.match(run.notes, /UTF-8/);
});

test('rules lint finds what can never match, for people and for programs', async () => {
  const text = '*filter\n-A INPUT -j DROP\n-A INPUT -i lo -j ACCEPT\nCOMMIT\n';
  const run = await runOn(text, 'lint', 'FILE');
  assert.equal(run.code, 1);
  assert.match(run.output, /rules:3:1: .*\n {2}Why: .*\n {2}To do: /);
  const { findings } = JSON.parse((await runOn(text, 'lint', 'FILE', '--json')).output) as { findings: { line: number }[] };
  assert.deepEqual(findings.map(({ line }) => line), [3]);
  assert.deepEqual(await runOn('*filter\n-A INPUT -j DROP\nCOMMIT\n', 'lint', 'FILE'), { code: 0, output: '', notes: '' });
});

test('wrong usage of rules is told before anything is read', async () => {
  for (const words of [['rules'], ['rules', 'what'], ['rules', 'print'], ['rules', 'lint', 'a', 'b'], ['rules', 'lint', 'a', '--counters'], ['rules', 'print', '/nowhere/at/all']]) {
    const run = await runCli(words, { commands });
    assert.equal(run.code, 2, words.join(' '));
    assert.notEqual(run.notes, '');
  }
});

test('rules print reads scripts, and answers as the backend that is asked for', async () => {
  const script = await runOn('sudo iptables -t nat -A OUTPUT -p tcp -j REDIRECT --to-port 1\nip6tables -P INPUT DROP\n', 'print', '--commands', 'FILE');
  assert.equal(script.code, 0);
  assert.match(script.output, /^-A OUTPUT -p tcp -j REDIRECT --to-ports 1$/m);
  assert.match(script.output, /^:INPUT DROP \[0:0\]$/m);
  const trace = '*filter\n-A INPUT -j TRACE\nCOMMIT\n';
  assert.equal((await runOn(trace, 'print', 'FILE')).code, 0);
  assert.equal((await runOn(trace, 'print', 'FILE', '--backend', 'legacy')).code, 1);
  assert.equal((await runOn(trace, 'print', 'FILE', '--backend', 'what')).code, 2);
});
