import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { ISTIO_PROFILE } from '../../agent/protocol/acceleration.ts';
import type { DecisionEvent } from '../../agent/protocol/acceleration.ts';
import { decodeDecisionEvent, encodePod, encodePodOwner, encodeProfileEntries, encodeSettings } from '../../agent/protocol/datapath.ts';
import { mappedAddressBytes, toIpAddress } from '../../agent/protocol/ipAddress.ts';
import { toPortNumber } from '../../agent/protocol/scalars.ts';
import type { CgroupPath, Endpoint, NamespaceId } from '../../agent/protocol/scalars.ts';
import { loadObject, mapNamed, programNamed } from './loadedObject.ts';
import type { LoadedObject } from './loadedObject.ts';
import { readBpfObject } from './object.ts';
import { seededRandom } from './random.ts';
import { SocketKernel } from './socketKernel.ts';
import type { KernelSocket } from './sockets.ts';

const POD_A = { cgroup: '/pod-a' as CgroupPath, id: 101n, namespace: '1' as NamespaceId, cookie: 11n, address: toIpAddress('10.1.0.2') };
const POD_B = { cgroup: '/pod-b' as CgroupPath, id: 202n, namespace: '2' as NamespaceId, cookie: 22n, address: toIpAddress('10.1.0.3') };

function at(address: string, port: number): Endpoint {
  return { address: toIpAddress(address), port: toPortNumber(port) };
}

interface Bench {
  readonly kernel: SocketKernel;
  readonly loaded: LoadedObject;
  readonly events: () => readonly DecisionEvent[];
}

function accelerate(): Bench {
  const object = readBpfObject(readFileSync(new URL('../../bpf/prebuilt/meshpath.bpf.o', import.meta.url)));
  const { btf } = object;
  assert.ok(btf);
  const rodata = object.maps.find((map) => map.name === '.rodata')?.initial;
  assert.ok(rodata);
  const settings = { profile: ISTIO_PROFILE, unreadLimit: 1_000_000n, connectionLimit: 1_000n, eventLimit: 0, hasNetnsCookie: true };
  const loaded = loadObject(object, { cpus: 2, contents: new Map([['.rodata', encodeSettings(btf, rodata, settings)]]) });
  for (const { map: name, key, value } of encodeProfileEntries(btf, ISTIO_PROFILE)) {
    const map = mapNamed(loaded, name);
    assert.ok(map.kind === 'hash');
    map.update(key, value, 0n);
  }
  let now = 1_000n;
  const pods = [POD_A, POD_B];
  const kernel = new SocketKernel({
    cpus: 2,
    bootNanoseconds: () => (now += 1_000n),
    random: seededRandom(7),
    cgroupLine: (path) => pods.flatMap((pod) => (pod.cgroup === path ? [pod.id] : [])),
    netnsCookie: (namespace) => pods.find((pod) => pod.namespace === namespace)?.cookie ?? 1n,
    receivesDatagrams: (_namespace, { address, port }) => (address === '127.0.0.1' || address === '::1') && port === ISTIO_PROFILE.dnsPort,
    isLocalAddress: (namespace, address) => pods.some((pod) => pod.namespace === namespace && pod.address === address),
  });
  const storage = mapNamed(loaded, 'pods');
  const addresses = mapNamed(loaded, 'pod_addresses');
  const sockets = mapNamed(loaded, 'sockets');
  assert.ok(storage.kind === 'cgroup_storage' && addresses.kind === 'hash' && sockets.kind === 'sockhash');
  for (const pod of pods) {
    storage.attach(pod.id);
    storage.find(pod.id)?.set(encodePod(btf, pod.id, pod.address));
    assert.equal(addresses.update(mappedAddressBytes(pod.address), encodePodOwner(btf, pod.id, pod.address, [pod.address]), 0n), 0);
    for (const name of ['meshpath_connect4', 'meshpath_sockops', 'meshpath_getsockopt', 'meshpath_getpeername4']) {
      kernel.attach({ loaded, program: programNamed(loaded, name), target: { kind: 'cgroup', path: pod.cgroup, id: pod.id } });
    }
  }
  kernel.attach({ loaded, program: programNamed(loaded, 'meshpath_sk_msg'), target: { kind: 'map', map: sockets } });
  const ringbuf = mapNamed(loaded, 'events');
  assert.ok(ringbuf.kind === 'ringbuf');
  return {
    kernel,
    loaded,
    events: () =>
      ringbuf.drain().map((bytes) => {
        const event = decodeDecisionEvent(btf, bytes);
        assert.ok(event);
        return event;
      }),
  };
}

function socketOf({ kernel }: Bench, pod: typeof POD_A, uid: number, family: 2 | 10 = 2): KernelSocket {
  return kernel.acceptSocket({
    namespace: pod.namespace,
    cgroup: pod.cgroup,
    owner: { pid: 1_000 + uid, command: uid === 1337 ? 'envoy' : 'app', uid, gid: uid, cgroupId: pod.id },
    family,
    local: null,
  });
}

