import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import type { DecisionEvent, PodEnrolment } from '../agent/protocol/acceleration.ts';
import type { DoctorCheck } from '../agent/protocol/doctor.ts';
import { DOCTOR_CHECKS, toCheck } from '../agent/protocol/doctorChecks.ts';
import type { DoctorCheckId } from '../agent/protocol/doctorChecks.ts';
import { MeshpathError } from '../agent/protocol/errors.ts';
import type { ErrorCode } from '../agent/protocol/errors.ts';
import { METHOD_NAMES, PROTOCOL_VERSION } from '../agent/protocol/methods.ts';
import type { MethodName, Params, Result } from '../agent/protocol/methods.ts';
import { connectInProcess } from '../agent/protocol/node.ts';
import type { Node } from '../agent/protocol/node.ts';
import { REWRITING_PROGRAMS } from '../agent/protocol/datapath.ts';
import { toIpAddress } from '../agent/protocol/ipAddress.ts';
import { toPortNumber } from '../agent/protocol/scalars.ts';
import type { CgroupPath, MapId } from '../agent/protocol/scalars.ts';
import type { Flow } from '../agent/protocol/trace.ts';
import { readBpfObject } from './bpf/object.ts';
import { explain } from './explain/explain.ts';
import { createSimulatedNode } from './node.ts';

const OBJECT = readFileSync(new URL('../bpf/prebuilt/meshpath.bpf.o', import.meta.url));
/** How many programs are attached to each pod's cgroup. */
const POD_PROGRAMS = readBpfObject(OBJECT).programs.filter(({ attachType }) => attachType?.startsWith('cgroup_') === true).length;
const UNKNOWN_CGROUP = '/kubepods.slice/pod-z' as CgroupPath;

interface Bench {
  readonly node: Node;
  readonly events: DecisionEvent[];
  readonly pods: readonly PodEnrolment[];
}

async function connect(): Promise<Bench> {
  const node = connectInProcess(createSimulatedNode({ object: OBJECT }));
  const events: DecisionEvent[] = [];
  node.listen('decisions', (decisions) => {
    events.push(...decisions.events);
  });
  const found = await node.call('listPods', {});
  const pods = found.flatMap((pod) => pod.cgroups.map((cgroup) => ({ cgroup, addresses: pod.addresses })));
  return { node, events, pods };
}

async function accelerate(): Promise<Bench> {
  const bench = await connect();
  await bench.node.call('turnAccelerationOn', { profile: 'istio', pods: bench.pods });
  return bench;
}

async function rejects<M extends MethodName>(node: Node, method: M, params: Params<M>, code: ErrorCode): Promise<void> {
  await assert.rejects(node.call(method, params), (error) => MeshpathError.is(error, code) && error.reason !== '' && error.remedy !== '');
}

async function mapNamed(node: Node, name: string): Promise<Result<'listMaps'>[number]> {
  const map = (await node.call('listMaps', {})).find((candidate) => candidate.name === name);
  assert.ok(map, name);
  return map;
}

test('before acceleration the node shows what belongs to the world only', async () => {
  const { node } = await connect();
  assert.equal((await node.call('initialize', { protocolVersion: PROTOCOL_VERSION, client: 'test' })).identity.kind, 'simulated');
  assert.deepEqual(await node.call('listMaps', {}), []);
  assert.deepEqual(await node.call('listLinks', {}), []);
  assert.deepEqual([...new Set((await node.call('listPrograms', {})).map((program) => program.type))], ['cgroup_device']);
  assert.deepEqual(await node.call('listAccelerations', {}), []);
});

