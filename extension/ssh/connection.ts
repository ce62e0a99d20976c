import { spawn } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { connect as connectTcp } from 'node:net';
import { Duplex } from 'node:stream';
import type { Readable, Writable } from 'node:stream';
import ssh2 from 'ssh2';
import type { AnyAuthMethod, ClientChannel, Prompt } from 'ssh2';
import { MeshpathError, cancelledError, toMeshpathError } from '../../agent/protocol/errors.ts';
import type { WireError } from '../../agent/protocol/errors.ts';
import { describeStep, methodOf, planAuthentication } from './authentication.ts';
import type { AuthenticationStep } from './authentication.ts';
import type { Destination } from './destination.ts';
import { decideHostKey, orderHostKeyAlgorithms } from './hostKeyPolicy.ts';
import type { HostKeyDecision, HostKeyTrustStore } from './hostKeyPolicy.ts';
import { IdentityAgent, listAgentIdentities, readIdentityFile, readIdentityFingerprint } from './identities.ts';
import type { Identity } from './identities.ts';
import { hostKeyFingerprint, keyTypeOfBlob, parseKnownHosts } from './knownHosts.ts';
import type { HostIdentity, KnownHostsEntry, PresentedKey } from './knownHosts.ts';
import type { SecretQuestion, SshPrompts } from './prompts.ts';
import { resolveRoute } from './route.ts';
import { resolveHost } from './sshConfig.ts';
import type { HostConfig } from './sshConfig.ts';

/** How long the network may take for each step, where ConnectTimeout does not say it. */
const NETWORK_TIMEOUT_MS = 20_000;
/** How long a person may think about a question. */
const HUMAN_TIMEOUT_MS = 10 * 60_000;
const KEEPALIVE_INTERVAL_MS = 10_000;
const KEEPALIVE_MISSES = 3;
/** How long the server may take to close its side. */
const GOODBYE_MS = 2_000;
/** What is kept of the server's words for a message. */
const MAX_SERVER_WORDS = 500;

export type SshPhase = 'resolving' | 'connecting' | 'verifyingHost' | 'authenticating';

/** What connecting needs from around it. */
export interface SshEnvironment {
  readonly prompts: SshPrompts;
  readonly trustStore: HostKeyTrustStore;
  /** As `ssh -F`. */
  readonly configFile?: string | undefined;
  /** Called at each step of each hop, with one short sentence. */
  readonly onPhase: (phase: SshPhase, message: string) => void;
  /** One line for the log; never holds a secret. */
  readonly log: (line: string) => void;
}

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

/* The bytes below: TCP, a channel of the hop before, or the user's ProxyCommand. */

async function openSocket(config: HostConfig, through: Hop | undefined, timeoutMs: number, signal: AbortSignal): Promise<Duplex> {
  if (through !== undefined) {
    return openChannelTo(config, through, timeoutMs, signal);
  }
  return config.proxyCommand === null ? openTcp(config, timeoutMs, signal) : runProxyCommand(config.proxyCommand);
}

