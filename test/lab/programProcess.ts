import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { EventEmitter, once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { PARAMS_VARIABLE } from './programs/program.ts';
import type { Command, ProgramIdentity, ProgramMessage } from './programs/reports.ts';

const PROGRAMS_FOLDER = fileURLToPath(new URL('programs/', import.meta.url));
const MODULES_FOLDER = fileURLToPath(new URL('../../node_modules', import.meta.url));
const PROGRAM_NAMES = ['server', 'proxy', 'client'] as const;
export type ProgramName = (typeof PROGRAM_NAMES)[number];

/** Where a process of a lab runs. */
export interface ProcessPlace {
  /** The absolute folder of its cgroup. */
  readonly cgroupFolder: string;
  /** The name of its network namespace under /run/netns. */
  readonly namespaceName: string;
}

/** Bundles the programs into a new temporary folder and gives it; the caller removes it. */
export async function buildPrograms(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'meshpath-lab-'));
  try {
    await build({
      entryPoints: PROGRAM_NAMES.map((name) => join(PROGRAMS_FOLDER, `${name}.ts`)),
      outdir: folder,
      outExtension: { '.js': '.cjs' },
      bundle: true,
      platform: 'node',
      format: 'cjs',
      target: 'node20',
      external: ['koffi'],
      logLevel: 'silent',
    });
  } catch (error) {
    await rm(folder, { recursive: true, force: true });
    throw error;
  }
  return folder;
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
  readonly #events = new EventEmitter();
  readonly #waiting = new Map<number, { resolve: (result: unknown) => void; reject: (error: Error) => void }>();
  readonly #name: string;
  #commands = 0;
  #complaint = '';

  private constructor(name: string, child: ChildProcess) {
    this.#name = name;
    this.#child = child;
    this.#events.setMaxListeners(0);
    child.stderr?.setEncoding('utf8').on('data', (text: string) => (this.#complaint = (this.#complaint + text).slice(-4_000)));
    child.on('message', (message: ProgramMessage) => {
      this.#take(message);
    });
    child.on('exit', (code, signal) => {
      this.#fail(new Error(`the lab's ${this.#name} ended with ${String(code ?? signal)}: ${this.#complaint.trim()}`));
    });
    child.on('error', (error) => {
      this.#fail(error);
    });
  }

  /** Starts a program and waits until it says that it is ready. */
  static async start(
    folder: string,
    name: ProgramName,
    place: ProcessPlace,
    params: { readonly identity: ProgramIdentity },
    onEvent: (name: string, value: unknown) => void,
  ): Promise<ProgramProcess> {
    const [command, ...args] = commandInPod(place, [process.execPath, join(folder, `${name}.cjs`)], null);
    const child = spawn(command, args, {
      stdio: ['ignore', 'inherit', 'pipe', 'ipc'],
      env: { ...process.env, NODE_PATH: MODULES_FOLDER, [PARAMS_VARIABLE]: JSON.stringify(params) },
    });
    const program = new ProgramProcess(name, child);
    program.#events.on('event', onEvent);
    const ready = once(program.#events, 'ready');
    try {
      await ready;
    } catch (error) {
      await program.stop();
      throw error;
    }
    return program;
  }

  /** The process id. */
  get pid(): number {
    return this.#child.pid ?? 0;
  }

  /** Sends a command and gives its answer; rejects with an Error that has the program's errno name as `code`. */
  async ask(method: string, params: unknown): Promise<unknown> {
    const command: Command = { id: this.#commands++, method, params };
    return new Promise((resolve, reject) => {
      if (!this.#child.connected) {
        reject(new Error(`the lab's ${this.#name} has ended: ${this.#complaint.trim()}`));
        return;
      }
      this.#waiting.set(command.id, { resolve, reject });
      this.#child.send(command, (error) => {
        if (error !== null) {
          this.#waiting.delete(command.id);
          reject(error);
        }
      });
    });
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

  #take(message: ProgramMessage): void {
    switch (message.kind) {
      case 'ready':
        this.#events.emit('ready');
        return;
      case 'failed':
        this.#fail(new Error(`the lab's ${this.#name} did not start: ${message.message}`));
        return;
      case 'event':
        this.#events.emit('event', message.name, message.value);
        return;
      case 'answer':
        this.#waiting.get(message.id)?.resolve(message.result);
        this.#waiting.delete(message.id);
        return;
      case 'refusal':
        this.#waiting.get(message.id)?.reject(Object.assign(new Error(message.message), { code: message.code }));
        this.#waiting.delete(message.id);
    }
  }

  #fail(error: Error): void {
    if (this.#events.listenerCount('error') > 0) {
      this.#events.emit('error', error);
    }
    for (const { reject } of this.#waiting.values()) {
      reject(error);
    }
    this.#waiting.clear();
  }
}
