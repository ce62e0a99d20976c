import type { AccelerationInfo, PodInfo } from '../protocol/acceleration.ts';
import { toMeshpathError } from '../protocol/errors.ts';
import { MAX_PAGE_ENTRIES } from '../protocol/mapEntries.ts';
import type { MapEntry } from '../protocol/mapEntries.ts';
import type { MapInfo } from '../protocol/kernelObjects.ts';
import { SNAPSHOT_FORMAT, SNAPSHOT_VERSION } from '../protocol/snapshot.ts';
import type { MapContents, NetworkLink, NetworkNamespace, NodeIdentity, Omission, Snapshot } from '../protocol/snapshot.ts';
import type { KernelObjectReader } from '../kernel/kernelObjectReader.ts';
import type { ListedLink } from './ipJson.ts';
import { listNamespaces } from './namespaceList.ts';
import { readNamespace } from './networkNamespace.ts';
import type { NamespacePart, ReadNamespace } from './networkNamespace.ts';
import { findOtherAccelerations } from './otherAccelerations.ts';
import { findPods } from './pods.ts';
import { scanProcesses } from './processScan.ts';
import type { ProcessScan } from './processScan.ts';

/** What a snapshot is taken of. `reader` throws where BPF objects may not be read. */
export interface SnapshotSources {
  readonly identity: NodeIdentity;
  readonly reader: () => KernelObjectReader;
  readonly accelerations: () => Promise<readonly AccelerationInfo[]>;
}

const ALL_PARTS: ReadonlySet<NamespacePart> = new Set(['links', 'sockets', 'routing', 'sysctls', 'rules', 'conntrack']);
const POD_PARTS: ReadonlySet<NamespacePart> = new Set(['links', 'sockets']);
/** Namespaces that are read at the same time: each keeps up to six programs running. */
const CONCURRENT_NAMESPACES = 4;
const MAX_CONTENT_ENTRIES = 20_000;
const SOCKET_MAPS: ReadonlySet<string> = new Set(['sockhash', 'sockmap']);

/**
 * Takes a snapshot of this machine. What cannot be read is named in `omissions`; only CANCELLED is thrown.
 * The parts are read one after the other: traffic goes on meanwhile.
 */
export async function takeSnapshot(sources: SnapshotSources, signal: AbortSignal): Promise<Snapshot> {
  const takenAt = new Date().toISOString();
  const scan = await scanProcesses(signal);
  const { namespaces, omissions } = await readNamespaces(scan, ALL_PARTS, signal);
  const bpf = await readBpf(sources.reader, signal);
  const own = await sources.accelerations();
  const others = findOtherAccelerations(bpf, own);
  return {
    format: SNAPSHOT_FORMAT,
    formatVersion: SNAPSHOT_VERSION,
    takenAt,
    node: sources.identity,
    namespaces: joinPeers(namespaces),
    pods: findPods(namespaces, scan.processes),
    cgroups: bpf.cgroups,
    bpf: { programs: bpf.programs, maps: bpf.maps, links: bpf.links, contents: bpf.contents },
    accelerations: [...own, ...others.accelerations],
    omissions: [...omissions, ...bpf.omissions, ...others.omissions],
  };
}

/** Finds the pods of this machine. Throws CANCELLED. */
export async function listPods(signal: AbortSignal): Promise<readonly PodInfo[]> {
  return (await readPodNamespaces(signal)).pods;
}

/** What pods are found by. */
export interface PodNamespaces {
  readonly scan: ProcessScan;
  /** With devices, addresses and sockets, and nothing else. */
  readonly namespaces: readonly ReadNamespace[];
  readonly pods: readonly PodInfo[];
  readonly omissions: readonly Omission[];
}

/** Reads the devices, addresses and sockets of every network namespace. Throws CANCELLED. */
export async function readPodNamespaces(signal: AbortSignal): Promise<PodNamespaces> {
  const scan = await scanProcesses(signal);
  const { namespaces, omissions } = await readNamespaces(scan, POD_PARTS, signal);
  return { scan, namespaces, pods: findPods(namespaces, scan.processes), omissions };
}

