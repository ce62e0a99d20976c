import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { DECISION_REASONS, ISTIO_PROFILE } from '../agent/protocol/acceleration.ts';
import { parseBtf } from '../agent/protocol/btf.ts';
import {
  COUNTER_ENTRIES,
  decodeConnection,
  decodeDecisionEvent,
  decodePodId,
  decodeQuestion,
  decodeSwitchedOff,
  encodeControl,
  encodeNoPod,
  encodePod,
  encodePodOwner,
  encodeProfileEntries,
  encodeSettings,
  encodeStoppedPod,
  isSameStructure,
  sumCounters,
} from '../agent/protocol/datapath.ts';
import { MeshpathError } from '../agent/protocol/errors.ts';
import { mappedAddressBytes, toIpAddress } from '../agent/protocol/ipAddress.ts';
import { toHexText } from '../agent/protocol/scalars.ts';
import type { IpPrefix, PortNumber } from '../agent/protocol/scalars.ts';
import { prebuiltObject } from '../scripts/compileBpf.mjs';
import { parseElf } from '../simulator/bpf/elf.ts';

// What is read and written here by the type information of the object is compared with bytes that were laid out by hand
// from meshpath.h, so that a structure that changes is noticed.

const { sections } = parseElf(readFileSync(prebuiltObject));
const section = (name: string): Uint8Array => sections.find((candidate) => candidate.name === name)?.bytes ?? new Uint8Array();
const btf = parseBtf(section('.BTF'));
const READ_ONLY_DATA = section('.rodata');
const SETTINGS = { profile: ISTIO_PROFILE, unreadLimit: 1n, connectionLimit: 2n, eventLimit: 3, hasNetnsCookie: true };
const MAPPED_10_0_0_2 = '00000000000000000000ffff0a000002';
const CONNECTION_BYTES = 128;

test('writes the Istio profile as the programs read it', () => {
  assert.equal(
    toHexText(encodeSettings(btf, READ_ONLY_DATA, SETTINGS)),
    `01000000000000000200000000000000030000000000000000000000000000000000ffff7f000006${'6'.padStart(32, '0')}993a9e3a010100000000cd3a00000100`,
  );
});

test('a mesh without a passthrough address has none in the profile', () => {
  const encoded = encodeSettings(btf, READ_ONLY_DATA, { ...SETTINGS, profile: { ...ISTIO_PROFILE, passthroughSource: null, passthroughSourceV6: null }, hasNetnsCookie: false });
  assert.equal(toHexText(encoded.subarray(24, 56)), ''.padEnd(64, '0'));
  assert.equal(encoded[60], 0);
});

test('a mesh that captures DNS to some resolvers, and not over UDP, says so', () => {
  const profile = { ...ISTIO_PROFILE, dnsResolvers: ['10.96.0.10/32'] as IpPrefix[], excludedOutboundPorts: [53] as PortNumber[] };
  const dnsOf = (changes: Partial<typeof profile>): string => toHexText(encodeSettings(btf, READ_ONLY_DATA, { ...SETTINGS, profile: { ...profile, ...changes } }).subarray(66));
  assert.equal(dnsOf({}), 'cd3a01010100');
  assert.equal(dnsOf({ excludesPortsOverUdp: false, dnsResolvers: [] }), 'cd3a00000100');
  assert.equal(dnsOf({ dnsPort: null, excludedOutboundPorts: [] }), '000001000100');
  const [entry] = encodeProfileEntries(btf, { ...profile, excludedOutboundPorts: [], excludedInboundPorts: [], tunnelPorts: [] }).filter(({ map }) => map === 'ranges');
  assert.equal(toHexText(entry?.key ?? new Uint8Array()), 'a0000000' + '04000100' + '00000000000000000000ffff0a60000a');
});

