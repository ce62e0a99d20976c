import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ISTIO_PROFILE, LINKERD_PROFILE } from '../protocol/acceleration.ts';
import type { MeshpathError } from '../protocol/errors.ts';
import { labId, labIdOfNamespace, namespaceNameOf, podName } from './labNames.ts';
import { parseListeningPorts } from './listening.ts';
import { identifyProcess, isRunning } from './processIdentity.ts';
import { createLineReader } from './programs/controllers.ts';
import { checkSidecar, sidecarProcesses } from './sidecars.ts';

test('the logs of HAProxy and redsocks tell what they were told, and nothing else in them does', () => {
  const [haproxy] = sidecarProcesses('haproxy', ISTIO_PROFILE);
  assert.deepEqual(
    haproxy?.readLog?.('[NOTICE] started\nmeshpath outbound 10.77.0.11 40000 10.77.0.12 8080\nmeshpath inbound 10.77.0.11 40001 10.77.0.12 99999\nmeshpath inbound evil 1 10.0.0.1 80\n'),
    [{ side: 'outbound', peer: '10.77.0.11', originalDestination: { address: '10.77.0.12', port: 8080 } }],
  );
  const inbound = sidecarProcesses('redsocks', LINKERD_PROFILE).find(({ role }) => role === 'sidecar-inbound');
  assert.deepEqual(
    inbound?.readLog?.('1.2 info redsocks.c:1243 redsocks_accept_client(...) [10.77.0.11:34396->10.77.0.12:8080]: accepted\n[10.77.0.11:1->10.77.0.12:2]: connection closed\n[300.1.1.1:1->10.0.0.1:80]: accepted\n'),
    [{ side: 'inbound', peer: '10.77.0.11', originalDestination: { address: '10.77.0.12', port: 8080 } }],
  );
});

test('a command gets the ports of the mesh, and one that is none is refused', () => {
  const [started] = sidecarProcesses({ command: ['proxy', '--ports={outbound-port},{inbound-port}', '{passthrough-source}', '{other}'] }, ISTIO_PROFILE);
  assert.deepEqual(started?.start, { kind: 'command', command: ['proxy', '--ports=15001,15006', '127.0.0.6', '{other}'], configuration: null });
  for (const command of [[], [''], ['a\0b'], Array.from({ length: 65 }, () => 'x')]) {
    assert.throws(() => checkSidecar({ command }), (error: MeshpathError) => error.code === 'INPUT_INVALID');
  }
});

test('the names of one lab never look like those of another', () => {
  const id = labId('a');
  assert.equal(labIdOfNamespace(namespaceNameOf(id, podName(1))), id);
  assert.equal(labIdOfNamespace(namespaceNameOf(labId('a-pod-b'), 'router')), 'meshpath-lab-a-pod-b');
  assert.equal(labIdOfNamespace('cni-1234.pod-a'), undefined);
  for (const name of ['', 'A', '-a', 'a.b', 'a/b', '..', 'x'.repeat(33)]) {
    assert.throws(() => labId(name), (error: MeshpathError) => error.code === 'INPUT_INVALID', name);
  }
});

test('listening ports are read from the kernel’s table, of both families', () => {
  const table = [
    '  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode',
    '   0: 00000000:3A99 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1337        0 1 1 0000000000000000 100 0 0 10 0',
    '   1: 0B004D0A:9C40 0C004D0A:1F90 01 00000000:00000000 00:00000000 00000000  1000        0 2 1 0000000000000000 20 4 30 10 -1',
    '   2: 00000000000000000000000000000000:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000  1000 0 3 1 0 100 0 0 10 0',
    '',
  ].join('\n');
  assert.deepEqual([...parseListeningPorts(table)], [15_001, 8_080]);
});

test('a process is known by its start, not by its id alone', () => {
  const own = identifyProcess(process.pid);
  assert.ok(own !== undefined && isRunning(own));
  assert.equal(isRunning({ ...own, startTicks: '1' }), false);
  assert.equal(identifyProcess(2 ** 22 + 1), undefined);
});

test('lines of a controller are bounded, and what is no JSON ends the conversation', () => {
  const taken: unknown[] = [];
  const read = createLineReader(20, (value) => taken.push(value));
  assert.deepEqual([read('{"a":'), read('1}\n{"b"'), read(':2}\n')], [true, true, true]);
  assert.deepEqual(taken, [{ a: 1 }, { b: 2 }]);
  assert.equal(read('x'.repeat(21)), false);
  assert.equal(createLineReader(20, () => undefined)('no json\n'), false);
});
