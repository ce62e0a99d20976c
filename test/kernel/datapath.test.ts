import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, closeSync, constants, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { text } from 'node:stream/consumers';
import { afterEach, beforeEach, suite, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { findCgroup2Mount } from '../../agent/kernel/cgroup2Mount.ts';
import { createKernelObjectReader } from '../../agent/kernel/kernelObjectReader.ts';
import { ATTACH_TYPE, loadBpfObject } from '../../agent/libbpf/bpfObject.ts';
import { openLibbpf } from '../../agent/libbpf/library.ts';
import { ISTIO_PROFILE } from '../../agent/protocol/acceleration.ts';
import type { AccelerationInfo, DecisionEvent, PodEnrolment } from '../../agent/protocol/acceleration.ts';
import { DATAPATH_PROGRAMS, encodeSettings, REWRITING_PROGRAMS } from '../../agent/protocol/datapath.ts';
import { MeshpathError } from '../../agent/protocol/errors.ts';
import type { ErrorCode } from '../../agent/protocol/errors.ts';
import { toIpAddress } from '../../agent/protocol/ipAddress.ts';
import type { CgroupPath, Endpoint } from '../../agent/protocol/scalars.ts';
import { prebuiltObject } from '../../scripts/compileBpf.mjs';
import { createLab } from '../lab/lab.ts';
import type { Lab } from '../lab/lab.ts';
import { waitForNothingLeft } from '../lab/leftovers.ts';
import { APPLICATION_IDENTITY, SIDECAR_IDENTITY } from '../../agent/lab/pod.ts';
import type { LabPod, PlaceOptions } from '../../agent/lab/pod.ts';
import { missingForKernel } from '../requirements.ts';
import { CONTEXT, Conversation, count, KIBIBYTE, observe, sightOf, turnOff, turnOn } from './datapathConversation.ts';
import type { Observed } from './datapathConversation.ts';
import type { RawClientParams } from './datapathRawClient.ts';

const RAW_CLIENT = fileURLToPath(new URL('datapathRawClient.ts', import.meta.url));
const AGENT = fileURLToPath(new URL('datapathAgent.ts', import.meta.url));
/** Every program but sk_msg, which is attached once. */
const LINKS_OF_POD = Object.keys(DATAPATH_PROGRAMS).length - 1;
const ROOT_IDENTITY = { uid: 0, gid: 0 };

const run = promisify(execFile);

function failsWith(code: ErrorCode, ...parts: readonly string[]): (error: unknown) => boolean {
  return (error) => {
    assert.ok(MeshpathError.is(error), String(error));
    assert.equal(error.code, code, `${error.message} ${error.reason}`);
    for (const part of parts) {
      assert.ok(error.reason.includes(part), `'${part}' is not in '${error.reason}'`);
    }
    return true;
  };
}

/** Gives the entries of a map by the name that the viewer shows. */
async function readEntries(info: AccelerationInfo, name: string): Promise<number> {
  const reader = createKernelObjectReader(openLibbpf(), findCgroup2Mount);
  const map = (await reader.listMaps(CONTEXT.signal)).find((candidate) => candidate.name === name && info.mapIds.includes(candidate.id));
  assert.ok(map !== undefined, `there is no map ${name}`);
  return (await reader.readMap({ mapId: map.id, cursor: null, limit: 1_000 }, CONTEXT.signal)).entries.length;
}

/** Resolves once a map is empty: sockets leave after close(2), when the kernel gets to it. */
async function waitForEmpty(info: AccelerationInfo, name: string): Promise<void> {
  for (let attempt = 0; (await readEntries(info, name)) > 0; attempt += 1) {
    assert.ok(attempt < 100, `${name} keeps ${await readEntries(info, name)} entries`);
    await delay(50);
  }
}

/** A raw client that runs in a pod. */
interface RawClient {
  /** Resolves when it waits at its gate. */
  readonly waiting: Promise<void>;
  /** What it received on each connection. */
  readonly answers: Promise<string[]>;
}

async function startRawClient(pod: LabPod, params: Omit<RawClientParams, 'identity'>, options: PlaceOptions = {}): Promise<RawClient> {
  const parameters: RawClientParams = { ...params, identity: options.identity ?? APPLICATION_IDENTITY };
  const client = await pod.start([process.execPath, '--import', 'tsx', RAW_CLIENT, JSON.stringify(parameters)], { ...options, identity: { uid: 0, gid: 0 } });
  const complaint = text(client.stderr);
  const lines = createInterface({ input: client.stdout });
  const waiting = new Promise<void>((resolve) => {
    lines.on('line', (line) => {
      if (line === 'waiting') {
        resolve();
      }
    });
  });
  const answers = new Promise<string[]>((resolve, reject) => {
    lines.on('line', (line) => {
      if (line.startsWith('[')) {
        resolve(JSON.parse(line) as string[]);
      }
    });
    complaint.then((words) => {
      reject(new Error(`the raw client failed: ${words}`));
    }, reject);
  });
  return { waiting: Promise.race([waiting, answers.then(() => undefined)]), answers };
}

suite('the datapath in pods with Istio rules', { skip: missingForKernel() }, () => {
  let lab: Lab;
  let observed: Observed;

  beforeEach(async () => {
    observed = observe();
    lab = await createLab({ rules: 'istio' });
  });
  afterEach(async () => {
    await observed.accelerator.dispose();
    await lab.dispose();
    await waitForNothingLeft({ labId: lab.id, programIds: observed.programIds });
  });

  test('everybody sees what they see under iptables, and messages go from socket to socket', async () => {
    const conversation = await Conversation.start(lab);
    const underIptables = await conversation.look();
    const { address, port } = conversation.destination;
    assert.deepEqual(underIptables.clientPeer, { address, port });

    const info = await turnOn(observed, lab.pod(0), lab.pod(1));
    assert.equal(info.programIds.length, LINKS_OF_POD + 1);
    assert.equal(info.linkIds.length, 2 * LINKS_OF_POD + 1);
    const accelerated = await conversation.look();
    assert.deepEqual(accelerated, underIptables);

    await waitForEmpty(info, 'connections');
    await waitForEmpty(info, 'sockets');
    await waitForEmpty(info, 'handshakes');
    const counters = await count(observed);
    assert.equal(counters['redirected_to_outbound'], 1);
    assert.equal(counters['redirected_to_inbound'], 1);
    assert.equal(counters['sidecar_to_application'], 1);
    assert.equal(counters['enrolled_active'], 3);
    assert.equal(counters['enrolled_passive'], 3);
    assert.equal(counters['answered_original_destination'], 2);
    assert.equal(counters['connection_closed'], 3);
    assert.equal(counters['message_passed_peer_missing'], 0);
    assert.ok((counters['message_redirected'] ?? 0) >= 6);

    const report = await turnOff(observed);
    assert.deepEqual(report, { detachedLinks: 2 * LINKS_OF_POD + 1, remainingConnections: 0 });
    assert.deepEqual(await conversation.look(), underIptables);

    const first = observed.events.find(({ reason }) => reason === 'redirected_to_outbound');
    assert.ok(first !== undefined);
    assert.equal(first.uid, 1000);
    assert.deepEqual(first.original, { address, port });
    assert.deepEqual(first.remote, { address: '127.0.0.1', port: ISTIO_PROFILE.outboundPort });
    assert.equal(observed.events.filter(({ reason }) => reason === 'message_redirected').length, 6);
  });

  test('bytes arrive exactly, in all sizes and on many connections at a time', async () => {
    const conversation = await Conversation.start(lab);
    const info = await turnOn(observed, lab.pod(0), lab.pod(1));
    const sizes = [1, 2, 100, 1_023, 4_096, 65_535, 65_537, 300_000, 1_024 * KIBIBYTE];
    const exchangeAll = async (seed: number): Promise<void> => {
      const connection = await conversation.connect(seed);
      for (const size of sizes) {
        const received = await connection.exchange(size, size < 10_000 ? 700 : 65_536);
        assert.deepEqual(received, { bytes: size, exact: true, firstDifference: null, ended: false });
      }
      await connection.end();
      assert.equal((await connection.receive(1)).ended, true);
      await connection.close();
    };
    await Promise.all(Array.from({ length: 8 }, (_, index) => exchangeAll(index + 1)));
    const ended = await conversation.parts.server.ended.waitForCount(8);
    const total = sizes.reduce((sum, size) => sum + size, 0);
    for (const { receivedBytes, sentBytes, error } of ended) {
      assert.deepEqual([receivedBytes, sentBytes, error], [total, total, null]);
    }
    assert.ok(((await count(observed))['message_redirected'] ?? 0) > 0);
    await waitForEmpty(info, 'connections');
    await waitForEmpty(info, 'sockets');
  });

  test('a listener on [::] is accelerated too, and is told an IPv4 destination', async () => {
    const conversation = await Conversation.start(lab, '::');
    const underIptables = await conversation.look();
    await turnOn(observed, lab.pod(0), lab.pod(1));
    assert.deepEqual(await conversation.look(), underIptables);
    const counters = await count(observed);
    assert.equal(counters['enrolled_passive'], 3);
    assert.equal(counters['message_passed_peer_missing'], 0);
  });

  test('a message that went through TCP is never overtaken: the ACK of the handshake comes late', async () => {
    const conversation = await Conversation.start(lab);
    await turnOn(observed, lab.pod(0), lab.pod(1));
    const connections = 50;
    const client = await startRawClient(lab.pod(0), { ...conversation.destination, delayAck: true, connections, messages: ['1111', '2222', '3333'] });
    assert.deepEqual(await client.answers, Array.from({ length: connections }, () => '111122223333'));
    const counters = await count(observed);
    // Else it was no test: the first message has to have found its peer missing.
    assert.ok((counters['message_passed_peer_missing'] ?? 0) >= connections, JSON.stringify(counters));
  });

  test('two pods with the same addresses and ports on loopback never meet', async () => {
    await turnOn(observed, lab.pod(0), lab.pod(1));
    await withGate(async (gate) => {
      const port = 7_070;
      const servers = await Promise.all(lab.pods.map((pod) => pod.startServer({ port, address: '127.0.0.1' })));
      const messages = [['AAAA', 'aaaa'], ['BBBB', 'bbbb']];
      const clients = await Promise.all(
        lab.pods.map((pod, index) =>
          startRawClient(
            pod,
            { address: '127.0.0.1', port, localAddress: '127.0.0.1', localPort: 40_404, connections: 1, messages: messages[index] ?? [], gate },
            { identity: SIDECAR_IDENTITY },
          ),
        ),
      );
      // Both connections are open before a byte is sent.
      await Promise.all(clients.map(({ waiting }) => waiting));
      await Promise.all(servers.map((server) => server.accepted.waitFor()));
      openGate(gate);
      assert.deepEqual(await Promise.all(clients.map(({ answers }) => answers)), [['AAAAaaaa'], ['BBBBbbbb']]);
      const counters = await count(observed);
      assert.equal(counters['enrolled_active'], 2);
      assert.equal(counters['enrolled_passive'], 2);
      assert.equal(counters['message_passed_peer_missing'], 0);
      assert.ok((counters['message_redirected'] ?? 0) >= 4);
    });
  });

  test('a sidecar that connects to its own pod meets itself, as under iptables', async () => {
    const pod = lab.pod(0);
    const [sidecar, server, client] = await Promise.all([pod.startProxy(), pod.startServer(), pod.startClient({ identity: SIDECAR_IDENTITY })]);
    const look = async (): Promise<unknown> => {
      const before = sidecar.accepted.all.length;
      const connection = await client.connect({ address: pod.address, port: server.port });
      assert.equal((await connection.exchange(1_000)).exact, true);
      const { local, peer } = await connection.describe();
      await connection.close();
      return { client: local.address, peer, sidecar: sightOf(sidecar.accepted.all.slice(before)) };
    };
    const underIptables = await look();
    await turnOn(observed, pod);
    assert.deepEqual(await look(), underIptables);
    assert.equal((await count(observed))['redirected_to_inbound'], 1);
  });

  test('the owner of a connection is who made its socket, as the rules see it', async () => {
    const conversation = await Conversation.start(lab);
    const { outbound, inbound } = conversation.parts;
    const look = async (creator: number, connector: number): Promise<unknown> => {
      const before = [outbound.accepted.all.length, inbound.accepted.all.length] as const;
      const params = { ...conversation.destination, connections: 1, messages: ['ping'], users: { creator, connector } };
      assert.deepEqual(await (await startRawClient(lab.pod(0), params, { identity: ROOT_IDENTITY })).answers, ['ping']);
      return { outbound: sightOf(outbound.accepted.all.slice(before[0])), inbound: sightOf(inbound.accepted.all.slice(before[1])) };
    };
    const proxyUid = ISTIO_PROFILE.proxyUid;
    const underIptables = [await look(0, proxyUid), await look(proxyUid, 0)];
    assert.notDeepEqual(underIptables[0], underIptables[1]);
    await turnOn(observed, lab.pod(0), lab.pod(1));
    assert.deepEqual([await look(0, proxyUid), await look(proxyUid, 0)], underIptables);
    await turnOff(observed);
    const owners = observed.events.filter(({ hook, original }) => hook === 'connect4' && original !== null).map(({ reason, uid }) => [reason, uid]);
    assert.deepEqual(owners, [
      ['redirected_to_outbound', 0],
      ['redirected_to_inbound', proxyUid],
      ['redirected_to_inbound', proxyUid],
    ]);
  });

  test('a socket that was made before acceleration is on is decided by who connects it', async () => {
    const conversation = await Conversation.start(lab);
    await withGate(async (gate) => {
      const params = { ...conversation.destination, connections: 1, messages: ['ping'], users: { creator: 0, connector: 2_000 }, gate, gateAt: 'connect' } as const;
      const client = await startRawClient(lab.pod(0), params, { identity: ROOT_IDENTITY });
      await client.waiting;
      await turnOn(observed, lab.pod(0), lab.pod(1));
      openGate(gate);
      assert.deepEqual(await client.answers, ['ping']);
    });
    await turnOff(observed);
    assert.equal(observed.events.find(({ reason }) => reason === 'redirected_to_outbound')?.uid, 2_000);
  });

  test('connections that the mesh leaves alone are left alone', async () => {
    const [pod, other] = [lab.pod(0), lab.pod(1)];
    const [sidecar, otherSidecar, loopback, own, excluded, client, proxyClient] = await Promise.all([
      pod.startProxy(),
      other.startProxy(),
      pod.startServer({ address: '127.0.0.1' }),
      pod.startServer({ address: pod.address }),
      other.startServer({ port: 15_020 }),
      pod.startClient(),
      pod.startClient({ identity: SIDECAR_IDENTITY }),
    ]);
    await turnOn(observed, pod, other);
    for (const [from, address, port] of [
      [client, '127.0.0.1', loopback.port],
      [client, '0.0.0.0', loopback.port],
      [client, pod.address, own.port],
      [proxyClient, other.address, excluded.port],
    ] as const) {
      const connection = await from.connect({ address, port });
      assert.equal((await connection.exchange(5_000)).exact, true);
      await connection.close();
    }
    const counters = await count(observed);
    assert.equal(counters['passed_loopback'], 2);
    assert.equal(counters['passed_own_address'], 1);
    assert.equal(counters['passed_excluded_port'], 1);
    assert.equal(counters['enrolled_active'], 0);
    assert.equal(counters['answered_original_destination'], 0);
    assert.deepEqual([sidecar.accepted.all.length, otherSidecar.accepted.all.length], [0, 0]);
    // A port that nobody listens on is refused as ever: the sidecar of this pod takes the connection first.
    await assert.rejects(proxyClient.connect({ address: other.address, port: 15_021 }), { code: 'ECONNREFUSED' });
  });

  test('what is not read is bounded: the rest goes through TCP, in order', async () => {
    observed = observe({ unreadLimit: 64n * 1024n });
    const conversation = await Conversation.start(lab);
    await turnOn(observed, lab.pod(0), lab.pod(1));
    const connection = await conversation.connect();
    const bytes = 4 * 1024 * KIBIBYTE;
    const sent = connection.send(bytes);
    await conversation.parts.inbound.accepted.waitFor();
    const received = await connection.receive(bytes);
    await sent;
    assert.deepEqual(received, { bytes, exact: true, firstDifference: null, ended: false });
    const counters = await count(observed);
    assert.ok((counters['message_passed_unread_limit'] ?? 0) > 0, JSON.stringify(counters));
    await connection.close();
  });

  test('connections go on when acceleration is turned off, for one pod and then for all', async () => {
    const conversation = await Conversation.start(lab);
    const info = await turnOn(observed, lab.pod(0), lab.pod(1));
    const connections = await Promise.all(Array.from({ length: 4 }, async (_, index) => conversation.connect(index + 1)));
    const exchangeAll = async (): Promise<void> => {
      for (const received of await Promise.all(connections.map((connection) => connection.exchange(100_000)))) {
        assert.deepEqual(received, { bytes: 100_000, exact: true, firstDifference: null, ended: false });
      }
    };
    await exchangeAll();
    assert.equal(await readEntries(info, 'connections'), 12);
    // Data is on its way while the switch is thrown.
    const busy = exchangeAll();
    const first = await turnOff(observed, [lab.pod(0).cgroup]);
    await busy;
    // What answers about the connections stays until they are closed.
    assert.deepEqual(first, { detachedLinks: REWRITING_PROGRAMS.length, remainingConnections: 8, leaving: [{ cgroup: lab.pod(0).cgroup, openConnections: 8 }] });
    await exchangeAll();
    const between = await count(observed);
    assert.ok((between['message_passed_switched_off'] ?? 0) > 0);
    const busyAgain = exchangeAll();
    const second = await turnOff(observed);
    await busyAgain;
    assert.deepEqual([second.detachedLinks, second.remainingConnections, second.leaving?.map(({ openConnections }) => openConnections)], [REWRITING_PROGRAMS.length, 4, [8]]);
    await exchangeAll();
    await Promise.all(connections.map((connection) => connection.close()));
    const ended = await conversation.parts.server.ended.waitForCount(4);
    for (const { receivedBytes, error } of ended) {
      assert.deepEqual([receivedBytes, error], [500_000, null]);
    }
    await waitForNothingLeft({ labId: 'of no lab', programIds: info.programIds });
  });

  test('turning it off and on again while connections are opened loses none', async () => {
    const conversation = await Conversation.start(lab);
    const working = new AbortController();
    const work = async (): Promise<number> => {
      let done = 0;
      while (!working.signal.aborted) {
        const connection = await conversation.connect();
        const received = await connection.exchange(3_000, 1_000);
        assert.deepEqual(received, { bytes: 3_000, exact: true, firstDifference: null, ended: false });
        await connection.close();
        done += 1;
      }
      return done;
    };
    const workers = [work(), work(), work()];
    for (let round = 0; round < 6; round += 1) {
      await turnOn(observed, lab.pod(0), lab.pod(1));
      await conversation.parts.server.ended.waitForCount(conversation.parts.server.ended.all.length + 10);
      await turnOff(observed);
      await conversation.parts.server.ended.waitForCount(conversation.parts.server.ended.all.length + 10);
    }
    working.abort();
    const done = await Promise.all(workers);
    assert.ok(done.reduce((sum, value) => sum + value, 0) >= 100);
  });

  test('connections that conntrack remembers do not lead new ones astray', async () => {
    // With few ports nearly every new connection has one from which netfilter redirected another a moment ago; conntrack
    // then gives it a new source port on its way, and the accepting side sees another tuple than the connecting one.
    await Promise.all(lab.pods.map((pod) => pod.run('sysctl', ['-qw', 'net.ipv4.ip_local_port_range=40000 40999'])));
    const conversation = await Conversation.start(lab);
    const openMany = async (): Promise<void> => {
      for (let round = 0; round < 25; round += 1) {
        await Promise.all(
          Array.from({ length: 8 }, async () => {
            const connection = await conversation.connect();
            assert.deepEqual(await connection.exchange(3_000, 1_000), { bytes: 3_000, exact: true, firstDifference: null, ended: false });
            await connection.close();
          }),
        );
      }
    };
    await openMany();
    const info = await turnOn(observed, lab.pod(0), lab.pod(1));
    await openMany();
    const counters = await count(observed);
    assert.equal(counters['redirected_to_outbound'], 200);
    assert.equal(counters['answered_original_destination'], 400);
    const passive = observed.events.filter(({ reason }) => reason === 'enrolled_passive');
    assert.ok(passive.some(({ local, remote }) => !isSeenAlike(observed.events, local, remote)), 'conntrack changed no port: this was no test');
    await waitForEmpty(info, 'connections');
    await waitForEmpty(info, 'handshakes');
  });

  test('when the agent is killed, connections go on and everything is freed', async () => {
    const conversation = await Conversation.start(lab);
    const request = JSON.stringify({ profile: 'istio', pods: [lab.pod(0).enrolment, lab.pod(1).enrolment] });
    const agent = spawn(process.execPath, ['--import', 'tsx', AGENT, request], { stdio: ['ignore', 'pipe', 'inherit'] });
    try {
      const [line] = (await once(agent.stdout, 'data')) as [Buffer];
      observed.programIds.push(...(JSON.parse(line.toString()) as AccelerationInfo).programIds);
      const connection = await conversation.connect();
      assert.equal((await connection.exchange(50_000)).exact, true);
      agent.kill('SIGKILL');
      await once(agent, 'exit');
      const received = await connection.exchange(2 * 1024 * KIBIBYTE);
      assert.deepEqual(received, { bytes: 2 * 1024 * KIBIBYTE, exact: true, firstDifference: null, ended: false });
      await connection.close();
      await conversation.look();
    } finally {
      agent.kill('SIGKILL');
    }
  });

  test('refuses what it cannot do, and leaves nothing half on', async () => {
    const [a, b] = [lab.pod(0), lab.pod(1)];
    const on = async (...pods: readonly PodEnrolment[]): Promise<unknown> => observed.accelerator.turnAccelerationOn({ profile: 'istio', pods }, CONTEXT);
    const missing = { cgroup: `${a.cgroup}-missing` as CgroupPath, addresses: [toIpAddress('10.99.0.1')] };
    await assert.rejects(on(a.enrolment, missing), failsWith('CGROUP_NOT_FOUND', missing.cgroup));
    await assert.rejects(on({ cgroup: `/${lab.id}` as CgroupPath, addresses: [toIpAddress('10.99.0.1')] }, a.enrolment), failsWith('ACCELERATION_OVERLAPS'));
    await assert.rejects(observed.accelerator.turnAccelerationOn({ profile: 'nomesh', pods: [a.enrolment] }, CONTEXT), failsWith('PROFILE_INVALID', 'istio'));
    await assert.rejects(turnOff(observed), failsWith('ACCELERATION_NOT_FOUND'));
    await assert.rejects(observed.accelerator.countDecisions({ profile: 'istio' }, CONTEXT), failsWith('ACCELERATION_NOT_FOUND'));

    await turnOn(observed, a);
    await assert.rejects(on(a.enrolment), failsWith('ACCELERATION_ALREADY_ON'));
    await assert.rejects(on({ ...b.enrolment, addresses: a.addresses }), failsWith('ACCELERATION_OVERLAPS', a.address));
    const another = observe();
    await assert.rejects(turnOn(another, b, a), failsWith('ACCELERATION_OVERLAPS', 'meshpath_connec'));
    assert.deepEqual(await another.accelerator.listAccelerations({}, CONTEXT), []);
    const [listed] = await observed.accelerator.listAccelerations({}, CONTEXT);
    assert.deepEqual(listed?.pods, [a.enrolment]);
  });

  test('names the program that somebody else attached exclusively, and undoes the other pods', async () => {
    const [a, b] = [lab.pod(0), lab.pod(1)];
    const libbpf = openLibbpf();
    const settings = { profile: ISTIO_PROFILE, unreadLimit: 0n, connectionLimit: 0n, eventLimit: 0, hasNetnsCookie: false };
    const foreign = loadBpfObject(libbpf, readFileSync(prebuiltObject), {
      name: 'meshpath',
      readOnlyData: (initial, btf) => encodeSettings(btf, initial, settings),
    });
    // Below a cgroup of its own: an exclusive attachment ends with its cgroup.
    const cgroup = `${b.cgroup}/exclusive` as CgroupPath;
    const folder = join(b.cgroupFolder, 'exclusive');
    await run('mkdir', [folder]);
    const fd = openSync(folder, constants.O_RDONLY);
    try {
      assert.equal(libbpf.functions.bpf_prog_attach(foreign.programFd('meshpath_getsockopt'), fd, ATTACH_TYPE.cgroupGetsockopt, 0), 0);
      const pods = [a.enrolment, { cgroup, addresses: b.addresses }];
      await assert.rejects(
        observed.accelerator.turnAccelerationOn({ profile: 'istio', pods }, CONTEXT),
        failsWith('BPF_ATTACH_EXCLUSIVE', 'meshpath_getsoc', cgroup),
      );
      assert.deepEqual(await observed.accelerator.listAccelerations({}, CONTEXT), []);
      const reader = createKernelObjectReader(libbpf, findCgroup2Mount);
      const cgroups = await reader.listCgroups(a.cgroup, CONTEXT.signal);
      assert.deepEqual(cgroups.flatMap(({ attachments }) => attachments), []);
    } finally {
      closeSync(fd);
      foreign.close();
      await run('rmdir', [folder]);
    }
  });
});

suite('the datapath in pods without any rules', { skip: missingForKernel() }, () => {
  test('redirects by itself, and falls open for a pod that is not enrolled', async () => {
    const lab = await createLab({ rules: 'none', pods: 3 });
    const observed = observe();
    try {
      const conversation = await Conversation.start(lab);
      await turnOn(observed, lab.pod(0), lab.pod(1));
      const { address, port } = conversation.destination;
      assert.deepEqual(await conversation.look(), {
        clientAddress: lab.pod(0).address,
        clientPeer: { address, port },
        outbound: [{ listener: 'outbound', peer: lab.pod(0).address, local: { address: '127.0.0.1', port: 15_001 }, originalDestination: { address, port }, originalDestinationError: null }],
        inbound: [{ listener: 'inbound', peer: lab.pod(0).address, local: { address, port: 15_006 }, originalDestination: { address, port }, originalDestinationError: null }],
        serverPeer: '127.0.0.6',
        serverLocal: { address, port },
      });
      const outside = await lab.pod(2).startServer();
      const connection = await conversation.parts.client.connect({ address: lab.pod(2).address, port: outside.port });
      assert.equal((await connection.exchange(10_000)).exact, true);
      await connection.close();
      assert.equal((await outside.accepted.waitFor()).peer.address, lab.pod(0).address);
      assert.equal((await count(observed))['passed_peer_not_enrolled'], 1);
    } finally {
      await observed.accelerator.dispose();
      await lab.dispose();
    }
    await waitForNothingLeft({ labId: lab.id, programIds: observed.programIds });
  });
});

/** Says whether some connecting side has the tuple that an accepting side has. */
function isSeenAlike(events: readonly DecisionEvent[], local: Endpoint, remote: Endpoint): boolean {
  const isSame = (left: Endpoint, right: Endpoint): boolean => left.address === right.address && left.port === right.port;
  return events.some((event) => event.reason === 'enrolled_active' && isSame(event.local, remote) && isSame(event.remote, local));
}

/** Calls `use` with the path of a file that is not there yet, for raw clients to wait for. */
async function withGate(use: (gate: string) => Promise<void>): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'meshpath-gate-'));
  try {
    chmodSync(folder, 0o755);
    await use(join(folder, 'gate'));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Lets everybody go on who waits for the file. */
function openGate(path: string): void {
  writeFileSync(path, '');
}
