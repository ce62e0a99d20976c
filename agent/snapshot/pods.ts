import { MESH_PROFILES } from '../protocol/acceleration.ts';
import type { MeshProfile, PodInfo } from '../protocol/acceleration.ts';
import type { CgroupPath, NamespaceId } from '../protocol/scalars.ts';
import type { SocketInfo } from '../protocol/snapshot.ts';
import type { ListedLink } from './ipJson.ts';
import { HOST_NAME } from './namespaceList.ts';
import type { ScannedProcess } from './processScan.ts';

/** What a pod is made of: a network namespace as it was read. */
export interface PodNamespace {
  readonly id: NamespaceId;
  readonly names: readonly string[];
  readonly links: readonly ListedLink[];
  readonly sockets: readonly SocketInfo[];
}

/**
 * Finds pods: network namespaces other than the host's in which processes live, or that have a name and an address. A pod's
 * cgroups are those of its processes; where one folder holds exactly these, it is that folder.
 */
export function findPods(namespaces: readonly PodNamespace[], processes: readonly ScannedProcess[]): PodInfo[] {
  return namespaces
    .filter(({ names }) => !names.includes(HOST_NAME))
    .flatMap((namespace) => {
      const cgroups = podCgroups(namespace.id, processes);
      const addresses = namespace.links
        .filter(({ kind }) => kind !== 'loopback')
        .flatMap((link) => link.addresses.filter(({ scope }) => scope === 'global').map(({ address }) => address));
      if (cgroups.length === 0 && addresses.length === 0) {
        return [];
      }
      return [
        {
          name: podName(namespace, cgroups),
          namespace: namespace.id,
          cgroups,
          addresses: [...new Set(addresses)],
          profile: detectProfile(namespace.sockets)?.name ?? null,
        },
      ];
    });
}

/** Gives the mesh whose sidecar listens among these sockets: on a port of the profile, as the user of the profile. */
export function detectProfile(sockets: readonly SocketInfo[]): MeshProfile | undefined {
  return MESH_PROFILES.find((profile) =>
    sockets.some(
      ({ protocol, state, local, uid }) =>
        protocol === 'tcp' && state === 'listen' && uid === profile.proxyUid && (local.port === profile.outboundPort || local.port === profile.inboundPort),
    ),
  );
}

/** Gives the cgroups of a namespace's processes, or their nearest common folder where nobody else is in it. */
export function podCgroups(namespace: NamespaceId, processes: readonly ScannedProcess[]): CgroupPath[] {
  const own = processes.flatMap((process) => (process.namespace === namespace && process.cgroup !== null && process.cgroup !== '/' ? [process.cgroup] : []));
  const cgroups = [...new Set(own)].sort();
  if (cgroups.length < 2) {
    return cgroups;
  }
  const common = commonFolder(cgroups);
  const isShared =
    common === '/' ||
    processes.some((process) => process.namespace !== namespace && (process.cgroup === common || process.cgroup?.startsWith(`${common}/`) === true));
  return isShared ? cgroups : [common];
}

function commonFolder(paths: readonly CgroupPath[]): CgroupPath {
  const [first = [], ...others] = paths.map((path) => path.split('/'));
  let length = 0;
  while (length < first.length && others.every((folders) => folders[length] === first[length])) {
    length += 1;
  }
  return (first.slice(0, length).join('/') || '/') as CgroupPath;
}

/** Container runtimes name namespaces by random ids; there, the cgroup says more. */
function podName({ id, names }: PodNamespace, cgroups: readonly CgroupPath[]): string {
  const name = names.find((candidate) => !/^(?:cni|netns)-[0-9a-f-]+$/.test(candidate));
  return name ?? cgroups[0]?.split('/').at(-1) ?? names[0] ?? `namespace ${id}`;
}
