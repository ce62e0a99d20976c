import assert from 'node:assert/strict';
import { test } from 'node:test';
import { toIpAddress } from '../../agent/protocol/ipAddress.ts';
import { toPortNumber } from '../../agent/protocol/scalars.ts';
import type { Packet } from './packet.ts';
import { readRuleSet } from './readRuleSet.ts';
import type { TableResult } from './traverseTable.ts';
import { traverseTable } from './traverseTable.ts';

const PACKET: Packet = {
  source: { address: toIpAddress('10.0.0.1'), port: toPortNumber(40_000) },
  destination: { address: toIpAddress('10.0.0.2'), port: toPortNumber(8080) },
  flags: ['SYN'],
  inInterface: null,
  outInterface: 'eth0',
  mark: 0,
  owner: { kind: 'socket', uid: 1000, gid: null },
  connection: { state: 'NEW', mark: 0, sourceTranslated: false, destinationTranslated: false },
};

function send(rules: string, packet: Packet = PACKET): TableResult {
  const [table] = readRuleSet(`*filter\n:OUTPUT ACCEPT [0:0]\n:A - [0:0]\n:B - [0:0]\n${rules}\nCOMMIT\n`).tables;
  assert.ok(table !== undefined);
  const result = traverseTable(table, 'OUTPUT', packet, { addressType: () => null });
  assert.ok(result !== null);
  return result;
}

function path(result: TableResult): string {
  return result.visits.map((visit) => `${visit.chain}:${visit.position ?? 'policy'}`).join(' ');
}

test('RETURN goes back to the caller, and in a built-in chain to the policy', () => {
  assert.equal(path(send('-A OUTPUT -j A\n-A OUTPUT -j RETURN\n-A OUTPUT -j DROP\n-A A -j RETURN\n-A A -j DROP')), 'OUTPUT:1 A:1 OUTPUT:2 OUTPUT:policy');
});

test('goto does not come back to its chain, but to the caller of that', () => {
  assert.equal(path(send('-A OUTPUT -j A\n-A OUTPUT -j DROP\n-A A -g B\n-A A -j ACCEPT\n-A B -j RETURN')), 'OUTPUT:1 A:1 B:1 OUTPUT:2');
  assert.equal(path(send('-A OUTPUT -g A\n-A OUTPUT -j DROP')), 'OUTPUT:1 OUTPUT:policy');
});

test('an unknown match neither matches nor fails: what happens then decides', () => {
  const same = send('-A OUTPUT -m string --string x -j ACCEPT');
  assert.deepEqual(same.verdict, { kind: 'accept' });
  assert.match(same.visits[0]?.reason ?? '', /makes no difference/);
  const differs = send('-A OUTPUT -m string --string x -j DROP');
  assert.equal(differs.verdict.kind, 'unknown');
  assert.match(JSON.stringify(differs.verdict), /match string in '-A OUTPUT -m string --string x -j DROP'/);
  assert.deepEqual(send('-A OUTPUT -m string --string x -p udp -j DROP').verdict, { kind: 'accept' }, 'what fails otherwise does not depend on it');
  assert.equal(send('-A OUTPUT -m string --string x -j MARK --set-mark 1').verdict.kind, 'unknown', 'a mark may matter later');
});

test('what the snapshot does not tell is unknown, negated or not', () => {
  for (const rule of ['--gid-owner 5', '! --gid-owner 5']) {
    assert.equal(send(`-A OUTPUT -m owner ${rule} -j DROP`).verdict.kind, 'unknown');
  }
  assert.equal(send('-A OUTPUT -m addrtype --dst-type LOCAL -j DROP').verdict.kind, 'unknown');
  assert.equal(send('-A OUTPUT -j WEIRD').verdict.kind, 'unknown');
});

test('a packet without a socket matches only what is negated of its owner', () => {
  const packet: Packet = { ...PACKET, owner: { kind: 'none' } };
  assert.equal(send('-A OUTPUT -m owner --uid-owner 1000 -j DROP', packet).verdict.kind, 'accept');
  assert.equal(send('-A OUTPUT -m owner ! --uid-owner 1337 -j DROP', packet).verdict.kind, 'drop');
});

test('conditions are compared in order up to the first that fails', () => {
  const [visit] = send('-A OUTPUT -d 10.0.0.0/24 -p tcp -m tcp ! --dport 8080 -m owner --uid-owner 0 -j DROP').visits;
  assert.deepEqual(
    visit?.conditions.map(({ what, wanted, actual, result }) => `${what}: ${wanted} / ${actual}: ${result}`),
    ['destination address: 10.0.0.0/24 / 10.0.0.2: matched', 'protocol: tcp / tcp: matched', 'destination port: ! 8080 / 8080: failed'],
  );
});

test('marks follow their masks', () => {
  assert.equal(send('-A OUTPUT -j MARK --set-mark 0x0f/0x0c', { ...PACKET, mark: 0xf0 }).notes.mark, 0xff);
  const result = send('-A OUTPUT -j MARK --set-xmark 0x80000000/0xffffffff\n-A OUTPUT -j CONNMARK --save-mark');
  assert.deepEqual(result.notes, { mark: 0x8000_0000, connectionMark: 0x8000_0000, untracked: false });
});

test('rules that no kernel takes come to an end', () => {
  assert.match(JSON.stringify(send('-A OUTPUT -j A\n-A A -j B\n-A B -j A').verdict), /jumps back/);
  assert.match(JSON.stringify(send('-A OUTPUT -g A\n-A A -g B\n-A B -g A').verdict), /more than|jumps back/);
  const chains = Array.from({ length: 40 }, (_, index) => `-N C${index}\n-A C${index} -j C${index + 1}\n-A C${index} -j C${index + 1}`).join('\n');
  assert.match(JSON.stringify(send(`-N C40\n${chains}\n-A OUTPUT -j C0`).verdict), /more than 100000 rules/);
  const unknown = Array.from({ length: 80 }, () => '-A OUTPUT -m weird -j A').join('\n');
  assert.match(JSON.stringify(send(`${unknown}\n-A A -j MARK --set-mark 1`).verdict), /unknown/);
});
