import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { ConnectionInfo, ConnectionList } from '../../agent/protocol/connections.ts';
import { toIpAddress } from '../../agent/protocol/ipAddress.ts';
import { toPortNumber } from '../../agent/protocol/scalars.ts';
import type { Endpoint, NamespaceId, Uint64Text } from '../../agent/protocol/scalars.ts';
import { createFakeNode, runCli } from '../../test/cliSurroundings.ts';
import { connectionsCommand } from './connections.ts';

function at(address: string, port: number): Endpoint {
  return { address: toIpAddress(address), port: toPortNumber(port) };
}

const END: ConnectionInfo['near'] = {
  namespace: '1' as NamespaceId,
  pod: 'pod-a',
  cgroup: null,
  inAcceleratedPod: true,
  local: at('10.0.0.1', 40_000),
  remote: at('127.0.0.1', 15_001),
  uid: 1000,
  process: { pid: 7, command: 'sh\u001bop' },
  cookie: '5' as Uint64Text,
  redirectedBytes: '1024' as Uint64Text,
  tcpBytes: null,
};
const LIST: ConnectionList = {
  connections: [
    {
      id: '5', near: END, far: { ...END, local: END.remote, remote: END.local, uid: 1337, process: null, redirectedBytes: '2048' as Uint64Text }, role: 'connecting',
      original: at('10.0.0.2', 8080), profile: 'istio', openedBootNanoseconds: '1' as Uint64Text, verdict: { state: 'accelerated', reason: null, text: 'Yes.' },
    },
    {
      id: '6', near: { ...END, redirectedBytes: null }, far: null, role: 'accepting', original: null, profile: null, openedBootNanoseconds: null,
      verdict: { state: 'not', reason: 'other_node', text: 'No.' },
    },
  ],
  readAt: '2026-11-22T22:00:00.000Z',
  lostDecisions: 3,
  omissions: [{ what: 'sockets of pod-b', reason: 'ss failed.', remedy: 'Look.' }],
};

test('connections are a table with both ends and the reason, and a count of each verdict', async () => {
  const scopes: string[] = [];
  const node = createFakeNode({
    listConnections: ({ scope }) => {
      scopes.push(scope);
      return Promise.resolve(LIST);
    },
  });
  const { code, output: out, notes: err } = await runCli(['connections', '--all'], { commands: [connectionsCommand], node: node.node });
  assert.equal(code, 0);
  assert.deepEqual(scopes, ['all']);
  assert.match(out, /accelerated +pod-a sh\\x1bop \(7\) +10\.0\.0\.1:40000 +→ +127\.0\.0\.1:15001 +10\.0\.0\.2:8080 +pod-a uid 1337 +3 KiB/);
  assert.match(out, /not +other node +pod-a .* ← /);
  assert.match(out, /1 not: Its other end is not on this node\./);
  assert.match(out, /3 decisions/);
  assert.match(err, /Not seen: sockets of pod-b\. ss failed\./);
});

test('in JSON they are what the node answered; without any there is a sentence', async () => {
  const node = createFakeNode({ listConnections: () => Promise.resolve(LIST) });
  const { output: out } = await runCli(['connections', '--json'], { commands: [connectionsCommand], node: node.node });
  assert.deepEqual(JSON.parse(out), LIST);
  const idle = createFakeNode({ listConnections: ({ scope }) => Promise.resolve({ ...LIST, connections: scope === 'all' ? LIST.connections : [] }) });
  assert.match((await runCli(['connections'], { commands: [connectionsCommand], node: idle.node })).output, /no open connections/);
});
