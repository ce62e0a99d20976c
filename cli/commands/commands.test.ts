import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { DoctorReport } from '../../agent/protocol/doctor.ts';
import type { CgroupInfo, LinkInfo, MapInfo, ObjectOwner, ProgramInfo } from '../../agent/protocol/kernelObjects.ts';
import type { MapEntry } from '../../agent/protocol/mapEntries.ts';
import type { CgroupPath, HexText, IpAddress, LinkId, MapId, PortNumber, ProgramId, Uint64Text } from '../../agent/protocol/scalars.ts';
import { createFakeNode, runCli } from '../../test/cliSurroundings.ts';
import { cgroupsCommand } from './cgroups.ts';
import { doctorCommand } from './doctor.ts';
import { linksCommand } from './links.ts';
import { mapsCommand } from './maps.ts';
import { programsCommand } from './programs.ts';

const commands = [doctorCommand, mapsCommand, programsCommand, linksCommand, cgroupsCommand];
const meshpathOwner: ObjectOwner = { kind: 'meshpath', processes: [{ pid: 12, command: 'no\u001bde' }], pins: [] };

const program: ProgramInfo = {
  id: 7 as ProgramId,
  name: 'meshpath_connect4',
  type: 'cgroup_sock_addr',
  tag: '0011223344556677',
  loadedAt: '2026-11-22T22:00:00.000Z',
  loadedByUid: 0,
  mapIds: [3, 4] as MapId[],
  btfId: 1,
  instructionCount: 321,
  jitedBytes: 2000,
  memoryBytes: 4096,
  runCount: '10' as Uint64Text,
  runTimeNanoseconds: '1000' as Uint64Text,
  gplCompatible: true,
  owner: meshpathOwner,
};

function mapOf(id: number, name: string, type = 'hash'): MapInfo {
  return {
    id: id as MapId,
    name,
    type,
    keyBytes: 4,
    valueBytes: 8,
    maxEntries: 1024,
    flags: [],
    btfId: null,
    keyType: null,
    valueType: 'struct connection',
    memoryBytes: 1_572_864,
    frozen: false,
    readable: { ok: true },
    programIds: [7 as ProgramId],
    owner: { kind: 'pinned', processes: [], pins: ['/sys/fs/bpf/x'] },
  };
}

function entryOf(port: number, address: string): MapEntry {
  return {
    key: { bytes: '' as HexText, decoded: { kind: 'struct', typeName: 'key', fields: [{ name: 'port', value: { kind: 'port', value: port as PortNumber } }] } },
    values: [
      {
        bytes: '' as HexText,
        decoded: { kind: 'struct', typeName: 'connection', fields: [{ name: 'original', value: { kind: 'address', value: address as IpAddress } }] },
      },
    ],
  };
}

const report: DoctorReport = {
  verdict: 'safe-with-limits',
  summary: 'Everything works but one thing.',
  at: '2026-11-22T22:00:00.000Z',
  checks: [
    { id: 'btf', title: 'BTF', result: 'ok', found: '/sys/kernel/btf/vmlinux is there.', problem: null },
    {
      id: 'hook-owners',
      title: 'Other programs',
      result: 'limited',
      found: 'Another program is attached to the hook that is needed for this and it is of somebody else.',
      problem: { code: 'BPF_ATTACH_EXCLUSIVE', message: 'x', reason: 'cilium owns connect4.', remedy: 'Detach it.' },
    },
  ],
};

test('doctor prints its verdict and every check, and ends with 1 unless all is safe', async () => {
  const { node } = createFakeNode({ runDoctor: () => Promise.resolve(report) });
  const { code, output } = await runCli(['doctor'], { commands, node, width: 80 });
  assert.equal(code, 1);
  assert.equal(
    output,
    `Acceleration: safe with limits. Everything works but one thing.

ok       BTF             /sys/kernel/btf/vmlinux is there.
limited  Other programs  Another program is attached to the hook that is needed
                         for this and it is of somebody else.
                         cilium owns connect4.
                         To do: Detach it.
`,
  );
  const safe = createFakeNode({ runDoctor: () => Promise.resolve({ ...report, verdict: 'safe' as const }) });
  const json = await runCli(['doctor', '--json'], { commands, node: safe.node });
  assert.equal(json.code, 0);
  assert.deepEqual(JSON.parse(json.output), { ...report, verdict: 'safe' });
});

