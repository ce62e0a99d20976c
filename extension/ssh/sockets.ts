import { spawn } from 'node:child_process';
import { connect as connectTcp } from 'node:net';
import { Duplex } from 'node:stream';
import type { Client } from 'ssh2';
import { cancelledError } from '../../agent/protocol/errors.ts';
import type { MeshpathError } from '../../agent/protocol/errors.ts';
import type { HostConfig } from './sshConfig.ts';
import { unreachable } from './sshErrors.ts';

/** A host that is connected already and leads to the next. */
export interface JumpHost {
  readonly config: HostConfig;
  readonly client: Client;
}

/**
 * Opens what an SSH connection runs over: a channel of the hop before, the user's ProxyCommand, or TCP. HOST_UNREACHABLE
 * where that fails, CANCELLED where `signal` is aborted.
 */
export async function openSocket(config: HostConfig, through: JumpHost | undefined, timeoutMs: number, signal: AbortSignal): Promise<Duplex> {
  if (through !== undefined) {
    return openChannelTo(config, through, timeoutMs, signal);
  }
  return config.proxyCommand === null ? openTcp(config, timeoutMs, signal) : runProxyCommand(config.proxyCommand);
}

async function openTcp(config: HostConfig, timeoutMs: number, signal: AbortSignal): Promise<Duplex> {
  const socket = connectTcp({ host: config.hostName, port: config.port, noDelay: true });
  try {
    return await settle<Duplex>(signal, timeoutMs, (resolve, reject) => {
      socket.once('connect', () => {
        resolve(socket);
      });
      socket.once('error', (error) => {
        reject(unreachable(config, error.message));
      });
    }, () => unreachable(config, `It did not answer within ${timeoutMs / 1000} seconds.`));
  } catch (error) {
    // An address that fails late still reports it; nobody waits for it any more.
    socket.on('error', () => undefined);
    socket.destroy();
    throw error;
  }
}

async function openChannelTo(config: HostConfig, through: JumpHost, timeoutMs: number, signal: AbortSignal): Promise<Duplex> {
  return settle<Duplex>(signal, timeoutMs, (resolve, reject) => {
    through.client.forwardOut('127.0.0.1', 0, config.hostName, config.port, (error, channel) => {
      if (error === undefined) {
        resolve(channel);
      } else {
        reject(unreachable(config, `${through.config.alias} could not connect to it: ${error.message}`));
      }
    });
  }, () => unreachable(config, `${through.config.alias} did not connect to it within ${timeoutMs / 1000} seconds.`));
}

/** The command comes from the user's own ssh configuration and runs as ssh would run it (ssh_config(5), ProxyCommand). */
function runProxyCommand(command: string): Duplex {
  const child = spawn(command, { shell: true, stdio: ['pipe', 'pipe', 'ignore'], windowsHide: true });
  const stream = Duplex.from({ readable: child.stdout, writable: child.stdin });
  stream.once('close', () => child.kill());
  child.once('error', (error) => stream.destroy(error));
  return stream;
}

async function settle<T>(
  signal: AbortSignal,
  timeoutMs: number,
  start: (resolve: (value: T) => void, reject: (error: MeshpathError) => void) => void,
  timedOut: () => MeshpathError,
): Promise<T> {
  return new Promise<T>((resolve, reject) => {
    const onAbort = (): void => {
      done();
      reject(cancelledError('Connecting'));
    };
    const timer = setTimeout(() => {
      done();
      reject(timedOut());
    }, timeoutMs);
    const done = (): void => {
      clearTimeout(timer);
      signal.removeEventListener('abort', onAbort);
    };
    if (signal.aborted) {
      onAbort();
      return;
    }
    signal.addEventListener('abort', onAbort, { once: true });
    start(
      (value) => {
        done();
        resolve(value);
      },
      (error) => {
        done();
        reject(error);
      },
    );
  });
}
