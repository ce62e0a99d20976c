import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { test } from 'node:test';
import { DATAPATH_PROGRAMS } from '../../agent/protocol/datapath.ts';
import { dist } from '../../scripts/paths.mjs';
import type * as Simulator from '../../simulator/browser.ts';
import { launchBrowser, openWindow } from './browser.ts';
import { missingForWorkbench } from './workbenchRequirements.ts';

const FILES: Readonly<Record<string, readonly [string, string]>> = {
  '/simulator.js': ['text/javascript', join(dist, 'simulator.js')],
  '/meshpath.bpf.o': ['application/octet-stream', join(dist, 'bpf/meshpath.bpf.o')],
};

test('the simulator runs in a browser page on its own: it connects, accelerates and explains', { skip: missingForWorkbench() }, async () => {
  const server = createServer((request, response) => {
    const [type, file] = FILES[request.url ?? ''] ?? [];
    if (type !== undefined && file !== undefined) {
      response.writeHead(200, { 'content-type': type }).end(readFileSync(file));
    } else {
      response.writeHead(200, { 'content-type': 'text/html' }).end('<!doctype html><title>simulator</title><link rel="icon" href="data:,">');
    }
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const browser = await launchBrowser();
  try {
    const address = server.address();
    assert.ok(typeof address === 'object' && address !== null);
    const { page, outsideRequests, consoleLines } = await openWindow(browser);
    await page.goto(`http://127.0.0.1:${address.port}/`);
    const found = await page.evaluate(async () => {
      const { connectInProcess, createSimulatedNode, explain } = (await import(new URL('/simulator.js', location.href).href)) as typeof Simulator;
      const object = new Uint8Array(await (await fetch('/meshpath.bpf.o')).arrayBuffer());
      const node = connectInProcess(createSimulatedNode({ object }));
      const pods = await node.call('listPods', {});
      await node.call('turnAccelerationOn', { profile: 'istio', pods: pods.flatMap((pod) => pod.cgroups.map((cgroup) => ({ cgroup, addresses: pod.addresses }))) });
      const programs = await node.call('listPrograms', {});
      const snapshot = await node.call('takeSnapshot', {});
      const [client, served] = snapshot.pods;
      const owner = snapshot.namespaces.find((namespace) => namespace.id === client?.namespace)?.sockets.find((socket) => socket.owner?.command === 'shop');
      const listening = snapshot.namespaces.find((namespace) => namespace.id === served?.namespace)?.sockets.find((socket) => socket.state === 'listen' && socket.uid === owner?.uid);
      const destination = served?.addresses[0];
      if (client === undefined || owner === undefined || listening === undefined || destination === undefined) {
        throw new Error('the simulated world has no client and server');
      }
      const explanation = explain(
        snapshot,
        {
          protocol: 'tcp',
          source: { kind: 'process', namespace: client.namespace, cgroup: owner.owner?.cgroup ?? null, uid: owner.uid, gid: owner.owner?.gid ?? owner.uid, address: null, port: null },
          destination: { address: destination, port: listening.local.port },
        },
        { object },
      );
      await node.close();
      return {
        programs: programs.map((program) => program.name).filter((name) => name.startsWith('meshpath_')),
        current: explanation.current,
        outcomes: [explanation.iptables.outcome.result, explanation.sockops.outcome.result],
        data: explanation.sockops.legs.map((leg) => leg.data),
      };
    });
    assert.deepEqual(found.programs.sort(), Object.values(DATAPATH_PROGRAMS).sort());
    assert.deepEqual(
      { current: found.current, outcomes: found.outcomes, data: found.data },
      { current: 'sockops', outcomes: ['delivered', 'delivered'], data: ['socket-to-socket', 'socket-to-socket', 'socket-to-socket'] },
    );
    assert.deepEqual(outsideRequests, []);
    assert.deepEqual(consoleLines.filter((line) => line.startsWith('[error]') || line.startsWith('[pageerror]')), []);
  } finally {
    await browser.close();
    server.close();
  }
});