test('turning on loads, attaches and lets the traffic of the world run through the programs', async () => {
  const { node, events, pods } = await accelerate();
  const [acceleration] = await node.call('listAccelerations', {});
  assert.deepEqual(acceleration?.pods, pods);
  const links = await node.call('listLinks', {});
  assert.deepEqual(links.map(({ id }) => id), acceleration.linkIds);
  assert.equal(links.length, 1 + POD_PROGRAMS * pods.length);
  const messages = links.find((link) => link.type === 'sockmap');
  assert.deepEqual(messages?.target, { kind: 'map', mapId: (await mapNamed(node, 'sockets')).id });
  const reasons = new Set(events.map((event) => event.reason));
  for (const reason of ['redirected_to_outbound', 'redirected_to_inbound', 'sidecar_to_application', 'enrolled_active', 'enrolled_passive', 'message_redirected'] as const) {
    assert.ok(reasons.has(reason), reason);
  }
  const counters = await node.call('countDecisions', { profile: 'istio' });
  assert.equal(counters.redirected_to_outbound, String(events.filter((event) => event.reason === 'redirected_to_outbound').length));
});

test('cgroups show their own programs and those that they inherit, in order', async () => {
  const { node } = await accelerate();
  const cgroups = await node.call('listCgroups', { below: '/kubepods.slice/pod-a' as CgroupPath });
  assert.deepEqual(cgroups.map(({ path }) => path), ['/kubepods.slice/pod-a', '/kubepods.slice/pod-a/app', '/kubepods.slice/pod-a/istio-proxy']);
  const connectPrograms = cgroups.map(({ attachments }) => attachments.filter(({ attachType }) => attachType === 'cgroup_inet4_connect'));
  assert.deepEqual(
    connectPrograms.map((list) => list.map(({ programName, attachedTo, order }) => [programName, attachedTo, order])),
    [1, 2, 3].map(() => [['meshpath_connect4', '/kubepods.slice/pod-a', 0]]),
  );
});

test('entries of a map are what the programs wrote, decoded, and pages join without gaps', async () => {
  const { node } = await accelerate();
  const { id, keyType, valueType } = await mapNamed(node, 'connections');
  assert.deepEqual([keyType, valueType], ['struct connection_key', 'struct connection']);
  const whole = await node.call('readMap', { mapId: id, cursor: null, limit: 1_000 });
  assert.ok(whole.entries.length > 2);
  const outbound = whole.entries.flatMap(({ values }) => {
    const [value] = values;
    const original = value?.decoded?.kind === 'struct' ? value.decoded.fields.find(({ name }) => name === 'original')?.value : undefined;
    return original?.kind === 'struct' ? [original.fields.slice(0, 2).map(({ value: part }) => ('value' in part ? part.value : null))] : [];
  });
  assert.ok(outbound.some(([address, port]) => address === '10.244.1.3' && port === 8080));

  const events = await mapNamed(node, 'events');
  assert.equal(events.readable.ok, false);
  await rejects(node, 'readMap', { mapId: events.id, cursor: null, limit: 10 }, 'MAP_NOT_READABLE');

  const counters = await mapNamed(node, 'counters');
  const first = await node.call('readMap', { mapId: counters.id, cursor: null, limit: 10 });
  const keys = first.entries.map(({ key }) => key.bytes);
  for (let cursor = first.nextCursor; cursor !== null; ) {
    const page: Result<'readMap'> = await node.call('readMap', { mapId: counters.id, cursor, limit: 10 });
    keys.push(...page.entries.map(({ key }) => key.bytes));
    cursor = page.nextCursor;
  }
  assert.equal(new Set(keys).size, counters.maxEntries);
  assert.equal(keys.length, counters.maxEntries);
  assert.equal(first.entries[0]?.values.length, 2);
});

