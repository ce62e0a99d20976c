import assert from 'node:assert/strict';
import { join } from 'node:path';
import { afterEach, beforeEach, suite, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { createAgentService } from '../../agent/service.ts';
import { AGENT_VERSION } from '../../agent/version.ts';
import type { ConnectionInfo, ConnectionScope } from '../../agent/protocol/connections.ts';
import { connectInProcess } from '../../agent/protocol/node.ts';
import type { Node } from '../../agent/protocol/node.ts';
import { prebuiltObject } from '../../scripts/compileBpf.mjs';
import { createLab } from '../lab/lab.ts';
import type { Lab } from '../lab/lab.ts';
import { SIDECAR_IDENTITY } from '../../agent/lab/pod.ts';
import type { LabPod } from '../../agent/lab/pod.ts';
import { waitForNothingLeft } from '../lab/leftovers.ts';
import { missingForKernel } from '../requirements.ts';
import type { RawClientParams } from './datapathRawClient.ts';

const RAW_CLIENT = join(import.meta.dirname, 'datapathRawClient.ts');
/** Ports that the profile leaves alone on the way in. */
const EXCLUDED_PORT = 15_090;
const OTHER_EXCLUDED_PORT = 15_021;
const MESSAGE_BYTES = 1_024;
const PATIENCE_MILLISECONDS = 10_000;

function startAgent(): Node {
  return connectInProcess(createAgentService({ objectPath: prebuiltObject, agentVersion: AGENT_VERSION }));
}

/** What of a connection a test compares. */
function summarize({ role, near, far, verdict }: ConnectionInfo): string {
  const process = (end: ConnectionInfo['near'] | null): string => (end === null ? 'elsewhere' : `${end.pod ?? 'no pod'}/uid ${end.uid}`);
  return `${role} ${process(near)} → ${process(far)}: ${verdict.state} ${verdict.reason ?? ''}`.trimEnd();
}

suite('why each connection of a real node is accelerated or not', { skip: missingForKernel() }, () => {
  let lab: Lab;
  let node: Node;
  let programIds: number[];

  beforeEach(async () => {
    node = startAgent();
    programIds = [];
    try {
      lab = await createLab({ rules: 'istio' });
    } catch (error) {
      await node.close();
      throw error;
    }
  });
  afterEach(async () => {
    await node.close();
    await lab.dispose();
    await waitForNothingLeft({ labId: lab.id, programIds });
  });

  const turnOn = async (...pods: readonly LabPod[]): Promise<void> => {
    const info = await node.call('turnAccelerationOn', { profile: 'istio', pods: pods.map(({ enrolment }) => enrolment) });
    programIds.push(...info.programIds);
  };

  /** The connections of the lab that are listed with a port at either end. */
  const listAt = async (port: number, scope: ConnectionScope = 'accelerated-pods', from: Node = node): Promise<readonly ConnectionInfo[]> => {
    const { connections } = await from.call('listConnections', { scope });
    const namespaces = new Set(lab.pods.map(({ namespaceId }) => namespaceId));
    return connections.filter(
      ({ near, far, original }) =>
        namespaces.has(near.namespace) && [near.local, near.remote, far?.local, far?.remote, original].some((end) => end?.port === port),
    );
  };

  /** Decisions come a moment after they were taken. */
  const waitFor = async (port: number, done: (connections: readonly ConnectionInfo[]) => boolean, scope: ConnectionScope = 'accelerated-pods'): Promise<readonly ConnectionInfo[]> => {
    const deadline = performance.now() + PATIENCE_MILLISECONDS;
    for (;;) {
      const connections = await listAt(port, scope);
      if (done(connections)) {
        return connections;
      }
      assert.ok(performance.now() < deadline, `still: ${connections.map(summarize).join('; ')}`);
      await delay(50);
    }
  };

  test('all three connections of a path through two sidecars are accelerated, with their bytes', async () => {
    const [client, server] = await Promise.all([lab.pod(0).startClient(), lab.pod(1).startServer({ port: 8080 }), lab.pod(0).startProxy(), lab.pod(1).startProxy()]);
    await turnOn(lab.pod(0), lab.pod(1));
    const connection = await client.connect({ address: lab.pod(1).address, port: server.port });
    assert.ok((await connection.exchange(MESSAGE_BYTES)).exact);
    const connections = await waitFor(server.port, (found) => found.length === 3 && found.every(({ verdict }) => verdict.state === 'accelerated'));
    for (const { near, far, role, profile, verdict, openedBootNanoseconds } of connections) {
      assert.deepEqual([role, profile, verdict.reason], ['connecting', 'istio', null]);
      // Both ends said as much as they heard, none of it through TCP.
      assert.deepEqual([near.redirectedBytes, far?.redirectedBytes], [String(MESSAGE_BYTES), String(MESSAGE_BYTES)]);
      assert.deepEqual([near.tcpBytes ?? '0', far?.tcpBytes ?? '0'], ['0', '0']);
      assert.ok(BigInt(openedBootNanoseconds ?? 0) > 0n);
    }
    const outbound = connections.find(({ near }) => near.process?.pid === client.pid);
    assert.deepEqual(outbound?.original, { address: lab.pod(1).address, port: server.port });
    assert.equal(outbound.far?.uid, SIDECAR_IDENTITY.uid);
    await connection.close();
    await waitFor(server.port, (found) => found.length === 0);
  });

  test('a port that the profile leaves alone, and a loopback address', async () => {
    const [client, server, sidecar] = await Promise.all([lab.pod(0).startClient(), lab.pod(1).startServer({ port: EXCLUDED_PORT }), lab.pod(0).startClient({ identity: SIDECAR_IDENTITY })]);
    const local = await lab.pod(0).startServer({ port: 9000, address: '127.0.0.1' });
    await turnOn(lab.pod(0), lab.pod(1));
    const excluded = await sidecar.connect({ address: lab.pod(1).address, port: server.port });
    assert.ok((await excluded.exchange(MESSAGE_BYTES)).exact);
    const [found, ...others] = await waitFor(server.port, (list) => list[0]?.verdict.state === 'not');
    assert.deepEqual([found?.verdict.reason, found?.role, others.length], ['passed_excluded_port', 'connecting', 0]);
    assert.equal(found?.far?.pod, (await node.call('listPods', {})).find(({ namespace }) => namespace === lab.pod(1).namespaceId)?.name);
    assert.deepEqual([found?.near.tcpBytes, found?.near.redirectedBytes], [String(MESSAGE_BYTES), null]);
    const loopback = await client.connect({ address: '127.0.0.1', port: local.port });
    const [home] = await waitFor(local.port, (list) => list[0]?.verdict.state === 'not');
    assert.equal(home?.verdict.reason, 'passed_loopback');
    await Promise.all([excluded.close(), loopback.close()]);
  });

  test('a connection that was open before, beside a new one', async () => {
    const [client, server] = await Promise.all([lab.pod(0).startClient({ identity: SIDECAR_IDENTITY }), lab.pod(0).startServer({ port: 9001, address: '127.0.0.1' })]);
    const before = await client.connect({ address: '127.0.0.1', port: server.port });
    await turnOn(lab.pod(0));
    const after = await client.connect({ address: '127.0.0.1', port: server.port });
    assert.ok((await before.exchange(MESSAGE_BYTES)).exact && (await after.exchange(MESSAGE_BYTES)).exact);
    const found = await waitFor(server.port, (list) => list.length === 2 && list.some(({ verdict }) => verdict.state === 'accelerated'));
    assert.deepEqual(found.map(({ verdict }) => verdict.reason).sort(), [null, 'opened_before'].sort());
    // Turned off, the accelerated one goes on over TCP, and where it has sent something meanwhile, for good.
    await node.call('turnAccelerationOff', { cgroups: null });
    const reasons = async (): Promise<readonly unknown[]> => (await listAt(server.port, 'all')).map(({ verdict }) => verdict.reason).sort();
    assert.deepEqual(await reasons(), ['message_passed_switched_off', 'no_pod']);
    assert.ok((await after.exchange(MESSAGE_BYTES)).exact);
    await turnOn(lab.pod(0));
    assert.deepEqual(await reasons(), ['message_passed_switched_off', 'opened_before']);
    await Promise.all([before.close(), after.close()]);
  });

  test('a direction that sent before its peer was ready stays with TCP, the other does not', async () => {
    const server = await lab.pod(0).startServer({ port: 9002, address: '127.0.0.1', mode: 'sink' });
    await turnOn(lab.pod(0));
    const params: RawClientParams = { identity: SIDECAR_IDENTITY, address: '127.0.0.1', port: server.port, delayAck: true, connections: 1, messages: ['1111', '2222'] };
    // It waits for an answer that never comes, so that the connection stays open.
    await lab.pod(0).start([process.execPath, '--import', 'tsx', RAW_CLIENT, JSON.stringify(params)], { identity: { uid: 0, gid: 0 } });
    const [found] = await waitFor(server.port, (list) => list[0]?.verdict.state === 'partly');
    assert.equal(found?.verdict.reason, 'message_passed_peer_missing');
    assert.match(found.verdict.text, /connecting end sends goes through TCP/);
    assert.deepEqual([found.near.redirectedBytes, found.near.tcpBytes], ['0', '8']);
  });

  test('peers without acceleration, from either side, and an agent that turned nothing on', async () => {
    const [sidecar, stranger, here, there] = await Promise.all([
      lab.pod(0).startClient({ identity: SIDECAR_IDENTITY }),
      lab.pod(1).startClient({ identity: SIDECAR_IDENTITY }),
      lab.pod(0).startServer({ port: EXCLUDED_PORT }),
      lab.pod(1).startServer({ port: OTHER_EXCLUDED_PORT }),
    ]);
    await turnOn(lab.pod(0));
    const out = await sidecar.connect({ address: lab.pod(1).address, port: there.port });
    const incoming = await stranger.connect({ address: lab.pod(0).address, port: here.port });
    assert.ok((await incoming.exchange(MESSAGE_BYTES)).exact);
    const [passed] = await waitFor(there.port, (list) => list.some(({ verdict }) => verdict.state === 'not'));
    assert.equal(passed?.verdict.reason, 'passed_peer_not_enrolled');
    const [found] = await waitFor(here.port, (list) => list.some(({ verdict }) => verdict.state === 'not'));
    assert.deepEqual([found?.verdict.reason, found?.near.inAcceleratedPod, found?.far?.inAcceleratedPod], ['connecting_side_not_enrolled', false, true]);
    const other = startAgent();
    try {
      const seen = (await listAt(there.port, 'accelerated-pods', other)).map(({ verdict }) => [verdict.state, verdict.reason]);
      assert.deepEqual(seen, [['unknown', 'decided_elsewhere']]);
    } finally {
      await other.close();
    }
    await Promise.all([out.close(), incoming.close()]);
  });
});
