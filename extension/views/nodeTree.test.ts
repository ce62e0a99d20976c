import assert from 'node:assert/strict';
import { test } from 'node:test';
import { MeshpathError } from '../../agent/protocol/errors.ts';
import type { AccelerationInfo } from '../../agent/protocol/acceleration.ts';
import type { CgroupAttachment, CgroupInfo, LinkInfo, MapInfo, ProgramInfo } from '../../agent/protocol/kernelObjects.ts';
import type { NodeDescription } from '../../agent/protocol/methods.ts';
import type { Node } from '../../agent/protocol/node.ts';
import { toIpAddress } from '../../agent/protocol/ipAddress.ts';
import type { LabInfo } from '../../agent/protocol/lab.ts';
import { toPortNumber } from '../../agent/protocol/scalars.ts';
import type { CgroupPath, IpAddress, LinkId, MapId, NamespaceId, ProgramId, Uint64Text } from '../../agent/protocol/scalars.ts';
import type { SessionState } from '../node/nodeSession.ts';
import type { NodeContents } from './nodeContents.ts';
import { ROWS_PER_STEP, contentRows, nodeRow, type TreeRow } from './nodeTree.ts';

const owner = { kind: 'kernel', processes: [], pins: [] } as const;
const failure = new MeshpathError({ code: 'CAPABILITY_MISSING', message: 'Maps cannot be listed.', reason: 'CAP_BPF is missing.', remedy: 'Connect as root.' });

function map(id: number, name: string, readable: MapInfo['readable'] = { ok: true }): MapInfo {
  return { id: id as MapId, name, type: 'hash', keyBytes: 4, valueBytes: 8, maxEntries: 1, flags: [], btfId: null, keyType: null, valueType: null, memoryBytes: null, frozen: false, readable, programIds: [], owner };
}

function program(id: number, name: string, mapIds: readonly number[] = []): ProgramInfo {
  return { id: id as ProgramId, name, type: 'sock_ops', tag: '0', loadedAt: '', loadedByUid: 0, mapIds: mapIds as MapId[], btfId: null, instructionCount: 2, jitedBytes: 0, memoryBytes: null, runCount: '0' as Uint64Text, runTimeNanoseconds: '0' as Uint64Text, gplCompatible: true, owner };
}

function attachment(order: number, name: string, attachedTo: string): CgroupAttachment {
  return { attachType: 'cgroup_sock_ops', programId: (order + 1) as ProgramId, programName: name, linkId: null, attachedTo: attachedTo as CgroupPath, mode: 'multi', order };
}

function cgroup(path: string, attachments: readonly CgroupAttachment[] = []): CgroupInfo {
  return { path: path as CgroupPath, id: '1' as Uint64Text, processCount: 1, attachments };
}

const link: LinkInfo = { id: 5 as LinkId, type: 'cgroup', programId: 1 as ProgramId, attachType: 'cgroup_sock_ops', target: { kind: 'cgroup', cgroupId: '9' as Uint64Text, path: '/pods/a' as CgroupPath }, owner };

function contents(changes: Partial<NodeContents>): NodeContents {
  const empty = { ok: true, items: [] } as const;
  return { accelerations: empty, programs: empty, maps: empty, cgroups: empty, links: empty, pods: empty, labs: empty, ...changes };
}

function childrenOf(row: TreeRow | undefined): readonly TreeRow[] {
  assert.ok(Array.isArray(row?.children), `${row?.label ?? 'nothing'} has children`);
  return row.children as readonly TreeRow[];
}

function outline(rows: readonly TreeRow[], indent = ''): string[] {
  return rows.flatMap((row) => [
    `${indent}${row.label}${row.description === undefined || row.description === '' ? '' : ` | ${row.description}`}`,
    ...(Array.isArray(row.children) ? outline(row.children as readonly TreeRow[], `${indent}  `) : []),
  ]);
}

