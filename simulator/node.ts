import { MESH_PROFILES } from '../agent/protocol/acceleration.ts';
import type { AccelerationInfo, AccelerationRequest, DecisionEvent, MeshProfile, TurnOffReport } from '../agent/protocol/acceleration.ts';
import type { CleanReport, Leftover } from '../agent/protocol/clean.ts';
import { checkCgroup, checkEnrolments } from '../agent/protocol/enrolment.ts';
import { MeshpathError } from '../agent/protocol/errors.ts';
import type { CgroupInfo } from '../agent/protocol/kernelObjects.ts';
import { readConnectionEntry, readStoppedPods } from '../agent/protocol/connectionEntries.ts';
import type { AcceptedFinding, DoctorCheck } from '../agent/protocol/doctor.ts';
import { decidesAcceleration, passGate } from '../agent/protocol/doctorChecks.ts';
import type { ConnectionList, ConnectionScope } from '../agent/protocol/connections.ts';
import { DecisionHistory } from '../agent/protocol/decisionHistory.ts';
import { joinConnections } from '../agent/protocol/joinConnections.ts';
import type { LabRunReport, LabRunRequest } from '../agent/protocol/lab.ts';
import type { MapPage } from '../agent/protocol/mapEntries.ts';
import { PROTOCOL_VERSION } from '../agent/protocol/methods.ts';
import type { MapEntriesParams, NodeDescription } from '../agent/protocol/methods.ts';
import type { NodeHandlers, NodeService, Notify } from '../agent/protocol/node.ts';
import { toUint64Text } from '../agent/protocol/scalars.ts';
import type { CgroupPath, MapId } from '../agent/protocol/scalars.ts';
import type { MapContents, Snapshot } from '../agent/protocol/snapshot.ts';
import { Datapath } from './bpf/datapath.ts';
import { readBpfObject } from './bpf/object.ts';
import type { BpfObject } from './bpf/object.ts';
import { seededRandom } from './bpf/random.ts';
import { SocketKernel } from './bpf/socketKernel.ts';
import { SIMULATED_CPUS, surroundingsOf } from './bpf/surroundings.ts';
import { findProfile, isAtOrBelow } from './explain/acceleratedPods.ts';
import { createDemoSnapshot } from './mesh/demoWorld.ts';
import { describeSimulatedLab, runSimulatedTraffic, secondLabError, simulatedDownError } from './node/simulatedLab.ts';
import { LiveTraffic } from './node/liveTraffic.ts';
import { readEntries, readPage } from './node/mapPages.ts';
import { ObjectRegistry } from './node/objectRegistry.ts';
import type { RegisteredMap } from './node/objectRegistry.ts';
import { SimulatedClock } from './node/simulatedClock.ts';
import { checkSimulatedNode, describeSimulatedHealth } from './node/simulatedDoctor.ts';
import { buildWorld } from './world/world.ts';

export interface SimulatedNodeOptions {
  /** The contents of meshpath.bpf.o. */
  readonly object: Uint8Array;
  /** The world that the node is; the demo world where it is left out. */
  readonly snapshot?: Snapshot;
  /** What random numbers begin with: the same seed and calls give the same results. */
  readonly seed?: number;
  /** Checks of its doctor that are other than of a kernel that has all that is needed. */
  readonly checks?: readonly DoctorCheck[];
}

/** The version that a simulated node tells; it comes with whoever made it. */
const SIMULATOR_VERSION = 'simulated';
/** Simulated time between two requests of a client. */
const MILLISECONDS_PER_CALL = 250;
/** How many requests the world's applications make when acceleration is turned on. */
const FIRST_REQUESTS = 3;
/** The most entries of the map of connections that are listed. */
const MAX_LISTED_ENTRIES = 20_000;
/** The most entries of one map that a snapshot keeps. */
const MAX_SNAPSHOT_ENTRIES = 1_000;

/**
 * Gives a simulated node: a world whose kernel runs the compiled programs in the virtual machine. It answers every method
 * of the protocol as the agent does on Linux, with the same errors. Applications of the world make a request each time
 * when something is asked for the first time, so that maps and events have what the programs wrote. Needs no Node.js.
 */
