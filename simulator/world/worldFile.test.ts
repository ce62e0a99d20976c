import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { MeshpathError } from '../../agent/protocol/errors.ts';
import { createWorldSnapshot } from './describedWorld.ts';
import { readWorldFile } from './worldFile.ts';

const read = (world: unknown): ReturnType<typeof readWorldFile> => readWorldFile(JSON.stringify(world));

test('a world with everything in it', () => {
  const world = read({
    links: [
      { name: 'eth0', addresses: ['10.1.0.3/24', 'fd00::3/64'], mac: '02:00:00:00:00:01' },
      { name: 'br0', kind: 'bridge', up: false, mtu: 9000 },
    ],
    routes: ['default via 10.1.0.1 dev eth0', 'local default dev lo table 100', 'blackhole 10.9.0.0/16', 'fd01::1/16 dev eth0 metric 5 src fd00::3'],
    rules: ['-4 fwmark 0x111/0xfff lookup 100 pref 32764', 'from fd00::/8 lookup main', 'fwmark 1 iif eth0 table 7'],
    sysctls: { 'net.ipv4.ip_forward': 1, 'net.ipv4.conf.all.rp_filter': '2' },
    sockets: [{ listen: 'tcp 0.0.0.0:8080', uid: 1000, gid: 1001, command: 'web' }, { listen: 'udp [::]:53', transparent: true }],
    conntrack: [{ protocol: 'tcp', original: '10.0.0.1:4000 > 10.0.0.2:80', reply: '10.0.0.3:80 > 10.0.0.1:4000', mark: 7, zone: 2 }],
  });
  assert.deepEqual(world.links.map(({ name, kind, up, mtu, macAddress, addresses }) => [name, kind, up, mtu, macAddress, addresses.length]), [
    ['eth0', 'physical', true, 1500, '02:00:00:00:00:01', 2],
    ['br0', 'bridge', false, 9000, null, 0],
  ]);
  assert.deepEqual(world.routes.map(({ family, type, destination, gateway, device, table, metric, scope }) => [family, type, `${destination.address}/${destination.prefixLength}`, gateway, device, table, metric, scope]), [
    ['ipv4', 'unicast', '0.0.0.0/0', '10.1.0.1', 'eth0', 254, 0, 'global'],
    ['ipv4', 'local', '0.0.0.0/0', null, 'lo', 100, 0, 'host'],
    ['ipv4', 'blackhole', '10.9.0.0/16', null, null, 254, 0, 'link'],
    ['ipv6', 'unicast', 'fd01::/16', null, 'eth0', 254, 5, 'link'],
  ]);
  assert.deepEqual(world.routingRules.map(({ family, priority, mark, inInterface, table }) => [family, priority, mark, inInterface, table]), [
    ['ipv4', 32_764, { value: 0x111, mask: 0xfff }, null, 100],
    ['ipv6', 32_765, null, null, 254],
    ['ipv4', 32_765, { value: 1, mask: 0xffff_ffff }, 'eth0', 7],
  ]);
  assert.deepEqual(world.sockets.map(({ protocol, state, local, uid, owner, transparent, dualStack }) => [protocol, state, local.port, uid, owner?.gid, owner?.command, transparent, dualStack]), [
    ['tcp', 'listen', 8080, 1000, 1001, 'web', false, false],
    ['udp', 'other', 53, 0, 0, 'user 0', true, true],
  ]);
  assert.deepEqual(world.sysctls, { 'net.ipv4.ip_forward': '1', 'net.ipv4.conf.all.rp_filter': '2' });
  assert.deepEqual([world.conntrack[0]?.state, world.conntrack[0]?.zone, world.conntrack[0]?.reply.source.address], ['ESTABLISHED', 2, '10.0.0.3']);
});

test('what the kernel adds by itself need not be described', () => {
  const snapshot = createWorldSnapshot(read({ links: [{ name: 'eth0', addresses: ['10.1.0.3/24'] }] }), { ruleSets: [], ipSets: 'create a hash:ip\n' });
  const [namespace] = snapshot.namespaces;
  assert.ok(namespace !== undefined);
  assert.deepEqual(namespace.links.map(({ name, index, addresses }) => [name, index, addresses.map(({ address }) => address)]), [['lo', 1, ['127.0.0.1', '::1']], ['eth0', 2, ['10.1.0.3']]]);
  assert.deepEqual(namespace.routes.map(({ type, destination, table, device }) => `${type} ${destination.address}/${destination.prefixLength} ${table} ${device ?? ''}`), [
    'local 127.0.0.0/8 255 lo', 'local 127.0.0.1/32 255 lo', 'local ::1/128 255 lo',
    'local 10.1.0.3/32 255 eth0', 'broadcast 10.1.0.255/32 255 eth0', 'unicast 10.1.0.0/24 254 eth0',
  ]);
  assert.equal(namespace.sysctls['net.ipv4.conf.eth0.rp_filter'], '0');
  assert.equal(namespace.ipSets, 'create a hash:ip\n');
  assert.deepEqual(read({}).links, []);
});

