import { execFile, spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { chmod, mkdir, mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

const START_TIMEOUT_MS = 15_000;
/** Where sshd drops its rights before a login; the package's service makes it, a machine without services has none. */
const PRIVILEGE_SEPARATION_FOLDER = '/run/sshd';

const runFile = promisify(execFile);

export interface SshServerOptions {
  /** More lines of sshd_config(5); the first value of a keyword counts, and these come first. */
  readonly configLines?: readonly string[] | undefined;
  /** Types of the host keys; one ed25519 key where it is left out. */
  readonly hostKeyTypes?: readonly ('ed25519' | 'ecdsa' | 'rsa')[] | undefined;
  /** Passphrase of the client's key. */
  readonly passphrase?: string | undefined;
  /** Programs that are not there for whoever logs in: absolute paths. Needs root. */
  readonly hiddenPrograms?: readonly string[] | undefined;
  /** Who logs in; the user of this process where it is left out. */
  readonly user?: string | undefined;
  /** A key that may log in already, for a second server: its private file. A new one is made where it is left out. */
  readonly clientKeyPath?: string | undefined;
}

/** An OpenSSH server of a test's own on a loopback port. */
export interface SshServer {
  readonly port: number;
  /** `SHA256:…` of the first host key. */
  readonly hostKeyFingerprint: string;
  /** One line a host key, for a known_hosts file. */
  readonly knownHostsLine: string;
  /** A private key that may log in. */
  readonly clientKeyPath: string;
  /** A client configuration with the host `node`, its known_hosts and its key: for `ssh -F`. */
  readonly configPath: string;
  readonly knownHostsPath: string;
  /** Everything of this server, and XDG_CACHE_HOME of those who log in (`cache` in it). */
  readonly folder: string;
  /** The name of the host in `configPath`. */
  readonly alias: string;
  /** Ends every open connection and keeps listening. Gives how many there were. */
  cutConnections(): Promise<number>;
  /** Ends the server and its connections and removes its folder. Safe to call more than once. */
  stop(): Promise<void>;
}

/** Starts an OpenSSH server with its own configuration, host keys and authorized keys in a temporary folder. */
export async function startSshServer(options: SshServerOptions = {}): Promise<SshServer> {
  const folder = await mkdtemp(join(tmpdir(), 'meshpath-sshd-'));
  // Whoever logs in must reach the files in it, also without being its owner.
  await chmod(folder, 0o755);
  try {
    return await startIn(folder, options);
  } catch (error) {
    await rm(folder, { recursive: true, force: true });
    throw error;
  }
}

async function startIn(folder: string, options: SshServerOptions): Promise<SshServer> {
  const user = options.user ?? userInfo().username;
  const hostKeys = await Promise.all((options.hostKeyTypes ?? ['ed25519']).map(async (type) => makeKey(join(folder, `host_${type}`), type, '')));
  const clientKeyPath = options.clientKeyPath ?? (await makeKey(join(folder, 'client_ed25519'), 'ed25519', options.passphrase ?? ''));
  await writeFile(join(folder, 'authorized_keys'), await readFile(`${clientKeyPath}.pub`, 'utf8'), { mode: 0o644 });
  await mkdir(join(folder, 'cache'), { mode: 0o777 });
  await chmod(join(folder, 'cache'), 0o777);
  const configFile = join(folder, 'sshd_config');
  await writeFile(
    configFile,
    [
      ...(options.configLines ?? []),
      ...hostKeys.map((path) => `HostKey ${path}`),
      'ListenAddress 127.0.0.1',
      'PidFile none',
      'UsePAM no',
      'StrictModes no',
      'PermitRootLogin yes',
      'PasswordAuthentication no',
      'KbdInteractiveAuthentication no',
      `AuthorizedKeysFile ${join(folder, 'authorized_keys')}`,
      `SetEnv XDG_CACHE_HOME=${join(folder, 'cache')}`,
      'Subsystem sftp internal-sftp',
      '',
    ].join('\n'),
  );
  if (process.getuid?.() === 0) {
    // It stays: it is empty, belongs to the package, and another server may need it.
    await mkdir(PRIVILEGE_SEPARATION_FOLDER, { recursive: true, mode: 0o755 });
  }
  const port = await findFreePort();
  const server = await launch(configFile, port, options.hiddenPrograms ?? []);

  const publicKeys = await Promise.all(hostKeys.map(async (path) => (await readFile(`${path}.pub`, 'utf8')).split(' ').slice(0, 2).join(' ')));
  const knownHostsLine = publicKeys.map((key) => `[127.0.0.1]:${port} ${key}\n`).join('');
  const knownHostsPath = join(folder, 'known_hosts');
  await writeFile(knownHostsPath, knownHostsLine);
  const configPath = join(folder, 'ssh_config');
  await writeFile(
    configPath,
    [
      'Host node',
      '  HostName 127.0.0.1',
      `  Port ${port}`,
      `  User ${user}`,
      `  IdentityFile ${clientKeyPath}`,
      '  IdentitiesOnly yes',
      '  IdentityAgent none',
      `  UserKnownHostsFile ${knownHostsPath}`,
      '  GlobalKnownHostsFile none',
      '  StrictHostKeyChecking yes',
      '',
    ].join('\n'),
  );
  let isStopped = false;
  return {
    port,
    hostKeyFingerprint: await readFingerprint(`${hostKeys[0] ?? ''}.pub`),
    knownHostsLine,
    clientKeyPath,
    configPath,
    knownHostsPath,
    folder,
    alias: 'node',
    cutConnections: async () => {
      const sessions = await listChildren(server.pid ?? -1);
      sessions.forEach(endProcess);
      return sessions.length;
    },
    stop: async () => {
      if (isStopped) {
        return;
      }
      isStopped = true;
      const sessions = await listChildren(server.pid ?? -1);
      await endServer(server);
      sessions.forEach(endProcess);
      await rm(folder, { recursive: true, force: true, maxRetries: 5 });
    },
  };
}

/** Makes a key with ssh-keygen and gives the path of its private file. */
export async function makeKey(path: string, type: 'ed25519' | 'ecdsa' | 'rsa', passphrase: string): Promise<string> {
  await runFile('ssh-keygen', ['-q', '-t', type, '-N', passphrase, '-C', 'meshpath test', '-f', path]);
  return path;
}

/** Gives a public key's fingerprint as ssh-keygen prints it: `SHA256:…`. */
export async function readFingerprint(publicKeyPath: string): Promise<string> {
  const { stdout } = await runFile('ssh-keygen', ['-l', '-E', 'sha256', '-f', publicKeyPath]);
  return stdout.split(' ')[1] ?? '';
}

async function launch(configFile: string, port: number, hiddenPrograms: readonly string[]): Promise<ChildProcess> {
  const command = ['/usr/sbin/sshd', '-D', '-e', '-f', configFile, '-p', String(port)];
  const hide = hiddenPrograms.map((path) => `mount --bind /dev/null '${path}' && `).join('');
  // In a mount namespace of its own, so that the programs are hidden from nobody else.
  const [program = '', ...args] = hide === '' ? command : ['unshare', '-m', '/bin/sh', '-c', `${hide}exec "$@"`, 'sh', ...command];
  const child = spawn(program, args, { stdio: ['ignore', 'ignore', 'pipe'] });
  let said = '';
  await new Promise<void>((resolve, reject) => {
    const timer = setTimeout(() => {
      child.kill();
      reject(new Error(`sshd did not listen in time: ${said}`));
    }, START_TIMEOUT_MS);
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      said = (said + text).slice(-4000);
      if (said.includes('Server listening on')) {
        clearTimeout(timer);
        resolve();
      }
    });
    child.once('error', reject);
    child.once('exit', (code) => {
      clearTimeout(timer);
      reject(new Error(`sshd ended with code ${String(code)}: ${said}`));
    });
  });
  return child;
}

