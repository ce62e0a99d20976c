import { open, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { MESH_PROFILES } from '../protocol/acceleration.ts';
import type { DecisionEvent, DecisionEvents, DecisionHook, DecisionReason } from '../protocol/acceleration.ts';
import { cancelledError, inputError, MeshpathError, toMeshpathError } from '../protocol/errors.ts';
import { checkLabRun, countSeen, describeLabLegs, describeLatency, LAB_SERVER_PORT, MAX_LAB_EVENTS } from '../protocol/lab.ts';
import type { LabLeg, LabRunReport, LabRunRequest, LabSidecarView } from '../protocol/lab.ts';
import type { Endpoint, PortNumber } from '../protocol/scalars.ts';
import { findCgroup2Mount } from '../kernel/cgroup2Mount.ts';
import type { LabClient } from './client.ts';
import { labFolder, labId, programFile } from './labNames.ts';
import type { LabRecord, RecordedPod } from './labRecord.ts';
import type { LabSurroundings } from './labManager.ts';
import { LabPod } from './pod.ts';
import { ProgramLink } from './programLink.ts';
import type { AcceptedConnection, ProxiedConnection, Visit } from './programs/reports.ts';
import { describeSidecar, sidecarProcesses } from './sidecars.ts';
import type { SidecarReport } from './sidecars.ts';

/** How long what programs tell of the last connections is waited for. */
const REPORT_MILLISECONDS = 2_000;
const REPORT_PAUSE_MILLISECONDS = 20;
/** How long one connection may take until it counts as hanging. */
const VISIT_MILLISECONDS = 20_000;
/** How long nothing must have been told until all decisions are taken to be known. */
const QUIET_MILLISECONDS = 150;
const MAX_LOG_BYTES = 32 * 1024 * 1024;
/** Connections begin at places of the pattern that are this far apart: a prime, so that no two of a run begin alike. */
const PATTERN_DISTANCE = 7_919;

/**
 * Opens connections from the client of one pod to the server of another, and tells what each of those on the way saw. Throws
 * INPUT_INVALID, LAB_FAILED, CANCELLED.
 */
export async function runTraffic(surroundings: LabSurroundings, record: LabRecord, request: LabRunRequest, signal: AbortSignal): Promise<LabRunReport> {
  checkLabRun(request);
  const run = new TrafficRun(surroundings, record, request, signal);
  try {
    await run.watch();
    await run.connect();
    return await run.report();
  } catch (error) {
    throw signal.aborted ? cancelledError('The run in the lab') : labError(error);
  } finally {
    await run.end();
  }
}

/** What a sidecar was told, as far as it tells it. */
interface SidecarWatch {
  readonly pod: string;
  readonly read: () => Promise<readonly SidecarReport[]>;
}

class TrafficRun {
  readonly #surroundings: LabSurroundings;
  readonly #record: LabRecord;
  readonly #request: LabRunRequest;
  readonly #signal: AbortSignal;
  readonly #from: RecordedPod;
  readonly #to: RecordedPod;
  readonly #destination: Endpoint;
  readonly #endings: (() => void | Promise<void>)[] = [];
  readonly #accepted: AcceptedConnection[] = [];
  readonly #sidecars: SidecarWatch[] = [];
  readonly #events: DecisionEvent[] = [];
  readonly #visits: Visit[] = [];
  readonly #failures: string[] = [];
  readonly #omissions: string[] = [];
  #legs: readonly LabLeg[] = [];
  readonly #decisions = new Map<string, { readonly hook: DecisionHook; readonly reason: DecisionReason; count: number }>();
  #lostEvents = 0;
  #client: LabClient | undefined;

  constructor(surroundings: LabSurroundings, record: LabRecord, request: LabRunRequest, signal: AbortSignal) {
    this.#surroundings = surroundings;
    this.#record = record;
    this.#request = request;
    this.#signal = signal;
    this.#from = requirePod(record, request.from);
    this.#to = requirePod(record, request.to);
    this.#destination = { address: this.#to.address, port: LAB_SERVER_PORT as PortNumber };
  }

  /** Starts listening to all that tells of connections, and then the client. */
  async watch(): Promise<void> {
    const folder = labFolder(labId(this.#record.name));
    const server = await ProgramLink.open('server', programFile(folder, this.#to.name, 'server', 'sock'), (event, value) => {
      if (event === 'accepted') {
        this.#accepted.push(value as AcceptedConnection);
      }
    });
    this.#endings.push(() => {
      server.close();
    });
    for (const pod of new Set([this.#from, this.#to])) {
      await this.#watchSidecar(pod, folder);
    }
    await this.#watchDecisions();
    const pod = toLabPod(this.#from, this.#surroundings.programPath);
    this.#client = await pod.startClient({ container: 'app' });
    this.#endings.push(() => this.#client?.stop());
    const stop = (): void => {
      void this.#client?.stop();
    };
    this.#signal.addEventListener('abort', stop);
    this.#endings.push(() => {
      this.#signal.removeEventListener('abort', stop);
    });
  }

  /** Opens and uses all connections. The first ones stay open until the node was asked about them. */
  async connect(): Promise<void> {
    const { connections, parallel } = this.#request;
    const first = Math.min(connections, parallel);
    const opened = await Promise.all(Array.from({ length: first }, (_, index) => this.#visit(index)));
    await this.#readLegs();
    await Promise.all(opened.map((visit) => this.#leave(visit)));
    let next = first;
    const work = async (): Promise<void> => {
      while (next < connections && !this.#signal.aborted) {
        await this.#leave(await this.#visit(next++));
      }
    };
    await Promise.all(Array.from({ length: first }, work));
    if (this.#signal.aborted) {
      throw cancelledError('The run in the lab');
    }
  }

  async report(): Promise<LabRunReport> {
    const sidecars = await this.#readSidecars();
    await this.#waitForDecisions();
    const exact = this.#visits.filter(({ received }) => received.exact);
    const inexact = this.#visits.filter(({ received }) => !received.exact).map(({ received }) => (received.ended ? 'the stream ended early' : 'a wrong byte came back'));
    const { setting } = this.#record;
    if (this.#sidecars.length === 0 && setting !== null && setting.sidecar !== 'none') {
      this.#omissions.push(`What the sidecar ${describeSidecar(setting.sidecar)} was told: it does not say it in a form that is known.`);
    }
    if (this.#decisions.size === 0 && this.#legs.some(({ state }) => state === 'accelerated' || state === 'partly')) {
      this.#omissions.push('What the programs decided: another process turned acceleration on, and it alone is told.');
    }
    return {
      lab: this.#record.name,
      from: this.#from.name,
      to: this.#to.name,
      destination: this.#destination,
      exact: exact.length,
      failures: countSeen([...this.#failures, ...inexact]),
      bytes: this.#visits.reduce((sum, { received }) => sum + received.bytes, 0),
      clientPeers: countSeen(this.#visits.map(({ peer }) => peer)),
      serverPeers: countSeen(this.#accepted.map(({ peer }) => peer.address)),
      sidecars,
      legs: this.#legs,
      connectLatency: describeLatency(exact.map(({ connectMilliseconds }) => connectMilliseconds)),
      exchangeLatency: describeLatency(exact.map(({ exchangeMilliseconds }) => exchangeMilliseconds)),
      events: this.#events,
      decisions: [...this.#decisions.values()].map(({ hook, reason, count }) => ({ value: { hook, reason }, count })),
      lostEvents: this.#lostEvents,
      omissions: this.#omissions,
    };
  }

  /** Ends what this run started; what is the lab's stays. */
  async end(): Promise<void> {
    for (const ending of this.#endings.splice(0).reverse()) {
      await ending();
    }
  }

  async #visit(index: number): Promise<Visit | undefined> {
    try {
      const visit = await this.#requireClient().visit({ ...this.#destination, bytes: this.#request.bytes, offset: index * PATTERN_DISTANCE, milliseconds: VISIT_MILLISECONDS });
      this.#visits.push(visit);
      return visit;
    } catch (error) {
      this.#failures.push((error as NodeJS.ErrnoException).code ?? String(error));
      return undefined;
    }
  }

  async #leave(visit: Visit | undefined): Promise<void> {
    // A client that is stopped in the middle of it has closed all its connections.
    await (visit === undefined ? undefined : this.#requireClient().leave(visit).catch(() => undefined));
  }

  #requireClient(): LabClient {
    if (this.#client === undefined) {
      throw new Error('the client was not started');
    }
    return this.#client;
  }

  /** Listens to the sidecar of a pod, or remembers how long its logs are. */
  async #watchSidecar(pod: RecordedPod, folder: string): Promise<void> {
    const { setting } = this.#record;
    const profile = MESH_PROFILES.find(({ name }) => name === setting?.profile);
    if (setting === null || profile === undefined) {
      return;
    }
    for (const { role, start, readLog } of sidecarProcesses(setting.sidecar, profile)) {
      if (start.kind === 'program' && start.name === 'proxy') {
        const reports: SidecarReport[] = [];
        const link = await ProgramLink.open(role, programFile(folder, pod.name, role, 'sock'), (event, value) => {
          if (event === 'accepted') {
            const { listener, peer, originalDestination } = value as ProxiedConnection;
            reports.push({ side: listener, peer: peer.address, originalDestination });
          }
        });
        this.#endings.push(() => {
          link.close();
        });
        this.#sidecars.push({ pod: pod.name, read: () => Promise.resolve(reports) });
      } else if (readLog !== null) {
        const path = programFile(folder, pod.name, role, 'log');
        const { size } = await stat(path);
        this.#sidecars.push({ pod: pod.name, read: async () => readLog(await readFrom(path, size)) });
      }
    }
  }

  /** Keeps the decisions about sockets of this lab: programs that cannot know their cgroup are known by their socket. */
  async #watchDecisions(): Promise<void> {
    const mount = findCgroup2Mount();
    const cgroups = new Set<string>();
    const sockets = new Set<string>();
    for (const pod of this.#record.pods) {
      cgroups.add(String((await stat(join(mount, pod.cgroup), { bigint: true })).ino));
    }
    this.#endings.push(
      this.#surroundings.listenDecisions(({ events, lost }: DecisionEvents) => {
        for (const event of events) {
          if (cgroups.has(event.cgroupId)) {
            sockets.add(event.socketCookie);
          } else if (!sockets.has(event.socketCookie)) {
            continue;
          }
          this.#noteDecision(event);
        }
        this.#lostEvents += lost;
      }),
    );
  }

  #noteDecision(event: DecisionEvent): void {
    const { hook, reason } = event;
    const counted = this.#decisions.get(`${hook} ${reason}`) ?? { hook, reason, count: 0 };
    counted.count += 1;
    this.#decisions.set(`${hook} ${reason}`, counted);
    if (this.#events.length < MAX_LAB_EVENTS) {
      this.#events.push(event);
    }
  }

  /** Decisions are told in batches, a moment after they were taken. */
  async #waitForDecisions(): Promise<void> {
    if (this.#legs.length === 0 && this.#decisions.size === 0) {
      return;
    }
    const total = (): number => [...this.#decisions.values()].reduce((sum, { count }) => sum + count, 0);
    const deadline = Date.now() + REPORT_MILLISECONDS;
    for (let before = -1; before !== total() && Date.now() < deadline; ) {
      before = total();
      await delay(QUIET_MILLISECONDS);
    }
  }

  /** Asks the node about the connections that are open now. */
  async #readLegs(): Promise<void> {
    try {
      this.#legs = describeLabLegs(await this.#surroundings.listConnections(this.#signal), new Map(this.#record.pods.map(({ namespaceId, name }) => [namespaceId, name])));
    } catch (error) {
      if (this.#signal.aborted) {
        throw error;
      }
      this.#omissions.push(`Which connections were accelerated: ${toMeshpathError(error).reason}`);
    }
  }

  /** Waits until all that was opened was told of, for a short while at most. */
  async #readSidecars(): Promise<LabSidecarView[]> {
    const count = this.#visits.length;
    const deadline = Date.now() + REPORT_MILLISECONDS;
    for (;;) {
      const views: LabSidecarView[] = [];
      for (const { pod, read } of this.#sidecars) {
        const reports = await read();
        views.push(...(['outbound', 'inbound'] as const).flatMap((side) => describeSide(pod, side, reports.filter((report) => report.side === side))));
      }
      const told = Math.max(0, ...views.map(({ connections }) => connections));
      if ((this.#accepted.length >= count && (this.#sidecars.length === 0 || told >= count)) || Date.now() > deadline) {
        return views;
      }
      await delay(REPORT_PAUSE_MILLISECONDS);
    }
  }
}

