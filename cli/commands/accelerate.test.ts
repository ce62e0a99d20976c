import assert from 'node:assert/strict';
import { test } from 'node:test';
import { DECISION_REASONS } from '../../agent/protocol/acceleration.ts';
import type { AccelerationInfo, AccelerationRequest, DecisionCounters, DecisionEvent } from '../../agent/protocol/acceleration.ts';
import { cancelledError, MeshpathError } from '../../agent/protocol/errors.ts';
import type { NodeHandlers } from '../../agent/protocol/node.ts';
import type { CgroupPath, IpAddress, LinkId, MapId, PortNumber, ProgramId, Uint64Text } from '../../agent/protocol/scalars.ts';
import { createFakeNode, runCli } from '../../test/cliSurroundings.ts';
import { accelerateCommand } from './accelerate.ts';

const commands = [accelerateCommand];
const words = ['accelerate', '--pod', 'lab/pod-a=10.77.0.11,fd00::1', '--pod', '/lab/pod-b=10.77.0.12'];

const event: DecisionEvent = {
  bootNanoseconds: '12345678901234' as Uint64Text,
  hook: 'connect4',
  reason: 'redirected_to_outbound',
  errno: 0,
  socketCookie: '1' as Uint64Text,
  cgroupId: '55' as Uint64Text,
  netnsCookie: '2' as Uint64Text,
  uid: 1000,
  local: { address: '10.77.0.11' as IpAddress, port: 40_000 as PortNumber },
  remote: { address: '127.0.0.1' as IpAddress, port: 15_001 as PortNumber },
  original: { address: '10.77.0.12' as IpAddress, port: 8080 as PortNumber },
  bytes: 0,
};
const counters = { ...Object.fromEntries(DECISION_REASONS.map((reason) => [reason, '0'])), redirected_to_outbound: '12' } as DecisionCounters;

const handlers: Partial<NodeHandlers> = {
  listCgroups: ({ below }) =>
    Promise.resolve([{ path: below, id: (below.endsWith('a') ? '55' : '56') as Uint64Text, processCount: 1, attachments: [] }]),
  turnAccelerationOn: ({ profile, pods }): Promise<AccelerationInfo> =>
    Promise.resolve({
      profile,
      pods,
      since: '2026-11-22T22:00:00.000Z',
      programIds: [1, 2] as ProgramId[],
      mapIds: [3] as MapId[],
      linkIds: [4, 5, 6] as LinkId[],
    }),
  countDecisions: () => Promise.resolve(counters),
  turnAccelerationOff: () => Promise.resolve({ detachedLinks: 3, remainingConnections: 0 }),
};

test('kept, it is on when the command ends, with the programs of this version', async () => {
  const calls: unknown[] = [];
  const { turnAccelerationOn: turnOn } = handlers;
  assert.ok(turnOn !== undefined);
  const fake = createFakeNode({
    ...handlers,
    listAccelerations: () => Promise.resolve([{ profile: 'istio', pods: [{ cgroup: '/x' as CgroupPath, addresses: [] }], since: '', kept: { isOutdated: true, heldBy: null }, programIds: [], mapIds: [], linkIds: [] }]),
    upgradeAcceleration: ({ profile }, context) => {
      calls.push(['upgrade', profile]);
      return turnOn({ profile, pods: [] }, context);
    },
    turnAccelerationOn: (request, context) => {
      calls.push(['on', request.keep]);
      return turnOn(request, context);
    },
    turnAccelerationOff: () => assert.fail('turned off'),
  });
  const { code, output } = await runCli([...words, '--keep'], { commands, node: fake.node });
  assert.deepEqual([code, calls], [0, [['upgrade', 'istio'], ['on', true]]]);
  assert.match(output, /^Acceleration is on for 2 pods.*\n.*\n.*\nIt is kept: `meshpath clean` turns it off\.\n$/);
});