test('a snapshot of the node explains the same connection on both paths', async () => {
  const { node } = await accelerate();
  const snapshot = await node.call('takeSnapshot', {});
  assert.ok(snapshot.namespaces.some(({ sockets }) => sockets.some(({ state }) => state === 'established')));
  assert.ok(snapshot.bpf.contents.some(({ entries }) => entries.length > 0));
  const namespace = snapshot.pods[0]?.namespace;
  assert.ok(namespace);
  const flow: Flow = {
    protocol: 'tcp',
    source: { kind: 'process', namespace, cgroup: '/kubepods.slice/pod-a/app' as CgroupPath, uid: 1000, gid: 1000, address: null, port: null },
    destination: { address: toIpAddress('10.244.1.3'), port: toPortNumber(8080) },
  };
  const explanation = explain(snapshot, flow, { object: OBJECT });
  assert.equal(explanation.current, 'sockops');
  assert.equal(explanation.sockops.outcome.result, 'delivered');
  assert.deepEqual(explanation.sockops.legs.map(({ title, data }) => [title, data]), [
    ['application → sidecar', 'socket-to-socket'],
    ['sidecar → sidecar', 'socket-to-socket'],
    ['sidecar → application', 'socket-to-socket'],
  ]);
  assert.equal(explanation.sockops.cost.hooksPerMessage, 0);
  assert.deepEqual(explanation.sockops.legs.map((leg) => leg.originalDestination), explanation.iptables.legs.map((leg) => leg.originalDestination));
  assert.deepEqual(explanation.sockops.legs.map((leg) => leg.peerSeenByClient), explanation.iptables.legs.map((leg) => leg.peerSeenByClient));
  const rewrite = explanation.sockops.steps.find((step) => step.decision.kind === 'rewrite');
  assert.ok(rewrite?.place.kind === 'program');
  assert.match(rewrite.place.source?.text ?? '', /user_port/);
  assert.ok(rewrite.place.instructions > 100);
});

test('turning off one pod keeps the other; turning off the last leaves nothing', async () => {
  const { node, pods } = await accelerate();
  const [first, second] = pods;
  assert.ok(first && second);
  const report = await node.call('turnAccelerationOff', { cgroups: [first.cgroup] });
  assert.equal(report.detachedLinks, REWRITING_PROGRAMS.length);
  assert.ok(report.remainingConnections > 0);
  assert.deepEqual(report.leaving?.map(({ cgroup }) => cgroup), [first.cgroup]);
  const [half] = await node.call('listAccelerations', {});
  assert.deepEqual(half?.pods, [second]);
  assert.deepEqual(half.leaving, report.leaving);
  assert.equal(half.linkIds.length, 1 + 2 * POD_PROGRAMS - REWRITING_PROGRAMS.length);
  const last = await node.call('turnAccelerationOff', { cgroups: null });
  assert.deepEqual([last.detachedLinks, last.leaving?.length], [REWRITING_PROGRAMS.length, 1]);
  assert.deepEqual((await node.call('listAccelerations', {}))[0]?.pods, []);
  // The applications go on, and close what they had open.
  for (let call = 0; call < 10; call += 1) {
    await node.call('listConnections', { scope: 'all' });
  }
  assert.deepEqual(await node.call('listMaps', {}), []);
  assert.deepEqual(await node.call('listLinks', {}), []);
  assert.deepEqual(await node.call('listAccelerations', {}), []);
  await node.call('turnAccelerationOn', { profile: 'istio', pods });
  assert.equal((await node.call('listAccelerations', {})).length, 1);
});

test('what is kept is told as such, and cleaning turns it off', async () => {
  const { node, pods } = await connect();
  const info = await node.call('turnAccelerationOn', { profile: 'istio', pods, keep: true });
  assert.deepEqual(info.kept, { isOutdated: false, heldBy: null });
  const looked = await node.call('cleanNode', { isDryRun: true });
  assert.deepEqual(looked.items.map(({ kind, isRemoved }) => [kind, isRemoved]), [['kept-acceleration', false]]);
  assert.equal((await node.call('listAccelerations', {}))[0]?.pods.length, pods.length);
  assert.deepEqual((await node.call('cleanNode', { isDryRun: false })).items.map(({ isRemoved }) => isRemoved), [true]);
  assert.deepEqual((await node.call('listAccelerations', {})).flatMap((left) => left.pods), []);
  assert.deepEqual(await node.call('cleanNode', { isDryRun: false }), { items: [] });
});