/** Opens a connection as the kernel would over loopback, and gives both ends. */
function open(bench: Bench, client: KernelSocket, destination: Endpoint, serverPod: typeof POD_A, serverUid: number, family: 2 | 10 = 2): KernelSocket {
  const { kernel } = bench;
  const connected = kernel.connect(client, destination);
  assert.ok(connected.allowed);
  for (const { run } of connected.runs) {
    assert.equal(run.outcome.kind, 'returned', JSON.stringify(run.outcome, (_key, value: unknown) => (typeof value === 'bigint' ? `${value}` : value)));
  }
  const source = { address: client.local.address === '0.0.0.0' ? POD_A.address : client.local.address, port: toPortNumber(40_000 + Number(client.cookie)) };
  kernel.sendSyn(client, source, connected.destination);
  kernel.establishActive(client);
  const server = socketOf(bench, serverPod, serverUid, family);
  kernel.establishPassive(server, connected.destination, source, client);
  return server;
}

test('an application is sent to its sidecar, both ends are enrolled, and messages go from socket to socket', () => {
  const bench = accelerate();
  const client = socketOf(bench, POD_A, 1000);
  const server = open(bench, client, at('10.1.0.3', 8080), POD_A, 1337, 10);
  assert.deepEqual(client.remote, at('127.0.0.1', 15_001));
  assert.equal(client.local.address, POD_A.address);
  assert.deepEqual(bench.kernel.askOriginalDestination(server, null).answer, at('10.1.0.3', 8080));
  assert.deepEqual(bench.kernel.askPeerName(client).answer, at('10.1.0.3', 8080));
  assert.equal(bench.kernel.send(client, 100).redirect, server);
  assert.equal(bench.kernel.send(server, 50).redirect, client);
  assert.deepEqual(
    bench.events().map(({ hook, reason, uid, original }) => [hook, reason, uid, original]),
    [
      ['connect4', 'redirected_to_outbound', 1000, at('10.1.0.3', 8080)],
      ['sockops', 'enrolled_active', 1000, at('10.1.0.3', 8080)],
      ['sockops', 'enrolled_passive', null, at('10.1.0.3', 8080)],
      ['getsockopt', 'answered_original_destination', null, at('10.1.0.3', 8080)],
      ['getpeername4', 'answered_peer_name', 1000, at('10.1.0.3', 8080)],
      ['sk_msg', 'message_redirected', 1000, at('10.1.0.3', 8080)],
      ['sk_msg', 'message_redirected', null, at('10.1.0.3', 8080)],
    ],
  );
});

test('a sidecar goes to the sidecar of an enrolled pod across namespaces', () => {
  const bench = accelerate();
  const client = socketOf(bench, POD_A, 1337);
  const server = open(bench, client, at('10.1.0.3', 8080), POD_B, 1337);
  assert.deepEqual(client.remote, at('10.1.0.3', 15_006));
  assert.deepEqual(bench.kernel.askOriginalDestination(server, null).answer, at('10.1.0.3', 8080));
  assert.equal(bench.kernel.send(client, 10).redirect, server);
});

test('what is not redirected is told why and left alone', () => {
  const bench = accelerate();
  for (const [destination, uid] of [[at('127.0.0.1', 80), 1000], [at('10.1.0.2', 80), 1000], [at('10.9.9.9', 80), 1337]] as const) {
    const client = socketOf(bench, POD_A, uid);
    assert.deepEqual(bench.kernel.connect(client, destination).destination, destination);
  }
  assert.deepEqual(bench.events().map((event) => event.reason), ['passed_loopback', 'passed_own_address', 'passed_peer_not_enrolled']);
});

test('a message sent before the other end is enrolled goes through TCP, and so do all later ones', () => {
  const bench = accelerate();
  const { kernel } = bench;
  const client = socketOf(bench, POD_A, 1000);
  const { destination } = kernel.connect(client, at('10.1.0.3', 8080));
  kernel.sendSyn(client, at('10.1.0.2', 40_001), destination);
  kernel.establishActive(client);
  assert.equal(kernel.send(client, 10).redirect, null);
  const server = socketOf(bench, POD_A, 1337);
  kernel.establishPassive(server, destination, client.local, client);
  assert.equal(kernel.send(client, 10).redirect, null);
  assert.ok(bench.events().some((event) => event.reason === 'message_passed_peer_missing'));
});

test('a connection whose source port changed on its way is known by its handshake', () => {
  const bench = accelerate();
  const { kernel } = bench;
  const client = socketOf(bench, POD_A, 1000);
  const { destination } = kernel.connect(client, at('10.1.0.3', 8080));
  kernel.sendSyn(client, at('10.1.0.2', 40_001), destination);
  kernel.establishActive(client);
  const server = socketOf(bench, POD_A, 1337);
  kernel.establishPassive(server, destination, at('10.1.0.2', 50_002), client);
  assert.deepEqual(kernel.askOriginalDestination(server, null).answer, at('10.1.0.3', 8080));
  assert.equal(kernel.send(client, 10).redirect, server);
  assert.equal(kernel.send(server, 10).redirect, client);
});

test('closing deletes the state of a connection', () => {
  const bench = accelerate();
  const client = socketOf(bench, POD_A, 1000);
  const server = open(bench, client, at('10.1.0.3', 8080), POD_A, 1337);
  assert.equal(mapNamed(bench.loaded, 'connections').entries().length, 1);
  assert.equal(mapNamed(bench.loaded, 'sockets').entries().length, 2);
  bench.kernel.close(client);
  bench.kernel.close(server);
  assert.equal(mapNamed(bench.loaded, 'connections').entries().length, 0);
  assert.equal(mapNamed(bench.loaded, 'sockets').entries().length, 0);
  assert.equal(bench.events().at(-1)?.reason, 'connection_closed');
});