test('programs are a table, with names of processes escaped', async () => {
  const { node } = createFakeNode({ listPrograms: () => Promise.resolve([program]) });
  const { output } = await runCli(['programs'], { commands, node });
  assert.equal(
    output,
    `ID  NAME               TYPE              INSTRUCTIONS  RUNS  MAPS  LOADED                    OWNER
 7  meshpath_connect4  cgroup_sock_addr           321    10  3 4   2026-11-22T22:00:00.000Z  meshpath: no\\x1bde (12)
`,
  );
  assert.deepEqual(JSON.parse((await runCli(['programs', '--json'], { commands, node })).output), [program]);
});

test('links name their programs and what they are attached to', async () => {
  const link: LinkInfo = {
    id: 2 as LinkId,
    type: 'cgroup',
    programId: program.id,
    attachType: 'cgroup_inet4_connect',
    target: { kind: 'cgroup', cgroupId: '55' as Uint64Text, path: '/pods/a' as CgroupPath },
    owner: meshpathOwner,
  };
  const { node } = createFakeNode({ listLinks: () => Promise.resolve([link]), listPrograms: () => Promise.resolve([program]) });
  assert.equal(
    (await runCli(['links'], { commands, node })).output,
    `ID  TYPE    ATTACH TYPE           PROGRAM                TARGET          OWNER
 2  cgroup  cgroup_inet4_connect  meshpath_connect4 (7)  cgroup /pods/a  meshpath: no\\x1bde (12)
`,
  );
});

test('cgroups show what runs for them in order', async () => {
  const attachment = { attachType: 'cgroup_sock_ops', programId: program.id, programName: 'other', linkId: null, mode: 'multi' as const, order: 0 };
  const cgroups: CgroupInfo[] = [
    { path: '/pods' as CgroupPath, id: '1' as Uint64Text, processCount: 0, attachments: [] },
    {
      path: '/pods/a' as CgroupPath,
      id: '55' as Uint64Text,
      processCount: 2,
      attachments: [
        { ...attachment, attachedTo: '/pods/a' as CgroupPath },
        { ...attachment, programName: 'above', attachedTo: '/' as CgroupPath, order: 1 },
      ],
    },
  ];
  const fake = createFakeNode({ listCgroups: () => Promise.resolve(cgroups) });
  assert.equal(
    (await runCli(['cgroups', 'pods'], { commands, node: fake.node })).output,
    `CGROUP   ID  PROCESSES  ATTACH TYPE      PROGRAM    MODE   ATTACHED TO
/pods     1          0
/pods/a  55          2  cgroup_sock_ops  other (7)  multi  here
                        cgroup_sock_ops  above (7)  multi  /
`,
  );
  assert.deepEqual(fake.calls[0]?.params, { below: '/pods' });
  const attached = JSON.parse((await runCli(['cgroups', '--attached', '--json'], { commands, node: fake.node })).output) as CgroupInfo[];
  assert.deepEqual(attached.map(({ path }) => path), ['/pods/a']);
});

test('maps are a table', async () => {
  const { node } = createFakeNode({ listMaps: () => Promise.resolve([mapOf(3, 'connections')]) });
  assert.equal(
    (await runCli(['maps'], { commands, node })).output,
    `ID  NAME         TYPE  KEY  VALUE              MAX ENTRIES   MEMORY  OWNER
 3  connections  hash  4 B  struct connection         1024  1.5 MiB  /sys/fs/bpf/x
`,
  );
});

test('entries of a map have a column for each field', async () => {
  const fake = createFakeNode({
    listMaps: () => Promise.resolve([mapOf(3, 'connections'), mapOf(9, 'other')]),
    readMap: ({ mapId }) =>
      Promise.resolve({
        mapId,
        entries: [entryOf(8080, '10.0.0.1'), entryOf(80, '10.0.0.200')],
        nextCursor: null,
        changedDuringRead: true,
        readAt: '2026-11-22T22:00:00.000Z',
      }),
  });
  assert.equal(
    (await runCli(['maps', 'connections'], { commands, node: fake.node })).output,
    `connections (3): hash, 2 entries of at most 1024
key.port  value.original
    8080  10.0.0.1
      80  10.0.0.200
The map changed while it was read: entries may be missing or seen twice.
`,
  );
});

