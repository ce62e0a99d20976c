import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { MeshpathError } from '../../agent/protocol/errors.ts';
import type { NamespaceId } from '../../agent/protocol/scalars.ts';
import { formatPacketFlow, parsePacketFlow } from './packetFlowText.ts';

const NAMESPACE = '1' as NamespaceId;
const parse = (text: string): ReturnType<typeof parsePacketFlow> => parsePacketFlow(text, NAMESPACE);

test('what arrives has a device, and no owner', () => {
  assert.deepEqual(parse('tcp 10.1.0.2:4000 > 10.1.0.3:8080 in eth0'), {
    flow: {
      protocol: 'tcp',
      from: { kind: 'arrival', namespace: '1', device: 'eth0', macAddress: null },
      source: { address: '10.1.0.2', port: 4000 },
      destination: { address: '10.1.0.3', port: 8080 },
    },
    outDevice: null,
    packet: null,
  });
  assert.equal(parse('tcp 10.1.0.2>10.1.0.3:80 in eth0').flow.source.port, 40_000);
  assert.equal(parse('udp 10.1.0.2:53 > 10.2.0.3:5353 in eth0 out eth1').outDevice, 'eth1');
});

test('what a local process sends has its owner, and may leave the source to the kernel', () => {
  const { flow } = parse('TCP > [fd00::1]:80 out uid 1000');
  assert.deepEqual(flow.from, { kind: 'process', namespace: '1', uid: 1000, gid: 1000 });
  assert.deepEqual([flow.source, flow.destination], [{ address: null, port: null }, { address: 'fd00::1', port: 80 }]);
  assert.deepEqual(parse('udp 127.0.0.1:53 > 127.0.0.53:53 out uid 3 gid 4').flow.from, { kind: 'process', namespace: '1', uid: 3, gid: 4 });
  assert.deepEqual(parse('tcp 10.0.0.9:80 out').flow.from, { kind: 'process', namespace: '1', uid: 0, gid: 0 });
});

test('protocols without ports, by name and number', () => {
  assert.deepEqual(parse('icmp 10.1.0.2:7 > 10.1.0.3 in eth0').flow.source, { address: '10.1.0.2', port: 7 });
  assert.equal(parse('icmpv6 ::1 > fd00::1 in eth0').flow.protocol, 'icmpv6');
  assert.equal(parse('gre 10.1.0.2 > 10.1.0.3 in eth0').flow.protocol, 47);
  assert.equal(parse('17 10.1.0.2:1 > 10.1.0.3:2 in eth0').flow.protocol, 'udp');
  assert.deepEqual(parse('sctp 10.1.0.2:1 > 10.1.0.3:2 in eth0').flow.destination, { address: '10.1.0.3', port: 2 });
});

test('one packet where flags, types or sizes are given', () => {
  assert.deepEqual(parse('tcp 10.1.0.2:4000 > 10.1.0.3:80 in eth0 flags syn,ACK ttl 1 mac 02:00:00:00:00:0A').packet, {
    source: '10.1.0.2', destination: '10.1.0.3', transport: { kind: 'tcp', sourcePort: 4000, destinationPort: 80, flags: ['SYN', 'ACK'] }, ttl: 1, macSource: '02:00:00:00:00:0a',
  });
  assert.deepEqual(parse('icmp 10.1.0.2 > 10.1.0.3 in eth0 type 13').packet?.transport, { kind: 'icmp', type: 13, code: 0, identifier: 1 });
  assert.deepEqual(parse('tcp 10.1.0.2:1 > 10.1.0.3:2 in eth0 flags none').packet?.transport, { kind: 'tcp', sourcePort: 1, destinationPort: 2, flags: [] });
  assert.equal(parse('udp 10.1.0.2:1 > 10.1.0.3:2 out length 1200 tos 8').packet?.payload, 1200);
});