function describeSide(pod: string, side: 'outbound' | 'inbound', reports: readonly SidecarReport[]): LabSidecarView[] {
  return reports.length === 0
    ? []
    : [{ pod, side, connections: reports.length, originalDestinations: countSeen(reports.map(({ originalDestination }) => originalDestination)), peers: countSeen(reports.map(({ peer }) => peer)) }];
}

function requirePod(record: LabRecord, name: string): RecordedPod {
  const pod = record.pods.find((candidate) => candidate.name === name);
  if (pod === undefined) {
    throw inputError(`The lab ${record.name} has no pod ${name.slice(0, 60)}.`, `Its pods are ${record.pods.map((candidate) => candidate.name).join(', ')}.`, 'Name one of them.');
  }
  return pod;
}

function toLabPod(pod: RecordedPod, programPath: string): LabPod {
  return new LabPod({ ...pod, cgroupFolder: join(findCgroup2Mount(), pod.cgroup), addresses: [pod.address], programPath });
}

async function readFrom(path: string, offset: number): Promise<string> {
  const file = await open(path, 'r');
  try {
    const { size } = await file.stat();
    const bytes = Buffer.alloc(Math.min(MAX_LOG_BYTES, Math.max(0, size - offset)));
    const { bytesRead } = await file.read(bytes, 0, bytes.length, offset);
    return bytes.toString('utf8', 0, bytesRead);
  } finally {
    await file.close();
  }
}

function labError(error: unknown): MeshpathError {
  return error instanceof MeshpathError
    ? error
    : new MeshpathError(
        {
          code: 'LAB_FAILED',
          message: 'The traffic of the lab could not be run.',
          reason: error instanceof Error ? error.message : String(error),
          remedy: 'Look at the state of the lab (meshpath lab status); where a program of it has ended, take it down and make it anew.',
        },
        { cause: error },
      );
}
