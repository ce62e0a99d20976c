import type { ChildProcessByStdio } from 'node:child_process';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { ISTIO_PROFILE } from '../../agent/protocol/acceleration.ts';
import type { Lab } from '../lab/lab.ts';
import { SIDECAR_IDENTITY } from '../../agent/lab/pod.ts';
import type { LabPod, PlaceOptions } from '../../agent/lab/pod.ts';
import type { ClientParams, EndReport, Failure, FailureKind, LeaverParams, ServerParams, SidecarParams } from './programs/reports.ts';

const PORT = 7_070;
const GREETING_PORT = 7_071;
const SETTLE_MILLISECONDS = 45_000;
export const FAILURE_KINDS: readonly FailureKind[] = ['corrupted', 'truncated', 'refused', 'reset', 'hung'];

/** What a run of connections came to. */
export interface TrafficResult {
  readonly connections: number;
  readonly aborted: number;
  /** Both directions, as the client counted them. */
  readonly bytes: number;
  readonly seconds: number;
  /** Of both ends: a connection may count twice. */
  readonly failures: Readonly<Record<FailureKind, number>>;
  readonly examples: readonly Failure[];
  /** What the sidecars complained of: connections without a destination, or refused. */
  readonly complaints: readonly string[];
}

export interface TrafficOptions {
  readonly connections: number;
  readonly concurrency?: number;
  /** The highest four bits are the tag of the pod pair. */
  readonly firstSeed: number;
  readonly seconds?: number;
  readonly onProgress?: (report: EndReport) => void;
}

/** A program of the soak that runs in a pod, and the lines that it prints. */
class SoakProgram {
  readonly #child: ChildProcessByStdio<null, Readable, Readable>;
  readonly #onLine: (line: string) => void;
  #complaint = '';
  readonly exited: Promise<number | null>;
  readonly ready: Promise<void>;

