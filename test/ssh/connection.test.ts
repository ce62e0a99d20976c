import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import type { AddressInfo, Server, Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { after, before, describe, test } from 'node:test';
import type { TestContext } from 'node:test';
import { promisify } from 'node:util';
import ssh2 from 'ssh2';
import { MeshpathError } from '../../agent/protocol/errors.ts';
import { connectSsh } from '../../extension/ssh/connection.ts';
import type { SshConnection } from '../../extension/ssh/connection.ts';
import { parseDestination } from '../../extension/ssh/destination.ts';
import { findCommand, missingForSshServer } from '../requirements.ts';
import { makeKey, readFingerprint, startSshServer } from './sshServer.ts';
import type { SshServer, SshServerOptions } from './sshServer.ts';
import { createEnvironment, createPrompts, createTrustStore } from './surroundings.ts';
import type { RecordedEnvironment } from './surroundings.ts';

const runFile = promisify(execFile);
const never = new AbortController().signal;

async function connect(environment: RecordedEnvironment, host = 'node', signal = never): Promise<SshConnection> {
  return connectSsh(parseDestination(host), environment, signal);
}

async function failure(promise: Promise<unknown>): Promise<MeshpathError> {
  try {
    await promise;
  } catch (error) {
    assert.ok(error instanceof MeshpathError, String(error));
    return error;
  }
  throw new assert.AssertionError({ message: 'it did not fail' });
}

async function serverFor(t: TestContext, options: SshServerOptions = {}): Promise<SshServer> {
  const server = await startSshServer(options);
  t.after(async () => server.stop());
  return server;
}

async function run(connection: SshConnection, command: string): Promise<{ output: string; errors: string; code: number | null }> {
  const running = await connection.start(command);
  running.stdin.end();
  const [output, errors, exit] = await Promise.all([text(running.stdout), text(running.stderr), running.exited]);
  return { output, errors, code: exit.code };
}

/** Replaces lines of a client configuration of a test's own. */
async function configure(server: SshServer, ...lines: string[]): Promise<string> {
  const path = join(server.folder, `ssh_config_${Math.random().toString(36).slice(2)}`);
  // The first value of a keyword counts.
  await writeFile(path, ['Host node', ...lines.map((line) => `  ${line}`), await readFile(server.configPath, 'utf8')].join('\n'));
  return path;
}

describe('connecting to an OpenSSH server', { skip: missingForSshServer() }, () => {
  let server: SshServer;
  before(async () => {
    server = await startSshServer();
  });
  after(async () => server.stop());

  test('logs in with the configured key and runs programs with separate streams and exit code', async () => {
    const environment = createEnvironment(server.configPath);
    const connection = await connect(environment);
    const result = await run(connection, 'echo out; echo err >&2; exit 3');
    await connection.close();
    assert.deepEqual(result, { output: 'out\n', errors: 'err\n', code: 3 });
    assert.deepEqual(environment.phases, ['resolving', 'connecting', 'verifyingHost', 'authenticating']);
    assert.equal(await connection.closed, null);
    assert.deepEqual(environment.prompts.hostKeys, []);
    assert.deepEqual(environment.prompts.secrets, []);
  });

  test('carries a megabyte both ways unchanged', async () => {
    const connection = await connect(createEnvironment(server.configPath));
    const running = await connection.start('cat');
    const sent = 'meshpath\n'.repeat(120_000);
    running.stdin.end(sent);
    assert.equal(await text(running.stdout), sent);
    await connection.close();
  });

  test('refuses a changed host key, says both fingerprints, and never tries to log in', async () => {
    const other = await makeKey(join(server.folder, 'other_host'), 'ed25519', '');
    const known = join(server.folder, 'known_hosts_changed');
    await writeFile(known, `[127.0.0.1]:${server.port} ${await readFile(`${other}.pub`, 'utf8')}`);
    const environment = createEnvironment(await configure(server, `UserKnownHostsFile ${known}`, 'StrictHostKeyChecking ask'));
    const error = await failure(connect(environment));
    assert.equal(error.code, 'HOST_KEY_MISMATCH');
    assert.ok(error.reason.includes(server.hostKeyFingerprint));
    assert.ok(error.reason.includes(await readFingerprint(`${other}.pub`)));
    assert.ok(error.remedy.includes(`ssh-keygen -R [127.0.0.1]:${server.port}`));
    assert.deepEqual(environment.prompts.hostKeys, []);
    assert.ok(!environment.phases.includes('authenticating'));
  });

  test('a changed key is refused also where checking is off', async () => {
    const other = await makeKey(join(server.folder, 'other_host_off'), 'ed25519', '');
    const known = join(server.folder, 'known_hosts_off');
    await writeFile(known, `[127.0.0.1]:${server.port} ${await readFile(`${other}.pub`, 'utf8')}`);
    const path = await configure(server, `UserKnownHostsFile ${known}`, 'StrictHostKeyChecking no');
    assert.equal((await failure(connect(createEnvironment(path)))).code, 'HOST_KEY_MISMATCH');
  });

  test('refuses a revoked host key', async () => {
    const known = join(server.folder, 'known_hosts_revoked');
    await writeFile(known, `${server.knownHostsLine}@revoked ${server.knownHostsLine}`);
    const error = await failure(connect(createEnvironment(await configure(server, `UserKnownHostsFile ${known}`))));
    assert.equal(error.code, 'HOST_KEY_REVOKED');
    assert.ok(error.reason.includes(`${known} line 2`));
  });

  test('asks about an unknown key once, remembers it in its own store and leaves known_hosts alone', async () => {
    const known = join(server.folder, 'known_hosts_none');
    const path = await configure(server, `UserKnownHostsFile ${known}`, 'StrictHostKeyChecking ask');
    const trustStore = createTrustStore();
    const first = createEnvironment(path, createPrompts({ acceptHostKey: true }), trustStore);
    await (await connect(first)).close();
    assert.deepEqual(first.prompts.hostKeys, [
      { host: '127.0.0.1', port: server.port, keyType: 'ssh-ed25519', fingerprint: server.hostKeyFingerprint, known: 'nothing' },
    ]);
    const second = createEnvironment(path, createPrompts(), trustStore);
    await (await connect(second)).close();
    assert.deepEqual(second.prompts.hostKeys, []);
    await assert.rejects(readFile(known));
    assert.equal(await trustStore.forget('127.0.0.1', server.port), 1);
    const third = createEnvironment(path, createPrompts({ acceptHostKey: false }), trustStore);
    assert.equal((await failure(connect(third))).code, 'HOST_KEY_UNKNOWN');
    assert.deepEqual(trustStore.list(), []);
  });

  test('strict checking refuses an unknown key without a question', async () => {
    const environment = createEnvironment(await configure(server, 'UserKnownHostsFile none'), createPrompts({ acceptHostKey: true }));
    assert.equal((await failure(connect(environment))).code, 'HOST_KEY_UNKNOWN');
    assert.deepEqual(environment.prompts.hostKeys, []);
  });

  test('knows a server by any of its keys: the known type is asked for first', async (t) => {
    const many = await serverFor(t, { hostKeyTypes: ['ed25519', 'ecdsa', 'rsa'] });
    for (const line of many.knownHostsLine.trim().split('\n')) {
      await writeFile(many.knownHostsPath, `${line}\n`);
      await (await connect(createEnvironment(many.configPath))).close();
    }
  });

  test('a wrong user or key says what was tried and what the server accepts', async () => {
    const key = await makeKey(join(server.folder, 'stranger'), 'ed25519', '');
    const error = await failure(connect(createEnvironment(await configure(server, `IdentityFile ${key}`)), 'nobody-here@node'));
    assert.equal(error.code, 'SSH_AUTHENTICATION_FAILED');
    assert.ok(error.message.includes('nobody-here'));
    assert.ok(error.reason.includes(`Tried: key ${key}`), error.reason);
    assert.ok(error.reason.includes('The server accepts: publickey.'), error.reason);
  });

  test('no key at all is said', async () => {
    const error = await failure(connect(createEnvironment(await configure(server, 'PubkeyAuthentication no'))));
    assert.equal(error.code, 'SSH_AUTHENTICATION_FAILED');
    assert.ok(error.reason.includes('There was nothing to try.'));
  });

  test('asks for the passphrase of a key only once the server wants that key', async (t) => {
    const locked = await serverFor(t, { passphrase: 'correct horse' });
    const stranger = await makeKey(join(locked.folder, 'stranger'), 'ed25519', 'never asked for');
    const path = await configure(locked, `IdentityFile ${stranger}`);
    const environment = createEnvironment(path, createPrompts({ secrets: ['wrong', 'correct horse'] }));
    await (await connect(environment)).close();
    assert.deepEqual(
      environment.prompts.secrets.map(({ kind, prompt, attempt }) => ({ kind, prompt, attempt })),
      [1, 2].map((attempt) => ({ kind: 'key-passphrase', prompt: `Passphrase of ${locked.clientKeyPath}`, attempt })),
    );
    assert.ok(!environment.lines.join().includes('correct horse'));
    const declined = await failure(connect(createEnvironment(locked.configPath)));
    assert.equal(declined.code, 'SSH_KEY_UNREADABLE');
  });

  test('an unreadable key is named', async () => {
    const path = join(server.folder, 'not_a_key');
    await writeFile(path, 'this is no key');
    const config = join(server.folder, 'ssh_config_bad_key');
    await writeFile(config, (await readFile(server.configPath, 'utf8')).replace(server.clientKeyPath, path));
    const error = await failure(connect(createEnvironment(config)));
    assert.equal(error.code, 'SSH_KEY_UNREADABLE');
    assert.ok(error.message.includes(path));
  });

  test('uses the keys of an ssh agent', { skip: findCommand('ssh-agent') === undefined ? 'needs ssh-agent' : false }, async (t) => {
    const socket = join(server.folder, 'agent.sock');
    const agent = spawn('ssh-agent', ['-D', '-a', socket], { stdio: ['ignore', 'pipe', 'ignore'] });
    t.after(() => agent.kill());
    await new Promise((resolve) => agent.stdout.once('data', resolve));
    await runFile('ssh-add', ['-q', server.clientKeyPath], { env: { ...process.env, SSH_AUTH_SOCK: socket } });
    const path = join(server.folder, 'ssh_config_agent');
    const config = await readFile(server.configPath, 'utf8');
    await writeFile(path, config.replace(/IdentityFile .*/, 'IdentityFile none').replace('IdentitiesOnly yes', '').replace('IdentityAgent none', `IdentityAgent ${socket}`));
    await (await connect(createEnvironment(path))).close();
    const strict = join(server.folder, 'ssh_config_agent_only');
    await writeFile(strict, (await readFile(path, 'utf8')).replace('IdentityFile none', 'IdentityFile none\n  IdentitiesOnly yes'));
    assert.equal((await failure(connect(createEnvironment(strict)))).code, 'SSH_AUTHENTICATION_FAILED');
  });

  test('goes through a jump host, each verified and logged in by its own configuration', async (t) => {
    const jump = await serverFor(t);
    const path = join(server.folder, 'ssh_config_jump');
    const jumpConfig = (await readFile(jump.configPath, 'utf8')).replace('Host node', 'Host jump');
    await writeFile(path, `Host node\n  ProxyJump jump\n${await readFile(server.configPath, 'utf8')}\n${jumpConfig}`);
    const environment = createEnvironment(path);
    const connection = await connect(environment);
    assert.equal((await run(connection, 'echo there')).output, 'there\n');
    assert.deepEqual(environment.phases.filter((phase) => phase !== 'resolving'), [
      'connecting', 'verifyingHost', 'authenticating', 'connecting', 'verifyingHost', 'authenticating',
    ]);
    assert.equal(await jump.cutConnections() > 0, true);
    assert.equal((await connection.closed)?.code, 'SSH_CONNECTION_LOST');

    await writeFile(jump.knownHostsPath, jump.knownHostsLine.replace(/AAAA\S+/, server.knownHostsLine.split(' ')[2]?.trim() ?? ''));
    assert.equal((await failure(connect(createEnvironment(path)))).code, 'HOST_KEY_MISMATCH');
  });

  test('goes through a ProxyCommand with its tokens expanded', async () => {
    const relay = `const s=require('net').connect(%p,'%h');process.stdin.pipe(s).pipe(process.stdout)`;
    const connection = await connect(createEnvironment(await configure(server, `ProxyCommand "${process.execPath}" -e "${relay}"`)));
    assert.equal((await run(connection, 'echo there')).output, 'there\n');
    await connection.close();
  });

  test('jump hosts that run in a circle are refused', async () => {
    const error = await failure(connect(createEnvironment(await configure(server, 'ProxyJump node'))));
    assert.equal(error.code, 'SSH_CONFIG_INVALID');
    assert.ok(error.reason.includes('node is reached through node'));
  });

  test('a port where nobody listens is HOST_UNREACHABLE', async () => {
    const closed = await listen(() => undefined);
    const { port } = closed.address() as AddressInfo;
    await new Promise((resolve) => closed.close(resolve));
    assert.equal((await failure(connect(createEnvironment(server.configPath), `node:${port}`))).code, 'HOST_UNREACHABLE');
  });

  test('a server that speaks something else is SSH_PROTOCOL_FAILED', async (t) => {
    const web = await listen((socket) => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n'));
    t.after(() => web.close());
    const { port } = web.address() as AddressInfo;
    assert.equal((await failure(connect(createEnvironment(server.configPath), `node:${port}`))).code, 'SSH_PROTOCOL_FAILED');
  });

  test('a server that stays silent runs into ConnectTimeout', async (t) => {
    const sockets = new Set<{ destroy(): void }>();
    const silent = await listen((socket) => sockets.add(socket));
    t.after(() => {
      sockets.forEach((socket) => { socket.destroy(); });
      silent.close();
    });
    const { port } = silent.address() as AddressInfo;
    const path = await configure(server, 'ConnectTimeout 1');
    assert.equal((await failure(connect(createEnvironment(path), `node:${port}`))).code, 'TIMED_OUT');
  });

  test('cancelling at each step rejects with CANCELLED and closes the connection', async (t) => {
    const path = await configure(server, 'UserKnownHostsFile none', 'StrictHostKeyChecking ask');
    for (const at of ['resolving', 'connecting', 'verifyingHost', 'authenticating'] as const) {
      await t.test(at, async () => {
        const cancel = new AbortController();
        const environment = {
          ...createEnvironment(path, createPrompts({ acceptHostKey: true })),
          onPhase: (phase: string) => {
            if (phase === at) {
              cancel.abort();
            }
          },
        };
        assert.equal((await failure(connectSsh(parseDestination('node'), environment, cancel.signal))).code, 'CANCELLED');
      });
    }
  });

  test('a cancelled question about a host key is a cancelled connection', async () => {
    const cancel = new AbortController();
    const environment = createEnvironment(await configure(server, 'UserKnownHostsFile none', 'StrictHostKeyChecking ask'), {
      ...createPrompts(),
      confirmHostKey: async (_question, signal) =>
        new Promise((resolve) => {
          signal.addEventListener('abort', () => { resolve(true); });
          cancel.abort();
        }),
    });
    assert.equal((await failure(connect(environment, 'node', cancel.signal))).code, 'CANCELLED');
    assert.ok(!environment.phases.includes('authenticating'));
  });

  test('a connection that is cut says so, to its programs too', async (t) => {
    const own = await serverFor(t);
    const connection = await connect(createEnvironment(own.configPath));
    const running = await connection.start('cat');
    running.stdout.resume();
    assert.ok((await own.cutConnections()) > 0);
    const exit = await running.exited;
    assert.equal(exit.lost?.code, 'SSH_CONNECTION_LOST');
    assert.equal((await connection.closed)?.code, 'SSH_CONNECTION_LOST');
    assert.equal((await failure(connection.start('true'))).code, 'SSH_CONNECTION_LOST');
  });
});

describe('against a server of our own', () => {
  // ssh2 takes a promise of a verifier for a yes: only a verifier that waits for the answer can pass these.
  for (const [name, confirmHostKey] of [
    ['no after a while', async () => new Promise<boolean>((resolve) => setTimeout(() => { resolve(false); }, 300))],
    ['an error after a while', async () => new Promise<boolean>((_, reject) => setTimeout(() => { reject(new Error('closed')); }, 300))],
  ] as const) {
    test(`host key: ${name} never leads to a login`, async (t) => {
      const folder = await mkdtemp(join(tmpdir(), 'meshpath-ssh2-'));
      t.after(async () => rm(folder, { recursive: true, force: true }));
      let logins = 0;
      const { private: hostKey } = ssh2.utils.generateKeyPairSync('ed25519');
      const server = new ssh2.Server({ hostKeys: [hostKey] }, (client) => {
        client.on('error', () => undefined);
        client.on('authentication', (context) => {
          logins += 1;
          context.accept();
        });
      });
      await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
      t.after(() => server.close());
      const config = join(folder, 'config');
      await writeFile(config, 'Host *\n  UserKnownHostsFile none\n  GlobalKnownHostsFile none\n  StrictHostKeyChecking ask\n  IdentityAgent none\n');
      const environment = createEnvironment(config, { ...createPrompts(), confirmHostKey });
      const { port } = server.address() as AddressInfo;
      const error = await failure(connect(environment, `someone@127.0.0.1:${port}`));
      assert.ok(['HOST_KEY_UNKNOWN', 'INTERNAL'].includes(error.code), error.code);
      assert.equal(logins, 0);
      assert.deepEqual(environment.trustStore.list(), []);
    });
  }

  test('asks for a password last, three times at most, and answers questions of the server', async (t) => {
    const { private: hostKey } = ssh2.utils.generateKeyPairSync('ed25519');
    const tried: string[] = [];
    const server = new ssh2.Server({ hostKeys: [hostKey] }, (client) => {
      client.on('error', () => undefined);
      client.on('authentication', (context) => {
        if (context.method === 'password') {
          tried.push(`password ${context.password}`);
          if (context.password === 'right') {
            context.accept();
            return;
          }
        } else if (context.method === 'keyboard-interactive') {
          context.prompt([{ prompt: 'Code\u0007:', echo: false }], 'Two\nfactors', (answers) => {
            tried.push(`code ${answers.join()}`);
            context.reject(['password', 'keyboard-interactive']);
          });
          return;
        }
        context.reject(['password', 'keyboard-interactive']);
      });
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    t.after(() => server.close());
    const folder = await mkdtemp(join(tmpdir(), 'meshpath-ssh2-'));
    t.after(async () => rm(folder, { recursive: true, force: true }));
    const config = join(folder, 'config');
    await writeFile(config, 'Host *\n  GlobalKnownHostsFile none\n  UserKnownHostsFile none\n  StrictHostKeyChecking no\n  IdentityAgent none\n  IdentityFile none\n');
    const { port } = server.address() as AddressInfo;

    const environment = createEnvironment(config, createPrompts({ secrets: ['1', '2', '3', 'wrong', 'right'] }));
    const connection = await connect(environment, `someone@127.0.0.1:${port}`);
    await connection.close();
    assert.deepEqual(tried, ['code 1', 'code 2', 'code 3', 'password wrong', 'password right']);
    assert.deepEqual(environment.prompts.secrets[0], {
      host: '127.0.0.1',
      kind: 'keyboard-interactive',
      prompt: 'Code :',
      instructions: 'Two factors',
      echo: false,
      attempt: 1,
    });

    const declining = createEnvironment(config, createPrompts());
    const error = await failure(connect(declining, `someone@127.0.0.1:${port}`));
    assert.equal(error.code, 'SSH_AUTHENTICATION_FAILED');
    assert.deepEqual(declining.prompts.secrets.map(({ kind }) => kind), ['keyboard-interactive', 'ssh-password']);
  });
});

async function listen(onConnection: (socket: Socket) => void): Promise<Server> {
  const server = createServer(onConnection);
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve);
  });
  return server;
}