test('acceleration is on until a stop; every decision is a line', async () => {
  const stop = new AbortController();
  const fake = createFakeNode(handlers);
  const { code, output } = await runCli(words, {
    commands,
    node: fake.node,
    stop: stop.signal,
    onWrite: (text) => {
      if (text.startsWith('Acceleration is on')) {
        fake.notify('decisions', { events: [event, { ...event, hook: 'sk_msg', reason: 'message_passed_peer_missing', cgroupId: '0' as Uint64Text, uid: null, original: null, bytes: 512 }], lost: 0 });
        fake.notify('decisions', { events: [{ ...event, reason: 'enrol_failed', errno: 16 }], lost: 4 });
        stop.abort();
      }
    },
  });
  assert.equal(code, 0);
  assert.equal(
    output,
    `Acceleration is on for 2 pods with profile istio: 2 programs, 1 map, 3 links.
  /lab/pod-a  10.77.0.11, fd00::1
  /lab/pod-b  10.77.0.12
12345.678901  connect4      redirected to outbound         pod-a  uid 1000  10.77.0.11:40000 → 127.0.0.1:15001  for 10.77.0.12:8080
12345.678901  sk_msg        message passed peer missing    10.77.0.11:40000 → 127.0.0.1:15001  512 bytes
12345.678901  connect4      enrol failed                   pod-a  uid 1000  10.77.0.11:40000 → 127.0.0.1:15001  for 10.77.0.12:8080  errno 16
Acceleration is off: 3 links detached. No accelerated connection is left.
  12  redirected to outbound
Not shown above: 4 events that came faster than they could be read.
`,
  );
  assert.deepEqual(fake.calls.map(({ method }) => method), ['listCgroups', 'listCgroups', 'turnAccelerationOn', 'countDecisions', 'turnAccelerationOff']);
  assert.deepEqual(fake.calls.at(-1)?.params, { cgroups: ['/lab/pod-a', '/lab/pod-b'] as CgroupPath[] });
  assert.equal(fake.isDisposed(), true);
});

test('with --json every line is an object', async () => {
  const stop = new AbortController();
  const fake = createFakeNode(handlers);
  const { code, output } = await runCli([...words, '--json'], {
    commands,
    node: fake.node,
    stop: stop.signal,
    onWrite: (text) => {
      if (text.startsWith('{"on"')) {
        fake.notify('decisions', { events: [event], lost: 2 });
        stop.abort();
      }
    },
  });
  assert.equal(code, 0);
  const lines = output.trimEnd().split('\n').map((line) => JSON.parse(line) as Record<string, unknown>);
  assert.deepEqual(lines.map((line) => Object.keys(line)), [['on'], ['event'], ['lost'], ['off', 'counters']]);
  assert.deepEqual(lines[1], { event });
});

test('decisions that come while acceleration is being turned on are printed after it', async () => {
  const stop = new AbortController();
  const fake = createFakeNode({
    ...handlers,
    turnAccelerationOn: (params, context) => {
      fake.notify('decisions', { events: [event], lost: 0 });
      return handlers.turnAccelerationOn?.(params, context) ?? Promise.reject(new Error('no handler'));
    },
  });
  const { output } = await runCli([...words, '--json'], {
    commands,
    node: fake.node,
    stop: stop.signal,
    onWrite: (text) => {
      if (text.startsWith('{"event"')) {
        stop.abort();
      }
    },
  });
  assert.deepEqual(output.trimEnd().split('\n').map((line) => Object.keys(JSON.parse(line) as object)[0]), ['on', 'event', 'off']);
});

test('a stop before acceleration is on ends well with nothing on', async () => {
  const stop = new AbortController();
  const fake = createFakeNode({
    ...handlers,
    turnAccelerationOn: () => {
      stop.abort();
      return Promise.reject(cancelledError('Turning acceleration on'));
    },
  });
  const { code, output, notes } = await runCli(words, { commands, node: fake.node, stop: stop.signal });
  assert.deepEqual({ code, output, notes }, { code: 0, output: '', notes: '' });
  assert.equal(fake.isDisposed(), true);
});