  private constructor(child: ChildProcessByStdio<null, Readable, Readable>, onLine: (line: string) => void) {
    this.#child = child;
    this.#onLine = onLine;
    child.stderr.setEncoding('utf8').on('data', (text: string) => (this.#complaint = (this.#complaint + text).slice(-4_000)));
    const lines = createInterface({ input: child.stdout });
    this.exited = new Promise((resolve) => {
      child.once('close', resolve);
    });
    this.ready = new Promise((resolve, reject) => {
      lines.once('line', () => {
        resolve();
      });
      child.once('close', () => {
        reject(new Error(`a program of the soak ended before it was ready: ${this.#complaint}`));
      });
    });
    lines.on('line', (line) => {
      this.#onLine(line);
    });
  }

  static async start(pod: LabPod, name: string, params: unknown, onLine: (line: string) => void, options: PlaceOptions = {}): Promise<SoakProgram> {
    const file = fileURLToPath(new URL(`programs/${name}.ts`, import.meta.url));
    return new SoakProgram(await pod.start([process.execPath, '--import', 'tsx', file, JSON.stringify(params)], options), onLine);
  }

  get complaint(): string {
    return this.#complaint;
  }

  signal(name: NodeJS.Signals): void {
    this.#child.kill(name);
  }

  get hasEnded(): boolean {
    return this.#child.exitCode !== null || this.#child.signalCode !== null;
  }

  async stop(): Promise<void> {
    if (!this.hasEnded) {
      this.#child.kill('SIGKILL');
      await this.exited;
    }
  }
}

/** Servers and sidecars in the pods of a lab, and runs of connections through them: from the first pod to the second. */
export class Traffic {
  readonly #lab: Lab;
  readonly #server: SoakServer;
  readonly #sidecars: readonly SoakProgram[];
  readonly #complaints: string[];

  private constructor(lab: Lab, server: SoakServer, sidecars: readonly SoakProgram[], complaints: string[]) {
    this.#lab = lab;
    this.#server = server;
    this.#sidecars = sidecars;
    this.#complaints = complaints;
  }

  /** Starts the server in the second pod, and a sidecar in both unless they are to talk without. */
  static async start(lab: Lab, options: { readonly hasSidecars: boolean; readonly tag: number }): Promise<Traffic> {
    const complaints: string[] = [];
    const params: SidecarParams = {
      outboundPort: ISTIO_PROFILE.outboundPort,
      inboundPort: ISTIO_PROFILE.inboundPort,
      passthroughSource: ISTIO_PROFILE.passthroughSource ?? '0.0.0.0',
    };
    const [server, ...sidecars] = await Promise.all([
      SoakServer.start(lab.pod(1), options.tag),
      ...(options.hasSidecars ? [lab.pod(0), lab.pod(1)] : []).map((pod) =>
        SoakProgram.start(
          pod,
          'sidecar',
          params,
          (line) => {
            if (!line.includes('isReady')) {
              complaints.push(line);
            }
          },
          { identity: SIDECAR_IDENTITY },
        ),
      ),
    ]);
    await Promise.all(sidecars.map(({ ready }) => ready));
    return new Traffic(lab, server, sidecars, complaints);
  }

  /** Opens connections and resolves once both ends are through with all of them. */
  async run(options: TrafficOptions): Promise<TrafficResult> {
    const complaints = this.#complaints.length;
    const result = await runClient(this.#lab.pod(0), this.#server, this.#lab.pod(1).address, options);
    return { ...result, complaints: this.#complaints.slice(complaints) };
  }

  async stop(): Promise<void> {
    await Promise.all([this.#server.stop(), ...this.#sidecars.map((sidecar) => sidecar.stop())]);
  }
}

/** A soak server that runs in a pod. */
export class SoakServer {
  readonly #program: SoakProgram;
  readonly #last: { report: EndReport | null };

  private constructor(program: SoakProgram, last: { report: EndReport | null }) {
    this.#program = program;
    this.#last = last;
  }

  /** Starts it; on all addresses of the pod where none is named. */
  static async start(pod: LabPod, tag: number, address = '0.0.0.0', options: PlaceOptions = {}): Promise<SoakServer> {
    const params: ServerParams = { address, port: PORT, greetingPort: GREETING_PORT, tag };
    const last: { report: EndReport | null } = { report: null };
    const program = await SoakProgram.start(pod, 'server', params, (line) => (last.report = JSON.parse(line) as EndReport), options);
    await program.ready;
    return new SoakServer(program, last);
  }

  /** The newest report. */
  get report(): EndReport {
    if (this.#last.report === null || this.#program.hasEnded) {
      throw new Error(`the soak server ended: ${this.#program.complaint}`);
    }
    return this.#last.report;
  }

  async stop(): Promise<void> {
    await this.#program.stop();
  }
}

/** Runs a client in a pod against a server; both ends' figures are taken together. */
export async function runClient(
  pod: LabPod,
  server: SoakServer,
  address: string,
  options: TrafficOptions & { readonly place?: PlaceOptions; readonly local?: ClientParams['local']; readonly startAt?: number },
): Promise<TrafficResult> {
  const params: ClientParams = {
    address,
    port: PORT,
    greetingPort: GREETING_PORT,
    connections: options.connections,
    seconds: options.seconds ?? 0,
    concurrency: options.concurrency ?? 32,
    firstSeed: options.firstSeed,
    local: options.local ?? null,
    startAt: options.startAt ?? 0,
  };
  const before = server.report;
  const last: { report: EndReport | null } = { report: null };
  const program = await SoakProgram.start(
    pod,
    'client',
    params,
    (line) => {
      last.report = JSON.parse(line) as EndReport;
      options.onProgress?.(last.report);
    },
    options.place ?? {},
  );
  const code = await program.exited;
  const client = last.report;
  if (client?.isLast !== true) {
    throw new Error(`the soak client ended with ${String(code)}: ${program.complaint}`);
  }
  // Those that the client gave up may never have come to the server, or not to its knowledge.
  const planned = ({ ended, aborted, anonymous }: EndReport): number => ended - aborted - anonymous;
  const arrived = (): number => planned(server.report) - planned(before);
  const wanted = planned(client) - client.failures.refused;
  const deadline = performance.now() + SETTLE_MILLISECONDS;
  while ((arrived() < wanted || server.report.ended < server.report.started) && performance.now() < deadline) {
    await delay(50);
  }
  const seen = server.report;
  const failures = Object.fromEntries(FAILURE_KINDS.map((kind) => [kind, client.failures[kind] + seen.failures[kind] - before.failures[kind]])) as Record<FailureKind, number>;
  failures.hung += seen.started - seen.ended;
  failures.truncated += Math.max(0, wanted - arrived()) + Math.max(0, seen.anonymous - before.anonymous - client.aborted);
  return {
    connections: client.ended,
    aborted: client.aborted,
    bytes: client.sentBytes + client.receivedBytes,
    seconds: client.seconds,
    failures,
    examples: [...client.examples, ...seen.examples.slice(before.examples.length)],
    complaints: [],
  };
}

/** Gives how many connections went wrong, or how often an end says so. */
export function countFailures({ failures }: TrafficResult): number {
  return FAILURE_KINDS.reduce((sum, kind) => sum + failures[kind], 0);
}

/** A client that is connected and waits. */
export interface Leaver {
  /** Lets it send its text and close; rejects with an Error where it could not. */
  readonly leave: () => Promise<void>;
}

/** Connects a client that sends its text and closes only when it is told to. */
export async function startLeaver(pod: LabPod, params: LeaverParams, options: PlaceOptions = {}): Promise<Leaver> {
  const program = await SoakProgram.start(pod, 'leaver', params, () => undefined, options);
  await program.ready;
  return {
    leave: async () => {
      program.signal('SIGUSR2');
      const code = await program.exited;
      if (code !== 0) {
        throw new Error(`the client that was to leave ended with ${String(code)}: ${program.complaint}`);
      }
    },
  };
}
