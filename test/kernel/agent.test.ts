import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { closeSync, mkdirSync, rmdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';

import { createMessageConnection, StreamMessageReader, StreamMessageWriter, CancellationTokenSource, ResponseError } from 'vscode-jsonrpc/node';
import type { MessageConnection } from 'vscode-jsonrpc/node';

import { findCgroup2Mount } from '../../agent/kernel/cgroup2Mount.ts';
import { openLibbpf } from '../../agent/libbpf/library.ts';
import type { AccelerationInfo } from '../../agent/protocol/acceleration.ts';
import { parseWireError } from '../../agent/protocol/errors.ts';
import { toIpAddress } from '../../agent/protocol/ipAddress.ts';
import type { ObjectOwner } from '../../agent/protocol/kernelObjects.ts';
import type { DecodedValue, MapEntry, MapPage } from '../../agent/protocol/mapEntries.ts';
import { AGENT_READY_LINE, MAX_FRAME_BYTES } from '../../agent/protocol/methods.ts';
import { connectInProcess } from '../../agent/protocol/node.ts';
import type { Node } from '../../agent/protocol/node.ts';
import type { CgroupPath, MapId } from '../../agent/protocol/scalars.ts';
import { createAgentService } from '../../agent/service.ts';
import { runCommand } from '../../agent/lab/command.ts';
import { createLab } from '../lab/lab.ts';
import { missingForKernel } from '../requirements.ts';

const skip = missingForKernel();
const root = join(import.meta.dirname, '../..');
const objectPath = join(root, 'bpf/prebuilt/meshpath.bpf.o');
const uniqueName = (): string => `meshpath-agent-${process.pid}-${randomBytes(3).toString('hex')}`;
const ENTRIES = 10_000;

describe('the agent lists what the kernel has', { skip }, () => {
  const name = uniqueName();
  const cgroup = `/${name}` as CgroupPath;
  let folder = '';
  let node: Node;
  let on: AccelerationInfo;

  before(async () => {
    folder = join(findCgroup2Mount(), name);
    mkdirSync(join(folder, 'child'), { recursive: true });
    node = connectInProcess(createAgentService({ objectPath, agentVersion: 'test' }));
    on = await node.call('turnAccelerationOn', { profile: 'istio', pods: [{ cgroup, addresses: [toIpAddress('10.99.77.1')] }] });
  });

  after(async () => {
    await node.close();
    rmdirSync(join(folder, 'child'));
    rmdirSync(folder);
  });

  it('programs and maps as bpftool does, and marks its own', async () => {
    const programs = (await node.call('listPrograms', {})).filter(({ id }) => on.programIds.includes(id));
    const expected = (await bpftool('prog', 'show')).filter(({ id }) => on.programIds.some((own) => own === id));
    assert.equal(programs.length, on.programIds.length);
    assert.deepEqual(
      programs.map(({ id, name: programName, type, tag, mapIds, btfId, instructionCount, jitedBytes }) => ({ id, programName, type, tag, mapIds, btfId, instructionCount, jitedBytes })),
      expected.map((program) => ({
        id: program['id'],
        programName: program['name'],
        type: program['type'],
        tag: program['tag'],
        mapIds: program['map_ids'] ?? [],
        btfId: program['btf_id'],
        instructionCount: Number(program['bytes_xlated']) / 8,
        jitedBytes: program['bytes_jited'],
      })),
    );
    assert.ok(programs.every(({ owner }) => owner.kind === 'meshpath' && owner.processes.some(({ pid }) => pid === process.pid)));

    const maps = (await node.call('listMaps', {})).filter(({ id }) => on.mapIds.includes(id));
    const expectedMaps = (await bpftool('map', 'show')).filter(({ id }) => on.mapIds.some((own) => own === id));
    assert.deepEqual(
      maps.map(({ id, type, keyBytes, valueBytes, maxEntries, memoryBytes, frozen }) => ({ id, type, keyBytes, valueBytes, maxEntries, memoryBytes, frozen })),
      expectedMaps.map((map) => ({
        id: map['id'],
        type: map['type'],
        keyBytes: map['bytes_key'],
        valueBytes: map['bytes_value'],
        maxEntries: map['max_entries'],
        memoryBytes: Number(map['bytes_memlock']),
        frozen: map['frozen'] === 1,
      })),
    );
    const sockets = maps.find(({ name: mapName }) => mapName === 'sockets');
    // The kernel keeps no BTF types for a sockhash: they come from the program.
    assert.deepEqual([sockets?.keyType, sockets?.readable.ok], ['struct socket_key', true]);
    assert.equal(maps.find(({ type }) => type === 'ringbuf')?.readable.ok, false);
  });

  it('links with what they hang on, and cgroups with what they inherit', async () => {
    const links = (await node.call('listLinks', {})).filter(({ id }) => on.linkIds.includes(id));
    assert.deepEqual(links.map(({ id }) => id).sort(), [...on.linkIds].sort());
    const cgroupId = statSync(folder, { bigint: true }).ino.toString();
    const onCgroup = links.filter(({ type }) => type === 'cgroup');
    assert.ok(onCgroup.length >= 4);
    assert.ok(onCgroup.every(({ target }) => target.kind === 'cgroup' && target.path === cgroup && target.cgroupId === cgroupId));

    const [own, child, ...others] = await node.call('listCgroups', { below: cgroup });
    assert.deepEqual([own?.path, child?.path, others.length], [cgroup, `${cgroup}/child`, 0]);
    for (const [info, path] of [[own, folder], [child, join(folder, 'child')]] as const) {
      const expected = await bpftool('cgroup', 'show', path, 'effective');
      assert.deepEqual((info?.attachments ?? []).map(({ programId }) => programId).sort(), expected.map(({ id }) => id).sort());
      const attached = info?.attachments.filter(({ programId }) => on.programIds.includes(programId)) ?? [];
      assert.ok(attached.length >= 4);
      assert.ok(attached.every(({ attachedTo, mode, linkId }) => attachedTo === cgroup && mode === 'multi' && linkId !== null && on.linkIds.includes(linkId)));
    }
  });

  it('pages through 10,000 entries, each exactly once, decoded to meaning', async () => {
    const map = (await node.call('listMaps', {})).find(({ id, name: mapName }) => on.mapIds.includes(id) && mapName === 'connections');
    assert.ok(map?.keyType === 'struct connection_key');
    fillMap(map.id, map.keyBytes, map.valueBytes);
    for (const limit of [1_000, 997, 5_000]) {
      const entries = await readAll(node, map.id, limit);
      assert.equal(entries.length, ENTRIES);
      assert.equal(new Set(entries.map(({ key }) => key.bytes)).size, ENTRIES);
    }
    const [entry] = (await readAll(node, map.id, 5_000)).filter(({ key }) => key.bytes.startsWith('d204000000000000'));
    const key = fieldsOf(entry?.key.decoded);
    assert.deepEqual(key['netns_cookie'], { kind: 'wide', value: '1234' });
    assert.deepEqual(key['source'], { kind: 'address', value: '10.1.4.210' });
    assert.deepEqual(key['destination'], { kind: 'address', value: 'fd00::4d2' });
    assert.deepEqual(key['source_port'], { kind: 'port', value: 11_234 });
    assert.deepEqual(key['destination_port'], { kind: 'port', value: 8_080 });
  });

  it('refuses pages and maps that there are not', async () => {
    const map = (await node.call('listMaps', {})).find(({ id, type }) => on.mapIds.includes(id) && type === 'ringbuf');
    assert.ok(map !== undefined);
    await assert.rejects(node.call('readMap', { mapId: map.id, cursor: null, limit: 10 }), { code: 'MAP_NOT_READABLE' });
    await assert.rejects(node.call('readMap', { mapId: 4_000_000_000 as MapId, cursor: null, limit: 10 }), { code: 'MAP_NOT_FOUND' });
    const hash = (await node.call('listMaps', {})).find(({ id, type }) => on.mapIds.includes(id) && type === 'hash');
    assert.ok(hash !== undefined);
    await assert.rejects(node.call('readMap', { mapId: hash.id, cursor: null, limit: 5_001 }), { code: 'INPUT_INVALID' });
    await assert.rejects(node.call('readMap', { mapId: hash.id, cursor: 'bm90IG9uZQ', limit: 10 }), { code: 'INPUT_INVALID' });
    await assert.rejects(node.call('listCgroups', { below: `${cgroup}/none` as CgroupPath }), { code: 'CGROUP_NOT_FOUND' });
  });

  it('the doctor finds nobody else in the way of its own programs', async () => {
    const report = await node.call('runDoctor', {});
    const check = (id: string): string | undefined => report.checks.find((candidate) => candidate.id === id)?.result;
    assert.deepEqual(['kernel-version', 'btf', 'cgroup2', 'capability-bpf', 'libbpf'].map(check), ['ok', 'ok', 'ok', 'ok', 'ok']);
    assert.notEqual(report.verdict, 'not-on-this-node');
  });
});

it('knows what another agent accelerates, and by which process', { skip }, async () => {
  const name = uniqueName();
  const cgroup = `/${name}` as CgroupPath;
  const folder = join(findCgroup2Mount(), name);
  const addresses = [toIpAddress('10.99.79.1'), toIpAddress('fd00:79::1')];
  mkdirSync(folder);
  const other = spawn(process.execPath, ['--import', 'tsx', join(root, 'test/kernel/datapathAgent.ts'), JSON.stringify({ profile: 'istio', pods: [{ cgroup, addresses }] })], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const node = connectInProcess(createAgentService({ objectPath, agentVersion: 'test' }));
  try {
    await once(other.stdout, 'data');
    const isHeldByOther = ({ owner }: { readonly owner: ObjectOwner }): boolean => owner.processes.some(({ pid }) => pid === other.pid);
    const objects = [await node.call('listPrograms', {}), await node.call('listMaps', {}), await node.call('listLinks', {})].map((list) => list.filter(isHeldByOther));
    const [programs = [], maps = [], links = []] = objects;
    assert.deepEqual([programs.length, maps.length, links.length], [15, 18, 15]);
    assert.deepEqual(new Set(objects.flat().map(({ owner }) => owner.kind)), new Set(['meshpath']));

    assert.deepEqual(await node.call('listAccelerations', {}), []);
    const snapshot = await node.call('takeSnapshot', {});
    const found = snapshot.accelerations.filter(({ pods }) => pods.some((pod) => pod.cgroup === cgroup));
    const ids = (list: readonly { readonly id: number }[]): number[] => list.map(({ id }) => id).sort((a, b) => a - b);
    assert.deepEqual(
      found.map(({ profile, pods, programIds, mapIds, linkIds }) => [profile, pods.map((pod) => [pod.cgroup, [...pod.addresses].sort()]), programIds, [...mapIds].sort((a, b) => a - b), linkIds]),
      [['istio', [[cgroup, addresses]], ids(programs), ids(maps), ids(links)]],
    );
  } finally {
    await node.close();
    const exited = once(other, 'exit');
    other.kill('SIGKILL');
    await exited;
    rmdirSync(folder);
  }
});

it('a snapshot holds the rules, routes, sockets and pods of a namespace', { skip }, async () => {
  const name = uniqueName();
  const node = connectInProcess(createAgentService({ objectPath, agentVersion: 'test' }));
  await runCommand('ip', ['netns', 'add', name]);
  try {
    await runCommand('ip', ['-n', name, 'link', 'set', 'lo', 'up']);
    await runCommand('ip', ['-n', name, 'link', 'add', 'veth0', 'type', 'veth', 'peer', 'name', 'veth1']);
    await runCommand('ip', ['-n', name, 'addr', 'add', '10.98.0.2/24', 'dev', 'veth0']);
    await runCommand('ip', ['-n', name, 'link', 'set', 'veth0', 'up']);
    await runCommand('ip', ['-n', name, 'rule', 'add', 'fwmark', '0x539/0xfff', 'lookup', '133', 'priority', '100']);
    const comment = `it's "quoted" \`and\` $(harmless)`;
    await runCommand('ip', ['netns', 'exec', name, 'iptables', '-t', 'nat', '-A', 'OUTPUT', '-p', 'tcp', '--dport', '80', '-m', 'comment', '--comment', comment, '-j', 'REDIRECT', '--to-ports', '15001']);
    const snapshot = await node.call('takeSnapshot', {});
    const namespace = snapshot.namespaces.find(({ names }) => names.includes(name));
    assert.ok(namespace !== undefined);
    assert.deepEqual(namespace.links.map(({ name: device, kind }) => [device, kind]).sort(), [['lo', 'loopback'], ['veth0', 'veth'], ['veth1', 'veth']]);
    const veth1 = namespace.links.find(({ name: device }) => device === 'veth1');
    assert.deepEqual(namespace.links.find(({ name: device }) => device === 'veth0')?.peer, { namespace: namespace.id, index: veth1?.index });
    assert.ok(namespace.routes.some(({ destination, table, type }) => destination.address === '10.98.0.2' && table === 255 && type === 'local'));
    assert.deepEqual(namespace.routingRules.find(({ priority }) => priority === 100)?.mark, { value: 0x539, mask: 0xfff });
    const rules = namespace.ruleSets.filter(({ family }) => family === 'ipv4').map(({ text }) => text).join('');
    assert.ok(rules.includes('-j REDIRECT --to-ports 15001') && rules.includes('$(harmless)'));
    assert.equal(namespace.sysctls['net.ipv4.ip_forward'], '0');
    assert.deepEqual(snapshot.pods.find(({ namespace: id }) => id === namespace.id)?.addresses, ['10.98.0.2']);
    assert.deepEqual(snapshot.omissions.filter(({ what }) => what.includes(name)), []);
    assert.deepEqual(JSON.parse(JSON.stringify(snapshot)), snapshot);
  } finally {
    await node.close();
    await runCommand('ip', ['netns', 'del', name]);
  }
});

it('a snapshot tells which veth pairs belong together, also of pods that look alike', { skip }, async () => {
  const labs = [await createLab({ rules: 'none' }), await createLab({ rules: 'none' })];
  const node = connectInProcess(createAgentService({ objectPath, agentVersion: 'test' }));
  try {
    const { namespaces } = await node.call('takeSnapshot', {});
    for (const lab of labs) {
      const peersOf = (id: string): (string | null | undefined)[] =>
        namespaces.find((namespace) => namespace.id === id)?.links.filter(({ kind }) => kind === 'veth').map(({ peer }) => peer?.namespace) ?? [];
      assert.deepEqual(peersOf(lab.routerNamespaceId), lab.pods.map(({ namespaceId }) => namespaceId));
      assert.deepEqual(lab.pods.flatMap(({ namespaceId }) => peersOf(namespaceId)), lab.pods.map(() => lab.routerNamespaceId));
    }
  } finally {
    await node.close();
    await Promise.all(labs.map((lab) => lab.dispose()));
  }
});

describe('the agent as a program', { skip }, () => {
  it('shakes hands, answers, refuses and ends with its input, leaving nothing', async () => {
    const name = uniqueName();
    const folder = join(findCgroup2Mount(), name);
    mkdirSync(folder);
    const agent = await startAgent();
    try {
      await rejectsWith(agent.connection.sendRequest('listMaps', {}), 'INPUT_INVALID');
      await rejectsWith(agent.connection.sendRequest('initialize', { protocolVersion: 99, client: 'test' }), 'AGENT_PROTOCOL_MISMATCH');
      await rejectsWith(agent.connection.sendRequest('initialize', 7), 'INPUT_INVALID');
      await agent.connection.sendRequest('initialize', { protocolVersion: 1, client: 'test' });
      await rejectsWith(agent.connection.sendRequest('dropTables', {}), 'METHOD_UNKNOWN');
      await rejectsWith(agent.connection.sendRequest('readMap', { mapId: 1, cursor: 5, limit: 1 }), 'INPUT_INVALID');
      await rejectsWith(agent.connection.sendRequest('listCgroups', { below: '/../etc' }), 'INPUT_INVALID');
      const cancellation = new CancellationTokenSource();
      const cancelled = agent.connection.sendRequest('takeSnapshot', {}, cancellation.token);
      cancellation.cancel();
      await rejectsWith(cancelled, 'CANCELLED');

      const on = await agent.connection.sendRequest('turnAccelerationOn', { profile: 'istio', pods: [{ cgroup: `/${name}`, addresses: ['10.99.78.1'] }] });
      const ids = (on as AccelerationInfo).programIds;
      assert.ok(ids.length >= 5);
      agent.process.stdin?.end();
      assert.equal(await agent.exited, 0);
      const node = connectInProcess(createAgentService({ objectPath, agentVersion: 'test' }));
      const left = (await node.call('listPrograms', {})).filter(({ id }) => ids.includes(id));
      await node.close();
      assert.deepEqual(left, []);
    } finally {
      agent.process.kill('SIGKILL');
      await agent.exited;
      rmdirSync(folder);
    }
  });

  it('ends at a signal, and at a frame that is too long', async () => {
    const stopped = await startAgent();
    stopped.process.kill('SIGTERM');
    assert.equal(await stopped.exited, 0);
    const flooded = await startAgent();
    flooded.process.stdin?.write(`Content-Length: ${MAX_FRAME_BYTES + 1}\r\n\r\n`);
    assert.equal(await flooded.exited, 0);
  });
});

interface RunningAgent {
  readonly process: ChildProcess;
  readonly connection: MessageConnection;
  readonly exited: Promise<number | null>;
}

async function startAgent(): Promise<RunningAgent> {
  const child = spawn(process.execPath, ['--import', 'tsx', 'agent/main.ts'], { cwd: root, stdio: ['pipe', 'pipe', 'ignore'] });
  const exited = new Promise<number | null>((resolve) => {
    child.once('exit', (code) => resolve(code));
  });
  const output = child.stdout;
  let line = '';
  while (!line.endsWith('\n')) {
    const byte = output.read(1) as Buffer | null;
    if (byte === null) {
      await new Promise((resolve) => output.once('readable', resolve));
    } else {
      line += byte.toString('latin1');
    }
  }
  assert.equal(line, `${AGENT_READY_LINE}\n`);
  const connection = createMessageConnection(new StreamMessageReader(output), new StreamMessageWriter(child.stdin));
  connection.listen();
  return { process: child, connection, exited };
}

async function rejectsWith(call: Promise<unknown>, code: string): Promise<void> {
  await assert.rejects(call, (error) => {
    assert.ok(error instanceof ResponseError);
    assert.equal(parseWireError(error.data)?.code, code);
    return true;
  });
}

async function bpftool(...args: readonly string[]): Promise<readonly Readonly<Record<string, unknown>>[]> {
  return JSON.parse(await runCommand('bpftool', ['-j', ...args])) as readonly Readonly<Record<string, unknown>>[];
}

/** Puts entries into `connections`: entry N has the namespace cookie N, source 10.1.H.L, destination fd00::N, ports 10000 + N and 8080. */
function fillMap(id: MapId, keyBytes: number, valueBytes: number): void {
  const { functions } = openLibbpf();
  const fd = functions.bpf_map_get_fd_by_id(id);
  assert.ok(fd >= 0);
  const value = new Uint8Array(valueBytes);
  for (let index = 0; index < ENTRIES; index += 1) {
    const key = new Uint8Array(keyBytes);
    const view = new DataView(key.buffer);
    view.setBigUint64(0, BigInt(index), true);
    key.set([0xff, 0xff, 10, 1, index >> 8, index & 0xff], 18);
    key.set([0xfd, 0], 24);
    view.setUint16(38, index);
    view.setUint16(40, 10_000 + index);
    view.setUint16(42, 8_080);
    assert.equal(functions.bpf_map_update_elem(fd, key, value, 0n), 0);
  }
  closeSync(fd);
}

async function readAll(node: Node, mapId: MapId, limit: number): Promise<MapEntry[]> {
  const entries: MapEntry[] = [];
  let cursor: string | null = null;
  do {
    const page: MapPage = await node.call('readMap', { mapId, cursor, limit });
    assert.ok(page.entries.length <= limit);
    assert.equal(page.changedDuringRead, false);
    entries.push(...page.entries);
    cursor = page.nextCursor;
  } while (cursor !== null);
  return entries;
}

function fieldsOf(value: DecodedValue | null | undefined): Readonly<Record<string, DecodedValue>> {
  assert.ok(value?.kind === 'struct');
  return Object.fromEntries(value.fields.map((field) => [field.name, field.value]));
}
