import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { copyFile, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { LABS_FOLDER } from '../../agent/lab/labNames.ts';
import { claimLabName } from '../../agent/lab/labRecord.ts';
import { runCommand } from '../../agent/lab/command.ts';
import { findLabLeftovers, findLabs, removeLab } from '../../agent/lab/removeLab.ts';
import type { MeshpathError } from '../../agent/protocol/errors.ts';
import { LAB_SERVER_PORT } from '../../agent/protocol/lab.ts';
import type { LabPath, LabProgress, LabRequest, LabSidecar } from '../../agent/protocol/lab.ts';
import { connectInProcess } from '../../agent/protocol/node.ts';
import type { Node } from '../../agent/protocol/node.ts';
import { createAgentService } from '../../agent/service.ts';
import { generateInjectedRules } from '../../simulator/mesh/injectedRules.ts';
import { buildLabProgram } from '../lab/lab.ts';
import { waitForNothingLeft } from '../lab/leftovers.ts';
import { findCommand, missingForKernel } from '../requirements.ts';

/** The lab as a capability of the agent, with sidecars of our own and of Debian. */

const skip = missingForKernel();
const PREBUILT_OBJECT = join(import.meta.dirname, '../../bpf/prebuilt/meshpath.bpf.o');
/** Of this test alone: agents of other runs are not in the way. */
const KEPT_FOLDER = `/sys/fs/bpf/meshpath-test-${process.pid}-lab`;
/** A configuration as a person may have one, for HAProxy: its ports come by the environment. */
const OWN_CONFIGURATION = `
defaults
  mode tcp
  timeout connect 10s
  timeout client 1m
  timeout server 1m
listen outbound
  bind 0.0.0.0:\${OUTBOUND_PORT}
  server original 0.0.0.0
listen inbound
  bind 0.0.0.0:\${INBOUND_PORT}
  server original 0.0.0.0
`;
const OWN_COMMAND = ['env', 'OUTBOUND_PORT={outbound-port}', 'INBOUND_PORT={inbound-port}', '/usr/sbin/haproxy', '-db', '-f', join(tmpdir(), `meshpath-lab-${process.pid}-haproxy.cfg`)];

/** The compiled programs with the lab's program beside them, as in an agent's folder. */
let objectPath: string;

before(async () => {
  if (skip === false) {
    objectPath = join(dirname(await buildLabProgram()), 'meshpath.bpf.o');
    await copyFile(PREBUILT_OBJECT, objectPath);
    await writeFile(OWN_COMMAND.at(-1) ?? '', OWN_CONFIGURATION);
  }
});

after(async () => {
  await rm(OWN_COMMAND.at(-1) ?? '', { force: true });
});

function openNode(): Node {
  return connectInProcess(createAgentService({ objectPath, agentVersion: 'test', keptFolder: KEPT_FOLDER }));
}

function labName(): string {
  return `${process.pid}-${randomBytes(3).toString('hex')}`;
}

function createRequest(options: Partial<LabRequest> = {}): LabRequest {
  const { path = 'iptables', profile = 'istio' } = options;
  return { name: labName(), pods: 2, profile, path, rules: path === 'iptables' ? (generateInjectedRules(profile)?.ipv4 ?? null) : null, sidecar: 'builtin', ...options };
}

const failsWith =
  (code: MeshpathError['code']) =>
  (error: MeshpathError): boolean =>
    error.code === code && error.reason !== '' && error.remedy !== '';

interface SidecarCase {
  readonly sidecar: LabSidecar;
  readonly command: string | null;
  readonly profile: keyof typeof SERVER_PEERS;
  /** Whether it says what it was told. */
  readonly tells: boolean;
}

/** Who the server says connects to it: the mesh's passthrough address, the pod, or whoever is on loopback. */
const SERVER_PEERS = { istio: '127.0.0.6', linkerd: '10.77.0.12', kuma: '127.0.0.6', osm: '127.0.0.1' } as const;

const SIDECARS: readonly SidecarCase[] = [
  { sidecar: 'builtin', command: null, profile: 'istio', tells: true },
  { sidecar: 'builtin', command: null, profile: 'linkerd', tells: true },
  { sidecar: 'builtin', command: null, profile: 'kuma', tells: true },
  { sidecar: 'builtin', command: null, profile: 'osm', tells: true },
  { sidecar: 'haproxy', command: 'haproxy', profile: 'istio', tells: true },
  { sidecar: 'haproxy', command: 'haproxy', profile: 'linkerd', tells: true },
  { sidecar: 'haproxy', command: 'haproxy', profile: 'osm', tells: true },
  { sidecar: 'redsocks', command: 'redsocks', profile: 'istio', tells: true },
  { sidecar: 'redsocks', command: 'redsocks', profile: 'linkerd', tells: true },
  { sidecar: 'redsocks', command: 'redsocks', profile: 'osm', tells: true },
  // It cannot connect on from an address of its own, which only Istio's rules ask for.
  { sidecar: { command: OWN_COMMAND }, command: 'haproxy', profile: 'linkerd', tells: false },
];

for (const { sidecar, command, profile, tells } of SIDECARS) {
  for (const path of ['iptables', 'ebpf'] as const satisfies readonly LabPath[]) {
    const missing = command !== null && findCommand(command) === undefined ? `needs ${command} (Debian package ${command})` : false;
    const name = typeof sidecar === 'string' ? sidecar : `${command ?? ''} by a command`;
    test(`${name} as the sidecar of ${profile} by ${path} is told where connections were meant to go, and carries every byte`, { skip: skip === false ? missing : skip }, async () => {
      const request = createRequest({ sidecar, profile, path });
      const node = openNode();
      try {
        await node.call('bringLabUp', request);
        const run = { name: request.name, from: 'pod-a', to: 'pod-b', connections: 40, parallel: 8 };
        const reports = [await node.call('runInLab', { ...run, bytes: 1_500 }), await node.call('runInLab', { ...run, connections: 8, bytes: 700_001 })];
        for (const [index, report] of reports.entries()) {
          const count = index === 0 ? 40 : 8;
          const destination = { address: '10.77.0.12', port: LAB_SERVER_PORT };
          assert.deepEqual(report.failures, []);
          assert.equal(report.exact, count);
          assert.deepEqual(report.clientPeers, [{ value: destination, count }]);
          assert.deepEqual(report.serverPeers, [{ value: SERVER_PEERS[profile], count }]);
          const told = [{ value: destination, count }];
          const peers = [{ value: '10.77.0.11', count }];
          assert.deepEqual(
            report.sidecars,
            tells
              ? [
                  { pod: 'pod-a', side: 'outbound', connections: count, originalDestinations: told, peers },
                  { pod: 'pod-b', side: 'inbound', connections: count, originalDestinations: told, peers },
                ]
              : [],
          );
          assert.deepEqual([...new Set(report.legs.map(({ state }) => state))], path === 'ebpf' ? ['accelerated'] : []);
        }
        // Events of a burst may be lost: they are for looking at, and the figures above are not made of them.
        const decided = reports[0]?.decisions.some(({ value }) => value.reason === 'redirected_to_outbound');
        assert.equal(decided, path === 'ebpf');
      } finally {
        await node.call('takeLabDown', { name: request.name }).catch(() => removeLab(request.name));
        await node.close();
      }
      await waitForNothingLeft({ labId: `meshpath-lab-${request.name}`, programIds: [] });
    });
  }
}

describe('a lab of the agent', { skip }, () => {
  test('stays when its agent ends, is found and used by the next one, and is removed by a third', async () => {
    const request = createRequest({ pods: 3 });
    const first = openNode();
    const progress: LabProgress[] = [];
    first.listen('labProgress', (value) => progress.push(value));
    try {
      const made = await first.call('bringLabUp', request);
      await first.close();
      assert.deepEqual(progress.map(({ done }) => done), Array.from({ length: 8 }, (_, index) => index + 1));
      assert.ok(progress.every(({ total, name }) => total === 8 && name === request.name));
      assert.deepEqual(made.pods.map(({ name, address }) => [name, address]), [['pod-a', '10.77.0.11'], ['pod-b', '10.77.0.12'], ['pod-c', '10.77.0.13']]);

      const second = openNode();
      const found = (await second.call('listLabs', {})).find(({ name }) => name === request.name);
      assert.deepEqual(found, made);
      assert.deepEqual([made.state, made.profile, made.path, made.sidecar, made.problems], ['up', 'istio', 'iptables', 'builtin', []]);
      const pods = await second.call('listPods', {});
      assert.equal(pods.filter(({ namespace, profile }) => profile === 'istio' && made.pods.some((pod) => pod.namespace === namespace)).length, 3);
      const report = await second.call('runInLab', { name: request.name, from: 'pod-c', to: 'pod-a', connections: 3, bytes: 10, parallel: 1 });
      assert.equal(report.exact, 3);
      await second.close();
    } finally {
      const third = openNode();
      await third.call('takeLabDown', { name: request.name });
      await assert.rejects(third.call('takeLabDown', { name: request.name }), failsWith('LAB_NOT_FOUND'));
      await third.close();
    }
    await waitForNothingLeft({ labId: `meshpath-lab-${request.name}`, programIds: [] });
    assert.ok(!(await readdir(LABS_FOLDER)).includes(request.name));
  });

  test('a lab of programs goes on without its agent, and what is kept for it goes with it', async () => {
    const request = createRequest({ path: 'ebpf' });
    const first = openNode();
    await first.call('bringLabUp', request);
    await first.close();
    const second = openNode();
    try {
      const [acceleration] = await second.call('listAccelerations', {});
      assert.deepEqual([acceleration?.profile, acceleration?.kept?.heldBy, acceleration?.pods.length], [`lab-${request.name}`, null, 2]);
      const report = await second.call('runInLab', { name: request.name, from: 'pod-b', to: 'pod-a', connections: 4, bytes: 1_000, parallel: 4 });
      assert.deepEqual([report.exact, new Set(report.legs.map(({ state }) => state))], [4, new Set(['accelerated'])]);
      assert.equal((await second.call('listAccelerations', {})).length, 1, 'a run leaves it as it was');
    } finally {
      await second.call('takeLabDown', { name: request.name });
      assert.deepEqual(await second.call('listAccelerations', {}), []);
      await second.close();
    }
    assert.equal(existsSync(KEPT_FOLDER), false);
    await waitForNothingLeft({ labId: `meshpath-lab-${request.name}`, programIds: [] });
  });

  test('traffic without rules goes past the sidecars', async () => {
    const request = createRequest({ path: 'none' });
    const node = openNode();
    try {
      await node.call('bringLabUp', request);
      const report = await node.call('runInLab', { name: request.name, from: 'pod-a', to: 'pod-b', connections: 5, bytes: 100, parallel: 5 });
      assert.equal(report.exact, 5);
      assert.deepEqual([report.sidecars, report.legs], [[], []]);
      assert.deepEqual(report.serverPeers, [{ value: '10.77.0.11', count: 5 }]);
    } finally {
      await node.call('takeLabDown', { name: request.name });
      await node.close();
    }
  });

  test('a name is given once, and a lab that is not there is not found', async () => {
    const request = createRequest();
    const node = openNode();
    try {
      await node.call('bringLabUp', request);
      await assert.rejects(node.call('bringLabUp', request), failsWith('LAB_EXISTS'));
      const run = { name: request.name, from: 'pod-a', to: 'pod-b', connections: 1, bytes: 1, parallel: 1 };
      assert.equal((await node.call('runInLab', run)).exact, 1, 'the lab that was there is as it was');
      await assert.rejects(node.call('runInLab', { ...run, to: 'pod-z' }), failsWith('INPUT_INVALID'));
      await assert.rejects(node.call('runInLab', { ...run, connections: 0 }), failsWith('INPUT_INVALID'));
      await assert.rejects(node.call('runInLab', { ...run, name: 'not-there' }), failsWith('LAB_NOT_FOUND'));
      await assert.rejects(node.call('bringLabUp', createRequest({ name: '../etc' })), failsWith('INPUT_INVALID'));
      await assert.rejects(node.call('bringLabUp', createRequest({ pods: 1 })), failsWith('INPUT_INVALID'));
      await assert.rejects(node.call('bringLabUp', createRequest({ rules: null })), failsWith('INPUT_INVALID'));
      await assert.rejects(node.call('bringLabUp', createRequest({ profile: 'consul', path: 'none' })), failsWith('PROFILE_INVALID'));
    } finally {
      await node.call('takeLabDown', { name: request.name });
      await node.close();
    }
  });

  test('what cannot be made leaves nothing: bad rules, a sidecar that ends, one that is not installed, a cancelled call', async () => {
    const node = openNode();
    const earlier = new Set((await findLabs()).map(({ name }) => name));
    const attempts: LabRequest[] = [
      createRequest({ rules: '*nat\n-A NO_SUCH_CHAIN -j ACCEPT\nCOMMIT\n' }),
      createRequest({ sidecar: { command: ['/bin/sh', '-c', 'echo "no such configuration"; exit 1'] } }),
      createRequest({ sidecar: { command: ['/no/such/program'] } }),
    ];
    for (const request of attempts) {
      await assert.rejects(node.call('bringLabUp', request), failsWith('LAB_FAILED'));
    }
    await assert.rejects(node.call('bringLabUp', createRequest({ sidecar: { command: ['no-such-program'] } })), failsWith('NOT_SUPPORTED'));
    const cancelled = createRequest();
    const controller = new AbortController();
    node.listen('labProgress', ({ name, done }) => {
      if (name === cancelled.name && done === 3) {
        controller.abort();
      }
    });
    await assert.rejects(node.call('bringLabUp', cancelled, { signal: controller.signal }), failsWith('CANCELLED'));
    const names = [...attempts, cancelled].map(({ name }) => name);
    assert.deepEqual((await findLabs()).filter(({ name }) => !earlier.has(name) && names.includes(name)), []);
    await node.close();
  });

  test('what a crash left half-way is told apart from what is in use, and is removed', async () => {
    const name = labName();
    const id = `meshpath-lab-${name}`;
    // A process that has ended: no other has its id and start time.
    await claimLabName(name, { pid: 1, startTicks: '-1' });
    try {
      await runCommand('ip', ['netns', 'add', `${id}.router`]);
      await runCommand('ip', ['netns', 'add', `${id}.pod-a`]);
      const left = (await findLabLeftovers()).find((lab) => lab.name === name);
      assert.deepEqual(left?.namespaces.toSorted(), [`${id}.pod-a`, `${id}.router`]);
      const node = openNode();
      const run = { name, from: 'pod-a', to: 'pod-b', connections: 1, bytes: 1, parallel: 1 };
      await assert.rejects(node.call('bringLabUp', createRequest({ name })), failsWith('LAB_EXISTS'));
      await assert.rejects(node.call('runInLab', run), failsWith('LAB_FAILED'));
      assert.equal((await node.call('listLabs', {})).find((lab) => lab.name === name)?.state, 'left');
      await node.call('takeLabDown', { name });
      await node.close();
      assert.equal((await findLabs()).find((lab) => lab.name === name), undefined);
    } finally {
      await removeLab(name);
    }
  });

  test('a program that has ended is a problem of its lab', async () => {
    const request = createRequest();
    const node = openNode();
    try {
      const { pods } = await node.call('bringLabUp', request);
      const pid = pods[1]?.processes.find(({ role }) => role === 'sidecar')?.pid ?? 0;
      process.kill(pid, 'SIGKILL');
      let problems: readonly string[] = [];
      for (const deadline = Date.now() + 5_000; problems.length === 0 && Date.now() < deadline; ) {
        problems = (await node.call('listLabs', {})).find(({ name }) => name === request.name)?.problems ?? [];
      }
      assert.deepEqual(problems, [`The sidecar of pod-b (process ${pid}) has ended.`]);
      await assert.rejects(node.call('runInLab', { name: request.name, from: 'pod-a', to: 'pod-b', connections: 1, bytes: 1, parallel: 1 }), failsWith('LAB_FAILED'));
    } finally {
      await node.call('takeLabDown', { name: request.name });
      await node.close();
    }
  });
});
