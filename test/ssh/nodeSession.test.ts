import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { appendFile, chmod, cp, mkdir, mkdtemp, readFile, readdir, rm, utimes, writeFile } from 'node:fs/promises';
import { connect as connectTcp, createServer } from 'node:net';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { TestContext } from 'node:test';
import { MeshpathError } from '../../agent/protocol/errors.ts';
import type { ErrorCode } from '../../agent/protocol/errors.ts';
import { connectInProcess } from '../../agent/protocol/node.ts';
import { createNodeSession } from '../../extension/node/nodeSession.ts';
import type { NodeSession, NodeSessionOptions, SessionState } from '../../extension/node/nodeSession.ts';
import { findCommand, missingForSshServer } from '../requirements.ts';
import { buildSampleAgent } from './sampleAgent.ts';
import { startSshServer } from './sshServer.ts';
import type { SshServer, SshServerOptions } from './sshServer.ts';
import { createPrompts, createTrustStore } from './surroundings.ts';
import type { RecordedPrompts } from './surroundings.ts';
import { createTemporaryUser } from './temporaryUser.ts';
import type { TemporaryUser } from './temporaryUser.ts';

const isRoot = process.getuid?.() === 0;
const needsRoot = isRoot ? false : 'needs root (run npm test with sudo)';

let agents: string;
before(async () => {
  agents = await mkdtemp(join(tmpdir(), 'meshpath-agents-'));
  await chmod(agents, 0o755);
  await buildSampleAgent(join(agents, 'current'));
});
after(async () => rm(agents, { recursive: true, force: true }));

interface RecordedSession extends NodeSession {
  readonly phases: SessionState['phase'][];
  readonly lines: string[];
  readonly prompts: RecordedPrompts;
}

function createSession(options: Partial<NodeSessionOptions> & { readonly prompts?: RecordedPrompts }): RecordedSession {
  const lines: string[] = [];
  const prompts = options.prompts ?? createPrompts();
  const session = createNodeSession({
    target: { kind: 'ssh', host: 'node' },
    client: 'meshpath-test 0',
    agentFolder: join(agents, 'current'),
    trustStore: createTrustStore(),
    createSimulatedNode: () => {
      throw new Error('not simulated');
    },
    log: (line) => {
      lines.push(line);
    },
    ...options,
    prompts,
  });
  const phases: SessionState['phase'][] = [];
  session.onStateChange(({ phase }) => {
    if (phases.at(-1) !== phase) {
      phases.push(phase);
    }
  });
  return Object.assign(session, { phases, lines, prompts });
}

async function serverFor(t: TestContext, options: SshServerOptions = {}): Promise<SshServer> {
  const server = await startSshServer(options);
  t.after(async () => server.stop());
  return server;
}

/** A server whose commands go through `script`, which has the command in SSH_ORIGINAL_COMMAND. */
async function serverWithShell(t: TestContext, script: string, options: SshServerOptions = {}): Promise<SshServer> {
  const folder = await mkdtemp(join(tmpdir(), 'meshpath-shell-'));
  t.after(async () => rm(folder, { recursive: true, force: true }));
  await chmod(folder, 0o755);
  const path = join(folder, 'shell');
  await writeFile(path, `#!/bin/sh\n${script}\n`, { mode: 0o755 });
  return serverFor(t, { ...options, configLines: [`ForceCommand ${path}`, ...(options.configLines ?? [])] });
}

async function connectAndClose(session: RecordedSession): Promise<void> {
  try {
    await session.connect();
  } finally {
    await session.close();
  }
}

async function failure(session: RecordedSession, signal?: AbortSignal): Promise<MeshpathError> {
  const error = await session.connect(signal).then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  await session.close();
  assert.ok(error instanceof MeshpathError, `it did not fail with a MeshpathError but ${String(error)}`);
  assert.deepEqual(session.state, { phase: 'closed', error });
  assert.ok(error.reason !== '' && error.remedy !== '');
  return error;
}

/** Resolves once the session is closed by itself. */
async function closing(session: NodeSession): Promise<MeshpathError | null> {
  return new Promise((resolve) => {
    session.onStateChange((state) => {
      if (state.phase === 'closed') {
        resolve(state.error);
      }
    });
  });
}

async function listInstalled(server: SshServer): Promise<string[]> {
  return readdir(join(server.folder, 'cache/meshpath/agent')).catch(() => []);
}

