import type { AccelerationInfo } from '../protocol/acceleration.ts';
import { readConnectionEntry, readStoppedPods } from '../protocol/connectionEntries.ts';
import type { ConnectionList, ConnectionScope } from '../protocol/connections.ts';
import { DecisionHistory } from '../protocol/decisionHistory.ts';
import type { DecisionEvents } from '../protocol/acceleration.ts';
import { DATAPATH_PROGRAMS } from '../protocol/datapath.ts';
import { toMeshpathError } from '../protocol/errors.ts';
import { joinConnections } from '../protocol/joinConnections.ts';
import type { AcceleratedCgroup, ListedSocket } from '../protocol/joinConnections.ts';
import type { MapEntry } from '../protocol/mapEntries.ts';
import type { MapId, Uint64Text } from '../protocol/scalars.ts';
import type { Omission } from '../protocol/snapshot.ts';
import type { KernelObjectReader } from '../kernel/kernelObjectReader.ts';
import { listNamespaces } from '../snapshot/namespaceList.ts';
import { readBpf, readPodNamespaces } from '../snapshot/takeSnapshot.ts';
import type { BpfPart } from '../snapshot/takeSnapshot.ts';
import { listOpenCookies, readEstablishedSockets } from './establishedSockets.ts';

const CONNECTIONS_MAP = 'connections';
const STOPPED_MAP = 'stopped_pods';

/** What the lister reads: BPF objects, and what this agent turned on. `reader` throws where BPF objects may not be read. */
export interface ConnectionListerSources {
  readonly reader: () => KernelObjectReader;
  readonly accelerations: () => Promise<readonly AccelerationInfo[]>;
}

/** Lists the connections of this machine and remembers what their sockets alone do not tell. */
export interface ConnectionLister {
  /** Takes the decisions of the programs as they come. */
  note(decisions: DecisionEvents): void;
  /** Turns acceleration on by `turnOn` and remembers which sockets were open before. */
  turnOn(turnOn: () => Promise<AccelerationInfo>, signal: AbortSignal): Promise<AccelerationInfo>;
  /** Throws CANCELLED; what else fails is an omission of the list. */
  list(scope: ConnectionScope, signal: AbortSignal): Promise<ConnectionList>;
}

/** Gives a lister that knows of no decision yet. */
export function createConnectionLister(sources: ConnectionListerSources): ConnectionLister {
  const history = new DecisionHistory();
  const problems: Omission[] = [];

  return {
    note: (decisions) => {
      history.note(decisions);
    },
    turnOn: async (turnOn, signal) => {
      const finish = history.beginTurnOn();
      const info = await turnOn();
      try {
        // Once the programs are attached: what is open now and of which no decision comes was open before.
        finish(await listOpenCookies(info.pods.map(({ cgroup }) => cgroup), signal));
      } catch (error) {
        // Acceleration is on all the same.
        problems.push(omissionOf('the connections that were open before acceleration was turned on', error));
      }
      return info;
    },
    list: async (scope, signal) => {
      const readAt = new Date().toISOString();
      const { scan, namespaces, pods, omissions } = await readPodNamespaces(signal);
      const bpf = await readBpf(sources.reader, signal);
      const own = await sources.accelerations();
      const bytes = new Map<Uint64Text, Uint64Text | null>();
      const problemsNow: Omission[] = [];
      for (const handle of listNamespaces(scan.processes).namespaces) {
        if (scope === 'all' || namespaces.some(({ id, sockets }) => id === handle.id && sockets.some(({ state }) => state === 'established'))) {
          try {
            for (const socket of await readEstablishedSockets(handle, signal)) {
              bytes.set(socket.cookie, socket.tcpBytes);
            }
          } catch (error) {
            problemsNow.push(omissionOf(`byte counts of ${handle.names[0] ?? `namespace ${handle.id}`}`, error));
          }
        }
      }
      const maps = bpf.maps.filter(({ name, owner }) => name === CONNECTIONS_MAP && owner.kind === 'meshpath');
      return joinConnections(
        {
          namespaces: namespaces.map(({ id, links }) => ({
            id,
            pod: pods.find((pod) => pod.namespace === id)?.name ?? null,
            addresses: links.flatMap((link) => link.addresses.map(({ address }) => address)),
          })),
          sockets: namespaces.flatMap(({ id, sockets }) =>
            sockets
              .filter(({ protocol, state }) => protocol === 'tcp' && state !== 'other')
              .map((socket): ListedSocket => ({ namespace: id, socket, tcpBytes: socket.cookie === null ? null : (bytes.get(socket.cookie) ?? null) })),
          ),
          cgroups: acceleratedCgroups(bpf, own),
          entries: maps.flatMap(({ id }) => {
            const profile = own.find(({ mapIds }) => mapIds.includes(id))?.profile ?? null;
            const entriesOf = (mapId: MapId | undefined): readonly MapEntry[] => bpf.contents.find((contents) => contents.mapId === mapId)?.entries ?? [];
            const stopped = readStoppedPods(entriesOf(findBeside(bpf, id, STOPPED_MAP)));
            return entriesOf(id).flatMap((entry) => {
              const read = readConnectionEntry(entry, stopped);
              return read === undefined ? [] : [{ profile, entry: read }];
            });
          }),
          decisions: history,
          readAt,
          omissions: [...problems, ...omissions, ...bpf.omissions, ...problemsNow],
        },
        scope,
      );
    },
  };
}

/** The cgroups that this agent turned acceleration on for, then those that the programs of other agents are attached to. */
function acceleratedCgroups({ programs, links }: BpfPart, own: readonly AccelerationInfo[]): AcceleratedCgroup[] {
  const others = programs.filter(({ id, name, owner }) => name === DATAPATH_PROGRAMS.connect && owner.kind === 'meshpath' && !own.some(({ programIds }) => programIds.includes(id)));
  return [
    ...own.flatMap(({ pods, profile }) => pods.map(({ cgroup }) => ({ path: cgroup, profile, isOwn: true }))),
    ...links.flatMap(({ programId, target }) =>
      target.kind === 'cgroup' && target.path !== null && others.some(({ id }) => id === programId) ? [{ path: target.path, profile: null, isOwn: false }] : [],
    ),
  ];
}

/** Gives the map of a name that the same programs use as another map. */
function findBeside({ programs, maps }: BpfPart, mapId: MapId, name: string): MapId | undefined {
  const ids = new Set(programs.filter(({ mapIds }) => mapIds.includes(mapId)).flatMap(({ mapIds }) => mapIds));
  return maps.find((map) => map.name === name && ids.has(map.id))?.id;
}

function omissionOf(what: string, error: unknown): Omission {
  const known = toMeshpathError(error);
  if (known.code === 'CANCELLED') {
    throw known;
  }
  return { what, reason: `${known.message} ${known.reason}`, remedy: known.remedy };
}
