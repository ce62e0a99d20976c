import assert from 'node:assert/strict';
import { test } from 'node:test';
import { toIpAddress } from '../../agent/protocol/ipAddress.ts';
import { Address } from './address.ts';
import { compileTable } from './compileTable.ts';
import type { MatchEnvironment } from './matchEnvironment.ts';
import { MatchState } from './matchState.ts';
import type { ConnectionView } from './packet.ts';
import { Packet, TCP_FLAG_BITS } from './packet.ts';
import { PROTOCOL } from './protocolNumbers.ts';
import { readRuleSet } from './readRuleSet.ts';
import type { RuleVisit, TableVerdict } from './traverseTable.ts';
import { traverseTable } from './traverseTable.ts';

const SOCKET = { uid: 1000, gid: null, hasFile: true, mark: 0, cgroup: null, device: null };

function syn(change: Partial<Pick<Packet, 'socket' | 'mark'>> = {}): Packet {
  const packet: Packet = new Packet(Address.of(toIpAddress('10.0.0.1')), Address.of(toIpAddress('10.0.0.2')), PROTOCOL.tcp);
  const original = { protocol: PROTOCOL.tcp, source: packet.source, sourcePort: 40_000, destination: packet.destination, destinationPort: 8080 };
  const connection: ConnectionView = {
    mark: 0, zone: 0, original, reply: original, seenReply: false, assured: false, confirmed: false, sourceTranslated: false, destinationTranslated: false, packets: [1, 0], bytes: [60, 0], isOld: false,
  };
  return Object.assign(packet, { sourcePort: 40_000, destinationPort: 8080, tcpFlags: TCP_FLAG_BITS.SYN, outInterface: 'eth0', socket: SOCKET, tracking: { connection, isReply: false, state: 'NEW' }, ...change });
}

interface Outcome {
  readonly visits: readonly RuleVisit[];
  readonly verdict: TableVerdict;
  readonly packet: Packet;
}

function environment(): MatchEnvironment {
  return {
    hook: 'OUTPUT', now: 0, state: new MatchState(), addressType: () => null, reversePath: () => null, findSocket: () => undefined, assignSocket: () => null, countedConnection: () => ({ id: '', zone: 0, isConfirmed: false }), isConnectionOpen: () => false, readsMarks: () => true, assume: () => undefined, testSet: () => null, changeSet: () => undefined, pathMtu: () => null,
  };
}

function send(rules: string, packet: Packet = syn()): Outcome {
  const [table] = readRuleSet(`*filter\n:OUTPUT ACCEPT [0:0]\n:A - [0:0]\n:B - [0:0]\n${rules}\nCOMMIT\n`).tables;
  assert.ok(table !== undefined);
  const visits: RuleVisit[] = [];
  const verdict = traverseTable(compileTable(table), 'OUTPUT', packet, environment(), { visits, counters: null });
  assert.ok(verdict !== null);
  return { visits, verdict, packet };
}

function path({ visits }: Outcome): string {
  return visits.map((visit) => `${visit.chain}:${visit.position ?? 'policy'}`).join(' ');
}

test('RETURN goes back to the caller, and in a built-in chain to the policy', () => {
  assert.equal(path(send('-A OUTPUT -j A\n-A OUTPUT -j RETURN\n-A OUTPUT -j DROP\n-A A -j RETURN\n-A A -j DROP')), 'OUTPUT:1 A:1 OUTPUT:2 OUTPUT:policy');
});

test('goto does not come back to its chain, but to the caller of that', () => {
  assert.equal(path(send('-A OUTPUT -j A\n-A OUTPUT -j DROP\n-A A -g B\n-A A -j ACCEPT\n-A B -j RETURN')), 'OUTPUT:1 A:1 B:1 OUTPUT:2');
  assert.equal(path(send('-A OUTPUT -g A\n-A OUTPUT -j DROP')), 'OUTPUT:1 OUTPUT:policy');
});

