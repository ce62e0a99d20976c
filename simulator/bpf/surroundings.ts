import type { CgroupPath, NamespaceId } from '../../agent/protocol/scalars.ts';
import { lookUpRoute } from '../world/routing.ts';
import { findDatagramSocket } from '../world/sockets.ts';
import type { World } from '../world/world.ts';
import type { SocketSurroundings } from './socketKernel.ts';

/** CPUs of the simulated kernel. */
export const SIMULATED_CPUS = 2;
const COOKIE_STEP = 1n;

/** Gives sockets the namespaces, addresses and cgroups of a world, and a clock and random numbers of the caller's. */
export function surroundingsOf(world: World, source: Pick<SocketSurroundings, 'bootNanoseconds' | 'random'>): SocketSurroundings {
  const cgroupIds = new Map(world.snapshot.cgroups.map((cgroup) => [cgroup.path, BigInt(cgroup.id)]));
  const namespaces = [...world.namespaces.keys()];
  return {
    ...source,
    cpus: SIMULATED_CPUS,
    cgroupLine: (path) => ancestors(path).flatMap((ancestor) => cgroupIds.get(ancestor) ?? []),
    // Cookies count up from 1, the initial namespace's (net/core/net_namespace.c).
    netnsCookie: (namespace: NamespaceId) => BigInt(namespaces.indexOf(namespace)) + COOKIE_STEP,
    receivesDatagrams: (namespace, destination) => {
      const found = world.namespaces.get(namespace);
      return found !== undefined && findDatagramSocket(found, destination) !== undefined;
    },
    isLocalAddress: (namespace, address) => {
      const found = world.namespaces.get(namespace);
      return found !== undefined && lookUpRoute(found, { destination: address, source: null, mark: 0, inInterface: 'lo' }).kind === 'local';
    },
  };
}

/** Gives a cgroup and all cgroups above it, itself first. */
export function ancestors(path: CgroupPath): CgroupPath[] {
  const parts = path.split('/').filter((part) => part !== '');
  const line = parts.map((_, index) => `/${parts.slice(0, parts.length - index).join('/')}` as CgroupPath);
  return [...line, '/' as CgroupPath];
}
