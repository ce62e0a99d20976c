import type { Duplex, Readable, Writable } from 'node:stream';
import ssh2 from 'ssh2';
import type { AnyAuthMethod, ClientChannel } from 'ssh2';
import { cancelledError, toMeshpathError } from '../../agent/protocol/errors.ts';
import type { MeshpathError } from '../../agent/protocol/errors.ts';
import { createAuthenticator } from './authenticator.ts';
import type { Destination } from './destination.ts';
import type { SshEnvironment } from './environment.ts';
import { orderHostKeyAlgorithms } from './hostKeyPolicy.ts';
import { createHostVerifier, readKnownHosts } from './hostKeyVerifier.ts';
import type { HostIdentity, KnownHostsEntry } from './knownHosts.ts';
import { resolveRoute } from './route.ts';
import { openSocket } from './sockets.ts';
import { resolveHost } from './sshConfig.ts';
import type { HostConfig } from './sshConfig.ts';
import { clean, connectionLost, execFailed, handshakeTimedOut, protocolFailed } from './sshErrors.ts';

/** How long the network may take for each step, where ConnectTimeout does not say it. */
const NETWORK_TIMEOUT_MS = 20_000;
/** How long a person may think about a question. */
const HUMAN_TIMEOUT_MS = 10 * 60_000;
const KEEPALIVE_INTERVAL_MS = 10_000;
const KEEPALIVE_MISSES = 3;
/** How long the server may take to close its side. */
const GOODBYE_MS = 2_000;
/** A program that runs on the other side. */
export interface SshProcess {
  readonly stdin: Writable;
  readonly stdout: Readable;
  readonly stderr: Readable;
  /** Resolves when it ended; `lost` says why the connection ended under it, where it did. */
  readonly exited: Promise<SshProcessExit>;
  /** Closes its streams, which ends a program that reads its input. */
  kill(): void;
}

export interface SshProcessExit {
  readonly code: number | null;
  readonly signal: string | null;
  readonly lost: MeshpathError | null;
}

/** An authenticated connection to one host. */
export interface SshConnection {
  readonly config: HostConfig;
  /** Runs a command line in the user's login shell on the host, without a terminal. */
  start(command: string): Promise<SshProcess>;
  /** Resolves when it ended: with SSH_CONNECTION_LOST, or null where close() did. */
  readonly closed: Promise<MeshpathError | null>;
  /** Ends the connection and every hop that it goes through. Safe to call more than once. */
  close(): Promise<void>;
}

/**
 * Connects to a host of the user's ssh configuration: resolves it, goes through its jump hosts, verifies the host key
 * of every hop and authenticates with the configuration of each. Rejects with a MeshpathError and leaves no connection
 * open; CANCELLED where `signal` is aborted, at any step.
 */
export async function connectSsh(destination: Destination, environment: SshEnvironment, signal: AbortSignal): Promise<SshConnection> {
  environment.onPhase('resolving', `Reading the ssh configuration of ${destination.host}`);
  const route = await resolveRoute(destination, async (hop) =>
    resolveHost(hop, { configFile: environment.configFile, signal }),
  );
  const hops: Hop[] = [];
  try {
    for (const config of route) {
      const hop = await openHop(config, hops.at(-1), environment, signal);
      hops.push(hop);
    }
  } catch (error) {
    closeHops(hops);
    throw signal.aborted ? cancelledError(`Connecting to ${destination.host}`) : error;
  }
  const last = hops.at(-1);
  if (last === undefined) {
    throw new RangeError('a route has at least its destination');
  }
  return {
    config: last.config,
    closed: last.closed,
    start: async (command) => startProcess(last, command),
    close: async () => {
      closeHops(hops);
      await last.closed;
    },
  };
}

interface Hop {
  readonly config: HostConfig;
  readonly client: ssh2.Client;
  readonly closed: Promise<MeshpathError | null>;
  /** Why the connection is gone; null while it is there and where we ended it. */
  lost(): MeshpathError | null;
  end(): void;
}

function closeHops(hops: readonly Hop[]): void {
  for (const hop of hops.toReversed()) {
    hop.end();
  }
}

async function openHop(config: HostConfig, through: Hop | undefined, environment: SshEnvironment, signal: AbortSignal): Promise<Hop> {
  signal.throwIfAborted();
  const where = `${config.hostName}:${config.port}`;
  environment.onPhase('connecting', through === undefined ? `Connecting to ${where}` : `Connecting to ${where} through ${through.config.alias}`);
  const timeoutMs = config.connectTimeoutSeconds === null ? NETWORK_TIMEOUT_MS : config.connectTimeoutSeconds * 1000;
  const knownHosts = await readKnownHosts(config);
  const socket = await openSocket(config, through, timeoutMs, signal);
  try {
    return await handshake(config, knownHosts, socket, timeoutMs, environment, signal);
  } catch (error) {
    socket.destroy();
    throw error;
  }
}

