import assert from 'node:assert/strict';
import { test } from 'node:test';
import { DECISION_REASONS, ISTIO_PROFILE } from '../protocol/acceleration.ts';
import { MeshpathError } from '../protocol/errors.ts';
import { toHexText } from '../protocol/scalars.ts';
import type { IpAddress, PortNumber } from '../protocol/scalars.ts';
import { decodeConnection, encodeConnectionSwitchedOff, encodePod, encodeProfile, encodeSwitchedOff, LAYOUT } from './datapathLayout.ts';
import { decodeDecisionEvent, readDecisionCounters, sumCounter } from './decisions.ts';

const LIMITS = { unreadLimit: 1n, connectionLimit: 2n, hasNetnsCookie: true };
const MAPPED_10_0_0_2 = '00000000000000000000ffff0a000002';

test('writes the Istio profile as the programs read it', () => {
  const text = toHexText(encodeProfile(ISTIO_PROFILE, LIMITS));
  const ports = 'a03aac3aad3af23a'.padEnd(64, '0');
  assert.equal(text, `0100000000000000020000000000000000000000000000000000ffff7f0000063905000039050000993a9e3a${ports}${''.padEnd(64, '0')}01000000`);
});

test('a mesh without a passthrough address has none in the profile', () => {
  const encoded = encodeProfile({ ...ISTIO_PROFILE, passthroughSource: null }, { ...LIMITS, hasNetnsCookie: false });
  const { passthrough_source: at, has_netns_cookie: flag } = LAYOUT.mesh_profile.fields;
  assert.ok(encoded.subarray(at, at + 16).every((byte) => byte === 0));
  assert.equal(encoded[flag], 0);
});

test('refuses more excluded ports than there is room for', () => {
  const ports = Array.from({ length: 17 }, (_, index) => (index + 1) as PortNumber);
  assert.throws(() => encodeProfile({ ...ISTIO_PROFILE, excludedOutboundPorts: ports }, LIMITS), (error) => MeshpathError.is(error, 'INPUT_INVALID'));
});

test('writes a pod, and one without an IPv4 address', () => {
  assert.equal(toHexText(encodePod(0x1234n, '10.0.0.2' as IpAddress)), `3412000000000000${MAPPED_10_0_0_2}`);
  assert.equal(toHexText(encodePod(1n, undefined)), `0100000000000000${'00'.repeat(16)}`);
});

test('the switch changes nothing else of its structure', () => {
  const current = Uint8Array.from({ length: LAYOUT.control.bytes }, (_, index) => (index < 4 ? 0 : index));
  const off = encodeSwitchedOff(current);
  assert.deepEqual([...off.subarray(0, 4)], [1, 0, 0, 0]);
  assert.deepEqual(off.subarray(4), current.subarray(4));
});

test('a connection is pending until its accepting side was told where it was to go', () => {
  const { fields, bytes } = LAYOUT.connection;
  const connection = new Uint8Array(bytes);
  assert.equal(decodeConnection(connection).isPending, false);
  connection[fields.is_rewritten] = 1;
  assert.equal(decodeConnection(connection).isPending, true);
  connection[fields.accepting_cookie] = 9;
  assert.equal(decodeConnection(connection).isPending, true);
  connection[fields.is_answered] = 1;
  assert.equal(decodeConnection(connection).isPending, false);
});

test('a connection is accelerated while both its sockets are enrolled and it is not switched off', () => {
  const { fields, bytes } = LAYOUT.connection;
  const connection = new Uint8Array(bytes);
  connection[fields.is_connecting_enrolled] = 1;
  assert.equal(decodeConnection(connection).isAccelerated, false);
  connection[fields.is_accepting_enrolled] = 1;
  assert.equal(decodeConnection(connection).isAccelerated, true);
  assert.equal(decodeConnection(encodeConnectionSwitchedOff(connection)).isAccelerated, false);
});

test('reads an event', () => {
  const { fields, bytes } = LAYOUT.decision_event;
  // In the middle of a larger buffer, as a ring buffer hands it out.
  const event = new Uint8Array(bytes + 16).subarray(8, 8 + bytes);
  const view = new DataView(event.buffer, event.byteOffset, bytes);
  view.setBigUint64(fields.boot_nanoseconds, 0xffff_ffff_ffff_ffffn, true);
  view.setUint32(fields.hook, 2, true);
  view.setUint32(fields.reason, DECISION_REASONS.indexOf('message_redirected'), true);
  view.setUint32(fields.uid, 0xffff_ffff, true);
  view.setUint32(fields.bytes, 5, true);
  event.set([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 2, 0x1f, 0x90], fields.local);
  assert.deepEqual(decodeDecisionEvent(event), {
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
  const event = new Uint8Array(LAYOUT.decision_event.bytes);
  assert.equal(decodeDecisionEvent(event.subarray(1)), undefined);
  assert.notEqual(decodeDecisionEvent(event), undefined);
  event[LAYOUT.decision_event.fields.reason] = DECISION_REASONS.length;
  assert.equal(decodeDecisionEvent(event), undefined);
});

test('adds up counters over all CPUs', () => {
  assert.equal(sumCounter(new Uint8Array(BigUint64Array.of(1n, 0n, 1n << 40n).buffer)), (1n << 40n) + 1n);
  const counters = readDecisionCounters((index) => BigInt(index));
  assert.equal(counters.redirected_to_outbound, '0');
  assert.equal(counters.connection_closed, String(DECISION_REASONS.length - 1));
});