async function readNamespaces(
  scan: ProcessScan,
  parts: ReadonlySet<NamespacePart>,
  signal: AbortSignal,
): Promise<{ namespaces: readonly ReadNamespace[]; omissions: readonly Omission[] }> {
  const listed = listNamespaces(scan.processes);
  const read: ReadNamespace[] = [];
  const waiting = [...listed.namespaces.entries()];
  const work = async (): Promise<void> => {
    for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
      const [index, handle] = next;
      read[index] = await readNamespace(handle, parts, scan, signal);
    }
  };
  await Promise.all(Array.from({ length: CONCURRENT_NAMESPACES }, work));
  return { namespaces: read, omissions: [...hiddenProcesses(scan), ...listed.omissions, ...read.flatMap(({ omissions }) => omissions)] };
}

function hiddenProcesses({ hiddenCount }: ProcessScan): Omission[] {
  return hiddenCount === 0
    ? []
    : [
        {
          what: `${hiddenCount} processes, with their sockets and network namespaces`,
          reason: 'The agent may not look into processes of other users.',
          remedy: 'Connect as root, or as a user whom sudo lets run the agent as root. A process that stays hidden from root is protected by the system.',
        },
      ];
}

/**
 * Finds for each end of a veth pair the namespace of the other: the one that the kernel names; where it has no name, the only one
 * with an end that fits.
 */
export function joinPeers(namespaces: readonly ReadNamespace[]): NetworkNamespace[] {
  const peerOf = (own: ReadNamespace, link: ListedLink): NetworkLink['peer'] => {
    const { peerIndex, peerNamespaceName } = link;
    if (peerIndex === null) {
      return null;
    }
    if (peerNamespaceName !== null) {
      return { namespace: namespaces.find(({ names }) => names.includes(peerNamespaceName))?.id ?? null, index: peerIndex };
    }
    const fitting = namespaces.filter(
      (other) =>
        (other === own) === !link.peerIsElsewhere &&
        other.links.some((candidate) => candidate.kind === 'veth' && candidate.index === peerIndex && candidate.peerIndex === link.index),
    );
    return { namespace: fitting.length === 1 ? (fitting[0]?.id ?? null) : null, index: peerIndex };
  };
  return namespaces.map((namespace) => {
    const { omissions: _omissions, ...rest } = namespace;
    return {
      ...rest,
      links: namespace.links.map((link) => {
        const { peerIndex: _peerIndex, peerIsElsewhere: _peerIsElsewhere, peerNamespaceName: _peerNamespaceName, ...shown } = link;
        return { ...shown, peer: peerOf(namespace, link) };
      }),
    };
  });
}

/** BPF objects with the contents of maps, and what of them could not be read. */
export type BpfPart = Awaited<ReturnType<KernelObjectReader['readEverything']>> & { contents: MapContents[]; omissions: Omission[] };

/** Reads BPF objects and the contents of the maps that take part in paths. Throws CANCELLED; what else fails is an omission. */
export async function readBpf(reader: () => KernelObjectReader, signal: AbortSignal): Promise<BpfPart> {
  const omissions: Omission[] = [];
  const omit = (what: string, error: unknown): void => {
    const known = toMeshpathError(error);
    if (known.code === 'CANCELLED') {
      throw known;
    }
    omissions.push({ what, reason: `${known.message} ${known.reason}`, remedy: known.remedy });
  };
  try {
    const opened = reader();
    const everything = await opened.readEverything(signal);
    const contents: MapContents[] = [];
    for (const map of everything.maps.filter(takesPartInPaths)) {
      try {
        contents.push(await readContents(opened, map, signal));
      } catch (error) {
        omit(`contents of the map ${map.name} (${map.id})`, error);
      }
    }
    return { ...everything, contents, omissions };
  } catch (error) {
    omit('BPF programs, maps, links and what is attached to cgroups', error);
    return { programs: [], maps: [], links: [], cgroups: [], contents: [], omissions };
  }
}

/** Meshpath's own maps decide about paths, and so does every map that sockets are redirected through. */
function takesPartInPaths(map: MapInfo): boolean {
  return map.readable.ok && (map.owner.kind === 'meshpath' || SOCKET_MAPS.has(map.type));
}

async function readContents(reader: KernelObjectReader, map: MapInfo, signal: AbortSignal): Promise<MapContents> {
  const entries: MapEntry[] = [];
  let cursor: string | null = null;
  do {
    const page = await reader.readMap({ mapId: map.id, cursor, limit: MAX_PAGE_ENTRIES }, signal);
    entries.push(...page.entries);
    cursor = page.nextCursor;
  } while (cursor !== null && entries.length < MAX_CONTENT_ENTRIES);
  return { mapId: map.id, entries: entries.slice(0, MAX_CONTENT_ENTRIES), truncated: cursor !== null || entries.length > MAX_CONTENT_ENTRIES };
}
