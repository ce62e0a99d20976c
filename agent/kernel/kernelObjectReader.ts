import { MeshpathError } from '../protocol/errors.ts';
import type { CgroupInfo, LinkInfo, MapInfo, ObjectOwner, ProgramInfo } from '../protocol/kernelObjects.ts';
import type { MapPage } from '../protocol/mapEntries.ts';
import type { MapEntriesParams } from '../protocol/methods.ts';
import type { CgroupPath } from '../protocol/scalars.ts';
import { createIntrospection, withDescriptor } from '../libbpf/introspection.ts';
import type { RawProgram } from '../libbpf/introspection.ts';
import type { Libbpf } from '../libbpf/library.ts';
import { createBtfObjects } from './btfObjects.ts';
import { describeCgroups, listCgroupFolders } from './cgroupTree.ts';
import { mapReadability } from './mapReadability.ts';
import { readMapPage } from './mapReader.ts';
import { describeLinks, describeMaps, describePrograms, readAll } from './objectLists.ts';
import { findObjectOwners } from './objectOwners.ts';
import type { ObjectOwners } from './objectOwners.ts';
import { fullProgramName, typeMap } from './objectTypes.ts';
import type { MapTyping } from './objectTypes.ts';
import { findOwnObjects } from './ownObjects.ts';

/** All BPF objects and cgroups of this machine, as the protocol shows them. Nothing is kept open between calls. */
export interface KernelObjectReader {
  readonly listPrograms: (signal: AbortSignal) => Promise<ProgramInfo[]>;
  readonly listMaps: (signal: AbortSignal) => Promise<MapInfo[]>;
  readonly listLinks: (signal: AbortSignal) => Promise<LinkInfo[]>;
  readonly listCgroups: (below: CgroupPath, signal: AbortSignal) => Promise<CgroupInfo[]>;
  readonly readMap: (params: MapEntriesParams, signal: AbortSignal) => Promise<MapPage>;
  /** All of it, consistent as far as one scan for owners and one list of each kind are. */
  readonly readEverything: (signal: AbortSignal) => Promise<{ programs: ProgramInfo[]; maps: MapInfo[]; links: LinkInfo[]; cgroups: CgroupInfo[] }>;
}

const NO_OWNER: ObjectOwner = { kind: 'kernel', processes: [], pins: [] };
const NO_OWNERS: ObjectOwners = { ofProgram: () => NO_OWNER, ofMap: () => NO_OWNER, ofLink: () => NO_OWNER };
const MAX_KNOWN_TYPINGS = 64;

/**
 * Gives the reader of this machine. `cgroupMount` finds the cgroup2 mount and throws CGROUP2_MISSING where there is none.
 * All functions throw CAPABILITY_MISSING where this process may not ask the kernel.
 */