test('reads a question that waits for its answer', () => {
  const bytes = new Uint8Array(40);
  new DataView(bytes.buffer).setBigUint64(0, 7n, true);
  new DataView(bytes.buffer).setBigUint64(8, 1n << 40n, true);
  assert.deepEqual(decodeQuestion(btf, bytes), { askedBootNanoseconds: 7n, cgroupId: 1n << 40n });
});

test('refuses an object with less read-only data', () => {
  assert.throws(() => encodeSettings(btf, READ_ONLY_DATA.subarray(1), SETTINGS), (error) => MeshpathError.is(error, 'BPF_OBJECT_INVALID'));
});

test('writes the lists of a profile as the programs look them up', () => {
  const entries = encodeProfileEntries(btf, {
    ...ISTIO_PROFILE,
    passedUids: [0, 1337],
    excludedInboundPorts: [80, 443] as PortNumber[],
    excludedOutboundPorts: [443] as PortNumber[],
    tunnelPorts: [15_008] as PortNumber[],
    excludedOutboundRanges: ['10.96.0.0/12', '0.0.0.0/0'] as IpPrefix[],
    includedInboundRanges: ['::/0'] as IpPrefix[],
  });
  const of = (map: string): string[][] => entries.flatMap((entry) => (entry.map === map ? [[toHexText(entry.key), toHexText(entry.value)]] : []));
  assert.deepEqual(of('owners'), [
    ['0000000000000000', '02000000'],
    ['0000000039050000', '02000000'],
    ['0100000039050000', '02000000'],
    ['0000000039050000', '01000000'],
  ]);
  assert.deepEqual(of('ports'), [['bb010000', '03000000'], ['50000000', '02000000'], ['a03a0000', '04000000']]);
  assert.deepEqual(of('ranges'), [
    ['8c000000' + '00000100' + '00000000000000000000ffff0a600000', '01000000'],
    ['80000000' + '00000100' + '00000000000000000000ffff00000000', '01000000'],
    ['20000000' + '03000000' + ''.padEnd(32, '0'), '01000000'],
  ]);
});

test('writes a pod, one without an IPv4 address, and none', () => {
  const pod = encodePod(btf, 0x1234n, toIpAddress('10.0.0.2'));
  assert.equal(toHexText(pod), `3412000000000000${MAPPED_10_0_0_2}${'00'.repeat(16)}`);
  const dual = encodePod(btf, 1n, undefined, toIpAddress('fd00::2'));
  assert.equal(toHexText(dual), `0100000000000000${'00'.repeat(16)}fd000000000000000000000000000002`);
  assert.equal(decodePodId(btf, 'pod', pod), 0x1234n);
  assert.equal(toHexText(encodePod(btf, 1n, undefined)), `0100000000000000${'00'.repeat(32)}`);
  assert.equal(toHexText(encodeNoPod(btf)), '00'.repeat(40));
  const owner = encodePodOwner(btf, 1n << 40n, toIpAddress('10.0.0.9'), [toIpAddress('fd00::2'), toIpAddress('10.0.0.2'), toIpAddress('10.0.0.9')]);
  assert.equal(toHexText(owner), `0000000000010000${MAPPED_10_0_0_2}`);
  assert.equal(decodePodId(btf, 'pod_owner', owner), 1n << 40n);
  assert.throws(() => decodePodId(btf, 'pod', owner), (error) => MeshpathError.is(error, 'BPF_OBJECT_INVALID'));
});

test('the control says whether everything is off, and how many pods are stopped', () => {
  assert.equal(toHexText(encodeControl(btf, true, 0)), '0100000000000000');
  assert.equal(toHexText(encodeControl(btf, false, 258)), '0000000002010000');
  assert.equal(decodeSwitchedOff(btf, encodeControl(btf, true, 3)), true);
  assert.equal(decodeSwitchedOff(btf, encodeControl(btf, false, 3)), false);
  assert.equal(toHexText(encodeStoppedPod(0x0102n)), '0201000000000000');
});

