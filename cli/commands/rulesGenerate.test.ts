import assert from 'node:assert/strict';
import { test } from 'node:test';
import { runCli } from '../../test/cliSurroundings.ts';
import { RULES_GENERATE_COMMANDS } from './rulesGenerate.ts';

const run = (words: string): ReturnType<typeof runCli> => runCli(words.split(' '), { commands: RULES_GENERATE_COMMANDS });

test("rules come with the options of the mesh's own tool, short ones too", async () => {
  const short = await run('rules generate istio -b * -d 15020 -i 10.0.0.0/8');
  const long = await run('rules generate istio --istio-inbound-ports=* --istio-local-exclude-ports 15020 --istio-service-cidr 10.0.0.0/8');
  assert.deepEqual(short, long);
  assert.equal(short.code, 0);
  assert.match(short.output, /^\* nat\n-N ISTIO_INBOUND\n[^]*-A ISTIO_OUTPUT -d 10\.0\.0\.0\/8 -j ISTIO_REDIRECT\nCOMMIT\n$/);
  assert.match((await run('rules generate linkerd -p 1 -o 2')).output, /--to-port 1 /);
});

test('IPv6 rules are asked for, and what else the tool does is told beside', async () => {
  const { output, notes } = await run('rules generate istio --injected --v6');
  assert.match(output, /-s ::6\/128/);
  assert.equal(notes, 'The tool also does: ip -6 addr add ::6/128 dev lo');
  assert.match((await run('rules generate kuma --v6')).output, /::1\/128/);
  const none = await run('rules generate osm --v6');
  assert.deepEqual([none.code, none.output], [2, '']);
  assert.match(none.notes, /no IPv6 rules of osm/);
});

test('JSON has both families, the commands and the notes', async () => {
  const { output } = await run('rules generate linkerd --ipv6=false --json');
  const json = JSON.parse(output) as Record<string, unknown>;
  assert.deepEqual(Object.keys(json), ['mesh', 'ipv4', 'ipv6', 'setup', 'commands', 'notes']);
  assert.equal(json['ipv6'], '');
  assert.match((await run('rules generate linkerd --simulate')).output, /^iptables-legacy-save -t nat\niptables-legacy -t nat -N PROXY_INIT_REDIRECT\n/);
});

test('what the tool would not take is wrong usage', async () => {
  const { code, output, notes } = await run('rules generate istio -b 99999');
  assert.deepEqual([code, output], [2, '']);
  assert.match(notes, /--istio-inbound-ports[^]*"99999" is not a port from 1 to 65535/);
  assert.equal((await run('rules generate consul')).code, 2);
  assert.equal((await run('rules generate istio -w')).code, 2);
});
