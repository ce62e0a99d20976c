import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, suite, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { ISTIO_PROFILE } from '../../agent/protocol/acceleration.ts';
import type { DecodedValue } from '../../agent/protocol/mapEntries.ts';
import { createLab } from '../lab/lab.ts';
import type { Lab } from '../lab/lab.ts';
import { waitForNothingLeft } from '../lab/leftovers.ts';
import { APPLICATION_IDENTITY, SIDECAR_IDENTITY } from '../../agent/lab/pod.ts';
import { missingForKernel } from '../requirements.ts';
import { LabAcceleration } from '../soak/acceleration.ts';
import { Stage } from '../soak/stage.ts';
import type { SoakMode, StageResult } from '../soak/stage.ts';
import { countFailures, runClient, SoakServer, startLeaver } from '../soak/traffic.ts';
import type { TrafficResult } from '../soak/traffic.ts';

/** 25,000 connections in all; the long form is npm run soak. */
const RUNS: readonly (readonly [SoakMode, number])[] = [
  ['direct', 3_000],
  ['iptables', 3_000],
  ['ebpf', 4_000],
  ['ebpf-with-rules', 4_000],
  ['switched', 3_000],
  ['switched-on-late', 3_000],
  ['kept', 2_500],
  ['upgraded', 2_500],
];
/** Any: another one is what npm run soak takes each time. */
const SEED = 20_261_122;
const UNREAD_LIMIT = 1024 * 1024;

function assertNothingLost(result: TrafficResult): void {
  assert.equal(countFailures(result), 0, JSON.stringify({ failures: result.failures, examples: result.examples, complaints: result.complaints }, undefined, 2));
}

suite('connections of all sizes and endings, 32 at a time', { skip: missingForKernel() }, () => {
  for (const [mode, connections] of RUNS) {
    suite(mode, () => {
      let stage: Stage;
      before(async () => {
        stage = await Stage.open(mode);
      });
      after(() => stage.dispose());

      test(`${connections.toLocaleString('en-US')} connections, ${mode}: none is corrupted, truncated, refused or hung, and the maps are empty afterwards`, async (context) => {
        const result = await stage.run({ connections, seed: SEED });
        context.diagnostic(describeResult(result));
        assertNothingLost(result);
        assert.equal(result.connections, connections);
        assert.deepEqual(result.keptEntries, []);
        assertTaken(mode, result);
      });
    });
  }
});

/** Else it was no test of acceleration. */
function assertTaken(mode: SoakMode, { connections, switchedOn, takenConnections, redirectedMessages }: StageResult): void {
  switch (mode) {
    case 'direct':
    case 'iptables':
      assert.deepEqual([switchedOn, takenConnections, redirectedMessages], [0, 0, 0]);
      return;
    case 'ebpf':
    case 'ebpf-with-rules':
      assert.equal(takenConnections, connections);
      assert.ok(redirectedMessages > connections);
      return;
    case 'switched':
      assert.ok(switchedOn >= 2 && takenConnections > 0 && takenConnections < connections);
      return;
    case 'kept':
    case 'upgraded':
      // On all the time, whoever has it.
      assert.equal(takenConnections, connections);
      assert.ok(switchedOn >= 2 && redirectedMessages > 0);
      return;
    case 'switched-on-late':
      assert.ok(switchedOn === 1 && takenConnections > 0 && takenConnections < connections);
  }
}

function describeResult({ connections, aborted, bytes, seconds, takenConnections, redirectedMessages, switchedOn }: StageResult): string {
  return `${connections} connections (${aborted} given up on purpose), ${(bytes / 1e6).toFixed(0)} MB, ${(connections / seconds).toFixed(0)} a second; ${takenConnections} taken, ${redirectedMessages} messages redirected, turned on ${switchedOn} times`;
}