test('every connection says whether it is accelerated, and if not, why not', async () => {
  const { node, pods } = await connect();
  assert.deepEqual((await node.call('listConnections', { scope: 'accelerated-pods' })).connections, []);
  await node.call('turnAccelerationOn', { profile: 'istio', pods });
  const { connections, lostDecisions } = await node.call('listConnections', { scope: 'accelerated-pods' });
  assert.equal(lostDecisions, 0);
  assert.ok(connections.length > 5);
  assert.equal(new Set(connections.map(({ id }) => id)).size, connections.length);
  for (const { verdict, near, far, role, original, profile } of connections) {
    assert.deepEqual([verdict.state, verdict.reason], ['accelerated', null]);
    assert.deepEqual([role, profile], ['connecting', 'istio']);
    assert.deepEqual([near.redirectedBytes, far?.redirectedBytes], ['1024', '0']);
    assert.ok(near.inAcceleratedPod && far?.inAcceleratedPod === true);
    assert.ok(original !== null || near.process?.command !== 'app');
  }
  const [first, second] = pods;
  assert.ok(first && second);
  await node.call('turnAccelerationOff', { cgroups: [second.cgroup] });
  const left = await node.call('listConnections', { scope: 'all' });
  assert.ok(left.connections.some(({ verdict }) => verdict.state === 'not' && verdict.reason === 'message_passed_switched_off'));
  await rejects(node, 'countDecisions', { profile: 'none' }, 'ACCELERATION_NOT_FOUND');
});

test('wrong input is refused as the agent refuses it', async () => {
  const { node, pods } = await accelerate();
  const [first] = pods;
  assert.ok(first);
  const address = toIpAddress('10.9.9.9');
  await rejects(node, 'initialize', { protocolVersion: PROTOCOL_VERSION + 1, client: 'test' }, 'AGENT_PROTOCOL_MISMATCH');
  await rejects(node, 'readMap', { mapId: 9_999 as MapId, cursor: null, limit: 10 }, 'MAP_NOT_FOUND');
  const { id } = await mapNamed(node, 'connections');
  await rejects(node, 'readMap', { mapId: id, cursor: null, limit: 0 }, 'INPUT_INVALID');
  await rejects(node, 'readMap', { mapId: id, cursor: 'elsewhere', limit: 10 }, 'INPUT_INVALID');
  await rejects(node, 'listCgroups', { below: UNKNOWN_CGROUP }, 'CGROUP_NOT_FOUND');
  await rejects(node, 'turnAccelerationOn', { profile: 'istio', pods: [{ cgroup: UNKNOWN_CGROUP, addresses: [address] }] }, 'CGROUP_NOT_FOUND');
  await rejects(node, 'turnAccelerationOn', { profile: 'istio', pods: [first] }, 'ACCELERATION_ALREADY_ON');
  await rejects(node, 'turnAccelerationOn', { profile: 'istio', pods: [{ cgroup: `${first.cgroup}/app` as CgroupPath, addresses: [address] }] }, 'ACCELERATION_OVERLAPS');
  await rejects(node, 'turnAccelerationOn', { profile: 'none', pods: [{ cgroup: UNKNOWN_CGROUP, addresses: [address] }] }, 'PROFILE_INVALID');
  await rejects(node, 'turnAccelerationOff', { cgroups: [UNKNOWN_CGROUP] }, 'ACCELERATION_NOT_FOUND');
  await rejects(node, 'countDecisions', { profile: 'none' }, 'ACCELERATION_NOT_FOUND');
});

test('an object that is not a BPF object is refused, and nothing is left on', async () => {
  const node = connectInProcess(createSimulatedNode({ object: new Uint8Array(100) }));
  const [pod] = await node.call('listPods', {});
  assert.ok(pod?.cgroups[0]);
  await rejects(node, 'turnAccelerationOn', { profile: 'istio', pods: [{ cgroup: pod.cgroups[0], addresses: pod.addresses }] }, 'BPF_OBJECT_INVALID');
  assert.deepEqual(await node.call('listAccelerations', {}), []);
});