test('versions of the programs are alike in a structure where every field is at the same place', () => {
  assert.equal(isSameStructure(btf, btf, 'pod'), true);
  const other = Object.create(btf) as typeof btf;
  Object.defineProperty(other, 'idsByName', { value: (name: string) => btf.idsByName(name === 'pod' ? 'pod_owner' : name) });
  assert.equal(isSameStructure(btf, other, 'pod'), false);
  assert.equal(isSameStructure(other, btf, 'pod_owner'), true);
});

test('a connection is pending until its accepting side was told where it was to go', () => {
  const connection = new Uint8Array(CONNECTION_BYTES);
  assert.equal(decodeConnection(btf, connection).isPending, false);
  connection[20] = 1; // is_rewritten
  assert.equal(decodeConnection(btf, connection).isPending, true);
  connection[40] = 9; // accepting_cookie
  assert.equal(decodeConnection(btf, connection).isPending, true);
  connection[23] = 1; // is_answered
  assert.equal(decodeConnection(btf, connection).isPending, false);
});

test('a connection is accelerated while both its sockets are enrolled and it is not switched off', () => {
  const connection = new Uint8Array(CONNECTION_BYTES);
  connection[21] = 1; // is_connecting_enrolled
  assert.equal(decodeConnection(btf, connection).isAccelerated, false);
  connection[22] = 1; // is_accepting_enrolled
  connection[48] = 5; // connecting_cgroup_id
  connection[56] = 6; // accepting_cgroup_id
  assert.deepEqual(decodeConnection(btf, connection), { openedBootNanoseconds: 0n, connectingCgroupId: 5n, acceptingCgroupId: 6n, isAccelerated: true, isPending: false });
});

/** An event in the middle of a larger buffer, as a ring buffer hands it out. */
function writeEvent(): { readonly bytes: Uint8Array; readonly view: DataView } {
  const bytes = new Uint8Array(128).subarray(8, 120);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  view.setBigUint64(0, 0xffff_ffff_ffff_ffffn, true); // boot_nanoseconds
  view.setUint32(92, 2, true); // hook
  view.setUint32(96, DECISION_REASONS.indexOf('message_redirected'), true);
  view.setUint32(104, 0xffff_ffff, true); // uid
  view.setUint32(108, 5, true); // bytes
  bytes.set(mappedAddressBytes(toIpAddress('10.0.0.2')), 32); // local
  view.setUint16(48, 8080, false);
  return { bytes, view };
}

test('reads an event', () => {
  assert.deepEqual(decodeDecisionEvent(btf, writeEvent().bytes), {
    bootNanoseconds: '18446744073709551615',
    hook: 'sk_msg',
    reason: 'message_redirected',
    errno: 0,
    socketCookie: '0',
    cgroupId: '0',
    netnsCookie: '0',
    uid: null,
    local: { address: '10.0.0.2', port: 8080 },
    remote: { address: '0.0.0.0', port: 0 },
    original: null,
    bytes: 5,
  });
});

test('leaves out records that it does not know', () => {
  const { bytes, view } = writeEvent();
  assert.equal(decodeDecisionEvent(btf, bytes.subarray(1)), undefined);
  view.setUint32(96, DECISION_REASONS.length, true);
  assert.equal(decodeDecisionEvent(btf, bytes), undefined);
});

test('adds up counters over all CPUs', () => {
  const perCpu = (index: number): Uint8Array[] => [BigInt(index), 1n << 40n].map((value) => new Uint8Array(BigUint64Array.of(value).buffer));
  const { reasons, lost } = sumCounters(Array.from({ length: COUNTER_ENTRIES }, (_, index) => perCpu(index)));
  assert.equal(reasons.redirected_to_outbound, String(1n << 40n));
  const last = DECISION_REASONS.at(-1) ?? 'connection_closed';
  assert.equal(reasons[last], String((1n << 40n) + BigInt(DECISION_REASONS.length - 1)));
  assert.equal(lost, 2 ** 40 + DECISION_REASONS.length);
});