suite('acceleration at its edges', { skip: missingForKernel() }, () => {
  let lab: Lab;
  let acceleration: LabAcceleration;

  beforeEach(async () => {
    lab = await createLab({ rules: 'istio' });
    acceleration = new LabAcceleration(lab, { unreadLimit: BigInt(UNREAD_LIMIT), keepsEvents: true });
    await acceleration.turnOn();
  });
  afterEach(async () => {
    await acceleration.dispose();
    await lab.dispose();
    await waitForNothingLeft({ labId: lab.id, programIds: acceleration.programIds });
  });

  for (const [whose, turnOff] of [
    ['both pods', () => acceleration.turnOff()],
    ['the pod of the client', () => acceleration.turnOffFor(lab.pod(0))],
    ['the pod of the server', () => acceleration.turnOffFor(lab.pod(1))],
  ] as const) {
    for (const [leg, identity, place, device, port] of [
      ['an application', APPLICATION_IDENTITY, 0, 'lo', ISTIO_PROFILE.outboundPort],
      ['a sidecar', SIDECAR_IDENTITY, 1, 'eth0', ISTIO_PROFILE.inboundPort],
    ] as const) {
      test(`${leg} whose last ACK of the handshake is still to come is served when acceleration goes off for ${whose}`, async () => {
        const { address, server } = await startSink();
        // Bare ACKs get lost on the way: the handshake is complete only when data comes.
        await lab
          .pod(place)
          .run('iptables', ['-I', 'INPUT', '-i', device, '-p', 'tcp', '--dport', String(port), '--tcp-flags', 'SYN,FIN,RST,PSH,ACK', 'ACK', '-m', 'length', '--length', '52', '-j', 'DROP']);
        const client = await startLeaver(lab.pod(0), { address, port: server.port, delaysAck: true, text: 'late' }, { identity });
        const off = turnOff();
        await delay(100);
        await Promise.all([off, client.leave()]);
        const [ended] = await server.ended.waitForCount(1);
        assert.deepEqual([ended?.receivedBytes, ended?.error], [4, null]);
      });
    }

    test(`a client that leaves before its sidecar has looked is served when acceleration goes off for ${whose}`, async () => {
      const { address, server, outbound } = await startSink();
      process.kill(outbound.pid, 'SIGSTOP');
      const client = await startLeaver(lab.pod(0), { address, port: server.port, delaysAck: false, text: 'gone' });
      await client.leave();
      const off = turnOff();
      await delay(200);
      process.kill(outbound.pid, 'SIGCONT');
      await off;
      const [ended] = await server.ended.waitForCount(1);
      assert.deepEqual([ended?.receivedBytes, ended?.error], [4, null]);
    });
  }

  test('what a client leaves behind goes when its sidecar has looked, or ends without', async () => {
    const { address, server, outbound } = await startSink();
    process.kill(outbound.pid, 'SIGSTOP');
    const client = await startLeaver(lab.pod(0), { address, port: server.port, delaysAck: false, text: 'gone' });
    await client.leave();
    assert.equal((await acceleration.readEntries('connections')).length, 1);
    process.kill(outbound.pid, 'SIGCONT');
    await server.ended.waitForCount(1);
    assert.deepEqual(await acceleration.findKeptEntries(), []);

    process.kill(outbound.pid, 'SIGSTOP');
    const second = await startLeaver(lab.pod(0), { address, port: server.port, delaysAck: false, text: 'gone' });
    await second.leave();
    await outbound.stop();
    assert.deepEqual(await acceleration.findKeptEntries(), []);
  });

  test('what a client sent last is not lost when its next connection has the same ends before a reader has looked', async () => {
    const pod = lab.pod(0);
    const [server, client] = await Promise.all([pod.startServer({ address: '127.0.0.1', mode: 'ends-first' }), pod.startClient({ identity: SIDECAR_IDENTITY })]);
    const ends = { address: '127.0.0.1', port: server.port, localAddress: '127.0.0.1', localPort: 20_000 };
    const first = await client.connect(ends);
    // Its end has come: the client's port is free as soon as it closes, while the server still has the socket.
    assert.equal((await first.receive(1)).ended, true);
    process.kill(server.pid, 'SIGSTOP');
    await first.send(1_000);
    await first.close();
    const second = await client.connect(ends);
    process.kill(server.pid, 'SIGCONT');
    await second.close();
    const ended = await server.ended.waitForCount(2);
    assert.deepEqual(
      ended.map(({ receivedBytes, error }) => [receivedBytes, error]),
      [
        [1_000, null],
        [0, null],
      ],
    );
    assert.equal((await acceleration.countDecisions()).get('message_redirected'), 1);
  });

  test('2,000 connections in two pods with the same addresses and ports on loopback: no byte crosses', async (context) => {
    const address = '127.0.0.1';
    const startAt = Date.now() + 5_000;
    const results = await Promise.all(
      lab.pods.map(async (pod, index) => {
        const tag = 8 + index;
        const server = await SoakServer.start(pod, tag, address);
        return runClient(pod, server, address, {
          connections: 1_000,
          concurrency: 200,
          firstSeed: tag * 0x1000_0000 + SEED,
          place: { identity: SIDECAR_IDENTITY },
          local: { address, firstPort: 20_000, ports: 1_000 },
          startAt,
        });
      }),
    );
    results.forEach(assertNothingLost);
    assert.deepEqual(await acceleration.findKeptEntries(), []);
    const decisions = await acceleration.countDecisions();
    assert.equal(decisions.get('enrolled_active'), 2_000);
    const meetings = countMeetings();
    context.diagnostic(`${meetings} connections were open in both pods at the same time with the same ends`);
    assert.ok(meetings > 0);
  });

  test('a reader that never reads: at most the stated 1 MiB is redirected, the rest is held back by TCP', async (context) => {
    const pod = lab.pod(0);
    const [server, client] = await Promise.all([pod.startServer({ address: '127.0.0.1', mode: 'echo' }), pod.startClient({ identity: SIDECAR_IDENTITY })]);
    const connection = await client.connect({ address: '127.0.0.1', port: server.port });
    assert.equal((await connection.exchange(1)).exact, true);
    process.kill(server.pid, 'SIGSTOP');
    const bytes = 32 * 1024 * 1024;
    const sending = connection.send(bytes, 10_000);
    const unread = await readStalledUnread();
    const sockets = await pod.run('ss', ['-tnmH', `( sport = :${server.port} )`]);
    context.diagnostic(`${unread} bytes redirected and not read; ${/skmem:\([^)]*\)/.exec(sockets)?.[0] ?? sockets}`);
    assert.ok(unread > UNREAD_LIMIT / 2 && unread <= UNREAD_LIMIT, `${unread} bytes`);
    process.kill(server.pid, 'SIGCONT');
    const received = await connection.receive(bytes);
    await sending;
    assert.deepEqual(received, { bytes, exact: true, firstDifference: null, ended: false });
    await connection.close();
    assert.deepEqual(await acceleration.findKeptEntries(), []);
  });

  async function startSink(): Promise<{
    readonly address: string;
    readonly server: Awaited<ReturnType<ReturnType<Lab['pod']>['startServer']>>;
    readonly outbound: Awaited<ReturnType<ReturnType<Lab['pod']>['startProxy']>>;
  }> {
    const [server, outbound] = await Promise.all([lab.pod(1).startServer({ mode: 'sink' }), lab.pod(0).startProxy(), lab.pod(1).startProxy()]);
    return { address: lab.pod(1).address, server, outbound };
  }

  /** Gives the connection's redirected and unread bytes once they do not change any more. */
  async function readStalledUnread(): Promise<number> {
    let last = -1;
    for (let attempt = 0; attempt < 100; attempt += 1) {
      const [entry] = await acceleration.readEntries('connections');
      const unread = numberOf(entry?.values[0]?.decoded ?? null, 'unread_by_accepting');
      if (unread === last && unread > 0) {
        return unread;
      }
      last = unread;
      await delay(500);
    }
    throw new Error(`the writer did not stall: ${last} bytes unread`);
  }

  /** Counts connections that were open in one namespace while one with the same ends was in the other. */
  function countMeetings(): number {
    const lives = new Map<string, { readonly ends: string; readonly from: bigint; until: bigint }>();
    for (const { reason, socketCookie, local, remote, bootNanoseconds } of acceleration.events) {
      if (reason === 'enrolled_active') {
        lives.set(socketCookie, { ends: JSON.stringify([local, remote]), from: BigInt(bootNanoseconds), until: BigInt(bootNanoseconds) });
      }
      const life = lives.get(socketCookie);
      if (reason === 'connection_closed' && life !== undefined) {
        life.until = BigInt(bootNanoseconds);
      }
    }
    const all = [...lives.values()];
    const firsts = new Map(all.map((life) => [life.ends, life]));
    return all.filter((life) => {
      const other = firsts.get(life.ends);
      return other !== undefined && other !== life && life.from < other.until && other.from < life.until;
    }).length;
  }
});

function numberOf(value: DecodedValue | null, name: string): number {
  const field = value?.kind === 'struct' ? value.fields.find((candidate) => candidate.name === name)?.value : undefined;
  return field?.kind === 'wide' || field?.kind === 'number' ? Number(field.value) : 0;
}
