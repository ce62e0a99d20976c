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

test('a flow is told packet by packet, the first with every condition of what decided', async () => {
  const { code, output } = await run('--rules', rules, '--flow', 'tcp 10.1.0.2:4000 > 10.1.0.3:8080 in eth0');
  assert.equal(code, 0);
  assert.equal(
    output,
    `tcp 10.1.0.2:4000 > 10.1.0.3:8080 in eth0: delivered. application takes it on port 8080.

  Packet 1: TCP SYN 10.1.0.2:4000 → 10.1.0.3:8080
    0  packet  routing table 255: local 10.1.0.3/32 dev eth0  → deliver here by lo
                 10.1.0.3 belongs to host: the packet goes to its sockets.
    1  packet  filter INPUT rule 1: -A INPUT -p tcp -m tcp --dport 8080 -j ACCEPT  → ACCEPT
                 protocol: wanted tcp, is tcp: matched
                 destination port: wanted 8080, is 8080: matched
                 ACCEPT ends filter at this hook; later tables are still asked.
    2  accept  socket application in host  → deliver to application in host
                 Application in host listens on [::]:8080 and takes the connection from 10.1.0.2:4000.
    application takes it on port 8080.

  Packet 2: TCP SYN,ACK 10.1.0.3:8080 → 10.1.0.2:4000  It leaves by eth0.

The world, since --world was not given:
  - eth0 has 10.1.0.3/24.
  - IPv4 goes to the rest of the world by eth0.
  - Somebody listens on tcp port 8080 (application, uid 1000).
  - The machine does not forward; the reverse path is not checked (rp_filter is 0).
`,
  );
});

test('exit codes: 0 where every flow is delivered, 1 where one is not; JSON has the steps and the journeys', async () => {
  const flows = ['--flow', 'tcp 10.1.0.2:4000 > 10.1.0.3:8080 in eth0', '--flow', 'tcp 10.1.0.2:4000 > 10.1.0.3:22 in eth0'];
  const { code, output } = await run('--rules', rules, ...flows, '--json');
  assert.equal(code, 1);
  const json = JSON.parse(output) as { readonly flows: readonly { readonly outcome: { readonly result: string }; readonly steps: readonly unknown[]; readonly journeys: readonly unknown[] }[]; readonly world: { readonly namespaces: readonly unknown[] } };
  assert.deepEqual(json.flows.map(({ outcome }) => outcome.result), ['delivered', 'refused']);
  assert.ok(json.flows.every(({ steps, journeys }) => steps.length > 0 && journeys.length > 0));
  assert.equal(json.world.namespaces.length, 1);
  assert.match((await run('--rules', rules, ...flows, '--all')).output, /Packet 2: TCP SYN,ACK .*\n {4}\d+ {2}packet {2}filter OUTPUT policy/);
});

test('IPv6 rules, IP sets and a world come from files', async () => {
  const rules6 = join(folder, 'rules.v6');
  const sets = join(folder, 'sets');
  const world = join(folder, 'world.json');
  await writeFile(rules6, '*filter\n:INPUT DROP [0:0]\n-A INPUT -s fd00::/64 -p udp -m udp --dport 53 -j ACCEPT\nCOMMIT\n');
  await writeFile(sets, 'create friends hash:net family inet\nadd friends 10.1.0.0/30\n');
  await writeFile(world, JSON.stringify({ links: [{ name: 'net0', addresses: ['10.1.0.3/24', 'fd00::3/64'] }], routes: ['default via fd00::1 dev net0'], sockets: [{ listen: 'udp [::]:53', command: 'named' }, { listen: 'tcp 0.0.0.0:80' }] }));
  const v6 = await run('--rules6', rules6, '--world', world, '--flow', 'udp [fd00::2]:5 > [fd00::3]:53 in net0');
  assert.match(v6.output, /delivered\. Named in host takes/);
  assert.equal((await run('--rules6', rules6, '--world', world, '--flow', 'udp [fd01::2]:5 > [fd00::3]:53 in net0')).code, 1);
  const friends = join(folder, 'friends.v4');
  await writeFile(friends, '*filter\n:INPUT DROP [0:0]\n-A INPUT -m set --match-set friends src -j ACCEPT\nCOMMIT\n');
  const ask = (...words: readonly string[]): ReturnType<typeof run> => run('--rules', friends, '--world', world, '--flow', 'tcp 10.1.0.2:5 > 10.1.0.3:80 in net0', ...words);
  assert.match((await ask()).output, /depends\. It depends on set friends/);
  assert.match((await ask('--ipset', sets, '--json')).output, /"ipSets": "create friends hash:net family inet\\nadd friends 10\.1\.0\.0\/30\\n"/);
});
