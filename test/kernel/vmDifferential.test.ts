import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { afterEach, beforeEach, suite, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { createAgentService } from '../../agent/service.ts';
import { AGENT_VERSION } from '../../agent/version.ts';
import type { ProgramIdentity } from '../../agent/lab/programs/reports.ts';
import { ISTIO_PROFILE } from '../../agent/protocol/acceleration.ts';
import type { DecisionEvent } from '../../agent/protocol/acceleration.ts';
import { toIpAddress } from '../../agent/protocol/ipAddress.ts';
import { connectInProcess } from '../../agent/protocol/node.ts';
import type { Node } from '../../agent/protocol/node.ts';
import { toPortNumber } from '../../agent/protocol/scalars.ts';
import type { Endpoint } from '../../agent/protocol/scalars.ts';
import type { Flow, FlowSource } from '../../agent/protocol/trace.ts';
import { prebuiltObject } from '../../scripts/compileBpf.mjs';
import { explainQuestion } from '../../simulator/explain/questionPath.ts';
import type { QuestionFlow, QuestionPrediction } from '../../simulator/explain/questionPath.ts';
import { predictSockops } from '../../simulator/explain/sockopsPath.ts';
import { buildWorld } from '../../simulator/world/world.ts';
import { createLab } from '../lab/lab.ts';
import type { Lab } from '../lab/lab.ts';
import { SIDECAR_IDENTITY } from '../../agent/lab/pod.ts';
import type { LabPod } from '../../agent/lab/pod.ts';
import { waitForNothingLeft } from '../lab/leftovers.ts';
import { meshRules } from '../lab/meshRules.ts';
import { missingForKernel } from '../requirements.ts';
import type { DatagramStep } from './datagramClient.ts';
import { startDatagramClient, startDnsServer } from './datagramPrograms.ts';

/** Ports from here on are chosen by the kernel (net.ipv4.ip_local_port_range). */
const FIRST_EPHEMERAL_PORT = 32_768;
const APPLICATION_ID = 1000;

interface Comparison {
  readonly lab: Lab;
  readonly node: Node;
  readonly events: DecisionEvent[];
  /** Of all programs that were loaded. */
  readonly programIds: number[];
}

async function turnOn({ node, programIds }: Comparison, ...pods: readonly LabPod[]): Promise<void> {
  const info = await node.call('turnAccelerationOn', { profile: 'istio', pods: pods.map(({ enrolment }) => enrolment) });
  programIds.push(...info.programIds);
}

/**
 * What each socket's programs decided, in order, one line a socket. Sockets are told apart by their cookie, which is left
 * out, as are ports that the kernel chose. What depends on the applications is left out too: the virtual machine follows
 * one message from client to server and lets every client ask for its peer's name; the lab's server answers, and its
 * sidecars do not ask.
 */
function decisionsBySocket(events: readonly DecisionEvent[]): readonly string[] {
  const sockets = new Map<string, DecisionEvent[]>();
  for (const event of events) {
    sockets.set(event.socketCookie, [...(sockets.get(event.socketCookie) ?? []), event]);
  }
  return [...sockets.values()]
    .map((list) => {
      const isAccepting = list.some(({ reason }) => reason === 'enrolled_passive');
      return list
        .filter(({ hook, reason, uid }) => reason !== 'connection_closed' && !(isAccepting && hook === 'sk_msg') && !(uid === SIDECAR_IDENTITY.uid && hook.startsWith('getpeername')))
        .map(describeDecision)
        .join(' | ');
    })
    .sort();
}

function describeDecision({ hook, reason, errno, uid, local, remote, original }: DecisionEvent): string {
  return `${hook} ${reason} ${errno} uid ${uid} ${describeEnd(local)} → ${describeEnd(remote)}, original ${original === null ? 'none' : describeEnd(original)}`;
}

/** Before connect(2) a bound socket has its port already, or not yet (IP_BIND_ADDRESS_NO_PORT): that is the application's choice. */
function describeEnd({ address, port }: Endpoint): string {
  return `${address}:${port === 0 || port >= FIRST_EPHEMERAL_PORT ? '*' : port}`;
}

/** Waits until the programs have nothing more to say. */
async function settle(events: readonly DecisionEvent[]): Promise<void> {
  for (let known = -1; known !== events.length; ) {
    known = events.length;
    await delay(300);
  }
}

/** Lets the virtual machine predict, from a snapshot of the very node, and compares with what its kernel told. */
async function compare({ lab, node, events }: Comparison, destination: Endpoint): Promise<readonly DecisionEvent[]> {
  const client = await lab.pod(0).startClient();
  const snapshot = await node.call('takeSnapshot', {});
  const flow: Flow = {
    protocol: 'tcp',
    source: { kind: 'process', namespace: lab.pod(0).namespaceId, cgroup: lab.pod(0).cgroup, uid: APPLICATION_ID, gid: APPLICATION_ID, address: null, port: null },
    destination,
  };
  const predicted = predictSockops(buildWorld(snapshot), flow, readFileSync(prebuiltObject));
  assert.equal(predicted.trace.outcome.result, 'delivered', predicted.trace.outcome.summary);
  const connection = await client.connect(destination);
  const received = await connection.exchange(1_024);
  assert.ok(received.exact);
  await settle(events);
  await connection.close();
  assert.deepEqual(decisionsBySocket(predicted.events), decisionsBySocket(events));
  return predicted.events;
}

suite('the virtual machine against the kernel: what the programs decide about real connections', { skip: missingForKernel() }, () => {
  let comparison: Comparison;

  beforeEach(async () => {
    const events: DecisionEvent[] = [];
    const node = connectInProcess(createAgentService({ objectPath: prebuiltObject, agentVersion: AGENT_VERSION }));
    node.listen('decisions', (decisions) => {
      events.push(...decisions.events);
    });
    try {
      comparison = { lab: await createLab({ rules: 'istio' }), node, events, programIds: [] };
    } catch (error) {
      await node.close();
      throw error;
    }
  });
  afterEach(async () => {
    await comparison.node.close();
    await comparison.lab.dispose();
    await waitForNothingLeft({ labId: comparison.lab.id, programIds: comparison.programIds });
  });

  test('between two accelerated pods', async () => {
    const { lab } = comparison;
    const [server] = await Promise.all([lab.pod(1).startServer({ port: 8080 }), lab.pod(0).startProxy(), lab.pod(1).startProxy()]);
    await turnOn(comparison, lab.pod(0), lab.pod(1));
    const events = await compare(comparison, { address: lab.pod(1).address, port: toPortNumber(server.port) });
    assert.equal(events.filter(({ reason }) => reason === 'message_redirected').length, 3);
  });

  test('where only the connecting pod is accelerated', async () => {
    const { lab } = comparison;
    const [server] = await Promise.all([lab.pod(1).startServer({ port: 8080 }), lab.pod(0).startProxy(), lab.pod(1).startProxy()]);
    await turnOn(comparison, lab.pod(0));
    const events = await compare(comparison, { address: lab.pod(1).address, port: toPortNumber(server.port) });
    assert.ok(events.some(({ reason }) => reason === 'passed_peer_not_enrolled'));
  });

  test('where only the accepting pod is accelerated', async () => {
    const { lab } = comparison;
    const [server] = await Promise.all([lab.pod(1).startServer({ port: 8080 }), lab.pod(0).startProxy(), lab.pod(1).startProxy()]);
    await turnOn(comparison, lab.pod(1));
    const events = await compare(comparison, { address: lab.pod(1).address, port: toPortNumber(server.port) });
    assert.ok(events.some(({ reason }) => reason === 'sidecar_to_application'));
  });

  test('over loopback and to the own address', async () => {
    const { lab, events } = comparison;
    const [server] = await Promise.all([lab.pod(0).startServer({ port: 9000 }), lab.pod(0).startProxy()]);
    await turnOn(comparison, lab.pod(0));
    const reasons = await compare(comparison, { address: toIpAddress('127.0.0.1'), port: toPortNumber(server.port) });
    assert.deepEqual(reasons.map(({ reason }) => reason), ['passed_loopback']);
    events.length = 0;
    const own = await compare(comparison, { address: lab.pod(0).address, port: toPortNumber(server.port) });
    assert.equal(own[0]?.reason, 'passed_own_address');
  });

  test('over IPv6, between two accelerated pods', async () => {
    const { lab, node, programIds } = comparison;
    const addresses = lab.pods.map((_, index) => toIpAddress(`fd00:77::${11 + index}`));
    await Promise.all(
      lab.pods.map(async (pod, index) => {
        await pod.run('ip', ['-6', 'address', 'add', `${addresses[index] ?? ''}/64`, 'dev', 'eth0', 'nodad']);
        await pod.run('ip', ['-6', 'address', 'add', `${ISTIO_PROFILE.passthroughSourceV6 ?? ''}/128`, 'dev', 'lo', 'nodad']);
        await pod.run('ip6tables-restore', [], meshRules(ISTIO_PROFILE, 6));
      }),
    );
    const proxy = { listenAddress: '::', passthroughSourceV6: ISTIO_PROFILE.passthroughSourceV6 ?? '' };
    const [server] = await Promise.all([lab.pod(1).startServer({ address: '::', port: 8080 }), ...lab.pods.map((pod) => pod.startProxy(proxy))]);
    const info = await node.call('turnAccelerationOn', { profile: 'istio', pods: lab.pods.map(({ cgroup, address }, index) => ({ cgroup, addresses: [address, ...addresses.slice(index, index + 1)] })) });
    programIds.push(...info.programIds);
    const [, destination] = addresses;
    assert.ok(destination !== undefined);
    const events = await compare(comparison, { address: destination, port: toPortNumber(server.port) });
    assert.equal(events.filter(({ reason }) => reason === 'message_redirected').length, 3);
  });

  for (const connects of [false, true]) {
    test(`a question over UDP, ${connects ? 'of a connected socket' : 'of one that is not connected'}`, async () => {
      const { lab, node, events } = comparison;
      const pod = lab.pod(0);
      await startDnsServer(pod, { identity: SIDECAR_IDENTITY, name: 'sidecar', addresses: ['127.0.0.1'], port: ISTIO_PROFILE.dnsPort ?? 0, answer: '192.0.2.1' });
      await turnOn(comparison, pod);
      const resolver: Endpoint = { address: toIpAddress('10.96.0.10'), port: toPortNumber(53) };
      const source: FlowSource = { kind: 'process', namespace: pod.namespaceId, cgroup: pod.cgroup, uid: APPLICATION_ID, gid: APPLICATION_ID, address: null, port: null };
      const world = buildWorld(await node.call('takeSnapshot', {}));
      const predict = (flow: Partial<QuestionFlow>): QuestionPrediction => explainQuestion(world, { protocol: 'udp', source, destination: resolver, connects, ...flow }, readFileSync(prebuiltObject));
      const predicted = predict({});
      assert.equal(predicted.trace.outcome.result, 'delivered', predicted.trace.outcome.summary);
      assert.match(predicted.trace.outcome.summary, connects ? /captured by connect4: An application asks/ : /captured by sendmsg4: An application asks/);
      const send: DatagramStep = { do: 'send', name: 'a', text: 'q', ...(connects ? {} : { to: resolver }) };
      const steps: readonly DatagramStep[] = [
        { do: 'socket', name: 'a', family: 4 },
        ...(connects ? ([{ do: 'connect', name: 'a', to: resolver }] as const) : []),
        send,
        ...(connects ? ([{ do: 'peer', name: 'a' }] as const) : []),
        { do: 'receive', name: 'a' },
      ];
      const ask = async (identity?: ProgramIdentity): Promise<void> => {
        events.length = 0;
        const results = await (await startDatagramClient(pod, steps, identity)).results;
        assert.equal(results.find(({ from }) => from !== undefined)?.from?.address ?? 'nobody', identity === undefined ? resolver.address : 'nobody');
        await settle(events);
      };
      await ask();
      assert.deepEqual(decisionsBySocket(predicted.events), decisionsBySocket(events));
      assert.ok(events.some(({ reason }) => reason === 'answered_resolver'));
      // The sidecar's own questions are left alone, and nobody is there to answer them.
      const own = predict({ source: { ...source, uid: SIDECAR_IDENTITY.uid, gid: SIDECAR_IDENTITY.gid } });
      assert.equal(own.trace.outcome.result, 'depends');
      await ask(SIDECAR_IDENTITY);
      assert.deepEqual(decisionsBySocket(own.events), decisionsBySocket(events.filter(({ reason }) => reason.startsWith('question_'))));
    });
  }
});
