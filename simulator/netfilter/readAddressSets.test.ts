import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { toIpAddress } from '../../agent/protocol/ipAddress.ts';
import type { PacketPart } from './addressSet.ts';
import { isMember } from './addressSet.ts';
import { readAddressSets } from './readAddressSets.ts';

const address = (text: string): PacketPart => ({ kind: 'address', address: toIpAddress(text) });
const tcp = (port: number): PacketPart => ({ kind: 'port', protocol: 6, port });

const SAVED = `create nets hash:net family inet hashsize 1024 maxelem 65536 timeout 0 bucketsize 12 initval 0x5a
add nets 10.0.0.0/8 timeout 0
add nets 10.1.0.0/16 nomatch
add nets 10.1.2.3 comment "inside of the exception"
create web hash:ip,port family inet counters
add web 1.2.3.4,tcp:80 packets 5 bytes 6
add web 1.2.3.5,udp:53
add web 1.2.3.6,icmp:echo-request
create six hash:net,port family inet6
add six fd00::/64,443
create macs hash:mac
add macs 42:01:02:AA:04:05
create ports bitmap:port range 0-65535
add ports 1000-2000
create range bitmap:ip range 10.9.0.0/16
add range 10.9.0.5-10.9.0.9
create all list:set size 8
add all nets
add all range
`;

test('what ipset saved tells who is a member', () => {
  const { sets, problems } = readAddressSets(SAVED);
  assert.deepEqual(problems, []);
  const asked = (name: string, ...parts: readonly PacketPart[]): boolean => {
    const set = sets.get(name);
    assert.ok(set);
    return isMember(set, parts);
  };
  assert.equal(asked('nets', address('10.2.0.1')), true);
  assert.equal(asked('nets', address('10.1.0.1')), false, 'the longer prefix is an exception');
  assert.equal(asked('nets', address('10.1.2.3')), true, 'and one in it is none');
  assert.equal(asked('nets', address('11.0.0.1')), false);
  assert.equal(asked('web', address('1.2.3.4'), tcp(80)), true);
  assert.equal(asked('web', address('1.2.3.5'), tcp(53)), false);
  assert.equal(asked('web', address('1.2.3.6'), { kind: 'port', protocol: 1, port: 8 * 256 }), true);
  assert.equal(asked('six', address('fd00::5'), tcp(443)), true);
  assert.equal(asked('macs', { kind: 'mac', mac: '42:01:02:aa:04:05' }), true);
  assert.equal(asked('ports', { kind: 'port', protocol: 17, port: 1500 }), true);
  assert.equal(asked('range', address('10.9.0.9')), true);
});

test('a netmask cuts addresses, a wildcard takes every interface that begins so, and a bitmap has bounds', () => {
  const { sets, problems } = readAddressSets('create cut hash:ip netmask 24\nadd cut 10.1.2.0\ncreate by hash:net,iface\nadd by 10.0.0.0/8,eth wildcard\ncreate few bitmap:port range 80-90\n');
  assert.deepEqual(problems, []);
  const [cut, by] = [sets.get('cut'), sets.get('by')];
  assert.ok(cut && by);
  assert.equal(isMember(cut, [address('10.1.2.77')]), true);
  assert.equal(isMember(cut, [address('10.1.3.77')]), false);
  assert.equal(isMember(by, [address('10.1.2.77'), { kind: 'interface', name: 'eth7' }]), true);
  assert.equal(isMember(by, [address('10.1.2.77'), { kind: 'interface', name: 'wlan0' }]), false);
  assert.deepEqual(sets.get('few')?.bounds, [{ kind: 'ports', protocol: null, range: { first: 80, last: 90 } }]);
});

test('sets change as ipset restore says', () => {
  const { sets, problems } = readAddressSets('create a hash:ip\nadd a 1.1.1.1\nadd a 2.2.2.2\ndel a 1.1.1.1\ncreate b hash:ip\nadd b 3.3.3.3 -exist\nswap a b\nrename b c\nflush a\n');
  assert.deepEqual(problems, []);
  assert.deepEqual([...sets.values()].map(({ name, entries }) => [name, entries.length]).toSorted(), [['a', 0], ['c', 1]]);
});

test('bad lines are problems with their places, and lose nothing else', () => {
  const { sets, problems } = readAddressSets('create a hash:ip\nadd a fd00::1\nadd b 1.1.1.1\ncreate c hash:what\nadd a 1.1.1.1,80\nadd a 1.1.1.1 what\nadd a 9.9.9.9\nnonsense\n');
  assert.deepEqual(problems.map(({ line, column }) => [line, column]), [[2, 7], [3, 5], [4, 10], [5, 7], [6, 15], [8, 1]]);
  assert.equal(sets.get('a')?.entries.length, 1);
});

test('no text makes it throw', () => {
  const word = fc.oneof(fc.constantFrom('create', 'add', 'del', 'swap', 'rename', 'destroy', 'a', 'b', 'hash:ip', 'hash:net,port', 'list:set', '1.1.1.1', '1.1.1.0/24,tcp:80', 'family', 'inet6', '\n', '"', 'nomatch', '__proto__'), fc.string({ maxLength: 6 }));
  fc.assert(fc.property(fc.array(word, { maxLength: 30 }).map((words) => words.join(' ')), (text) => {
    readAddressSets(text);
  }), { numRuns: 1_500, seed: 5 });
});
