import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createLab } from '../lab/lab.ts';
import { missingForKernel } from '../requirements.ts';

const skip = missingForKernel();

test("a connection under Istio's rules passes both sidecars, and each is told where it was meant to go", { skip }, async () => {
  const lab = await createLab();
  try {
    const [podA, podB] = [lab.pod(0), lab.pod(1)];
    const [server, proxyA, proxyB, client] = await Promise.all([
      podB.startServer({ port: 8080 }),
      podA.startProxy(),
      podB.startProxy(),
      podA.startClient(),
    ]);
    const destination = { address: podB.address, port: 8080 };
    const connection = await client.connect(destination);
    const received = await connection.exchange(300_000);
    assert.deepEqual(received, { bytes: 300_000, exact: true, firstDifference: null, ended: false });
    assert.deepEqual(connection.peer, destination);

    const [outbound] = await proxyA.accepted.waitForCount(1);
    assert.equal(outbound?.listener, 'outbound');
    assert.deepEqual(outbound?.originalDestination, destination);
    assert.deepEqual(outbound?.peer, connection.local);
    assert.deepEqual(outbound?.local, { address: '127.0.0.1', port: 15_001 });

    const [inbound] = await proxyB.accepted.waitForCount(1);
    assert.equal(inbound?.listener, 'inbound');
    assert.deepEqual(inbound?.originalDestination, destination);
    assert.equal(inbound?.peer.address, podA.address);
    assert.deepEqual(inbound?.local, { address: podB.address, port: 15_006 });

    const [accepted] = await server.accepted.waitForCount(1);
    assert.equal(accepted?.peer.address, '127.0.0.6');
    assert.deepEqual(accepted?.local, destination);

    await connection.end();
    assert.equal((await connection.receive(1)).ended, true);
    assert.equal((await server.ended.waitForCount(1))[0]?.error, null);
    assert.equal((await proxyB.ended.waitForCount(1))[0]?.bytesToUpstream, 300_000);
  } finally {
    await lab.dispose();
  }
});