async function handshake(
  config: HostConfig,
  knownHosts: readonly KnownHostsEntry[],
  socket: Duplex,
  timeoutMs: number,
  environment: SshEnvironment,
  signal: AbortSignal,
): Promise<Hop> {
  const identity: HostIdentity = { host: config.hostKeyAlias ?? config.hostName, port: config.hostKeyAlias === null ? config.port : 22 };
  const client = new ssh2.Client();
  const state: ClientState = { isReady: false, isEnding: false, isClosed: false, failure: undefined };
  const closed = watchEnd(client, config, state);

  await new Promise<void>((resolve, reject) => {
    const deadline = createDeadline(timeoutMs, () => {
      fail(handshakeTimedOut(config, timeoutMs));
    });
    const onAbort = (): void => {
      fail(cancelledError(`Connecting to ${config.alias}`));
    };
    const stop = (): void => {
      deadline.stop();
      signal.removeEventListener('abort', onAbort);
    };
    function fail(error: MeshpathError): void {
      state.failure ??= error;
      stop();
      state.isEnding = true;
      socket.destroy();
      reject(state.failure);
    }
    /** Runs what waits for a person with the network's clock stopped. */
    const waitForHuman = async <T>(ask: (signal: AbortSignal) => Promise<T>): Promise<T> => {
      deadline.restart(HUMAN_TIMEOUT_MS);
      try {
        return await ask(signal);
      } finally {
        deadline.restart(timeoutMs);
      }
    };
    if (signal.aborted) {
      onAbort();
      return;
    }
    signal.addEventListener('abort', onAbort, { once: true });

    const verifier = createHostVerifier({
      config,
      identity,
      knownHosts,
      environment,
      waitForHuman,
      deny: fail,
    });
    const authenticator = createAuthenticator({ config, environment, waitForHuman });

    client.once('handshake', () => {
      deadline.restart(timeoutMs);
      environment.onPhase('authenticating', `Logging in to ${config.alias} as ${config.user}`);
    });
    client.once('ready', () => {
      state.isReady = true;
      stop();
      resolve();
    });
    client.on('error', (error: Error & { level?: string }) => {
      // ssh2 reports each key that could not sign as an error and goes on with the next one.
      if (error.level === 'agent' || (error.level === 'client-authentication' && !authenticator.isExhausted())) {
        environment.log(`${config.alias}: ${error.message}`);
        return;
      }
      if (!state.isReady) {
        fail(authenticator.explainEnd(error) ?? protocolFailed(config, error.message));
      } else {
        state.failure ??= connectionLost(config, error.message);
      }
    });
    client.once('close', () => {
      if (!state.isReady) {
        fail(authenticator.explainEnd(undefined) ?? protocolFailed(config, 'The server closed the connection.'));
      }
    });
    client.on('banner', (text) => {
      environment.log(`${config.alias}: ${clean(text)}`);
    });

    try {
      client.connect({
        sock: socket,
        username: config.user,
        // Its own clock would also run while a person reads a question.
        readyTimeout: 0,
        keepaliveInterval: KEEPALIVE_INTERVAL_MS,
        keepaliveCountMax: KEEPALIVE_MISSES,
        algorithms: { serverHostKey: orderHostKeyAlgorithms(identity, knownHosts, environment.trustStore.list()) },
        hostVerifier: verifier,
        authHandler: (methodsLeft: string[] | null, _partial, next) => {
          authenticator.next(methodsLeft).then(
            (method) => {
              // The types leave out `false`, by which ssh2 knows that there is nothing more to try.
              (next as (method: AnyAuthMethod | false) => void)(method);
            },
            (error: unknown) => {
              fail(toMeshpathError(error));
            },
          );
        },
      });
    } catch (error) {
      fail(toMeshpathError(error));
    }
  });

  client.setNoDelay(true);
  return {
    config,
    client,
    closed,
    lost: () => (state.isClosed && !state.isEnding ? (state.failure ?? connectionLost(config, 'The connection was cut.')) : null),
    end: () => {
      state.isEnding = true;
      client.end();
      // A server that does not answer the goodbye must not keep the connection.
      const timer = setTimeout(() => {
        socket.destroy();
      }, GOODBYE_MS);
      client.once('close', () => {
        clearTimeout(timer);
      });
    },
  };
}

interface ClientState {
  isReady: boolean;
  /** We end it: what follows is no failure. */
  isEnding: boolean;
  isClosed: boolean;
  failure: MeshpathError | undefined;
}

function watchEnd(client: ssh2.Client, config: HostConfig, state: ClientState): Promise<MeshpathError | null> {
  return new Promise((resolve) => {
    client.once('close', () => {
      state.isClosed = true;
      resolve(state.isEnding ? null : (state.failure ?? connectionLost(config, 'The connection was cut.')));
    });
  });
}

async function startProcess(hop: Hop, command: string): Promise<SshProcess> {
  const channel = await new Promise<ClientChannel>((resolve, reject) => {
    try {
      hop.client.exec(command, (error, opened) => {
        if (error === undefined) {
          resolve(opened);
        } else {
          // A connection that ends answers what is still open with an error of its own.
          reject(hop.lost() ?? execFailed(hop.config, error.message));
        }
      });
    } catch (error) {
      // ssh2 throws here where the connection is gone already.
      reject(connectionLost(hop.config, error instanceof Error ? error.message : String(error)));
    }
  });
  const exited = new Promise<SshProcessExit>((resolve) => {
    let code: number | null = null;
    let endSignal: string | null = null;
    channel.on('exit', (status: number | null, name?: string) => {
      code = status;
      endSignal = name ?? null;
    });
    channel.on('close', () => {
      // ssh2 ends the channels of a lost connection after it has said that it is lost.
      resolve({ code, signal: endSignal, lost: hop.lost() });
    });
  });
  // What is written after the other side is gone has nobody to report to; `exited` says it.
  channel.on('error', () => undefined);
  return {
    stdin: channel,
    stdout: channel,
    stderr: channel.stderr,
    exited,
    kill: () => {
      channel.close();
    },
  };
}

interface Deadline {
  restart(milliseconds: number): void;
  stop(): void;
}

function createDeadline(milliseconds: number, onPassed: () => void): Deadline {
  let isStopped = false;
  let timer = setTimeout(onPassed, milliseconds);
  return {
    restart: (next) => {
      clearTimeout(timer);
      if (!isStopped) {
        timer = setTimeout(onPassed, next);
      }
    },
    stop: () => {
      isStopped = true;
      clearTimeout(timer);
    },
  };
}
