import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createLab } from '../lab/lab.ts';
import { listLeftovers, waitForNothingLeft } from '../lab/leftovers.ts';
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

    const outbound = await proxyA.accepted.waitFor();
    assert.equal(outbound.listener, 'outbound');
    assert.deepEqual(outbound.originalDestination, destination);
    assert.deepEqual(outbound.peer, connection.local);
    assert.deepEqual(outbound.local, { address: '127.0.0.1', port: 15_001 });

    const inbound = await proxyB.accepted.waitFor();
    assert.equal(inbound.listener, 'inbound');
    assert.deepEqual(inbound.originalDestination, destination);
    assert.equal(inbound.peer.address, podA.address);
    assert.deepEqual(inbound.local, { address: podB.address, port: 15_006 });

    const accepted = await server.accepted.waitFor();
    assert.equal(accepted.peer.address, '127.0.0.6');
    assert.deepEqual(accepted.local, destination);

    await connection.end();
    assert.equal((await connection.receive(1)).ended, true);
    assert.equal((await server.ended.waitFor()).error, null);
    assert.equal((await proxyB.ended.waitFor()).bytesToUpstream, 300_000);
  } finally {
    await lab.dispose();
  }
  await waitForNothingLeft({ labId: lab.id, programIds: [] });
});

test('without rules the application is reached directly, and a sidecar that nobody redirects to refuses to loop', { skip }, async () => {
  const lab = await createLab({ rules: 'none' });
  try {
    const [server, proxy, client] = await Promise.all([
      lab.pod(1).startServer({ mode: 'http' }),
      lab.pod(1).startProxy(),
      lab.pod(0).startClient(),
    ]);
    const { status, reply } = await client.http({ address: lab.pod(1).address, port: server.port, path: '/where', bodyBytes: 70_000 });
    assert.equal(status, 200);
    assert.equal(reply.peer.address, lab.pod(0).address);
    assert.deepEqual({ method: reply.method, url: reply.url, bodyBytes: reply.bodyBytes }, { method: 'POST', url: '/where', bodyBytes: 70_000 });

    const direct = client.connect({ address: lab.pod(1).address, port: 15_006 }).then((connection) => connection.receive(1));
    // The reset may come before the client has asked for the name of its peer.
    const refused = assert.rejects(direct, (error: NodeJS.ErrnoException) => ['ECONNRESET', 'ENOTCONN'].includes(error.code ?? ''));
    const accepted = await proxy.accepted.waitFor(({ listener }) => listener === 'inbound');
    assert.equal(accepted.originalDestination, null);
    assert.equal(accepted.originalDestinationError, 'ENOENT');
    await refused;
  } finally {
    await lab.dispose();
  }
});

test('a server that speaks first is heard through both sidecars, and many connections keep their own bytes', { skip }, async () => {
  const lab = await createLab();
  try {
    const greeting = 'who is there?\n';
    const [server, , , client] = await Promise.all([
      lab.pod(1).startServer({ greeting }),
      lab.pod(0).startProxy(),
      lab.pod(1).startProxy(),
      lab.pod(0).startClient(),
    ]);
    const connections = await Promise.all(
      Array.from({ length: 8 }, () => client.connect({ address: lab.pod(1).address, port: server.port })),
    );
    for (const connection of connections) {
      assert.equal(await connection.receiveText(greeting.length), greeting);
    }
    const results = await Promise.all(connections.map((connection, index) => connection.exchange(100_000 + index, 1_000 + index)));
    assert.deepEqual(results.map(({ exact }) => exact), connections.map(() => true));
    assert.equal((await connections[0]?.measureRoundTrips(64, 20))?.length, 20);
    await Promise.all(connections.map((connection) => connection.close()));
    assert.deepEqual((await server.ended.waitForCount(8)).map(({ error }) => error), connections.map(() => null));
  } finally {
    await lab.dispose();
  }
});

test('a client is told the errno of a refused connection', { skip }, async () => {
  const lab = await createLab({ rules: 'none', pods: 1 });
  try {
    const client = await lab.pod(0).startClient();
    await assert.rejects(client.connect({ address: lab.pod(0).address, port: 9 }), { code: 'ECONNREFUSED' });
  } finally {
    await lab.dispose();
  }
});

test('commands in a pod run as the user that was asked for, in its cgroup, and end with the lab', { skip }, async () => {
  const lab = await createLab({ rules: 'none', pods: 1 });
  let pid: number | undefined;
  try {
    const pod = lab.pod(0);
    const child = await pod.start(['sh', '-c', 'id -u; cat /proc/self/cgroup; sleep 600'], { identity: { uid: 4242, gid: 4343 }, container: 'app' });
    pid = child.pid;
    let text = '';
    for await (const chunk of child.stdout) {
      text += String(chunk);
      if (text.includes('0::')) {
        break;
      }
    }
    assert.match(text, /^4242\n/);
    assert.ok(text.includes(`0::${pod.cgroup}/app\n`), text);
    assert.deepEqual((await listLeftovers({ labId: lab.id })).processes.includes(child.pid ?? 0), true);
  } finally {
    await lab.dispose();
  }
  assert.throws(() => process.kill(pid ?? 0, 0), { code: 'ESRCH' });
});

test('two labs with the same addresses do not meet', { skip }, async () => {
  const labs = await Promise.all([createLab({ rules: 'none' }), createLab({ rules: 'none' })]);
  try {
    const answers = await Promise.all(
      labs.map(async (lab, index) => {
        const [client] = await Promise.all([
          lab.pod(0).startClient(),
          lab.pod(1).startServer({ port: 8080, greeting: `lab ${index}` }),
        ]);
        return (await client.connect({ address: lab.pod(1).address, port: 8080 })).receiveText(5);
      }),
    );
    assert.deepEqual(answers, ['lab 0', 'lab 1']);
  } finally {
    await Promise.all(labs.map((lab) => lab.dispose()));
  }
});

test('a lab that fails half-way leaves nothing', { skip }, async () => {
  await assert.rejects(createLab({ rules: { text: '*nat\n-A NO_SUCH_CHAIN -j ACCEPT\nCOMMIT\n' } }), /iptables-restore/);
  const { namespaces, cgroups, processes } = await listLeftovers();
  assert.deepEqual({ namespaces, cgroups, processes }, { namespaces: [], cgroups: [], processes: [] });
});