async function contentHash(folder: string): Promise<string> {
  return (JSON.parse(await readFile(join(folder, 'manifest.json'), 'utf8')) as { contentHash: string }).contentHash;
}

/** Waits until a process has ended; the agent ends by itself once its input has. */
async function ended(pid: number): Promise<void> {
  for (;;) {
    try {
      process.kill(pid, 0);
    } catch {
      return;
    }
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

function agentPid(session: NodeSession): number {
  assert.ok(session.state.phase === 'ready');
  return Number(session.state.description.identity.machine);
}

describe('a session with an SSH host', { skip: missingForSshServer() }, () => {
  test('goes through every step, answers, and leaves only the installed agent', async (t) => {
    const server = await serverFor(t);
    const session = createSession({ sshConfigFile: server.configPath });
    assert.equal(session.label, 'node');
    const node = await session.connect();
    assert.deepEqual(session.phases, ['resolving', 'connecting', 'verifyingHost', 'authenticating', 'preflight', 'deploying', 'starting', 'ready']);
    assert.deepEqual(await node.call('listMaps', {}), []);
    const pid = agentPid(session);
    assert.equal(session.state.phase === 'ready' && session.state.notices.length, isRoot ? 0 : 1);

    await assert.rejects(node.call('listPrograms', {}), (error) => MeshpathError.is(error, 'NOT_SUPPORTED') && error.reason === 'A sample.');
    let changes = 0;
    const stop = node.listen('changed', () => { changes += 1; });
    await assert.rejects(node.call('countDecisions', { profile: 'istio' }));
    stop();
    await assert.rejects(node.call('countDecisions', { profile: 'istio' }));
    assert.equal(changes, 1);

    const cancel = new AbortController();
    const waiting = node.call('takeSnapshot', {}, { signal: cancel.signal });
    cancel.abort();
    await assert.rejects(waiting, (error) => MeshpathError.is(error, 'CANCELLED'));

    const unanswered = node.call('takeSnapshot', {});
    const [, rejected] = await Promise.allSettled([session.close(), unanswered]);
    assert.ok(rejected.status === 'rejected' && MeshpathError.is(rejected.reason, 'AGENT_STOPPED'));
    assert.deepEqual(session.state, { phase: 'closed', error: null });
    await ended(pid);
    await assert.rejects(node.call('listMaps', {}), (error) => MeshpathError.is(error, 'AGENT_STOPPED'));
    const hash = await contentHash(join(agents, 'current'));
    assert.deepEqual(await listInstalled(server), [hash]);
    assert.deepEqual((await readdir(join(server.folder, 'cache/meshpath/agent', hash))).sort(), ['agent.cjs', `koffi-linux-${process.arch}-glibc.node`]);
  });

  test('connects again from closed, without installing what is there', async (t) => {
    const server = await serverFor(t);
    const session = createSession({ sshConfigFile: server.configPath });
    await connectAndClose(session);
    session.phases.length = 0;
    const [first, second] = await Promise.all([session.connect(), session.connect()]);
    assert.equal(first, second);
    await session.close();
    assert.ok(!session.phases.includes('deploying'), session.phases.join());
  });

  test('repairs a damaged installation', async (t) => {
    const server = await serverFor(t);
    await connectAndClose(createSession({ sshConfigFile: server.configPath }));
    const hash = await contentHash(join(agents, 'current'));
    await writeFile(join(server.folder, 'cache/meshpath/agent', hash, 'agent.cjs'), 'damaged');
    const session = createSession({ sshConfigFile: server.configPath });
    await connectAndClose(session);
    assert.ok(session.phases.includes('deploying'));
    assert.deepEqual(await listInstalled(server), [hash]);
  });

  test('keeps the two newest versions and clears away what others abandoned', async (t) => {
    const server = await serverFor(t);
    const base = join(server.folder, 'cache/meshpath/agent');
    const long = new Date(Date.now() - 24 * 3600_000);
    const older = new Date(Date.now() - 48 * 3600_000);
    for (const [name, time] of [['a'.repeat(64), older], ['b'.repeat(64), long], ['.install-abandoned', long], ['.install-other', new Date()], ['notes', older]] as const) {
      await mkdir(join(base, name), { recursive: true });
      await utimes(join(base, name), time, time);
    }
    await connectAndClose(createSession({ sshConfigFile: server.configPath }));
    const hash = await contentHash(join(agents, 'current'));
    assert.deepEqual((await listInstalled(server)).sort(), ['.install-other', hash, 'b'.repeat(64), 'notes'].sort());
  });

  test('an agent of another protocol version is refused by name', async (t) => {
    const server = await serverFor(t);
    await buildSampleAgent(join(agents, 'other'), { protocolVersion: 99 });
    const error = await failure(createSession({ sshConfigFile: server.configPath, agentFolder: join(agents, 'other') }));
    assert.equal(error.code, 'AGENT_PROTOCOL_MISMATCH');
    assert.ok(error.reason.includes('99'));
  });

  test('an agent that does not start shows its last words', async (t) => {
    const server = await serverFor(t);
    const folder = join(agents, 'broken');
    await cp(join(agents, 'current'), folder, { recursive: true });
    await buildSampleAgent(folder, { marker: 'broken' });
    const manifest = JSON.parse(await readFile(join(folder, 'manifest.json'), 'utf8')) as { files: { name: string; sha256: string; bytes: number }[] };
    await writeFile(join(folder, 'agent.cjs'), 'throw new Error("no luck today")');
    const { createHash } = await import('node:crypto');
    const content = await readFile(join(folder, 'agent.cjs'));
    manifest.files = manifest.files.map((file) =>
      file.name === 'agent.cjs' ? { ...file, sha256: createHash('sha256').update(content).digest('hex'), bytes: content.length } : file,
    );
    await writeFile(join(folder, 'manifest.json'), JSON.stringify(manifest));
    const error = await failure(createSession({ sshConfigFile: server.configPath, agentFolder: folder }));
    assert.equal(error.code, 'AGENT_START_FAILED');
    assert.ok(error.reason.includes('no luck today'), error.reason);
  });

  test('many sessions at once with the same and with different hosts', async (t) => {
    const servers = await Promise.all([serverFor(t), serverFor(t)]);
    const sessions = [0, 1, 0, 1, 0].map((index) => createSession({ sshConfigFile: servers[index]?.configPath }));
    await Promise.all(sessions.map(async (session) => session.connect()));
    assert.equal(new Set(sessions.map(agentPid)).size, sessions.length);
    await Promise.all(sessions.map(async (session) => session.close()));
    const hash = await contentHash(join(agents, 'current'));
    assert.deepEqual(await Promise.all(servers.map(listInstalled)), [[hash], [hash]]);
  });

  test('a login shell that prints before, behind and on both streams', async (t) => {
    const server = await serverWithShell(t, `echo "Welcome 'to' \\"node\\" $(date)"; echo noise >&2; printf 'no newline'\n/bin/sh -c "$SSH_ORIGINAL_COMMAND"; code=$?; echo bye; exit $code`);
    await connectAndClose(createSession({ sshConfigFile: server.configPath }));
  });

  for (const shell of ['tcsh', 'fish', 'zsh', 'bash', 'dash']) {
    const program = findCommand(shell);
    test(`${shell} as the login shell`, { skip: program === undefined ? `needs ${shell}` : false }, async (t) => {
      const server = await serverWithShell(t, `exec ${program ?? ''} -c "$SSH_ORIGINAL_COMMAND"`);
      await connectAndClose(createSession({ sshConfigFile: server.configPath }));
    });
  }

  test('a shell that runs nothing is said', async (t) => {
    const server = await serverWithShell(t, 'echo "This account is currently not available."; exit 1');
    const error = await failure(createSession({ sshConfigFile: server.configPath }));
    assert.equal(error.code, 'SSH_PROTOCOL_FAILED');
    assert.ok(error.reason.includes('not available'));
  });

  test('no Node.js on the node', { skip: needsRoot }, async (t) => {
    const usual = ['/usr/bin/node', '/usr/bin/nodejs', '/usr/local/bin/node', process.execPath];
    const server = await serverFor(t, { hiddenPrograms: [...new Set(usual)].filter((path) => existsSync(path)), configLines: ['SetEnv HOME=/nonexistent'] });
    const error = await failure(createSession({ sshConfigFile: server.configPath }));
    assert.equal(error.code, 'AGENT_NODE_MISSING');
    assert.ok(error.remedy.includes('Install'));
    assert.deepEqual(await listInstalled(server), []);
  });

  test('an empty PATH does not hide Node.js in the usual folders', async (t) => {
    const server = await serverWithShell(t, 'PATH= exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"');
    await connectAndClose(createSession({ sshConfigFile: server.configPath }));
  });

  test('the configured Node.js is missing, or too old', async (t) => {
    const server = await serverFor(t);
    const missing = await failure(createSession({ sshConfigFile: server.configPath, remoteNodePath: `/nonexistent/it's` }));
    assert.equal(missing.code, 'AGENT_NODE_MISSING');
    const path = join(server.folder, 'old node');
    await writeFile(path, '#!/bin/sh\necho "v16.20.2 x64 glibc"\n', { mode: 0o755 });
    const old = await failure(createSession({ sshConfigFile: server.configPath, remoteNodePath: path }));
    assert.equal(old.code, 'AGENT_NODE_TOO_OLD');
    assert.ok(old.reason.includes('v16.20.2'));
  });

  test('a home that is not writable, or full of something else', async (t) => {
    const file = await serverWithShell(t, 'XDG_CACHE_HOME=/dev/null exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"');
    const error = await failure(createSession({ sshConfigFile: file.configPath }));
    assert.equal(error.code, 'AGENT_UPLOAD_FAILED');
    assert.ok(error.reason.includes('/dev/null'), error.reason);
    const none = await serverWithShell(t, 'unset XDG_CACHE_HOME HOME; exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"');
    assert.equal((await failure(createSession({ sshConfigFile: none.configPath }))).code, 'AGENT_UPLOAD_FAILED');
  });

  test('a home that is mounted noexec cannot hold the native library, and says so', { skip: needsRoot }, async (t) => {
    const server = await serverWithShell(t, `exec unshare -m /bin/sh -c 'mount -t tmpfs -o noexec none "$XDG_CACHE_HOME" && exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"'`);
    const error = await failure(createSession({ sshConfigFile: server.configPath }));
    assert.equal(error.code, 'AGENT_UPLOAD_FAILED');
    assert.ok(error.reason.includes('koffi-linux'), error.reason);
    assert.ok(error.remedy.includes('noexec'));
  });

  test('cut at each step: a clear error, and no half-installed agent', async (t) => {
    const expected: Record<string, ErrorCode> = {
      verifyingHost: 'SSH_PROTOCOL_FAILED',
      authenticating: 'SSH_PROTOCOL_FAILED',
      preflight: 'SSH_CONNECTION_LOST',
      deploying: 'SSH_CONNECTION_LOST',
      starting: 'SSH_CONNECTION_LOST',
    };
    for (const [phase, code] of Object.entries(expected)) {
      await t.test(phase, async (inner) => {
        const server = await serverFor(inner);
        const relay = await startRelay(inner, server);
        const session = createSession({ sshConfigFile: relay.configPath });
        session.onStateChange((state) => {
          if (state.phase === phase) {
            relay.cut();
          }
        });
        const error = await failure(session);
        assert.equal(error.code, code, `${error.message} ${error.reason}`);
        await untilNothingIsInstalling(server);
      });
    }
  });

  test('cut in the middle of the upload: nothing stays of it, and the next try succeeds', async (t) => {
    const server = await serverFor(t);
    const relay = await startRelay(t, server, 1_000_000);
    const error = await failure(createSession({ sshConfigFile: relay.configPath }));
    assert.equal(error.code, 'SSH_CONNECTION_LOST');
    await untilNothingIsInstalling(server);
    assert.deepEqual(await listInstalled(server), []);
    await connectAndClose(createSession({ sshConfigFile: server.configPath }));
    assert.deepEqual(await listInstalled(server), [await contentHash(join(agents, 'current'))]);
  });

  test('cut while a person types the passphrase: the connection is lost', async (t) => {
    const server = await serverFor(t, { passphrase: 'secret' });
    const relay = await startRelay(t, server);
    const prompts = {
      ...createPrompts(),
      askSecret: async () => {
        relay.cut();
        return new Promise<string>((resolve) => setTimeout(() => { resolve('secret'); }, 50));
      },
    };
    assert.equal((await failure(createSession({ sshConfigFile: relay.configPath, prompts }))).code, 'SSH_CONNECTION_LOST');
  });

  test('cancelled at each step: CANCELLED, and no half-installed agent', async (t) => {
    for (const phase of ['resolving', 'connecting', 'verifyingHost', 'authenticating', 'preflight', 'deploying', 'starting'] as const) {
      await t.test(phase, async (inner) => {
        const server = await serverFor(inner);
        const session = createSession({ sshConfigFile: server.configPath });
        const cancel = new AbortController();
        session.onStateChange((state) => {
          if (state.phase === phase) {
            cancel.abort();
          }
        });
        const error = await failure(session, cancel.signal);
        assert.equal(error.code, 'CANCELLED');
        await untilNothingIsInstalling(server);
      });
    }
  });

  test('closing while it connects cancels it', async (t) => {
    const server = await serverFor(t);
    const session = createSession({ sshConfigFile: server.configPath });
    const connecting = session.connect();
    await Promise.all([assert.rejects(connecting, (error) => MeshpathError.is(error, 'CANCELLED')), session.close()]);
    assert.equal(session.state.phase, 'closed');
  });

  test('cut while ready: closed with SSH_CONNECTION_LOST, calls reject with it, the agent ends, and it reconnects', async (t) => {
    const server = await serverFor(t);
    const session = createSession({ sshConfigFile: server.configPath });
    const node = await session.connect();
    const pid = agentPid(session);
    const waiting = node.call('takeSnapshot', {}).catch((error: unknown) => error);
    const closed = closing(session);
    assert.ok((await server.cutConnections()) > 0);
    assert.equal((await closed)?.code, 'SSH_CONNECTION_LOST');
    assert.ok(MeshpathError.is(await waiting, 'SSH_CONNECTION_LOST'));
    await ended(pid);
    await session.connect();
    assert.notEqual(agentPid(session), pid);
    await session.close();
  });

  test('an agent that is killed is AGENT_STOPPED', async (t) => {
    const server = await serverFor(t);
    const session = createSession({ sshConfigFile: server.configPath });
    await session.connect();
    const closed = closing(session);
    process.kill(agentPid(session), 'SIGKILL');
    assert.equal((await closed)?.code, 'AGENT_STOPPED');
  });

  describe('as a user without root’s rights', { skip: needsRoot || (findCommand('useradd') === undefined ? 'needs useradd' : false) }, () => {
    let user: TemporaryUser;
    let home: string;
    before(async () => {
      home = await mkdtemp(join(tmpdir(), 'meshpath-home-'));
      user = await createTemporaryUser(home);
    });
    after(async () => {
      await user.remove();
      await rm(home, { recursive: true, force: true });
    });
    const noSudo = findCommand('sudo') === undefined ? 'needs sudo' : false;

    test('without sudo the agent runs as the user, with a notice', async (t) => {
      const sudo = findCommand('sudo');
      const server = await serverFor(t, { user: user.name, hiddenPrograms: sudo === undefined ? [] : [sudo] });
      const session = createSession({ sshConfigFile: server.configPath });
      await session.connect();
      assert.ok(session.state.phase === 'ready');
      assert.notEqual(session.state.description.uid, 0);
      assert.deepEqual(session.state.notices.map(({ code }) => code), ['SUDO_UNAVAILABLE']);
      assert.deepEqual(session.prompts.secrets, []);
      await session.close();
    });

    test('a user who may not use sudo, or declines: as the user, with a notice', { skip: noSudo }, async (t) => {
      const server = await serverFor(t, { user: user.name });
      for (const secrets of [[user.password], []]) {
        const session = createSession({ sshConfigFile: server.configPath, prompts: createPrompts({ secrets }) });
        await session.connect();
        assert.ok(session.state.phase === 'ready');
        assert.notEqual(session.state.description.uid, 0);
        assert.deepEqual(session.state.notices.map(({ code }) => code), ['SUDO_UNAVAILABLE']);
        assert.deepEqual(session.prompts.secrets.map(({ kind }) => kind), ['sudo-password']);
        await session.close();
      }
    });

    test('with a password for sudo, wrong once', { skip: noSudo }, async (t) => {
      await user.allowSudo('with-password');
      const server = await serverFor(t, { user: user.name });
      const session = createSession({ sshConfigFile: server.configPath, prompts: createPrompts({ secrets: ['wrong', user.password] }) });
      const node = await session.connect();
      assert.ok(session.state.phase === 'ready');
      assert.equal(session.state.description.uid, 0);
      assert.deepEqual(session.state.notices, []);
      assert.deepEqual(await node.call('listMaps', {}), []);
      assert.deepEqual(session.prompts.secrets.map(({ attempt }) => attempt), [1, 2]);
      assert.ok(!session.lines.join('\n').includes(user.password));
      const pid = agentPid(session);
      await session.close();
      await ended(pid);
    });

    test('with a password for sudo, wrong each time', { skip: noSudo }, async (t) => {
      await user.allowSudo('with-password');
      const server = await serverFor(t, { user: user.name });
      const error = await failure(createSession({ sshConfigFile: server.configPath, prompts: createPrompts({ secrets: ['1', '2', '3'] }) }));
      assert.equal(error.code, 'SUDO_PASSWORD_WRONG');
    });

    test('with sudo that asks nothing', { skip: noSudo }, async (t) => {
      await user.allowSudo('at-once');
      const server = await serverFor(t, { user: user.name });
      const session = createSession({ sshConfigFile: server.configPath });
      await session.connect();
      assert.equal(session.state.phase === 'ready' && session.state.description.uid, 0);
      const pid = agentPid(session);
      assert.deepEqual(session.prompts.secrets, []);
      const closed = closing(session);
      await server.cutConnections();
      assert.equal((await closed)?.code, 'SSH_CONNECTION_LOST');
      await ended(pid);
    });
  });
});

interface Relay {
  readonly configPath: string;
  /** Cuts every connection at once, in both directions. */
  cut(): void;
}

/** Puts a TCP relay in front of a server that can be cut, also by itself once so many bytes went to the server. */
async function startRelay(t: TestContext, server: SshServer, maxBytes = Infinity): Promise<Relay> {
  const sockets = new Set<Socket>();
  const cut = (): void => {
    for (const socket of sockets) {
      socket.destroy();
    }
  };
  const relay = createServer((client) => {
    const target = connectTcp({ host: '127.0.0.1', port: server.port });
    let bytes = 0;
    client.on('data', (piece) => {
      bytes += piece.length;
      if (bytes > maxBytes) {
        cut();
      }
    });
    for (const socket of [client, target]) {
      sockets.add(socket);
      socket.on('error', () => undefined);
      socket.on('close', () => {
        client.destroy();
        target.destroy();
      });
    }
    client.pipe(target).pipe(client);
  });
  await new Promise<void>((resolve) => {
    relay.listen(0, '127.0.0.1', resolve);
  });
  t.after(() => {
    cut();
    relay.close();
  });
  const address = relay.address();
  assert.ok(address !== null && typeof address === 'object');
  const configPath = join(server.folder, `ssh_config_relay_${address.port}`);
  await writeFile(configPath, `Host node\n  Port ${address.port}\n  HostKeyAlias relayed\n${await readFile(server.configPath, 'utf8')}`);
  await appendFile(server.knownHostsPath, server.knownHostsLine.replace(/^\S+/, 'relayed'));
  return { configPath, cut };
}

/** The node removes what it began once it sees that its input has ended. */
async function untilNothingIsInstalling(server: SshServer): Promise<void> {
  while ((await listInstalled(server)).some((name) => name.startsWith('.install-'))) {
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

describe('sessions without SSH', () => {
  test('this machine', { skip: process.platform === 'linux' ? needsRoot : 'needs Linux' }, async () => {
    const session = createSession({ target: { kind: 'thisMachine' } });
    await session.connect();
    assert.deepEqual(session.phases, ['preflight', 'starting', 'ready']);
    const pid = agentPid(session);
    await session.close();
    await ended(pid);
  });

  test('this machine, the agent being killed', { skip: process.platform === 'linux' ? needsRoot : 'needs Linux' }, async () => {
    const session = createSession({ target: { kind: 'thisMachine' } });
    await session.connect();
    const closed = closing(session);
    process.kill(agentPid(session), 'SIGKILL');
    assert.equal((await closed)?.code, 'AGENT_STOPPED');
  });

  test('a simulated node', async () => {
    const session = createSession({
      target: { kind: 'simulated' },
      createSimulatedNode: () =>
        connectInProcess(() => ({
          handlers: new Proxy({} as never, {
            get: () => async () => Promise.resolve({ protocolVersion: 1, identity: { kind: 'simulated' } }),
          }),
          dispose: async () => Promise.resolve(),
        })),
    });
    await session.connect();
    assert.deepEqual(session.phases, ['starting', 'ready']);
    await session.close();
    assert.deepEqual(session.state, { phase: 'closed', error: null });
  });

  test('an extension without its agent says so', async () => {
    const error = await failure(createSession({ target: { kind: 'thisMachine' }, agentFolder: join(agents, 'nothing') }));
    assert.equal(error.code, 'AGENT_START_FAILED');
  });
});
