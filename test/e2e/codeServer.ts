import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, mkdirSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { installCodeServer } from '../../scripts/codeServer.mjs';
import { quietSettings } from '../../scripts/quietSettings.mjs';
import { findCommand } from '../requirements.ts';

/** How to start a server: `workspace` is the folder that the window opens. */
export interface CodeServerOptions {
  readonly workspace: string;
  /** The user's settings on top of the quiet ones. */
  readonly settings?: Readonly<Record<string, unknown>>;
  /** Packaged extensions to install. Without any, load the one under development with developExtension (workbench.ts). */
  readonly vsix?: readonly string[];
  /** What ~/.ssh/config of the server's home holds: nothing unless given. The developer's own is never read. */
  readonly sshConfig?: string;
  /** Variables of the server and so of the extension host. HOME is a temporary folder of the server's own unless given here. */
  readonly environment?: Readonly<Record<string, string>>;
}

/** A code-server that runs. */
export interface CodeServer extends AsyncDisposable {
  readonly url: string;
  /** The server's HOME: also that of the extension host, and of what the extension starts. */
  readonly home: string;
  /** The id of the process group's leader. */
  readonly processId: number;
  /** Gives the text of an extension's output channel so far, read from the server's log files. */
  readonly readOutputChannel: (name: string) => string;
  /** Gives the log of every extension host so far. */
  readonly readExtensionHostLog: () => string;
  /** Ends the server and everything in its process group, and removes its folders. */
  readonly stop: () => Promise<void>;
}

const startDeadline = 60_000;
const stopDeadline = 5_000;

/**
 * Starts a code-server on a free loopback port, with a home, user data and extensions folder of its own, installing it first if the
 * cache has none. It reaches no marketplace. Throws with the end of its log if it does not come up.
 */
export async function startCodeServer(options: CodeServerOptions): Promise<CodeServer> {
  const installed = await installCodeServer();
  const home = mkdtempSync(join(tmpdir(), `meshpath-e2e-${process.pid}-`));
  const userData = join(home, 'user-data');
  const logFile = join(home, 'server.log');
  mkdirSync(join(userData, 'User'), { recursive: true });
  mkdirSync(join(home, 'extensions'));
  writeFileSync(join(userData, 'User/settings.json'), JSON.stringify({ ...quietSettings, ...options.settings }, undefined, 2));
  writeFileSync(join(home, 'config.yaml'), 'auth: none\n');
  writeSshConfig(home, options.sshConfig ?? '');
  const parameters = [installed.program, '--config', join(home, 'config.yaml'), '--user-data-dir', userData, '--extensions-dir', join(home, 'extensions')];
  const environment = makeEnvironment(home, options.environment ?? {});
  const log = openSync(logFile, 'a');
  let server: ChildProcess | undefined;
  try {
    for (const vsix of options.vsix ?? []) {
      const installer = spawn(installed.node, [...parameters, '--install-extension', vsix, '--force'], { env: environment, stdio: ['ignore', log, log] });
      if ((await exitOf(installer)) !== 0) {
        throw new Error(`${vsix} could not be installed\n${tailOf(logFile)}`);
      }
    }
    const port = await findFreePort();
    const url = `http://127.0.0.1:${port}`;
    server = spawn(
      installed.node,
      [
        ...parameters,
        '--auth',
        'none',
        '--bind-addr',
        `127.0.0.1:${port}`,
        '--disable-telemetry',
        '--disable-update-check',
        '--disable-workspace-trust',
        '--disable-getting-started-override',
        '--disable-proxy',
        '--ignore-last-opened',
        options.workspace,
      ],
      { env: environment, stdio: ['ignore', log, log], detached: true },
    );
    const child = server;
    await waitUntilUp(child, url, logFile);
    const logs = join(userData, 'logs');
    const stop = async (): Promise<void> => {
      await endGroup(child);
      rmSync(home, { recursive: true, force: true, maxRetries: 5 });
    };
    return {
      url,
      home,
      processId: child.pid ?? 0,
      readOutputChannel: (name) => readLogs(logs, (file) => file.endsWith(`/${name}.log`) || (file.includes('output_logging') && file.endsWith(`-${name}.log`))),
      readExtensionHostLog: () => readLogs(logs, (file) => file.endsWith('remoteexthost.log')),
      stop,
      [Symbol.asyncDispose]: stop,
    };
  } catch (error) {
    if (server !== undefined) {
      await endGroup(server);
    }
    rmSync(home, { recursive: true, force: true, maxRetries: 5 });
    throw error;
  } finally {
    closeSync(log);
  }
}

