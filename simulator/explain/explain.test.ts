import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import type { CgroupPath } from '../../agent/protocol/scalars.ts';
import type { Snapshot } from '../../agent/protocol/snapshot.ts';
import type { Trace } from '../../agent/protocol/trace.ts';
import { createDemoSnapshot } from '../mesh/demoWorld.ts';
import { buildWorld } from '../world/world.ts';
import { describeDifferences } from './differences.ts';
import { explain } from './explain.ts';
import { parseFlowText } from './flowText.ts';
import { explainIptables } from './iptablesPath.ts';

const OBJECT_FILE = join(import.meta.dirname, '../../dist/bpf/meshpath.bpf.o');
const skip = existsSync(OBJECT_FILE) ? false : 'the programs are not compiled (npm run build)';

test('both paths of one flow are explained, with what differs between them', { skip }, () => {
  const snapshot = createDemoSnapshot();
  const flow = parseFlowText(snapshot, 'pod-a -> pod-b:8080');
  const explanation = explain(snapshot, flow, { object: readFileSync(OBJECT_FILE) });
  assert.equal(explanation.current, 'iptables');
  assert.deepEqual([explanation.iptables.path, explanation.sockops.path], ['iptables', 'sockops']);
  assert.deepEqual(explanation.sockops.legs.map((leg) => leg.data), ['socket-to-socket', 'socket-to-socket', 'socket-to-socket']);
  assert.match(explanation.differences.join('\n'), /Both ways look the same to the applications/);
  assert.match(explanation.differences.join('\n'), /One message meets 12 netfilter hooks on the iptables path and 0 netfilter hooks on the sockops path/);
  assert.deepEqual(explain(snapshot, flow, { object: readFileSync(OBJECT_FILE) }), explanation, 'the same again');
});

test('the path in force is that of the acceleration of the process', { skip }, () => {
  const demo = createDemoSnapshot();
  const [podA] = demo.pods;
  assert.ok(podA !== undefined);
  const pods = [{ cgroup: '/kubepods.slice/pod-a' as CgroupPath, addresses: podA.addresses }];
  const snapshot: Snapshot = { ...demo, accelerations: [{ profile: 'istio', pods, since: demo.takenAt, programIds: [], mapIds: [], linkIds: [] }] };
  const current = (text: string): string => explain(snapshot, parseFlowText(snapshot, text), { object: readFileSync(OBJECT_FILE) }).current;
  assert.equal(current('pod-a/app -> pod-b:8080'), 'sockops');
  assert.equal(current('pod-b/app -> pod-a:9000'), 'iptables');
});

test('differences are those of the two traces and no others', () => {
  const snapshot = createDemoSnapshot();
  const trace = explainIptables(buildWorld(snapshot), parseFlowText(snapshot, 'pod-a -> pod-b:8080'));
  assert.deepEqual(describeDifferences(trace, trace).length, 1);
  const [first, ...rest] = trace.legs;
  assert.ok(first?.server !== undefined && first.server !== null);
  const other: Trace = { ...trace, legs: [{ ...first, peerSeenByClient: first.server.address, originalDestination: null }, ...rest], cost: { ...trace.cost, rulesCompared: 1 } };
  assert.deepEqual(describeDifferences(trace, other), [
    'getpeername tells shop in pod-a 10.244.1.3:8080 on the iptables path and 127.0.0.1:15001 on the sockops path.',
    'SO_ORIGINAL_DST tells envoy in pod-a 10.244.1.3:8080 on the iptables path and nothing on the sockops path.',
    'Opening the connections compares 25 iptables rules on the iptables path and 1 iptables rule on the sockops path.',
  ]);
});