export function createSimulatedNode(options: SimulatedNodeOptions): (notify: Notify) => NodeService {
  return (notify) => {
    const node = new SimulatedNode(options, notify);
    return {
      handlers: node.handlers(),
      dispose: () => {
        node.dispose();
        return Promise.resolve();
      },
    };
  };
}

interface ActiveProfile {
  readonly datapath: Datapath;
  readonly since: string;
  /** A world that is only in memory ends with its node: this is what was asked for. */
  isKept: boolean;
  /** What it is on in spite of. */
  findings: readonly AcceptedFinding[];
}

class SimulatedNode {
  readonly #notify: Notify;
  readonly #world: Snapshot;
  readonly #objectBytes: Uint8Array;
  readonly #otherChecks: readonly DoctorCheck[];
  readonly #clock: SimulatedClock;
  readonly #sockets: SocketKernel;
  readonly #registry: ObjectRegistry;
  readonly #traffic: LiveTraffic;
  readonly #active = new Map<string, ActiveProfile>();
  readonly #lost = new Map<string, number>();
  readonly #history = new DecisionHistory();
  #object: BpfObject | undefined;

  constructor(options: SimulatedNodeOptions, notify: Notify) {
    this.#notify = notify;
    this.#world = options.snapshot ?? createDemoSnapshot();
    this.#objectBytes = options.object;
    this.#otherChecks = options.checks ?? [];
    this.#clock = new SimulatedClock(this.#world.takenAt);
    const world = buildWorld(this.#world);
    this.#sockets = new SocketKernel(surroundingsOf(world, { bootNanoseconds: this.#clock.bootNanoseconds, random: seededRandom(options.seed ?? 1) }));
    this.#registry = new ObjectRegistry(this.#world.cgroups, this.#clock.now());
    this.#traffic = new LiveTraffic(world, this.#sockets);
  }

  handlers(): NodeHandlers {
    // Errors become rejections, as those of a node far away are.
    const answer =
      <Params_, Result_>(handle: (params: Params_) => Result_) =>
      (params: Params_): Promise<Result_> =>
        Promise.resolve(params).then((given) => {
          this.#clock.advance(MILLISECONDS_PER_CALL);
          this.#settle();
          return handle(given);
        });
    return {
      initialize: answer(({ protocolVersion }) => this.#describe(protocolVersion)),
      listPrograms: answer(() => this.#registry.programs()),
      listMaps: answer(() => this.#registry.maps().map(({ info }) => info)),
      listLinks: answer(() => this.#registry.links()),
      listCgroups: answer(({ below }) => this.#listCgroups(below)),
      listPods: answer(() => this.#world.pods),
      readMap: answer((params) => this.#readMap(params)),
      takeSnapshot: answer(() => this.#takeSnapshot()),
      runDoctor: answer(() => describeSimulatedHealth(this.#checks(), this.#clock.now())),
      checkAcceleration: answer(() => describeSimulatedHealth(this.#checks().filter(decidesAcceleration), this.#clock.now())),
      turnAccelerationOn: answer((request) => this.#turnOn(request)),
      turnAccelerationOff: answer(({ cgroups }) => this.#turnOff(cgroups)),
      cleanNode: answer(({ isDryRun }) => this.#clean(isDryRun)),
      upgradeAcceleration: answer(({ profile }) => this.#describeAcceleration(this.#requireActive(profile))),
      listAccelerations: answer(() => this.#accelerations()),
      countDecisions: answer(({ profile }) => this.#requireActive(profile).datapath.counters().reasons),
      listConnections: answer(({ scope }) => {
        this.#makeRequests(1);
        return this.#listConnections(scope);
      }),
      bringLabUp: answer(() => {
        throw secondLabError();
      }),
      listLabs: answer(() => [describeSimulatedLab(this.#world)]),
      runInLab: answer((request) => this.#runInLab(request)),
      takeLabDown: answer(({ name }) => {
        throw simulatedDownError(name);
      }),
    };
  }

  dispose(): void {
    for (const { datapath } of this.#active.values()) {
      datapath.dispose();
    }
    this.#active.clear();
  }

  #describe(protocolVersion: number): NodeDescription {
    if (protocolVersion !== PROTOCOL_VERSION) {
      throw new MeshpathError({
        code: 'AGENT_PROTOCOL_MISMATCH',
        message: 'The simulated node and Meshpath speak different versions of the protocol.',
        reason: `Meshpath speaks version ${protocolVersion}, the simulated node speaks version ${PROTOCOL_VERSION}.`,
        remedy: 'Use the simulated node that came with this version of Meshpath.',
      });
    }
    return {
      protocolVersion: PROTOCOL_VERSION,
      agentVersion: SIMULATOR_VERSION,
      identity: this.#world.node,
      uid: null,
      abilities: [
        { name: 'read-bpf', problem: null },
        { name: 'read-network', problem: null },
        { name: 'accelerate', problem: null },
      ],
    };
  }

  #listCgroups(below: CgroupPath): readonly CgroupInfo[] {
    const found = this.#registry.cgroups().filter((cgroup) => isAtOrBelow(cgroup.path, below));
    if (found.length === 0) {
      throw cgroupError(below);
    }
    return found;
  }

  #readMap(params: MapEntriesParams): MapPage {
    const map = this.#requireMap(params.mapId);
    const page = readPage(map, params, this.#clock.now());
    if (params.cursor === null) {
      // Life goes on after the page was read: the next look shows something new.
      this.#makeRequests(1);
    }
    return page;
  }

  #takeSnapshot(): Snapshot {
    this.#makeRequests(1);
    const sockets = this.#traffic.openSockets();
    const maps = this.#registry.maps();
    return {
      ...this.#world,
      takenAt: this.#clock.now(),
      namespaces: this.#world.namespaces.map((namespace) => ({
        ...namespace,
        sockets: [...namespace.sockets, ...sockets.filter(({ socket }) => socket.namespace === namespace.id).map(({ info }) => info)],
      })),
      cgroups: this.#registry.cgroups(),
      bpf: {
        programs: this.#registry.programs(),
        maps: maps.map(({ info }) => info),
        links: this.#registry.links(),
        contents: maps.filter(({ info }) => info.readable.ok).map(snapshotContents),
      },
      accelerations: this.#accelerations(),
    };
  }

  #listConnections(scope: ConnectionScope): ConnectionList {
    const { namespaces, pods, omissions } = this.#world;
    const listening = namespaces.flatMap(({ id, sockets }) => sockets.filter(({ protocol, state }) => protocol === 'tcp' && state !== 'other').map((socket) => ({ namespace: id, socket, tcpBytes: null })));
    return joinConnections(
      {
        namespaces: namespaces.map(({ id, links }) => ({
          id,
          pod: pods.find((pod) => pod.namespace === id)?.name ?? null,
          addresses: links.flatMap((link) => link.addresses.map(({ address }) => address)),
        })),
        sockets: [...listening, ...this.#traffic.openSockets().map(({ socket, info }) => ({ namespace: socket.namespace, socket: info, tcpBytes: null }))],
        cgroups: [...this.#active.values()].flatMap(({ datapath }) => datapath.pods.map(({ cgroup }) => ({ path: cgroup, profile: datapath.profile.name, isOwn: true }))),
        entries: this.#registry
          .maps()
          .filter(({ info }) => info.name === 'connections')
          .flatMap((map) => {
            const stopped = this.#registry.maps().find(({ info, datapath }) => info.name === 'stopped_pods' && datapath === map.datapath);
            const stoppedPods = readStoppedPods(stopped === undefined ? [] : readEntries(stopped, 0, MAX_LISTED_ENTRIES));
            return readEntries(map, 0, MAX_LISTED_ENTRIES).flatMap((entry) => {
              const read = readConnectionEntry(entry, stoppedPods);
              return read === undefined ? [] : [{ profile: map.datapath.profile.name, entry: read }];
            });
          }),
        decisions: this.#history,
        readAt: this.#clock.now(),
        omissions,
      },
      scope,
    );
  }

  #runInLab(request: LabRunRequest): LabRunReport {
    const datapaths = [...this.#active.values()].map(({ datapath }) => datapath);
    return runSimulatedTraffic(
      this.#world,
      {
        open: (flow) => {
          const opened = this.#traffic.open(flow, datapaths);
          this.#tell(opened.events);
          return opened;
        },
        closeAll: () => {
          this.#traffic.closeAll();
        },
        listConnections: () => this.#listConnections('accelerated-pods'),
      },
      request,
    );
  }

  #checks(): readonly DoctorCheck[] {
    return checkSimulatedNode(this.#world.node, this.#pods().length, this.#otherChecks);
  }

  #turnOn(request: AccelerationRequest): AccelerationInfo {
    const profile = requireProfile(request.profile);
    const pods = checkEnrolments(request.pods, this.#pods());
    const ids = new Map(this.#world.cgroups.map((cgroup) => [cgroup.path, BigInt(cgroup.id)]));
    const enrolled = pods.map((pod) => {
      const cgroupId = ids.get(pod.cgroup);
      if (cgroupId === undefined) {
        throw cgroupError(pod.cgroup);
      }
      return { ...pod, cgroupId };
    });
    const findings = passGate(this.#checks().filter(decidesAcceleration), request);
    const active = this.#active.get(profile.name) ?? this.#load(profile);
    active.isKept = request.keep ?? (active.datapath.pods.length > 0 && active.isKept);
    active.findings = findings;
    const rememberOpen = this.#history.beginTurnOn();
    for (const pod of enrolled) {
      active.datapath.enrol(pod);
    }
    rememberOpen(
      this.#sockets
        .sockets()
        .filter((socket) => enrolled.some((pod) => socket.cgroup !== null && isAtOrBelow(socket.cgroup, pod.cgroup)))
        .map(({ cookie }) => toUint64Text(cookie)),
    );
    this.#notify('changed', {});
    this.#makeRequests(FIRST_REQUESTS);
    return this.#describeAcceleration(active);
  }

  #load(profile: MeshProfile): ActiveProfile {
    this.#object ??= readBpfObject(this.#objectBytes);
    const datapath = new Datapath(this.#object, profile, this.#sockets, SIMULATED_CPUS);
    const active: ActiveProfile = { datapath, since: this.#clock.now(), isKept: false, findings: [] };
    this.#registry.add(datapath, active.since);
    this.#active.set(profile.name, active);
    return active;
  }

  #turnOff(cgroups: readonly CgroupPath[] | null): TurnOffReport {
    const known = new Set(this.#pods().map(({ cgroup }) => cgroup));
    const wanted = new Set(cgroups?.map(checkCgroup) ?? known);
    const unknown = [...wanted].find((cgroup) => !known.has(cgroup));
    if (unknown !== undefined || wanted.size === 0) {
      throw notOnError(unknown ?? 'any cgroup');
    }
    const datapaths = [...this.#active.values()].map(({ datapath }) => datapath);
    const countLinks = (): number => datapaths.reduce((sum, datapath) => sum + (this.#registry.isLoaded(datapath) ? datapath.attachments.length : 0), 0);
    const before = countLinks();
    let remainingConnections = 0;
    for (const datapath of datapaths) {
      for (const { cgroup } of datapath.pods.filter((pod) => wanted.has(pod.cgroup))) {
        remainingConnections += datapath.withdraw(cgroup);
      }
    }
    this.#settle();
    this.#notify('changed', {});
    const leaving = datapaths.flatMap((datapath) => datapath.leaving.filter(({ cgroup }) => wanted.has(cgroup)));
    return { detachedLinks: before - countLinks(), remainingConnections, ...(leaving.length > 0 ? { leaving } : {}) };
  }

  /** What is kept is all that a simulated node has to clean. */
  #clean(isDryRun: boolean): CleanReport {
    const kept = [...this.#active.values()].filter(({ isKept }) => isKept);
    const items = kept.map(
      ({ datapath }): Leftover => ({
        kind: 'kept-acceleration',
        where: datapath.profile.name,
        what: `Acceleration (${datapath.profile.name}) that is kept for ${datapath.pods.map(({ cgroup }) => cgroup).join(', ')}.`,
        isRemoved: !isDryRun,
        problem: null,
      }),
    );
    if (!isDryRun) {
      for (const active of kept) {
        for (const { cgroup } of active.datapath.pods) {
          active.datapath.withdraw(cgroup);
        }
        active.isKept = false;
      }
      this.#settle();
      this.#notify('changed', {});
    }
    return { items };
  }

  /** Detaches what no connection needs any more. */
  #settle(): void {
    for (const [name, { datapath }] of this.#active) {
      datapath.settle();
      if (datapath.pods.length + datapath.leaving.length === 0) {
        datapath.dispose();
        this.#active.delete(name);
        this.#lost.delete(name);
        this.#registry.remove(datapath);
      }
    }
  }

  /** Lets the applications of the world make requests; what the programs decide about them is told. */
  #makeRequests(count: number): void {
    const datapaths = [...this.#active.values()].map(({ datapath }) => datapath);
    if (datapaths.length === 0) {
      return;
    }
    this.#tell(Array.from({ length: count }, () => this.#traffic.makeRequest(datapaths)).flat());
  }

  /** Notes and tells what the programs decided, and how much of it was lost. */
  #tell(events: readonly DecisionEvent[]): void {
    const lost = [...this.#active].reduce((sum, [name, { datapath }]) => {
      const total = datapath.counters().lost;
      const before = this.#lost.get(name) ?? 0;
      this.#lost.set(name, total);
      return sum + total - before;
    }, 0);
    if (events.length > 0 || lost > 0) {
      this.#history.note({ events, lost });
      this.#notify('decisions', { events, lost });
    }
  }

  #accelerations(): readonly AccelerationInfo[] {
    return [...this.#active.values()].map((active) => this.#describeAcceleration(active));
  }

  #describeAcceleration({ datapath, since, isKept, findings }: ActiveProfile): AccelerationInfo {
    const { leaving } = datapath;
    return {
      profile: datapath.profile.name,
      pods: datapath.pods.map(({ cgroup, addresses }) => ({ cgroup, addresses })),
      since,
      ...(leaving.length > 0 ? { leaving } : {}),
      ...(isKept ? { kept: { isOutdated: false, heldBy: null } } : {}),
      ...this.#registry.idsOf(datapath),
      findings,
    };
  }

  #pods(): AccelerationRequest['pods'] {
    return [...this.#active.values()].flatMap(({ datapath }) => datapath.pods);
  }

  #requireActive(profile: string): ActiveProfile {
    const active = this.#active.get(profile);
    if (active === undefined) {
      throw notOnError(`the profile ${profile.slice(0, 60)}`);
    }
    return active;
  }

  #requireMap(mapId: MapId): RegisteredMap {
    const found = this.#registry.maps().find(({ info }) => info.id === mapId);
    if (found === undefined) {
      throw new MeshpathError({
        code: 'MAP_NOT_FOUND',
        message: `There is no map with the id ${mapId} any more.`,
        reason: 'The kernel frees a map when the last program, process and pin that holds it goes away.',
        remedy: 'List the maps again.',
      });
    }
    return found;
  }
}

function snapshotContents(registered: RegisteredMap): MapContents {
  const entries = readEntries(registered, 0, MAX_SNAPSHOT_ENTRIES + 1);
  return { mapId: registered.info.id, entries: entries.slice(0, MAX_SNAPSHOT_ENTRIES), truncated: entries.length > MAX_SNAPSHOT_ENTRIES };
}

function requireProfile(name: string): MeshProfile {
  const profile = findProfile(name);
  if (profile === undefined) {
    throw new MeshpathError({
      code: 'PROFILE_INVALID',
      message: `There is no mesh profile '${name.slice(0, 60)}'.`,
      reason: `The profiles are: ${MESH_PROFILES.map((known) => known.name).join(', ')}.`,
      remedy: 'Name one of them.',
    });
  }
  return profile;
}

function cgroupError(path: string): MeshpathError {
  return new MeshpathError({
    code: 'CGROUP_NOT_FOUND',
    message: `There is no cgroup ${path.slice(0, 200)}.`,
    reason: 'The simulated cgroup2 hierarchy has no such folder.',
    remedy: 'Take a path from the list of cgroups.',
  });
}

function notOnError(what: string): MeshpathError {
  return new MeshpathError({
    code: 'ACCELERATION_NOT_FOUND',
    message: `Acceleration is not on for ${what}.`,
    reason: 'It was not turned on here, or it was turned off already.',
    remedy: 'Look at the list of what is accelerated.',
  });
}