export function createKernelObjectReader(libbpf: Libbpf, cgroupMount: () => string): KernelObjectReader {
  const introspection = createIntrospection(libbpf);
  const btfObjects = createBtfObjects(introspection);
  /** Typings of maps that were read before, by map id: the pages of one map need the same. */
  const typings = new Map<number, MapTyping>();

  const readPrograms = (signal: AbortSignal): ReturnType<typeof readAll<RawProgram>> => readAll(introspection, 'program', introspection.programInfo, signal);

  const readLinks = async (owners: ObjectOwners, signal: AbortSignal): Promise<LinkInfo[]> => {
    const links = await readAll(introspection, 'link', introspection.linkInfo, signal);
    return describeLinks(links, owners, cgroupPaths(cgroupMount));
  };

  const readCgroups = async (below: CgroupPath, programs: readonly RawProgram[], links: readonly LinkInfo[], signal: AbortSignal): Promise<CgroupInfo[]> => {
    const names = new Map(programs.map((program) => [program.id, fullProgramName(program, btfObjects)]));
    return describeCgroups(introspection, cgroupMount(), below, names, links, signal);
  };

  const findOwners = (programs: readonly RawProgram[], signal: AbortSignal): Promise<ObjectOwners> =>
    findObjectOwners(introspection, findOwnObjects(programs, btfObjects), signal);

  const infosOf = (found: Awaited<ReturnType<typeof readPrograms>>): RawProgram[] => found.map(({ info }) => info);

  return {
    listPrograms: async (signal) => {
      const programs = await readPrograms(signal);
      return describePrograms(programs, await findOwners(infosOf(programs), signal), btfObjects);
    },
    listMaps: async (signal) => {
      const programs = await readPrograms(signal);
      const maps = await readAll(introspection, 'map', introspection.mapInfo, signal);
      return describeMaps(maps, infosOf(programs), await findOwners(infosOf(programs), signal), btfObjects);
    },
    listLinks: async (signal) => readLinks(await findOwners(infosOf(await readPrograms(signal)), signal), signal),
    listCgroups: async (below, signal) => {
      const programs = await readPrograms(signal);
      return readCgroups(below, infosOf(programs), await readLinks(NO_OWNERS, signal), signal);
    },
    readMap: async ({ mapId, cursor, limit }, signal) => {
      const fd = introspection.open('map', mapId);
      if (fd === undefined) {
        throw new MeshpathError({
          code: 'MAP_NOT_FOUND',
          message: `There is no map with the id ${mapId} any more.`,
          reason: 'The kernel frees a map when the last program, process and pin that holds it goes away.',
          remedy: 'List the maps again.',
        });
      }
      return withOpenMap(fd, async () => {
        const map = introspection.mapInfo(fd);
        const readable = mapReadability(map);
        if (!readable.ok) {
          throw new MeshpathError({
            code: 'MAP_NOT_READABLE',
            message: `The entries of the map ${map.name} (${mapId}) cannot be listed.`,
            reason: readable.reason,
            remedy: 'Look at its properties and at the programs that use it instead.',
          });
        }
        let typing = typings.get(mapId);
        if (typing === undefined || cursor === null) {
          // Only maps without BTF of their own need the programs that use them.
          const users = map.btfId === 0 ? infosOf(await readPrograms(signal)).filter(({ mapIds }) => mapIds.includes(mapId)) : [];
          typing = typeMap(map, users.map(({ btfId }) => btfId), btfObjects);
          typings.delete(mapId);
          typings.set(mapId, typing);
          if (typings.size > MAX_KNOWN_TYPINGS) {
            typings.delete(typings.keys().next().value ?? 0);
          }
        }
        return readMapPage(libbpf, fd, map, typing, { cursor, limit }, signal);
      });
    },
    readEverything: async (signal) => {
      const programs = await readPrograms(signal);
      const owners = await findOwners(infosOf(programs), signal);
      const maps = await readAll(introspection, 'map', introspection.mapInfo, signal);
      const links = await readLinks(owners, signal);
      return {
        programs: describePrograms(programs, owners, btfObjects),
        maps: describeMaps(maps, infosOf(programs), owners, btfObjects),
        links,
        cgroups: await readCgroups('/' as CgroupPath, infosOf(programs), links, signal),
      };
    },
  };
}

/** Like withDescriptor, for a use that takes several turns. */
async function withOpenMap<T>(fd: number, use: () => Promise<T>): Promise<T> {
  try {
    return await use();
  } finally {
    withDescriptor(fd, () => undefined);
  }
}

/** Gives a function that finds the path of a cgroup id; null for all where there is no cgroup2. */
function cgroupPaths(cgroupMount: () => string): (id: bigint) => CgroupPath | null {
  let paths: Map<bigint, CgroupPath> | undefined;
  return (id) => {
    if (paths === undefined) {
      paths = new Map();
      try {
        for (const folder of listCgroupFolders(cgroupMount())) {
          paths.set(folder.id, folder.path);
        }
      } catch (error) {
        // Links are worth showing without paths, too.
        if (!MeshpathError.is(error, 'CGROUP2_MISSING') && !MeshpathError.is(error, 'LIMIT_EXCEEDED')) {
          throw error;
        }
      }
    }
    return paths.get(id) ?? null;
  };
}