async function endServer(server: ChildProcess): Promise<void> {
  if (server.exitCode !== null || server.signalCode !== null) {
    return;
  }
  const ended = new Promise((resolve) => server.once('exit', resolve));
  server.kill();
  await ended;
}

/** Each connection is a child of the server; ending it cuts the connection, as losing the network would. */
async function listChildren(parent: number): Promise<number[]> {
  const children: number[] = [];
  for (const name of await readdir('/proc')) {
    if (/^\d+$/.test(name)) {
      const stat = await readFile(`/proc/${name}/stat`, 'utf8').catch(() => '');
      // The program's name is in parentheses and may hold anything: the fields begin behind the last one.
      if (stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1] === String(parent)) {
        children.push(Number(name));
      }
    }
  }
  return children;
}

function endProcess(pid: number): void {
  try {
    process.kill(pid, 'SIGTERM');
  } catch {
    // It has ended meanwhile.
  }
}

async function findFreePort(): Promise<number> {
  const probe = createServer();
  await new Promise<void>((resolve) => {
    probe.listen(0, '127.0.0.1', resolve);
  });
  const address = probe.address();
  await new Promise((resolve) => probe.close(resolve));
  if (address === null || typeof address === 'string') {
    throw new Error('no free port');
  }
  return address.port;
}
