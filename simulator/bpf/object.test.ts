import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import fc from 'fast-check';
import { decodeValue } from '../../agent/protocol/btfValues.ts';
import { ISTIO_PROFILE } from '../../agent/protocol/acceleration.ts';
import { encodeSettings } from '../../agent/protocol/datapath.ts';
import { MeshpathError } from '../../agent/protocol/errors.ts';
import { lineOfInstruction, readBpfObject } from './object.ts';

const OBJECT = new Uint8Array(readFileSync(new URL('../../bpf/prebuilt/meshpath.bpf.o', import.meta.url)));

test('programs are known by their sections, and maps by BTF', () => {
  const object = readBpfObject(OBJECT);
  const programs = new Map(object.programs.map(({ name, type, attachType }) => [name, [type, attachType]]));
  assert.deepEqual(programs.get('meshpath_connect4'), ['cgroup_sock_addr', 'cgroup_inet4_connect']);
  assert.deepEqual(programs.get('meshpath_sk_msg'), ['sk_msg', 'sk_msg_verdict']);
  assert.deepEqual(programs.get('meshpath_getsockopt'), ['cgroup_sockopt', 'cgroup_getsockopt']);
  assert.deepEqual(programs.get('meshpath_getpeername4'), ['cgroup_sock_addr', 'cgroup_inet4_getpeername']);
  assert.deepEqual(programs.get('meshpath_sockops'), ['sock_ops', 'cgroup_sock_ops']);
  assert.deepEqual(object.programs.filter(({ attachType }) => attachType === null), []);
  const maps = new Map(object.maps.map(({ name, type }) => [name, type]));
  const known = { '.rodata': 'array', connections: 'hash', counters: 'percpu_array', events: 'ringbuf', pods: 'cgroup_storage', socket_state: 'sk_storage', sockets: 'sockhash' };
  assert.deepEqual(Object.fromEntries(Object.keys(known).map((name) => [name, maps.get(name)])), known);
  assert.deepEqual([...maps].filter(([, type]) => type.startsWith('type_')), []);
  const sockets = object.maps.find(({ name }) => name === 'sockets');
  assert.deepEqual([sockets?.keyBytes, sockets?.valueBytes], [48, 8]);
});

test('instructions have their source lines, also those of functions that were linked in', () => {
  const { programs } = readBpfObject(OBJECT);
  const [connect, getsockopt] = ['meshpath_connect4', 'meshpath_getsockopt'].map((wanted) => programs.find(({ name }) => name === wanted));
  assert.ok(connect && getsockopt);
  assert.match(lineOfInstruction(getsockopt, 0)?.text ?? '', /int meshpath_getsockopt/);
  const files = new Set(connect.lines.map(({ source }) => source.file.split('/').at(-1)));
  assert.ok(files.has('connect.bpf.h') && files.has('decisions.bpf.h'));
  assert.ok((connect.lines.at(-1)?.instruction ?? 0) < connect.instructions.length);
});

test('settings go to where the programs read them', () => {
  const { btf, maps } = readBpfObject(OBJECT);
  const rodata = maps.find(({ name }) => name === '.rodata');
  assert.ok(btf && rodata?.initial);
  const bytes = encodeSettings(btf, rodata.initial, { profile: ISTIO_PROFILE, unreadLimit: 7n, connectionLimit: 9n, eventLimit: 0, hasNetnsCookie: true });
  const decoded = decodeValue(btf, rodata.valueType, bytes);
  assert.ok(decoded.kind === 'struct');
  const profile = decoded.fields.find(({ name }) => name === 'profile')?.value;
  assert.ok(profile?.kind === 'struct');
  const field = (name: string): unknown => profile.fields.find((candidate) => candidate.name === name)?.value;
  assert.deepEqual(field('outbound_port'), { kind: 'port', value: 15_001 });
  assert.deepEqual(field('passthrough_source'), { kind: 'address', value: '127.0.0.6' });
  assert.deepEqual(field('unread_limit'), { kind: 'wide', value: '7' });
});

test('the bytes of the caller stay as they are, and the file may be a Buffer', () => {
  const buffer = Buffer.from(OBJECT);
  readBpfObject(buffer);
  assert.ok(buffer.equals(OBJECT));
});

test('what is no BPF object is refused with the reason', () => {
  const refused = (bytes: Uint8Array): string => {
    try {
      readBpfObject(bytes);
      return 'read';
    } catch (error) {
      return MeshpathError.is(error) ? error.code : String(error);
    }
  };
  assert.equal(refused(new Uint8Array(0)), 'BPF_OBJECT_INVALID');
  assert.equal(refused(OBJECT.subarray(0, 100)), 'BPF_OBJECT_INVALID');
  const otherMachine = OBJECT.slice();
  otherMachine[18] = 62;
  assert.equal(refused(otherMachine), 'BPF_OBJECT_INVALID');
  assert.equal(refused(new Uint8Array(17 * 1024 * 1024)), 'LIMIT_EXCEEDED');
});

test('a damaged object is read or refused, and never anything else', () => {
  const damage = fc.array(fc.tuple(fc.nat(OBJECT.length - 1), fc.nat(255)), { minLength: 1, maxLength: 40 });
  // The headers and tables decide what is read: most damage goes there.
  const tables = fc.array(fc.tuple(fc.nat(600).map((offset) => (offset < 64 ? offset : OBJECT.length - 1 - offset)), fc.nat(255)), { minLength: 1, maxLength: 10 });
  fc.assert(
    fc.property(fc.oneof(damage, tables), (changes) => {
      const bytes = OBJECT.slice();
      for (const [offset, value] of changes) {
        bytes[offset] = value;
      }
      try {
        readBpfObject(bytes);
      } catch (error) {
        assert.ok(MeshpathError.is(error), String(error instanceof Error ? error.stack : error));
      }
    }),
    { numRuns: 300 },
  );
});
