import { inputError } from '../../agent/protocol/errors.ts';
import { parseIpAddress } from '../../agent/protocol/ipAddress.ts';
import { MESH_PROFILES, type PodInfo } from '../../agent/protocol/acceleration.ts';
import { toPortNumber, type CgroupPath, type Endpoint, type NamespaceId } from '../../agent/protocol/scalars.ts';
import type { NetworkNamespace, Snapshot, SocketInfo } from '../../agent/protocol/snapshot.ts';
import type { FlowSource } from '../../agent/protocol/trace.ts';

/** The most choices that are offered of either kind. */
const MAX_CHOICES = 500;

/** Someone on the node who can open a connection. */
export interface SourceOption {
  /** The same on every snapshot of the node, as long as the same process runs. */
  readonly id: string;
  readonly label: string;
  readonly detail: string;
  readonly source: FlowSource;
  readonly isSidecar: boolean;
}

export interface DestinationOption {
  /** `10.0.0.2:8080` */
  readonly value: string;
  readonly label: string;
  /** Where the server is. */
  readonly namespace: NamespaceId;
}

function spell(endpoint: Endpoint): string {
  return endpoint.address.includes(':') ? `[${endpoint.address}]:${endpoint.port}` : `${endpoint.address}:${endpoint.port}`;
}

/** Reads `address:port`; an IPv6 address stands in brackets. Throws INPUT_INVALID where it is neither. */
export function readEndpoint(text: string): Endpoint {
  const parts = /^(?:\[([^\]]+)\]|([^:]+)):(\d{1,5})$/.exec(text.trim());
  const address = parseIpAddress(parts?.[1] ?? parts?.[2] ?? '');
  const port = Number(parts?.[3] ?? Number.NaN);
  if (address === undefined || !(port >= 1 && port <= 65_535)) {
    throw inputError(
      `'${text.slice(0, 60)}' is not an address with a port.`,
      'A connection goes to an IP address and a port from 1 to 65535.',
      'Write it as 10.0.0.2:8080, or [fd00::2]:8080 for IPv6.',
    );
  }
  return { address, port: toPortNumber(port) };
}

function proxyUidOf(pod: PodInfo | undefined): number | undefined {
  return MESH_PROFILES.find((profile) => profile.name === pod?.profile)?.proxyUid;
}

function nameOf(namespace: NetworkNamespace, pod: PodInfo | undefined): string {
  return pod?.name ?? namespace.names[0] ?? `netns ${namespace.id}`;
}

/** Gives the names of all namespaces of a snapshot, by id: the pod, else the name of the namespace. */
export function namespaceNames(snapshot: Snapshot): Readonly<Record<string, string>> {
  const pods = new Map(snapshot.pods.map((pod) => [pod.namespace, pod]));
  return Object.fromEntries(snapshot.namespaces.map((namespace) => [namespace.id, nameOf(namespace, pods.get(namespace.id))]));
}

/**
 * Gives who can connect: for every pod its applications and sidecars that hold sockets, and where no application does,
 * any process of it as user 0. Applications of pods come first, then what is outside of pods, then sidecars.
 */
export function listSources(snapshot: Snapshot): readonly SourceOption[] {
  const pods = new Map(snapshot.pods.map((pod) => [pod.namespace, pod]));
  const options = snapshot.namespaces.flatMap((namespace) => sourcesOf(namespace, pods.get(namespace.id)));
  const rank = (option: SourceOption): number => (option.isSidecar ? 2 : pods.has(option.source.namespace) ? 0 : 1);
  return options.sort((left, right) => rank(left) - rank(right)).slice(0, MAX_CHOICES);
}

function sourcesOf(namespace: NetworkNamespace, pod: PodInfo | undefined): readonly SourceOption[] {
  const proxyUid = proxyUidOf(pod);
  const found = new Map<string, SourceOption>();
  const add = (command: string, uid: number, gid: number, cgroup: CgroupPath | null): void => {
    const isSidecar = uid === proxyUid;
    const id = [namespace.id, cgroup ?? '', uid, gid, command].join('\u0000');
    if (!found.has(id)) {
      found.set(id, {
        id,
        label: `${command === '' ? 'any process' : command} in ${nameOf(namespace, pod)}`,
        detail: `user ${uid}${isSidecar ? ', the sidecar' : ''}`,
        source: sourceOf(namespace.id, cgroup, uid, gid),
        isSidecar,
      });
    }
  };
  for (const socket of namespace.sockets) {
    if (socket.owner !== null) {
      add(socket.owner.command, socket.uid, socket.owner.gid ?? socket.uid, socket.owner.cgroup);
    }
  }
  if (pod !== undefined && ![...found.values()].some((option) => !option.isSidecar)) {
    add('', 0, 0, pod.cgroups[0] ?? null);
  }
  return [...found.values()];
}

function sourceOf(namespace: NamespaceId, cgroup: CgroupPath | null, uid: number, gid: number): FlowSource {
  return { kind: 'process', namespace, cgroup, uid, gid, address: null, port: null };
}

/** Gives where a connection can go: every listening socket of an application, at every address of its pod. */
export function listDestinations(snapshot: Snapshot): readonly DestinationOption[] {
  const namespaces = new Map(snapshot.namespaces.map((namespace) => [namespace.id, namespace]));
  const options = new Map<string, DestinationOption>();
  for (const pod of snapshot.pods) {
    const proxyUid = proxyUidOf(pod);
    for (const socket of namespaces.get(pod.namespace)?.sockets ?? []) {
      if (socket.protocol === 'tcp' && socket.state === 'listen' && socket.uid !== proxyUid) {
        for (const address of addressesOf(socket, pod)) {
          const value = spell({ address, port: socket.local.port });
          options.set(value, { value, label: `${socket.owner?.command ?? 'server'} in ${pod.name}`, namespace: pod.namespace });
        }
      }
    }
  }
  return [...options.values()].slice(0, MAX_CHOICES);
}

function addressesOf(socket: SocketInfo, pod: PodInfo): PodInfo['addresses'] {
  const { address } = socket.local;
  if (address === '0.0.0.0' || address === '::') {
    return pod.addresses.filter((candidate) => socket.dualStack || candidate.includes(':') === (address === '::'));
  }
  return pod.addresses.includes(address) ? [address] : [];
}