test('every result is plain JSON, and the same calls give the same results', async () => {
  const callAll = async (): Promise<readonly unknown[]> => {
    const { node, events, pods } = await connect();
    const map = async (): Promise<MapId> => (await mapNamed(node, 'sockets')).id;
    const params: { readonly [M in MethodName]: () => Params<M> | Promise<Params<M>> } = {
      initialize: () => ({ protocolVersion: PROTOCOL_VERSION, client: 'test' }),
      listConnections: () => ({ scope: 'all' }),
      listPrograms: () => ({}),
      listMaps: () => ({}),
      listLinks: () => ({}),
      listCgroups: () => ({ below: '/' as CgroupPath }),
      listPods: () => ({}),
      readMap: async () => ({ mapId: await map(), cursor: null, limit: 100 }),
      takeSnapshot: () => ({}),
      runDoctor: () => ({}),
      checkAcceleration: () => ({}),
      turnAccelerationOn: () => ({ profile: 'istio', pods }),
      turnAccelerationOff: () => ({ cgroups: null }),
      upgradeAcceleration: () => ({ profile: 'istio' }),
      cleanNode: () => ({ isDryRun: true }),
      listAccelerations: () => ({}),
      countDecisions: () => ({ profile: 'istio' }),
      listLabs: () => ({}),
      runInLab: () => ({ name: 'demo', from: 'pod-a', to: 'pod-b', connections: 3, bytes: 10, parallel: 2 }),
      bringLabUp: () => ({ name: 'lab', pods: 2, profile: 'istio', path: 'none', rules: null, sidecar: 'builtin' }),
      takeLabDown: () => ({ name: 'demo' }),
    };
    const order: readonly MethodName[] = ['turnAccelerationOn', ...METHOD_NAMES.filter((name) => !name.startsWith('turn') && name !== 'bringLabUp' && name !== 'takeLabDown'), 'turnAccelerationOff'];
    const results: unknown[] = [];
    for (const method of order) {
      const result: unknown = await node.call(method, await params[method]());
      assert.deepEqual(JSON.parse(JSON.stringify(result)), result, method);
      results.push(result);
    }
    assert.deepEqual(JSON.parse(JSON.stringify(events)), events);
    return [...results, events];
  };
  assert.deepEqual(await callAll(), await callAll());
});

test('the doctor has the checks of a Linux node, and its findings gate acceleration as there', async () => {
  const limited = (id: DoctorCheckId, result: 'limited' | 'failed'): DoctorCheck =>
    toCheck(id, { result, found: 'Seen.', problem: { code: 'KERNEL_UNSUITABLE', message: `${id} matters.`, reason: 'It is so.', remedy: 'Do this.' } });
  const connectTo = async (...checks: readonly DoctorCheck[]): Promise<{ node: Node; pods: readonly PodEnrolment[] }> => {
    const node = connectInProcess(createSimulatedNode({ object: OBJECT, checks }));
    return { node, pods: (await node.call('listPods', {})).flatMap((pod) => pod.cgroups.map((cgroup) => ({ cgroup, addresses: pod.addresses }))) };
  };
  const healthy = await connectTo();
  assert.deepEqual((await healthy.node.call('runDoctor', {})).checks.map(({ id }) => id), Object.keys(DOCTOR_CHECKS));
  const gate = await healthy.node.call('checkAcceleration', {});
  assert.deepEqual([gate.verdict, gate.checks.length], ['safe', Object.keys(DOCTOR_CHECKS).length - 4]);

  const { node, pods } = await connectTo(limited('splice', 'limited'), limited('close', 'failed'));
  assert.equal((await node.call('runDoctor', {})).verdict, 'not-on-this-node');
  await rejects(node, 'turnAccelerationOn', { profile: 'istio', pods }, 'KERNEL_UNSUITABLE');
  await rejects(node, 'turnAccelerationOn', { profile: 'istio', pods, acceptedLimits: [], overriddenFindings: ['close'] }, 'LIMITS_NOT_ACCEPTED');
  assert.deepEqual(await node.call('listMaps', {}), []);
  await node.call('turnAccelerationOn', { profile: 'istio', pods, acceptedLimits: ['splice'], overriddenFindings: ['close'] });
  const [on] = await node.call('listAccelerations', {});
  assert.deepEqual(on?.findings?.map(({ id, answer }) => [id, answer]), [['close', 'overridden'], ['splice', 'accepted']]);
});