test('entries too wide for the terminal have a line for each field; empty reserves are left out', async () => {
  const wide = (note: string): MapEntry => ({
    ...entryOf(8080, '10.0.0.1'),
    values: [
      {
        bytes: '' as HexText,
        decoded: {
          kind: 'struct',
          typeName: 'connection',
          fields: [
            { name: 'note', value: { kind: 'text', value: note } },
            { name: 'reserved', value: { kind: 'number', value: 0 } },
            { name: 'more', value: { kind: 'struct', typeName: 'x', fields: [{ name: 'reserved', value: { kind: 'number', value: 7 } }] } },
          ],
        },
      },
    ],
  });
  const { node } = createFakeNode({
    listMaps: () => Promise.resolve([mapOf(3, 'connections')]),
    readMap: ({ mapId }) =>
      Promise.resolve({
        mapId,
        entries: [wide('short'), wide('a text that goes on and on and on')],
        nextCursor: null,
        changedDuringRead: false,
        readAt: '2026-11-22T22:00:00.000Z',
      }),
  });
  assert.equal(
    (await runCli(['maps', '3'], { commands, node, width: 40 })).output,
    `connections (3): hash, 2 entries of at most 1024
  key.port             8080
  value.note           "short"
  value.more.reserved  7

  key.port             8080
  value.note           "a text that goe…
  value.more.reserved  7
`,
  );
});

test('pages are read until the limit, and what is cut is said', async () => {
  const fake = createFakeNode({
    listMaps: () => Promise.resolve([mapOf(3, 'connections')]),
    readMap: ({ mapId, limit }) =>
      Promise.resolve({
        mapId,
        entries: Array.from({ length: Math.min(limit, 2) }, (_, index) => entryOf(index, '10.0.0.1')),
        nextCursor: 'more',
        changedDuringRead: false,
        readAt: '2026-11-22T22:00:00.000Z',
      }),
  });
  const { output } = await runCli(['maps', '3', '--limit', '5'], { commands, node: fake.node });
  assert.match(output, /^connections \(3\): hash, the first 5 entries \(--limit N shows more\)\n/);
  assert.equal(output.split('\n').length, 8);
  assert.deepEqual(
    fake.calls.filter(({ method }) => method === 'readMap').map(({ params }) => (params as { limit: number }).limit),
    [5, 3, 1],
  );
});

test('values of a per-CPU map are added up where they are numbers', async () => {
  const count = (value: number) => ({ bytes: '' as HexText, decoded: { kind: 'wide' as const, value: String(value) } });
  const fake = createFakeNode({
    listMaps: () => Promise.resolve([mapOf(4, 'counters', 'percpu_array')]),
    readMap: ({ mapId }) =>
      Promise.resolve({
        mapId,
        entries: [{ key: { bytes: '00' as HexText, decoded: { kind: 'enum', value: 0, name: 'redirected' } }, values: [count(3), count(4)] }],
        nextCursor: null,
        changedDuringRead: false,
        readAt: '2026-11-22T22:00:00.000Z',
      }),
  });
  assert.equal(
    (await runCli(['maps', 'counters'], { commands, node: fake.node })).output,
    `counters (4): percpu_array, 1 entry of at most 1024
key         value  value of each CPU
redirected      7  3 | 4
`,
  );
});

test('a map that is not there is an error that says what to run', async () => {
  const { node } = createFakeNode({ listMaps: () => Promise.resolve([]) });
  const { code, notes } = await runCli(['maps', 'nothing'], { commands, node });
  assert.equal(code, 1);
  assert.match(notes, /MAP_NOT_FOUND[^]*meshpath maps/);
});

test('empty lists are said to be empty, and are empty lists in JSON', async () => {
  const { node } = createFakeNode({ listMaps: () => Promise.resolve([]), listPrograms: () => Promise.resolve([]), listLinks: () => Promise.resolve([]) });
  assert.equal((await runCli(['maps'], { commands, node })).output, 'There are no BPF maps.\n');
  assert.equal((await runCli(['programs'], { commands, node })).output, 'There are no BPF programs.\n');
  assert.equal((await runCli(['links', '--json'], { commands, node })).output, '[]\n');
});
