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
  const pods = namespaces
    .filter(({ names }) => !names.includes(HOST_NAME))
    .flatMap((namespace) => {
      const cgroups = podCgroups(namespace.id, processes);
      const addresses = namespace.links
        .filter(({ kind }) => kind !== 'loopback')
        .flatMap((link) => link.addresses.filter(({ scope }) => scope === 'global').map(({ address }) => address));
      return cgroups.length === 0 && addresses.length === 0 ? [] : [{ namespace, cgroups, addresses, folderName: podFolderName(namespace.id, cgroups, processes) }];
    });
  const isUnique = (name: string, own: PodNamespace): boolean =>
    pods.every(({ namespace, folderName }) => namespace === own || (folderName !== name && !namespace.names.includes(name)));
  return pods.map(({ namespace, cgroups, addresses, folderName }) => ({
    name: folderName !== undefined && isUnique(folderName, namespace) ? folderName : fallbackName(namespace, cgroups),
    namespace: namespace.id,
    cgroups,
    addresses: [...new Set(addresses)],
    profile: detectProfile(namespace.sockets)?.name ?? null,
  }));
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
  return isShared(common, namespace, processes) ? cgroups : [common];
}

/** Says whether processes of other namespaces are in a cgroup or below it. */
function isShared(cgroup: CgroupPath, namespace: NamespaceId, processes: readonly ScannedProcess[]): boolean {
  return cgroup === '/' || processes.some((process) => process.namespace !== namespace && (process.cgroup === cgroup || process.cgroup?.startsWith(`${cgroup}/`) === true));
}

function commonFolder(paths: readonly CgroupPath[]): CgroupPath {
  const [first = [], ...others] = paths.map((path) => path.split('/'));
  let length = 0;
  while (length < first.length && others.every((folders) => folders[length] === first[length])) {
    length += 1;
  }
  return (first.slice(0, length).join('/') || '/') as CgroupPath;
}

/** Gives the name of the one folder that holds a pod's processes and nobody else's; undefined where there is none, or a program made it up. */
function podFolderName(namespace: NamespaceId, cgroups: readonly CgroupPath[], processes: readonly ScannedProcess[]): string | undefined {
  const [folder] = cgroups;
  if (folder === undefined || cgroups.length > 1 || isShared(folder, namespace, processes)) {
    return undefined;
  }
  const name = folder.split('/').at(-1);
  return name === undefined || isMadeUp(name) ? undefined : name;
}

/** Container runtimes and the kubelet name scopes, slices and namespaces by random ids: 32 and more digits in a row, or a UUID. */
function isMadeUp(name: string): boolean {
  return /[0-9a-f]{32}/.test(name) || /[0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}/.test(name);
}

function fallbackName({ id, names }: PodNamespace, cgroups: readonly CgroupPath[]): string {
  return names.find((name) => !isMadeUp(name)) ?? cgroups[0] ?? names[0] ?? `namespace ${id}`;
}