test('traffic goes on for as long as somebody looks, within bounds', async () => {
  const { node, events } = await accelerate();
  const { id } = await mapNamed(node, 'connections');
  let most = 0;
  for (let round = 0; round < 60; round += 1) {
    most = Math.max(most, (await node.call('readMap', { mapId: id, cursor: null, limit: 1_000 })).entries.length);
  }
  assert.ok(most > 0 && most <= 24, String(most));
  const reasons = new Set(events.map((event) => event.reason));
  for (const reason of ['passed_loopback', 'passed_peer_not_enrolled', 'connection_closed'] as const) {
    assert.ok(reasons.has(reason), reason);
  }
});

test('the world of a simulated node is a lab: what each end sees is the same by rules and by programs', async () => {
  const { node, pods } = await connect();
  const [lab] = await node.call('listLabs', {});
  assert.deepEqual([lab?.name, lab?.state, lab?.pods.map(({ name, server }) => [name, server.port])], ['demo', 'up', [['pod-a', 9000], ['pod-b', 8080]]]);
  const request = { name: 'demo', from: 'pod-a', to: 'pod-b', connections: 5, bytes: 10, parallel: 2 };
  const byRules = await node.call('runInLab', request);
  await node.call('turnAccelerationOn', { profile: 'istio', pods });
  const byPrograms = await node.call('runInLab', request);
  const seen = ({ exact, failures, clientPeers, serverPeers, sidecars }: typeof byRules): unknown => ({ exact, failures, clientPeers, serverPeers, sidecars });
  assert.deepEqual(seen(byPrograms), seen(byRules));
  const destination = { address: '10.244.1.3', port: 8080 };
  assert.deepEqual(byRules.serverPeers, [{ value: '127.0.0.6', count: 5 }]);
  assert.deepEqual(byRules.sidecars.map(({ pod, side, originalDestinations }) => [pod, side, originalDestinations]), [
    ['pod-a', 'outbound', [{ value: destination, count: 5 }]],
    ['pod-b', 'inbound', [{ value: destination, count: 5 }]],
  ]);
  assert.deepEqual([byRules.legs, byRules.decisions], [[], []]);
  assert.deepEqual(byPrograms.legs.map(({ text, state }) => [text, state]).toSorted(), [
    ['envoy (pod-a) → envoy (pod-b)', 'accelerated'],
    ['envoy (pod-b) → web (pod-b)', 'accelerated'],
    ['shop (pod-a) → envoy (pod-a)', 'accelerated'],
  ]);
  assert.equal(byPrograms.decisions.find(({ value }) => value.reason === 'redirected_to_outbound')?.count, 5);
  await rejects(node, 'runInLab', { ...request, name: 'lab' }, 'LAB_NOT_FOUND');
  await rejects(node, 'runInLab', { ...request, to: 'pod-z' }, 'INPUT_INVALID');
  await rejects(node, 'runInLab', { ...request, connections: 5_000 }, 'INPUT_INVALID');
  await rejects(node, 'takeLabDown', { name: 'demo' }, 'NOT_SUPPORTED');
  await rejects(node, 'bringLabUp', { name: 'lab', pods: 2, profile: 'istio', path: 'none', rules: null, sidecar: 'builtin' }, 'LAB_EXISTS');
});