async function openTcp(config: HostConfig, timeoutMs: number, signal: AbortSignal): Promise<Duplex> {
  const socket = connectTcp({ host: config.hostName, port: config.port, noDelay: true });
  try {
    await settle<void>(signal, timeoutMs, (resolve, reject) => {
      socket.once('connect', resolve);
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
  return socket;
}

async function openChannelTo(config: HostConfig, through: Hop, timeoutMs: number, signal: AbortSignal): Promise<Duplex> {
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
  const stream = Duplex.from({ readable: child.stdout, writable: child.stdin }) as Duplex;
  stream.once('close', () => child.kill());
  child.once('error', (error) => stream.destroy(error));
  return stream;
}

/* The SSH handshake and authentication of one hop. */

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

/* Host keys. */

interface VerifierContext {
  readonly config: HostConfig;
  readonly identity: HostIdentity;
  readonly knownHosts: readonly KnownHostsEntry[];
  readonly environment: SshEnvironment;
  readonly waitForHuman: <T>(ask: (signal: AbortSignal) => Promise<T>) => Promise<T>;
  readonly deny: (error: MeshpathError) => void;
}

/**
 * Gives ssh2's host verifier. It must stay a plain function that returns undefined: ssh2 takes any other value,
 * a promise too, as the answer, and a promise is truthy. It is also called for every later key exchange, where only
 * the key that was accepted first is right.
 */
function createHostVerifier(context: VerifierContext): (blob: Buffer, answer: (isRight: boolean) => void) => void {
  let accepted: string | undefined;
  return (blob, answer) => {
    const key = blob.toString('base64');
    if (accepted !== undefined) {
      answer(accepted === key);
      return;
    }
    const keyType = keyTypeOfBlob(blob);
    if (keyType === undefined) {
      context.deny(protocolFailed(context.config, 'The server presented a host key that is none.'));
      answer(false);
      return;
    }
    verifyHostKey({ keyType, key }, context).then(
      () => {
        accepted = key;
        answer(true);
      },
      (error: unknown) => {
        context.deny(toMeshpathError(error));
        answer(false);
      },
    );
  };
}

/** Resolves where the key is to be trusted; rejects with the reason otherwise. */
async function verifyHostKey(presented: PresentedKey, context: VerifierContext): Promise<void> {
  const { config, identity, environment } = context;
  environment.onPhase('verifyingHost', `Verifying the host key of ${config.alias}`);
  const decision = decideHostKey({
    identity,
    presented,
    knownHosts: context.knownHosts,
    trusted: environment.trustStore.list(),
    strict: config.strictHostKeyChecking,
  });
  const fingerprint = hostKeyFingerprint(presented.key);
  if (decision.action === 'deny') {
    throw hostKeyDenied(config, presented, decision);
  }
  if (decision.action === 'ask') {
    const isRight = await context.waitForHuman(async (signal) => environment.prompts.confirmHostKey(decision.question, signal));
    if (!isRight) {
      throw new MeshpathError({
        code: 'HOST_KEY_UNKNOWN',
        message: `The host key of ${config.alias} was not accepted.`,
        reason: `Nobody knows this ${presented.keyType} key yet: ${fingerprint}.`,
        remedy: 'Compare it with the output of `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on the host, then connect again.',
      });
    }
  }
  if (decision.action === 'ask' || decision.remember) {
    await environment.trustStore.add({
      host: identity.host.toLowerCase(),
      port: identity.port,
      keyType: presented.keyType,
      key: presented.key,
      acceptedAt: new Date().toISOString(),
    });
  }
  environment.log(`${config.alias}: host key ${presented.keyType} ${fingerprint}`);
}

async function readKnownHosts(config: HostConfig): Promise<KnownHostsEntry[]> {
  const entries: KnownHostsEntry[] = [];
  for (const file of [...config.userKnownHostsFiles, ...config.globalKnownHostsFiles]) {
    try {
      entries.push(...parseKnownHosts(await readFile(file, 'utf8'), file));
    } catch (error) {
      const code = error instanceof Error && 'code' in error ? error.code : undefined;
      if (code !== 'ENOENT' && code !== 'ENOTDIR') {
        // A revocation may stand in it: going on without it could trust a key that must not be.
        throw new MeshpathError(
          {
            code: 'SSH_CONFIG_INVALID',
            message: `The file of known hosts ${file} cannot be read.`,
            reason: error instanceof Error ? error.message : String(error),
            remedy: 'Make the file readable for you, or take it out of UserKnownHostsFile or GlobalKnownHostsFile.',
          },
          { cause: error },
        );
      }
    }
  }
  return entries;
}

/* Authentication. */

interface AuthenticatorContext {
  readonly config: HostConfig;
  readonly environment: SshEnvironment;
  readonly waitForHuman: <T>(ask: (signal: AbortSignal) => Promise<T>) => Promise<T>;
}

interface Authenticator {
  /** Gives what to try next; false where nothing is left. `methodsLeft` is null before the server was asked. */
  next(methodsLeft: readonly string[] | null): Promise<AnyAuthMethod | false>;
  isExhausted(): boolean;
  /** The error for a connection that ended while logging in; undefined where it had not begun. */
  explainEnd(error: Error | undefined): MeshpathError | undefined;
}

function createAuthenticator({ config, environment, waitForHuman }: AuthenticatorContext): Authenticator {
  const username = config.user;
  const tried: string[] = [];
  const problems: MeshpathError[] = [];
  let agentIdentities: readonly Identity[] = [];
  let steps: AuthenticationStep[] | undefined;
  let offered: readonly string[] = [];
  let isExhausted = false;
  let hasBegun = false;

  const ask = async (question: Omit<SecretQuestion, 'host'>): Promise<string | undefined> =>
    waitForHuman(async (signal) => environment.prompts.askSecret({ host: config.alias, ...question }, signal));
  const askPassphrase = async (path: string, attempt: number): Promise<string | undefined> =>
    ask({ kind: 'key-passphrase', prompt: `Passphrase of ${path}`, instructions: '', echo: false, attempt });

  const plan = async (): Promise<AuthenticationStep[]> => {
    if (config.identityAgent !== null) {
      try {
        agentIdentities = await listAgentIdentities(config.identityAgent);
      } catch (error) {
        environment.log(`${config.alias}: no keys from the ssh agent ${config.identityAgent}: ${toMeshpathError(error).reason}`);
      }
    }
    const keyFiles = await Promise.all(
      config.identityFiles.map(async (path) => ({ path, fingerprint: await readIdentityFingerprint(path).catch(() => undefined) })),
    );
    return planAuthentication(config, { agentKeys: agentIdentities.map((key) => key.fingerprint), keyFiles });
  };

  /** Gives ssh2's method for a step; undefined where there is nothing to try: no such file, no answer. */
  const prepare = async (step: AuthenticationStep): Promise<AnyAuthMethod | undefined> => {
    switch (step.kind) {
      case 'agent-key': {
        const identity = agentIdentities.find((key) => key.fingerprint === step.fingerprint);
        return identity === undefined ? undefined : agentMethod(identity);
      }
      case 'key-file': {
        const identity = await readIdentityFile(step.path, askPassphrase);
        return identity === undefined ? undefined : agentMethod(identity);
      }
      case 'keyboard-interactive':
        return {
          type: 'keyboard-interactive',
          username,
          prompt: (_name, instructions, _language, prompts, finish) => {
            answerPrompts(instructions, prompts, step.attempt).then(finish, (error: unknown) => {
              problems.push(toMeshpathError(error));
              finish([]);
            });
          },
        };
      case 'password': {
        const password = await ask({
          kind: 'ssh-password',
          prompt: `Password of ${username} on ${config.alias}`,
          instructions: '',
          echo: false,
          attempt: step.attempt,
        });
        return password === undefined ? undefined : { type: 'password', username, password };
      }
    }
  };

  const agentMethod = (identity: Identity): AnyAuthMethod => ({
    type: 'agent',
    username,
    agent: new IdentityAgent(identity, (error) => {
      problems.push(toMeshpathError(error));
    }),
  });

  const answerPrompts = async (instructions: string, prompts: readonly Prompt[], attempt: number): Promise<string[]> => {
    const answers: string[] = [];
    for (const { prompt, echo } of prompts) {
      const answer = await ask({
        kind: 'keyboard-interactive',
        prompt: clean(prompt),
        instructions: clean(instructions),
        echo: echo === true,
        attempt,
      });
      if (answer === undefined) {
        dropSteps('keyboard-interactive');
        return [];
      }
      answers.push(answer);
    }
    return answers;
  };

  /** A person who declines once is not asked the same again. */
  const dropSteps = (kind: AuthenticationStep['kind']): void => {
    steps = steps?.filter((step) => step.kind !== kind);
  };

  const failed = (reason: string): MeshpathError =>
    problems.length === 1 && tried.length <= 1 && problems[0] !== undefined
      ? problems[0]
      : authenticationFailed(config, tried, offered, [reason, ...problems.map((problem) => `${problem.message} ${problem.reason}`)]);

  return {
    isExhausted: () => isExhausted,
    explainEnd: (error) => {
      if (!hasBegun) {
        return undefined;
      }
      return failed(isExhausted || error === undefined ? '' : `The server said: ${clean(error.message)}`);
    },
    next: async (methodsLeft) => {
      hasBegun = true;
      if (methodsLeft === null) {
        // Asks the server which methods it takes, as OpenSSH does.
        return { type: 'none', username };
      }
      offered = methodsLeft;
      steps ??= await plan();
      for (;;) {
        const step = steps.shift();
        if (step === undefined) {
          isExhausted = true;
          return false;
        }
        if (!methodsLeft.includes(methodOf(step))) {
          continue;
        }
        let method: AnyAuthMethod | undefined;
        try {
          method = await prepare(step);
        } catch (error) {
          // One key that cannot be used does not stop the others from being tried.
          const problem = toMeshpathError(error);
          problems.push(problem);
          environment.log(`${config.alias}: ${problem.message} ${problem.reason}`);
          continue;
        }
        if (method !== undefined) {
          tried.push(describeStep(step));
          return method;
        }
        if (step.kind === 'password') {
          dropSteps('password');
        }
      }
    },
  };
}

/* Programs on the host. */

async function startProcess(hop: Hop, command: string): Promise<SshProcess> {
  const channel = await new Promise<ClientChannel>((resolve, reject) => {
    try {
      hop.client.exec(command, (error, opened) => {
        if (error === undefined) {
          resolve(opened);
        } else {
          reject(execFailed(hop.config, error.message));
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

/* Clocks. */

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

/* Errors. */

function unreachable(config: HostConfig, reason: string): MeshpathError {
  return new MeshpathError({
    code: 'HOST_UNREACHABLE',
    message: `${config.alias} (${config.hostName}:${config.port}) cannot be reached.`,
    reason,
    remedy: `Check the name, the port and the network: \`ssh ${config.alias}\` in a terminal shows the same.`,
  });
}

function protocolFailed(config: HostConfig, reason: string): MeshpathError {
  return new MeshpathError({
    code: 'SSH_PROTOCOL_FAILED',
    message: `${config.hostName}:${config.port} did not complete the SSH handshake.`,
    reason: clean(reason),
    remedy: `Check that an SSH server listens there: \`ssh -v ${config.alias}\` shows the handshake. Servers that allow only post-quantum key exchange are not supported.`,
  });
}

function handshakeTimedOut(config: HostConfig, timeoutMs: number): MeshpathError {
  return new MeshpathError({
    code: 'TIMED_OUT',
    message: `${config.alias} did not answer in time.`,
    reason: `The SSH server at ${config.hostName}:${config.port} was silent for ${timeoutMs / 1000} seconds.`,
    remedy: 'Try again, or raise ConnectTimeout for this host in your ssh configuration.',
  });
}

function connectionLost(config: HostConfig, reason: string): MeshpathError {
  return new MeshpathError({
    code: 'SSH_CONNECTION_LOST',
    message: `The SSH connection to ${config.alias} was lost.`,
    reason: clean(reason),
    remedy: 'Reconnect to the node. The agent there ends by itself; established connections go on over plain TCP.',
  });
}

function execFailed(config: HostConfig, reason: string): MeshpathError {
  return new MeshpathError({
    code: 'SSH_PROTOCOL_FAILED',
    message: `${config.alias} does not let a program be run.`,
    reason: clean(reason),
    remedy: 'Check ForceCommand, MaxSessions and the login shell of this user on the host.',
  });
}

function authenticationFailed(
  config: HostConfig,
  tried: readonly string[],
  offered: readonly string[],
  reasons: readonly string[],
): MeshpathError {
  const attempts = tried.length === 0 ? 'There was nothing to try.' : `Tried: ${tried.join(', ')}.`;
  const accepts = offered.length === 0 ? '' : `The server accepts: ${offered.join(', ')}.`;
  return new MeshpathError({
    code: 'SSH_AUTHENTICATION_FAILED',
    message: `${config.alias} did not let ${config.user} in.`,
    reason: [attempts, accepts, ...reasons].filter((part) => part !== '').join(' '),
    remedy: `Check the user and its keys: \`ssh ${config.user}@${config.alias}\` in a terminal must work. With many keys, set IdentityFile and IdentitiesOnly for this host.`,
  });
}

function hostKeyDenied(config: HostConfig, presented: PresentedKey, decision: HostKeyDecision & { action: 'deny' }): MeshpathError {
  const fingerprint = hostKeyFingerprint(presented.key);
  const error = ((): WireError => {
    switch (decision.cause) {
      case 'revoked':
        return {
          code: 'HOST_KEY_REVOKED',
          message: `The host key of ${config.alias} is revoked.`,
          reason: `${decision.where} marks ${presented.keyType} ${fingerprint} as @revoked.`,
          remedy: 'Do not connect. Give the host a new key, and ask whoever revoked this one why.',
        };
      case 'changed':
        return {
          code: 'HOST_KEY_MISMATCH',
          message: `The host key of ${config.alias} is not the one that is known. Somebody may be in between.`,
          reason: `${decision.where} has ${decision.expected}, the server presented ${fingerprint} (${presented.keyType}).`,
          remedy:
            'Ask whoever runs the host whether its key changed. If it did, remove the old key: ' +
            `\`ssh-keygen -R ${config.port === 22 ? config.hostName : `[${config.hostName}]:${config.port}`}\`, and “Forget Host Key” in Meshpath.`,
        };
      case 'certificate-only':
        return {
          code: 'HOST_KEY_UNKNOWN',
          message: `The host key of ${config.alias} cannot be verified.`,
          reason: `${decision.where} knows only a certificate authority, and host certificates are not supported.`,
          remedy: `Add the host's plain key to your known_hosts: ${fingerprint}.`,
        };
      case 'unknown-and-strict':
        return {
          code: 'HOST_KEY_UNKNOWN',
          message: `The host key of ${config.alias} is not known.`,
          reason: `StrictHostKeyChecking is on, and no known_hosts file has ${presented.keyType} ${fingerprint}.`,
          remedy: 'Add the host to your known_hosts after comparing the fingerprint, or set StrictHostKeyChecking to ask.',
        };
    }
  })();
  return new MeshpathError(error);
}

/** Gives words of a server as one line of printable text. */
function clean(text: string): string {
  return text.replaceAll(/[\p{Cc}\p{Cf}\s]+/gu, ' ').trim().slice(0, MAX_SERVER_WORDS);
}