test('limits are refused and findings overridden only where that is asked for, and what it is on in spite of is printed', async () => {
  const findings: AccelerationInfo['findings'] = [
    { id: 'oob', title: 'Urgent data', meaning: 'Few notice.', answer: 'told' },
    { id: 'splice', title: 'Splice', meaning: 'Some wait.', answer: 'accepted' },
    { id: 'close', title: 'Close', meaning: 'Bytes are lost.', answer: 'overridden' },
  ];
  const run = async (...more: readonly string[]): Promise<{ output: string; params: AccelerationRequest }> => {
    const stop = new AbortController();
    const fake = createFakeNode({
      ...handlers,
      turnAccelerationOn: async (params, context) => {
        const info = await (handlers.turnAccelerationOn?.(params, context) ?? Promise.reject(new Error('no handler')));
        return { ...info, findings };
      },
    });
    const { output } = await runCli([...words, ...more], { commands, node: fake.node, stop: stop.signal, onWrite: () => stop.abort() });
    return { output, params: fake.calls.find(({ method }) => method === 'turnAccelerationOn')?.params as AccelerationRequest };
  };
  const plain = await run();
  assert.deepEqual([plain.params.acceptedLimits, plain.params.overriddenFindings], [undefined, []]);
  assert.match(plain.output, /^ {2}Limit \(oob\): Few notice\.\n {2}Accepted limit \(splice\): Some wait\.\n {2}OVERRIDDEN \(close\): Bytes are lost\.$/m);
  const { params } = await run('--refuse-limits', '--override-doctor', 'close', '--override-doctor', 'peek');
  assert.deepEqual([params.acceptedLimits, params.overriddenFindings], [[], ['close', 'peek']]);
  const wrong = await runCli([...words, '--override-doctor', 'everything'], { commands, node: createFakeNode(handlers).node });
  assert.equal(wrong.code, 2);
  assert.match(wrong.notes, /no check 'everything'/);
});

test('a failure to turn on is told', async () => {
  const fake = createFakeNode({
    ...handlers,
    turnAccelerationOn: () => Promise.reject(new MeshpathError({ code: 'BPF_ATTACH_EXCLUSIVE', message: 'No.', reason: 'Somebody else.', remedy: 'Ask.' })),
  });
  const { code, notes } = await runCli(words, { commands, node: fake.node });
  assert.equal(code, 1);
  assert.match(notes, /BPF_ATTACH_EXCLUSIVE/);
});

test('a node that ends by itself is a failure', async () => {
  const fake = createFakeNode(handlers);
  const { code, notes } = await runCli(words, {
    commands,
    node: fake.node,
    onWrite: () => {
      void fake.node.close();
    },
  });
  assert.equal(code, 1);
  assert.match(notes, /AGENT_STOPPED/);
});

for (const [text, says] of [
  ['', /no CGROUP_PATH/i],
  ['=10.0.0.1', /no CGROUP_PATH/i],
  ['/pod', /no CGROUP_PATH/i],
  ['/pod=', /'' is not an IP address/],
  ['/pod=10.0.0.300', /'10.0.0.300' is not an IP address/],
  ['/pod=10.0.0.1,', /'' is not an IP address/],
  ['../pod=10.0.0.1', /'\.\.'/],
] as const) {
  test(`--pod '${text}' is wrong usage`, async () => {
    const fake = createFakeNode(handlers);
    const { code, notes } = await runCli(['accelerate', '--pod', text], { commands, node: fake.node });
    assert.equal(code, 2);
    assert.match(notes, says);
    assert.deepEqual(fake.calls, []);
  });
}

test('no pod at all is wrong usage', async () => {
  const { code, notes } = await runCli(['accelerate'], { commands });
  assert.equal(code, 2);
  assert.match(notes, /No pod was given/);
});
