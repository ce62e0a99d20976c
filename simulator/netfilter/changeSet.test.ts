import assert from 'node:assert/strict';
import { test } from 'node:test';
import { toIpAddress } from '../../agent/protocol/ipAddress.ts';
import type { AddressSet, PacketPart } from './addressSet.ts';
import { isMember } from './addressSet.ts';
import { changeSet } from './changeSet.ts';
import { readAddressSets } from './readAddressSets.ts';

const address = (text: string): PacketPart => ({ kind: 'address', address: toIpAddress(text) });
const tcp = (port: number): PacketPart => ({ kind: 'port', protocol: 6, port });

function setOf(text: string): AddressSet {
  const [set] = [...readAddressSets(text).sets.values()];
  assert.ok(set);
  return set;
}

test('an address that was put in is a member, and one that was taken out is none, whatever range held it', () => {
  const set = setOf('create a bitmap:ip range 10.0.0.0/24\nadd a 10.0.0.4-10.0.0.9\n');
  const without = changeSet(set, [address('10.0.0.5')], 'remove', false);
  assert.ok(without);
  assert.deepEqual(['10.0.0.4', '10.0.0.5', '10.0.0.6'].map((text) => isMember(without, [address(text)])), [true, false, true]);
  const again = changeSet(without, [address('10.0.0.5')], 'add', false);
  assert.ok(again);
  assert.equal(isMember(again, [address('10.0.0.5')]), true);
  assert.equal(changeSet(set, [address('10.0.1.5')], 'add', false), set, 'there is no room for it');
});

test('networks are put in as long as the longest prefix of the set is', () => {
  const wide = changeSet(setOf('create a hash:net\nadd a 10.0.0.0/8\nadd a 10.9.0.0/24\n'), [address('192.0.2.7')], 'add', false);
  assert.ok(wide);
  assert.equal(isMember(wide, [address('192.0.2.99')]), true);
  const whole = changeSet(setOf('create a hash:net\n'), [address('192.0.2.7')], 'add', false);
  assert.ok(whole);
  assert.deepEqual([isMember(whole, [address('192.0.2.7')]), isMember(whole, [address('192.0.2.99')])], [true, false]);
});

test('an exception stays one unless the rule says --exist', () => {
  const set = setOf('create a hash:net\nadd a 10.0.0.7 nomatch\n');
  assert.equal(changeSet(set, [address('10.0.0.7')], 'add', false), set);
  const changed = changeSet(set, [address('10.0.0.7')], 'add', true);
  assert.ok(changed);
  assert.equal(isMember(changed, [address('10.0.0.7')]), true);
});

test('what is not modelled is not known', () => {
  assert.equal(changeSet(setOf('create a hash:ip,mac\n'), [address('10.0.0.7'), { kind: 'mac', mac: '02:00:00:00:00:01' }], 'add', false), null);
  assert.notEqual(changeSet(setOf('create a hash:ip,port\n'), [address('10.0.0.7'), tcp(80)], 'add', false), null);
});
