import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { runCli } from '../../test/cliSurroundings.ts';
import { rulesCoverageCommand } from './rulesCoverage.ts';
import { rulesDiffCommand } from './rulesDiff.ts';
import { rulesSourcesCommand } from './rulesSources.ts';

const folder = await mkdtemp(join(tmpdir(), 'meshpath-rules-analyses-'));
after(() => rm(folder, { recursive: true, force: true }));
const [older, newer] = ['old', 'new'].map((name) => join(folder, name));
await writeFile(older ?? '', '*filter\n:INPUT DROP [0:0]\n-A INPUT -s 10.0.0.0/8 -p tcp -m tcp --dport 22 -j ACCEPT\n-A INPUT -p udp -j ACCEPT\nCOMMIT\n');
await writeFile(newer ?? '', '*filter\n:INPUT DROP [0:0]\n-A INPUT -s 10.1.0.0/24 -p tcp -m tcp --dport 22 -j ACCEPT\n-A INPUT -p udp -j ACCEPT\nCOMMIT\n');

const run = (...words: readonly string[]): ReturnType<typeof runCli> => runCli(['rules', ...words], { commands: [rulesCoverageCommand, rulesDiffCommand, rulesSourcesCommand] });
const FLOWS = ['--flow', 'tcp 10.1.0.2:4000 > 10.1.0.3:22 in eth0', '--flow', 'tcp 10.2.0.2:4000 > 10.1.0.3:22 in eth0'];

test('coverage counts packets for every rule, or shows those that matched none', async () => {
  const { code, output } = await run('coverage', older ?? '', ...FLOWS);
  assert.equal(code, 0);
  assert.equal(output, 'compared  matched  table   rule\n       2        2  filter  -A INPUT -s 10.0.0.0/8 -p tcp -m tcp --dport 22 -j ACCEPT\n       0        0  filter  -A INPUT -p udp -j ACCEPT\n');
  assert.doesNotMatch((await run('coverage', older ?? '', ...FLOWS, '--never')).output, /dport 22/);
  assert.equal((JSON.parse((await run('coverage', older ?? '', ...FLOWS, '--json')).output) as unknown[]).length, 2);
});

test('diff names flows that fare differently, and the rules that decided', async () => {
  const { code, output } = await run('diff', older ?? '', newer ?? '', ...FLOWS);
  assert.equal(code, 1);
  assert.match(output, /^tcp 10\.1\.0\.2:4000 > 10\.1\.0\.3:22 in eth0: the same\n/);
  assert.match(output, /tcp 10\.2\.0\.2:4000 > .*: different\n {2}It was delivered; now it is refused\.\n {2}Packet 1 reaches port 22 .*; now it is dropped\.\n {2}- filter -A INPUT -s 10\.0\.0\.0\/8 .*\n {2}\+ filter policy of INPUT\n/);
  assert.equal((await run('diff', older ?? '', older ?? '', ...FLOWS)).code, 0);
});

test('sources says from where a port is reached, with or without a world', async () => {
  const { code, output } = await run('sources', older ?? '', '--to', 'tcp 10.1.0.3:22');
  assert.equal(code, 0);
  assert.match(output, /^device {2}from +to +result +why\n/);
  assert.match(output, /\neth0 +10\.1\.0\.4 +10\.255\.255\.255 +reaches +application takes it on port 22\. filter -A INPUT -s 10\.0\.0\.0\/8/);
  const world = join(folder, 'world.json');
  await writeFile(world, '{"links": [{"name": "a", "addresses": ["10.1.0.3/24"]}, {"name": "b"}], "sockets": [{"listen": "tcp 0.0.0.0:22"}]}');
  const ranges = JSON.parse((await run('sources', older ?? '', '--to', 'tcp 10.1.0.3:22', '--world', world, '--json')).output) as readonly { readonly device: string }[];
  assert.deepEqual([...new Set(ranges.map(({ device }) => device))], ['a', 'b']);
  for (const to of [[], ['--to', '22'], ['--to', 'icmp 10.1.0.3'], ['--to', 'tcp 10.1.0.3']]) {
    assert.equal((await run('sources', older ?? '', ...to)).code, 2);
  }
});