test('the groups of a node hold what is on it, programs in their effective order', () => {
  const rows = contentRows(
    'n',
    contents({
      accelerations: { ok: true, items: [{ profile: 'istio', pods: [{ cgroup: '/pods/a' as CgroupPath, addresses: ['10.0.0.1' as IpAddress] }], since: '', programIds: [], mapIds: [], linkIds: [] }] },
      programs: { ok: true, items: [program(1, 'first', [7])] },
      maps: { ok: true, items: [map(7, 'sockets'), map(8, 'events', { ok: false, reason: 'a ring buffer' })] },
      cgroups: { ok: true, items: [cgroup('/'), cgroup('/pods'), cgroup('/pods/a', [attachment(1, 'second', '/pods/a'), attachment(0, 'first', '/pods')])] },
      links: { ok: true, items: [link] },
    }),
    new Map(),
  );
  assert.deepEqual(outline(rows), [
    'Acceleration | on for 1 pod',
    '  a | istio · 10.0.0.1',
    'Programs | 1',
    '  first | sock_ops · id 1',
    '    /pods/a | attached as cgroup_sock_ops',
    '    sockets | uses · hash',
    'Maps | 2',
    '  sockets | hash · id 7',
    '  events | hash · id 8',
    'Cgroups | 3',
    '  / | 1 process',
    '    pods | 1 process',
    '      a | accelerated · 2 programs · 1 process',
    '        1. first | cgroup_sock_ops · inherited from /pods',
    '        2. second | cgroup_sock_ops',
    'Links | 1',
    '  first | → a · cgroup_sock_ops',
  ]);
});

test('acceleration says what is kept and what is leaving', () => {
  const enrolled = { cgroup: '/pods/a' as CgroupPath, addresses: ['10.0.0.1' as IpAddress] };
  const acceleration = { profile: 'istio', pods: [enrolled], since: '', programIds: [], mapIds: [], linkIds: [] };
  const shown = (...items: readonly AccelerationInfo[]): string[] => outline(contentRows('n', contents({ accelerations: { ok: true, items } }), new Map()).slice(0, 1));
  assert.deepEqual(shown({ ...acceleration, kept: { isOutdated: false, heldBy: null } }), ['Acceleration | on for 1 pod', '  a | istio · 10.0.0.1 · kept']);
  assert.deepEqual(shown({ ...acceleration, kept: { isOutdated: true, heldBy: 42 }, leaving: [{ cgroup: '/pods/b' as CgroupPath, openConnections: 2 }] }), [
    'Acceleration | on for 1 pod · 1 pod leaving',
    '  a | istio · 10.0.0.1 · kept, of another version',
    '  b | istio · leaving: 2 connections open',
  ]);
  assert.deepEqual(shown({ ...acceleration, pods: [], leaving: [{ cgroup: '/pods/a' as CgroupPath, openConnections: 1 }] }), ['Acceleration | off · 1 pod leaving', '  a | istio · leaving: 1 connection open']);
});

test('ids are unique and the same after a reload', () => {
  const make = (): readonly TreeRow[] => contentRows('n', contents({ programs: { ok: true, items: [program(1, 'p', [7])] }, maps: { ok: true, items: [map(7, 'm')] }, links: { ok: true, items: [link] }, cgroups: { ok: true, items: [cgroup('/'), cgroup('/a')] } }), new Map());
  const ids = (rows: readonly TreeRow[]): string[] => rows.flatMap((row) => [row.id, ...(Array.isArray(row.children) ? ids(row.children as readonly TreeRow[]) : [])]);
  const first = ids(make());
  assert.equal(new Set(first).size, first.length);
  assert.deepEqual(ids(make()), first);
});