const WRONG: readonly (readonly [text: string, column: number, found: RegExp])[] = [
  ['', 1, /ends here/],
  ['htp 1.1.1.1:1 > 2.2.2.2:2 in eth0', 1, /'htp' is no protocol/],
  ['256 1.1.1.1 > 2.2.2.2 in eth0', 1, /no protocol/],
  ['tcp 1.1.1.1:1 > 2.2.2:2 in eth0', 17, /'2\.2\.2:2' is no address/],
  ['tcp 1.1.1.1:1 > 2.2.2.2:70000 in eth0', 25, /70000 is no port/],
  ['tcp 1.1.1.1:1 > 2.2.2.2 in eth0', 17, /has no port/],
  ['tcp 1.1.1.1:1 >', 16, /ends here/],
  ['tcp 1.1.1.1:1 > [::1]:2 in eth0', 17, /different families/],
  ['icmp ::1 > ::2 in eth0', 12, /icmp is not spoken over IPv6/],
  ['icmp 1.1.1.1 > 2.2.2.2:5 in eth0', 16, /has no ports/],
  ['tcp 1.1.1.1:1 > 2.2.2.2:2', 26, /where the flow begins/],
  ['tcp 2.2.2.2:2 in eth0', 5, /has no source/],
  ['tcp 1.1.1.1:1 > 2.2.2.2:2 in', 29, /ends here/],
  ['tcp 1.1.1.1:1 > 2.2.2.2:2 in eth0 uid 5', 40, /no local owner/],
  ['tcp 1.1.1.1:1 > 2.2.2.2:2 out mac 02:00:00:00:00:01', 35, /no link address/],
  ['tcp 1.1.1.1:1 > 2.2.2.2:2 out uid x', 35, /'x' is no uid/],
  ['tcp 1.1.1.1:1 > 2.2.2.2:2 out uid 5 uid 6', 37, /second time/],
  ['tcp 1.1.1.1:1 > 2.2.2.2:2 at eth0', 27, /'at' is no option/],
  ['tcp 1.1.1.1:1 > 2.2.2.2:2 in a/b', 30, /cannot be the name/],
  ['tcp 1.1.1.1:1 > 2.2.2.2:2 in eth0 flags SIN', 41, /no TCP flags/],
  ['udp 1.1.1.1:1 > 2.2.2.2:2 in eth0 flags SYN', 44, /only TCP has flags/],
  ['tcp > 2.2.2.2:2 out flags SYN', 30, /no source/],
];
for (const [text, column, found] of WRONG) {
  test(`wrong at column ${column}: ${text}`, () => {
    assert.throws(
      () => parse(text),
      (error: unknown) => {
        assert.ok(MeshpathError.is(error, 'INPUT_INVALID'));
        assert.match(error.reason, new RegExp(`^At column ${column}: `));
        assert.match(error.reason, found);
        return true;
      },
    );
  });
}

test('a flow that was written reads back', () => {
  for (const text of ['tcp 10.1.0.2:4000 > 10.1.0.3:8080 in eth0', 'udp [fd00::1]:1 > [fd00::2]:53 in eth0', 'tcp 10.0.0.1:80 out uid 5 gid 6', 'icmp 10.0.0.1 > 10.0.0.2 in a', '47 10.0.0.1 > 10.0.0.2 in a']) {
    const { flow } = parse(text);
    assert.deepEqual(parse(formatPacketFlow(flow)).flow, flow);
  }
});

test('no text whatever ends in anything but a flow or INPUT_INVALID', () => {
  const word = fc.oneof(fc.constantFrom('tcp', 'icmp', '>', '10.0.0.1:80', '[::1]:9', '::', 'in', 'out', 'eth0', 'uid', '7', 'flags', 'SYN', 'type'), fc.string());
  fc.assert(
    fc.property(fc.array(word, { maxLength: 10 }), (words) => {
      try {
        parse(words.join(' '));
      } catch (error) {
        assert.ok(MeshpathError.is(error, 'INPUT_INVALID'), String(error));
      }
    }),
  );
  assert.throws(() => parse('x'.repeat(100_000)), { code: 'INPUT_INVALID' });
});