/** OpenSSH takes the user's home from the password database, not from HOME: a wrapper tells it where its configuration is. */
function writeSshConfig(home: string, sshConfig: string): void {
  mkdirSync(join(home, '.ssh'), { mode: 0o700 });
  writeFileSync(join(home, '.ssh/config'), sshConfig, { mode: 0o600 });
  const ssh = findCommand('ssh');
  if (ssh !== undefined) {
    mkdirSync(join(home, 'bin'));
    writeFileSync(join(home, 'bin/ssh'), `#!/bin/sh\nexec ${ssh} -F '${join(home, '.ssh/config')}' "$@"\n`, { mode: 0o755 });
  }
}

function makeEnvironment(home: string, own: Readonly<Record<string, string>>): NodeJS.ProcessEnv {
  const inherited = Object.entries(process.env).filter(([name]) => !/^(VSCODE_|ELECTRON_|CODE_SERVER_|NODE_OPTIONS$|NODE_TEST_CONTEXT$)/.test(name));
  return {
    ...Object.fromEntries(inherited),
    EXTENSIONS_GALLERY: '{"serviceUrl":""}',
    PATH: [join(home, 'bin'), process.env['PATH'] ?? ''].join(delimiter),
    SSH_AUTH_SOCK: undefined,
    // The extension host gets this environment, not that of a login shell.
    VSCODE_CLI: '1',
    HOME: home,
    XDG_DATA_HOME: home,
    XDG_CONFIG_HOME: home,
    XDG_CACHE_HOME: home,
    ...own,
  };
}

async function waitUntilUp(server: ChildProcess, url: string, logFile: string): Promise<void> {
  const until = Date.now() + startDeadline;
  for (;;) {
    if (hasEnded(server)) {
      throw new Error(`code-server ended while starting\n${tailOf(logFile)}`);
    }
    if (await answers(`${url}/healthz`)) {
      return;
    }
    if (Date.now() > until) {
      throw new Error(`code-server did not answer within ${startDeadline} ms\n${tailOf(logFile)}`);
    }
    await sleep(50);
  }
}

async function answers(url: string): Promise<boolean> {
  try {
    return (await fetch(url)).ok;
  } catch {
    return false;
  }
}

/** Ends a process group by the id of its leader: politely, and after a while for good. */
async function endGroup(leader: ChildProcess): Promise<void> {
  if (leader.pid === undefined) {
    return;
  }
  signalGroup(leader.pid, 'SIGTERM');
  const until = Date.now() + stopDeadline;
  while (!hasEnded(leader) && Date.now() < until) {
    await sleep(50);
  }
  signalGroup(leader.pid, 'SIGKILL');
}

function signalGroup(id: number, signal: NodeJS.Signals): void {
  try {
    process.kill(-id, signal);
  } catch {
    // Every process of the group has ended.
  }
}

function hasEnded(child: ChildProcess): boolean {
  return child.exitCode !== null || child.signalCode !== null;
}

function exitOf(child: ChildProcess): Promise<number | null> {
  return new Promise((resolve, reject) => {
    child.once('exit', resolve);
    child.once('error', reject);
  });
}

/** Gives a loopback port that was free a moment ago. */
export function findFreePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const probe = createServer().once('error', reject);
    probe.listen(0, '127.0.0.1', () => {
      const address = probe.address();
      probe.close(() => {
        if (typeof address === 'object' && address !== null) {
          resolve(address.port);
        } else {
          reject(new Error('a listening socket has no address'));
        }
      });
    });
  });
}

function readLogs(folder: string, isWanted: (file: string) => boolean): string {
  return readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter(isWanted)
    .sort()
    .map((file) => readFileSync(join(folder, file), 'utf8'))
    .join('');
}

function tailOf(file: string): string {
  return readFileSync(file, 'utf8').slice(-2000);
}