test('a list that cannot be read says why and hides nothing else; one that cannot be opened has no command', () => {
  const rows = contentRows('n', contents({ maps: { ok: false, error: failure }, programs: { ok: true, items: [program(1, '')] } }), new Map());
  const maps = rows.find((row) => row.label === 'Maps');
  assert.deepEqual(childrenOf(maps).map((row) => row.label), ['Maps cannot be listed.', 'CAP_BPF is missing.', 'Connect as root.']);
  assert.equal(childrenOf(rows.find((row) => row.label === 'Programs'))[0]?.label, '(no name)');
  const opaque = childrenOf(contentRows('n', contents({ maps: { ok: true, items: [map(1, 'events', { ok: false, reason: 'r' })] } }), new Map()).find((row) => row.label === 'Maps'))[0];
  assert.deepEqual([opaque?.kind, opaque?.command], ['map.opaque', undefined]);
});

test('long lists show more when asked', () => {
  const items = Array.from({ length: ROWS_PER_STEP + 10 }, (_, index) => map(index, `m${index}`));
  const show = (shown: ReadonlyMap<string, number>): readonly TreeRow[] => childrenOf(contentRows('n', contents({ maps: { ok: true, items } }), shown).find((row) => row.label === 'Maps'));
  const first = show(new Map());
  assert.deepEqual([first.length, first.at(-1)?.label], [ROWS_PER_STEP + 1, 'Show 10 more of 10']);
  const more = first.at(-1)?.subject;
  assert.equal(show(new Map([[more?.type === 'more' ? more.list : '', ROWS_PER_STEP * 2]])).length, items.length);
});

test('each state of a node is a row with what can be done', () => {
  const description: NodeDescription = { protocolVersion: 1, agentVersion: '', identity: { hostname: 'h', kernelRelease: '6.18', machine: 'x86_64', kind: 'linux' }, uid: 0, abilities: [] };
  const states: readonly SessionState[] = [
    { phase: 'idle' },
    { phase: 'authenticating', message: 'Logging in' },
    { phase: 'ready', node: {} as Node, description, notices: [] },
    { phase: 'closed', error: null },
    { phase: 'closed', error: failure },
  ];
  const rows = states.map((state) => nodeRow('k', 'host', { kind: 'ssh', host: 'host' }, state, undefined));
  assert.deepEqual(
    rows.map((row) => [row.kind, row.description, Array.isArray(row.children) ? (row.children as readonly TreeRow[]).map((child) => child.label) : row.children]),
    [
      ['node.disconnected', 'not connected', ['Connect']],
      ['node.busy', 'connecting', ['Logging in']],
      ['node.connected', '6.18', 'lazy'],
      ['node.disconnected', 'disconnected', ['Connect again']],
      ['node.failed', 'failed', ['Maps cannot be listed.', 'CAP_BPF is missing.', 'Connect as root.', 'Connect again', 'Show the log']],
    ],
  );
});

test('labs are a group of their own where there are any, with what is wrong of them', () => {
  const pod = { name: 'pod-a', namespace: '1' as NamespaceId, namespaceName: 'meshpath-lab-lab.pod-a', cgroup: '/meshpath-lab-lab/pod-a' as CgroupPath, address: toIpAddress('10.77.0.11'), server: { address: toIpAddress('10.77.0.11'), port: toPortNumber(8080) }, processes: [{ role: 'server', pid: 7, running: true }, { role: 'sidecar', pid: 8, running: false }] };
  const lab: LabInfo = { name: 'lab', state: 'up', since: '2026-01-01T00:00:00.000Z', profile: 'istio', path: 'iptables', sidecar: 'builtin', pods: [pod], problems: ['The sidecar of pod-a (process 8) has ended.'] };
  const groups = contentRows('n', contents({ labs: { ok: true, items: [lab] } }), new Map());
  const row = childrenOf(groups.find(({ label }) => label === 'Labs'))[0];
  assert.deepEqual([row?.kind, row?.label, row?.description, row?.icon?.name], ['lab', 'lab', 'up · istio · iptables · 1 pod', 'warning']);
  assert.match(row?.tooltip ?? '', /process 8\) has ended/);
  assert.deepEqual(childrenOf(row).map(({ label, description }) => [label, description]), [['pod-a', '10.77.0.11 · server 7, sidecar ended']]);
  assert.ok(contentRows('n', contents({}), new Map()).every(({ label }) => label !== 'Labs'));
});
