import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { COMMAND_FOLDERS } from '../snapshot/command.ts';
import { ProgramConversation } from './programConversation.ts';
import { PARAMS_VARIABLE } from './programs/program.ts';
import type { ProgramIdentity, ProgramMessage, ProgramName } from './programs/reports.ts';

/** Where a process of a lab runs. */
export interface ProcessPlace {
  /** The absolute folder of its cgroup. */
  readonly cgroupFolder: string;
  /** The name of its network namespace under /run/netns. */
  readonly namespaceName: string;
}

/** A program that is left running. */
export interface StayingOptions {
  /** Where it listens for whoever asks it later: a Unix socket. */
  readonly controlPath: string;
  /** What it prints. */
  readonly logPath: string;
}

/**
 * Gives the command line that runs a command in a pod: its process moves itself into the cgroup before anything else
 * (a socket belongs to the cgroup that its maker was in), then into the network namespace, then becomes the user.
 * Every exec keeps the process id.
 */
export function commandInPod(place: ProcessPlace, command: readonly string[], identity: ProgramIdentity | null): [string, ...string[]] {
  const become =
    identity === null
      ? []
      : ['setpriv', `--reuid=${identity.uid}`, `--regid=${identity.gid}`, '--clear-groups', '--inh-caps=-all', '--'];
  return [
    '/bin/sh',
    '-c',
    'echo $$ > "$1" && shift && exec "$@"',
    'sh',
    join(place.cgroupFolder, 'cgroup.procs'),
    'nsenter',
    `--net=/run/netns/${place.namespaceName}`,
    '--',
    ...become,
    ...command,
  ];
}

/** A running program of a lab, and the conversation with it. */
export class ProgramProcess {
  readonly #child: ChildProcess;
  readonly #conversation: ProgramConversation;
  readonly #name: ProgramName;
  #complaint = '';

  private constructor(name: ProgramName, child: ChildProcess, onEvent: (name: string, value: unknown) => void) {
    this.#name = name;
    this.#child = child;
    this.#conversation = new ProgramConversation(
      name,
      (command) => {
        if (!child.connected) {
          this.#fail('has ended');
          return;
        }
        child.send(command, (error) => {
          if (error !== null) {
            this.#fail(`cannot be asked: ${error.message}`);
          }
        });
      },
      onEvent,
    );
    child.stderr?.setEncoding('utf8').on('data', (text: string) => (this.#complaint = (this.#complaint + text).slice(-4_000)));
    child.on('message', (message: ProgramMessage) => {
      this.#conversation.take(message);
    });
    child.on('exit', (code, signal) => {
      this.#fail(`ended with ${String(code ?? signal)}`);
    });
    child.on('error', (error) => {
      this.#fail(`failed: ${error.message}`);
    });
  }

  /** Starts a program and waits until it says that it is ready. It ends when this process does. */
  static async start(
    programPath: string,
    name: ProgramName,
    place: ProcessPlace,
    params: { readonly identity: ProgramIdentity },
    onEvent: (name: string, value: unknown) => void,
  ): Promise<ProgramProcess> {
    const [command, ...args] = commandInPod(place, [process.execPath, programPath, name], null);
    const child = spawn(command, args, {
      stdio: ['ignore', 'inherit', 'pipe', 'ipc'],
      env: { ...process.env, [PARAMS_VARIABLE]: JSON.stringify(params) },
    });
    const program = new ProgramProcess(name, child, onEvent);
    await program.#waitUntilReady();
    return program;
  }

  /**
   * Starts a program that stays when this process ends, and gives its process id once it says that it is ready. It belongs to no
   * terminal and has nothing of this process's environment.
   */
  static async leave(programPath: string, name: ProgramName, place: ProcessPlace, params: { readonly identity: ProgramIdentity }, options: StayingOptions): Promise<number> {
    const [command, ...args] = commandInPod(place, [process.execPath, programPath, name], null);
    const log = await open(options.logPath, 'a', 0o644);
    try {
      const child = spawn(command, args, {
        stdio: ['ignore', log.fd, log.fd, 'ipc'],
        detached: true,
        cwd: '/',
        env: { PATH: COMMAND_FOLDERS.join(':'), [PARAMS_VARIABLE]: JSON.stringify({ ...params, controlPath: options.controlPath }) },
      });
      const program = new ProgramProcess(name, child, () => undefined);
      await program.#waitUntilReady();
      child.disconnect();
      child.unref();
      return program.pid;
    } finally {
      await log.close();
    }
  }

  /** The process id. */
  get pid(): number {
    return this.#child.pid ?? 0;
  }

  /** Sends a command and gives its answer; rejects with an Error that has the program's errno name as `code`. */
  async ask(method: string, params: unknown): Promise<unknown> {
    return this.#conversation.ask(method, params);
  }

  /** Ends the process at once and waits until it is gone; its open connections are reset by the kernel. */
  async stop(): Promise<void> {
    if (this.#child.pid === undefined || this.#child.exitCode !== null || this.#child.signalCode !== null) {
      return;
    }
    const exit = once(this.#child, 'exit');
    this.#child.kill('SIGKILL');
    await exit;
  }

  async #waitUntilReady(): Promise<void> {
    try {
      await this.#conversation.ready;
    } catch (error) {
      await this.stop();
      throw error;
    }
  }

  #fail(what: string): void {
    this.#conversation.fail(new Error(`the lab's ${this.#name} ${what}: ${this.#complaint.trim()}`));
  }
}
