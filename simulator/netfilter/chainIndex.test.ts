import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { toIpAddress } from '../../agent/protocol/ipAddress.ts';
import { Address } from './address.ts';
import type { CompiledTable } from './compileTable.ts';
import { compileTable } from './compileTable.ts';
import type { MatchEnvironment } from './matchEnvironment.ts';
import { MatchState } from './matchState.ts';
import { Packet, TCP_FLAG_BITS } from './packet.ts';
import { readRuleSet } from './readRuleSet.ts';
import type { TableVerdict } from './traverseTable.ts';
import { traverseTable } from './traverseTable.ts';

const ADDRESSES = ['10.0.0.1', '10.0.0.2', '10.0.1.1', '192.168.7.9'];
const PREFIXES = ['10.0.0.1/32', '10.0.0.0/24', '10.0.0.0/8', '192.168.0.0/16', '0.0.0.0/0', '10.0.1.1/32'];
const DEVICES = ['eth0', 'eth1', 'lo'];
const PORTS = [22, 80, 443];

const not = fc.constantFrom('', '! ');
const condition = fc.oneof(
  fc.tuple(not, fc.constantFrom(...PREFIXES)).map(([negation, prefix]) => `${negation}-s ${prefix}`),
  fc.tuple(not, fc.constantFrom(...PREFIXES)).map(([negation, prefix]) => `${negation}-d ${prefix}`),
  fc.tuple(not, fc.constantFrom(...DEVICES, 'eth+')).map(([negation, device]) => `${negation}-i ${device}`),
  fc.tuple(fc.constantFrom('tcp', 'udp'), not, fc.constantFrom(...PORTS, '20:100')).map(([protocol, negation, port]) => `-p ${protocol} -m ${protocol} ${negation}--dport ${port}`),
  fc.constantFrom('-m limit --limit 1/sec --limit-burst 2', '-m statistic --mode nth --every 3 --packet 0', '-m mark --mark 0x1', '-m strange --thing 1'),
);
const target = fc.constantFrom('-j ACCEPT', '-j DROP', '-j RETURN', '-j A', '-g A', '-j MARK --set-mark 0x1', '-j B', '');
const rule = fc.tuple(fc.uniqueArray(condition, { maxLength: 3, selector: (text) => text.replace('! ', '').slice(0, 2) }), target).map(([conditions, jump]) => `${conditions.join(' ')} ${jump}`);
const rules = fc.array(rule, { minLength: 12, maxLength: 40 });
const packet = fc.record({
  source: fc.constantFrom(...ADDRESSES), destination: fc.constantFrom(...ADDRESSES), protocol: fc.constantFrom(6, 17, 1), port: fc.constantFrom(...PORTS, 81), device: fc.constantFrom(...DEVICES), seconds: fc.nat(3),
});

interface Walk {
  readonly verdicts: readonly (TableVerdict | null)[];
  readonly marks: readonly number[];
  readonly packets: readonly number[];
}

function environment(): MatchEnvironment & { now: number } {
  return {
    hook: 'FORWARD', now: 1000, state: new MatchState(), addressType: () => null, reversePath: () => null, findSocket: () => undefined, assignSocket: () => null, countedConnection: () => ({ id: '', zone: 0, isConfirmed: false }),
    isConnectionOpen: () => false, readsMarks: () => true, assume: () => undefined, testSet: () => null, changeSet: () => undefined, pathMtu: () => null,
  };
}

function walk(table: CompiledTable, sent: readonly (typeof packet extends fc.Arbitrary<infer Sent> ? Sent : never)[]): Walk {
  const counters = { packets: new Float64Array(table.rules.length), bytes: new Float64Array(table.rules.length) };
  const surroundings = environment();
  const marks: number[] = [];
  const verdicts = sent.map(({ source, destination, protocol, port, device, seconds }) => {
    const one: Packet = new Packet(Address.of(toIpAddress(source)), Address.of(toIpAddress(destination)), protocol);
    Object.assign(one, { sourcePort: protocol === 1 ? 0 : 40_000, destinationPort: protocol === 1 ? 0 : port, tcpFlags: TCP_FLAG_BITS.SYN, inInterface: device, outInterface: 'eth1' });
    surroundings.now += seconds;
    const verdict = traverseTable(table, 'FORWARD', one, surroundings, { visits: null, counters });
    marks.push(one.mark);
    return verdict;
  });
  return { verdicts, marks, packets: [...counters.packets] };
}

test('an indexed chain gives every packet the verdict, the mark and the counters of a walk from rule to rule', () => {
  fc.assert(
    fc.property(rules, rules, rules, fc.array(packet, { minLength: 1, maxLength: 6 }), (base, a, b, sent) => {
      const lines = [...base.map((text) => `-A FORWARD ${text}`), ...a.filter((text) => !/ -[jg] A/.test(text)).map((text) => `-A A ${text}`), ...b.filter((text) => !/ -[jg] [AB]/.test(text)).map((text) => `-A B ${text}`)];
      const [table] = readRuleSet(`*filter\n:FORWARD ACCEPT [0:0]\n:A - [0:0]\n:B - [0:0]\n${lines.join('\n')}\nCOMMIT\n`).tables;
      assert.ok(table !== undefined);
      const [indexed, linear] = [compileTable(table), compileTable(table, { indexed: false })];
      assert.ok(indexed.bases.get('FORWARD')?.index !== null && linear.bases.get('FORWARD')?.index === null);
      assert.deepEqual(walk(indexed, sent), walk(linear, sent));
    }),
    { numRuns: 200 },
  );
});