const WRONG: readonly (readonly [world: unknown, place: RegExp])[] = [
  [[], /^: \[\] is not an object/],
  [{ link: [] }, /^: "link" is not one of its members, which are links/],
  [{ links: {} }, /^links: /],
  [{ links: [{ addresses: [] }] }, /^links\[0\]\.name: nothing is not a text/],
  [{ links: [{ name: 'a/b' }] }, /^links\[0\]\.name: /],
  [{ links: [{ name: 'a', addresses: ['10.0.0.1/40'] }] }, /^links\[0\]\.addresses\[0\]: "10\.0\.0\.1\/40"/],
  [{ links: [{ name: 'a' }, { name: 'a' }] }, /^links: "a" is not the name of one link only/],
  [{ links: [{ name: 'a', kind: 'wifi' }] }, /^links\[0\]\.kind: /],
  [{ links: [{ name: 'a', mtu: 1.5 }] }, /^links\[0\]\.mtu: 1\.5 is not a whole number/],
  [{ links: [{ name: 'a', mac: 'x' }] }, /^links\[0\]\.mac: /],
  [{ routes: ['10.0.0.0/8 dev eth9'] }, /^routes\[0\]: .*there is no link 'eth9'/],
  [{ routes: ['10.0.0.0/8'] }, /^routes\[0\]: .*says where to/],
  [{ routes: ['default via fd00::1 src 10.0.0.1'] }, /^routes\[0\]: .*one family/],
  [{ routes: ['nowhere dev lo'] }, /^routes\[0\]: .*'nowhere' is no destination/],
  [{ routes: ['default dev lo weight 5'] }, /^routes\[0\]: .*'weight' is not one of/],
  [{ rules: ['fwmark 1'] }, /^rules\[0\]: .*lookup TABLE/],
  [{ rules: ['fwmark 0x1ffffffff lookup 5'] }, /^rules\[0\]: .*no mark/],
  [{ sysctls: { kernel: 1 } }, /^sysctls\.kernel: /],
  [{ sysctls: { 'net.x': true } }, /^sysctls\.net\.x: true is not a text/],
  [{ sockets: [{ listen: 'tcp 8080' }] }, /^sockets\[0\]\.listen: /],
  [{ sockets: [{ listen: 'tcp 0.0.0.0:80', uid: -1 }] }, /^sockets\[0\]\.uid: /],
  [{ conntrack: [{ original: '10.0.0.1:1' }] }, /^conntrack\[0\]\.original: /],
  [{ conntrack: [{ protocol: 'xx', original: '10.0.0.1:1 > 10.0.0.2:2' }] }, /^conntrack\[0\]\.protocol: /],
];
for (const [world, place] of WRONG) {
  test(`wrong in a world: ${JSON.stringify(world)}`, () => {
    assert.throws(
      () => read(world),
      (error: unknown) => {
        assert.ok(MeshpathError.is(error, 'INPUT_INVALID'));
        assert.match(error.reason, place);
        return true;
      },
    );
  });
}

test('no document whatever ends in anything but a world or a MeshpathError', () => {
  const members = fc.constantFrom('links', 'routes', 'rules', 'sysctls', 'sockets', 'conntrack', 'name', 'addresses', '__proto__', 'listen');
  fc.assert(
    fc.property(fc.oneof(fc.string(), fc.dictionary(members, fc.array(fc.oneof(fc.string(), fc.dictionary(members, fc.anything())))).map((world) => JSON.stringify(world))), (text) => {
      try {
        readWorldFile(text);
      } catch (error) {
        assert.ok(error instanceof MeshpathError && error.code === 'INPUT_INVALID', String(error));
      }
    }),
  );
  assert.throws(() => readWorldFile('{"links": ['), { code: 'INPUT_INVALID' });
  assert.throws(() => readWorldFile(' '.repeat(9 * 1024 * 1024)), { code: 'LIMIT_EXCEEDED' });
});
