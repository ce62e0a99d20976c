import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { runCli } from '../../test/cliSurroundings.ts';
import { explainCommand } from './explain.ts';

const folder = await mkdtemp(join(tmpdir(), 'meshpath-explain-rules-'));
after(() => rm(folder, { recursive: true, force: true }));
const rules = join(folder, 'rules.v4');
await writeFile(rules, '*filter\n:INPUT DROP [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n-A INPUT -p tcp -m tcp --dport 8080 -j ACCEPT\nCOMMIT\n');

const run = (...words: readonly string[]): ReturnType<typeof runCli> => runCli(['explain', ...words], { commands: [explainCommand] });

test('wrong usage is told: what belongs to a node, what is missing, what cannot be read', async () => {
  const flow = ['--flow', 'tcp 10.1.0.2:4000 > 10.1.0.3:8080 in eth0'];
  const wrong: readonly (readonly [words: readonly string[], says: RegExp])[] = [
    [['--rules', rules], /There is no flow/],
    [[...flow], /Flows meet the rules of --rules/],
    [['pod-a', 'pod-b:80', '--rules', rules, ...flow], /'pod-a', 'pod-b:80' belongs to explaining on a node/],
    [['--rules', rules, ...flow, '--uid', '5'], /--uid belongs to/],
    [['--rules', rules, ...flow, '--backend', 'ebtables'], /no backend 'ebtables'/],
    [['--rules', join(folder, 'missing'), ...flow], /could not be read/],
    [['--rules', rules, '--flow', 'tcp x'], /At column 5/],
    [['--rules', rules, ...flow, '--world', rules], /It is not JSON/],
    [['pod-a'], /needs more/],
  ];
  for (const [words, says] of wrong) {
    const { code, output, notes } = await run(...words);
    assert.deepEqual([code, output], [2, ''], words.join(' '));
    assert.match(notes, says);
  }
});

test('lines of rules that cannot be read are told, with their place, and do not stop it', async () => {
  const broken = join(folder, 'broken.v4');
  await writeFile(broken, '*filter\n-A INPUT -p tcp --dport nowhere -j ACCEPT\nCOMMIT\n');
  const { notes, output } = await run('--rules', broken, '--flow', 'tcp 10.1.0.2:4000 > 10.1.0.3:8080 in eth0');
  assert.match(notes, /broken\.v4:2:\d+: /);
  assert.match(output, /^tcp 10\.1\.0\.2:4000 > 10\.1\.0\.3:8080 in eth0: /);
});
