import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { toIpAddress } from '../../agent/protocol/ipAddress.ts';
import { toPortNumber } from '../../agent/protocol/scalars.ts';
import type { PacketDraft } from '../../simulator/netfilter/packetDraft.ts';
import { decodePacket, encodePacket, writePacket } from './packetBytes.ts';

const ends4 = { source: toIpAddress('10.0.0.1'), destination: toIpAddress('10.0.0.2') };
const ends6 = { source: toIpAddress('fd01::1'), destination: toIpAddress('fd02::2') };
const ports = { sourcePort: toPortNumber(4000), destinationPort: toPortNumber(80) };
const udp: PacketDraft = { ...ends4, transport: { kind: 'udp', ...ports }, payload: 8 };

describe('packets as bytes', () => {
  for (const [text, draft] of [
    ['tcp 10.0.0.1:4000 > 10.0.0.2:80 SYN,ACK ttl 64', { ...ends4, transport: { kind: 'tcp', ...ports, flags: ['ACK', 'SYN'] } }],
    ['tcp fd01::1:4000 > fd02::2:80 FIN ttl 9 tos 16', { ...ends6, ttl: 9, tos: 16, transport: { kind: 'tcp', ...ports, flags: ['FIN'], options: [2], mss: 1000 } }],
    ['udp 10.0.0.1:4000 > 10.0.0.2:80 ttl 64', udp],
    ['icmp 10.0.0.1 > 10.0.0.2 8/0 id 7 ttl 64', { ...ends4, transport: { kind: 'icmp', type: 8, code: 0, identifier: 7 } }],
    ['icmp 10.0.0.1 > 10.0.0.2 3/3 about (udp 10.0.0.1:4000 > 10.0.0.2:80) ttl 64', { ...ends4, transport: { kind: 'icmp', type: 3, code: 3, about: udp } }],
    ['protocol 47 10.0.0.1 > 10.0.0.2 ttl 64', { ...ends4, payload: 8, transport: { kind: 'other', protocol: 47 } }],
    ['protocol 132 fd01::1:4000 > fd02::2:80 ttl 64', { ...ends6, transport: { kind: 'other', protocol: 132, ...ports } }],
  ] as const satisfies readonly (readonly [string, PacketDraft])[]) {
    test(text, () => {
      const decoded = decodePacket(encodePacket(draft));
      assert.ok(decoded !== undefined);
      assert.equal(writePacket(decoded), text);
      assert.equal(writePacket(draft), text);
    });
  }

  test('checksums are those of RFC 1071', () => {
    const bytes = encodePacket(udp);
    const sum = (part: Buffer): number => {
      let total = 0;
      for (let offset = 0; offset < part.length; offset += 2) {
        total += part.readUInt16BE(offset);
      }
      return ((total & 0xffff) + (total >>> 16)) & 0xffff;
    };
    assert.equal(sum(bytes.subarray(0, 20)), 0xffff);
    const pseudo = Buffer.concat([bytes.subarray(12, 20), Buffer.of(0, 17, 0, bytes.length - 20)]);
    assert.equal(sum(Buffer.concat([pseudo, bytes.subarray(20)])), 0xffff);
  });

  test('what is cut short is not a packet', () => {
    assert.equal(decodePacket(Buffer.of(0x45, 0, 0)), undefined);
    assert.equal(decodePacket(encodePacket(udp).subarray(0, 22)), undefined);
    assert.equal(decodePacket(Buffer.alloc(0)), undefined);
  });
});