test('an unknown match neither matches nor fails: what happens then decides', () => {
  const same = send('-A OUTPUT -m strange --like x -j ACCEPT');
  assert.deepEqual(same.verdict, { kind: 'accept' });
  assert.match(same.visits[0]?.reason ?? '', /makes no difference/);
  const differs = send('-A OUTPUT -m strange --like x -j DROP');
  assert.equal(differs.verdict.kind, 'unknown');
  assert.match(JSON.stringify(differs.verdict), /match strange in '-A OUTPUT -m strange --like x -j DROP'/);
  assert.deepEqual(send('-A OUTPUT -m strange --like x -p udp -j DROP').verdict, { kind: 'accept' }, 'what fails otherwise does not depend on it');
  assert.equal(send('-A OUTPUT -m strange --like x -j MARK --set-mark 1').verdict.kind, 'unknown', 'a mark may matter later');
});

test('what is unknown inside of a chain that was gone to comes back as the chain does', () => {
  assert.equal(send('-A OUTPUT -g A\n-A OUTPUT -j DROP\n-A A -m strange --like x -j RETURN').verdict.kind, 'accept');
  assert.equal(send('-A OUTPUT -j A\n-A OUTPUT -j DROP\n-A A -m strange --like x -j RETURN\n-A A -j RETURN').verdict.kind, 'drop');
});

test('what the snapshot does not tell is unknown, negated or not', () => {
  for (const rule of ['--gid-owner 5', '! --gid-owner 5']) {
    assert.equal(send(`-A OUTPUT -m owner ${rule} -j DROP`).verdict.kind, 'unknown');
  }
  assert.equal(send('-A OUTPUT -m addrtype --dst-type LOCAL -j DROP').verdict.kind, 'unknown');
  assert.equal(send('-A OUTPUT -j WEIRD').verdict.kind, 'unknown');
});

test('a packet without a socket matches only what is negated of its owner', () => {
  assert.equal(send('-A OUTPUT -m owner --uid-owner 1000 -j DROP', syn({ socket: null })).verdict.kind, 'accept');
  assert.equal(send('-A OUTPUT -m owner ! --uid-owner 1337 -j DROP', syn({ socket: null })).verdict.kind, 'drop');
});

test('conditions are compared in order up to the first that fails', () => {
  const [visit] = send('-A OUTPUT -d 10.0.0.0/24 -p tcp -m tcp ! --dport 8080 -m owner --uid-owner 0 -j DROP').visits;
  assert.deepEqual(
    visit?.conditions.map(({ what, wanted, actual, result }) => `${what}: ${wanted} / ${actual}: ${result}`),
    ['destination address: 10.0.0.0/24 / 10.0.0.2: matched', 'protocol: tcp / tcp: matched', 'destination port: ! 8080 / 8080: failed'],
  );
});

test('marks follow their masks', () => {
  assert.equal(send('-A OUTPUT -j MARK --set-mark 0x0f/0x0c', syn({ mark: 0xf0 })).packet.mark, 0xff);
  const { packet } = send('-A OUTPUT -j MARK --set-xmark 0x80000000/0xffffffff\n-A OUTPUT -j CONNMARK --save-mark');
  assert.equal(packet.mark, 0x8000_0000);
  assert.equal(packet.tracking?.connection.mark, 0x8000_0000);
});

test('rules that no kernel takes come to an end', () => {
  assert.match(JSON.stringify(send('-A OUTPUT -j A\n-A A -j B\n-A B -j A').verdict), /jumps back/);
  assert.match(JSON.stringify(send('-A OUTPUT -g A\n-A A -g B\n-A B -g A').verdict), /more than|jumps back/);
  const chains = Array.from({ length: 40 }, (_, index) => `-N C${39 - index}\n-A C${39 - index} -j C${40 - index}\n-A C${39 - index} -j C${40 - index}`).join('\n');
  assert.match(JSON.stringify(send(`-N C40\n${chains}\n-A OUTPUT -j C0`).verdict), /more than 100000 rules/);
  const unknown = Array.from({ length: 80 }, () => '-A OUTPUT -m weird -j A').join('\n');
  assert.match(JSON.stringify(send(`${unknown}\n-A A -j MARK --set-mark 1`).verdict), /unknown/);
});
