import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { ISTIO_PROFILE, KUMA_PROFILE } from '../protocol/acceleration.ts';
import type { AccelerationInfo } from '../protocol/acceleration.ts';
import { toIpAddress } from '../protocol/ipAddress.ts';
import type { LinkInfo, MapInfo, ObjectOwner, ProgramInfo } from '../protocol/kernelObjects.ts';
import type { DecodedValue, MapEntry } from '../protocol/mapEntries.ts';
import type { CgroupPath, HexText, LinkId, MapId, ProgramId, Uint64Text } from '../protocol/scalars.ts';
import type { BpfState } from '../protocol/snapshot.ts';
import { findOtherAccelerations } from './otherAccelerations.ts';

const OWNER: ObjectOwner = { kind: 'meshpath', processes: [{ pid: 7, command: 'node' }], pins: [] };
const CGROUP = '/pods/a' as CgroupPath;
const ADDRESS = toIpAddress('10.0.0.2');

function program(id: number, name: string, mapIds: readonly number[], owner = OWNER): ProgramInfo {
  return {
    id: id as ProgramId, name, type: 'cgroup_sock_addr', tag: '', loadedAt: '2026-01-01T00:00:00.000Z', loadedByUid: 0, mapIds: mapIds as MapId[], btfId: 1, instructionCount: 1,
    jitedBytes: 1, memoryBytes: null, runCount: '0' as Uint64Text, runTimeNanoseconds: '0' as Uint64Text, gplCompatible: true, owner,
  };
}

function map(id: number, name: string): MapInfo {
  return {
    id: id as MapId, name, type: 'hash', keyBytes: 4, valueBytes: 4, maxEntries: 1, flags: [], btfId: 1, keyType: null, valueType: null, memoryBytes: null, frozen: false,
    readable: { ok: true }, programIds: [], owner: OWNER,
  };
}

function link(id: number, programId: number, cgroupId: string): LinkInfo {
  const target = { kind: 'cgroup', cgroupId: cgroupId as Uint64Text, path: CGROUP } as const;
  return { id: id as LinkId, type: 'cgroup', programId: programId as ProgramId, attachType: 'cgroup_inet4_connect', target, owner: OWNER };
}

const struct = (fields: Readonly<Record<string, DecodedValue>>): DecodedValue => ({
  kind: 'struct',
  typeName: 'struct',
  fields: Object.entries(fields).map(([name, value]) => ({ name, value })),
});
const entry = (key: DecodedValue, value: DecodedValue): MapEntry => ({ key: { bytes: '' as HexText, decoded: key }, values: [{ bytes: '' as HexText, decoded: value }] });
const number = (value: number): DecodedValue => ({ kind: 'number', value });

function state(options: { readonly switchedOff?: number; readonly outboundPort?: number; readonly sidecarUid?: number; readonly owner?: ObjectOwner; readonly linkedCgroup?: string } = {}): BpfState {
  const profile = struct({
    outbound_port: { kind: 'port', value: options.outboundPort ?? ISTIO_PROFILE.outboundPort } as DecodedValue,
    inbound_port: { kind: 'port', value: ISTIO_PROFILE.inboundPort },
  });
  const owner = (kind: number, id: number, value: number): MapEntry => entry(struct({ kind: number(kind), id: number(id) }), number(value));
  const owned = entry({ kind: 'address', value: ADDRESS }, struct({ cgroup_id: { kind: 'wide', value: '42' } }));
  return {
    programs: [program(1, 'meshpath_connect4', [11, 12, 13, 15], options.owner), program(2, 'meshpath_sockops', [11, 14], options.owner), program(3, 'somebody_else', [99], { ...OWNER, kind: 'process' })],
    maps: [map(11, 'pod_addresses'), map(12, 'control'), map(13, 'meshpath.rodata'), map(14, 'connections'), map(15, 'owners'), map(99, 'control')],
    links: [link(21, 1, options.linkedCgroup ?? '42'), link(22, 2, '42'), link(23, 3, '42')],
    contents: [
      { mapId: 11 as MapId, entries: [owned], truncated: false },
      { mapId: 12 as MapId, entries: [entry(number(0), struct({ switched_off: number(options.switchedOff ?? 0) }))], truncated: false },
      { mapId: 13 as MapId, entries: [entry(number(0), struct({ profile }))], truncated: false },
      // The group has the number of a user of another mesh.
      { mapId: 15 as MapId, entries: [owner(1, KUMA_PROFILE.proxyUid, 2), owner(0, 7, 2), owner(0, options.sidecarUid ?? ISTIO_PROFILE.proxyUid, 1)], truncated: false },
    ],
  };
}

describe('acceleration of other agents', () => {
  it('is known by links and maps', () => {
    assert.deepEqual(findOtherAccelerations(state(), []), {
      accelerations: [
        { profile: 'istio', pods: [{ cgroup: CGROUP, addresses: [ADDRESS] }], since: '2026-01-01T00:00:00.000Z', programIds: [1, 2], mapIds: [11, 12, 13, 15, 14], linkIds: [21, 22] },
      ],
      omissions: [],
    });
  });

  it('is none where it is our own, switched off, attached to nothing known, or of programs that only have the name', () => {
    const own: AccelerationInfo = { profile: 'istio', pods: [], since: '', programIds: [1 as ProgramId], mapIds: [], linkIds: [] };
    const none = { accelerations: [], omissions: [] };
    assert.deepEqual(findOtherAccelerations(state(), [own]), none);
    assert.deepEqual(findOtherAccelerations(state({ switchedOff: 1 }), []), none);
    assert.deepEqual(findOtherAccelerations(state({ linkedCgroup: '43' }), []), none);
    assert.deepEqual(findOtherAccelerations(state({ owner: { ...OWNER, kind: 'process' } }), []), none);
  });

  it('is of the mesh whose user the sidecar is, where two have the same ports', () => {
    assert.deepEqual(findOtherAccelerations(state({ sidecarUid: KUMA_PROFILE.proxyUid }), []).accelerations.map(({ profile }) => profile), ['kuma']);
  });

  it('of a profile that is not known is left out, and said to be', () => {
    for (const unknown of [state({ outboundPort: 4143 }), state({ sidecarUid: 4_000 })]) {
      const { accelerations, omissions } = findOtherAccelerations(unknown, []);
      assert.deepEqual(accelerations, []);
      assert.deepEqual(omissions.map(({ what }) => what), ['acceleration that another agent has turned on for /pods/a']);
    }
  });
});
