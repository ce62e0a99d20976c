import { closeSync, constants, openSync, readFileSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';

import { cancelledError, MeshpathError } from '../protocol/errors.ts';
import type { CgroupAttachment, CgroupInfo, LinkInfo } from '../protocol/kernelObjects.ts';
import { toUint64Text } from '../protocol/scalars.ts';
import type { CgroupPath, LinkId, ProgramId } from '../protocol/scalars.ts';
import type { AttachedPrograms, Introspection } from '../libbpf/introspection.ts';
import { CGROUP_ATTACH_TYPES } from './kernelNames.ts';

const MAX_CGROUPS = 50_000;
const MAX_DEPTH = 64;
const CGROUPS_PER_TURN = 16;
const BPF_F_ALLOW_OVERRIDE = 1;
const BPF_F_ALLOW_MULTI = 2;

/** A folder of the cgroup2 hierarchy. */
export interface CgroupFolder {
  readonly path: CgroupPath;
  readonly id: bigint;
  readonly parent: CgroupFolder | null;
}

/**
 * Walks over the cgroup2 hierarchy mounted at `mountPoint`, parents before children; folders that go away meanwhile are left out.
 * Throws LIMIT_EXCEEDED above MAX_CGROUPS.
 */
export function listCgroupFolders(mountPoint: string): readonly CgroupFolder[] {
  const folders: CgroupFolder[] = [];
  const walk = (path: string, parent: CgroupFolder | null, depth: number): void => {
    const folder = readFolder(mountPoint, path, parent);
    if (folder === undefined) {
      return;
    }
    folders.push(folder);
    if (folders.length > MAX_CGROUPS || depth > MAX_DEPTH) {
      throw new MeshpathError({
        code: 'LIMIT_EXCEEDED',
        message: 'This node has more cgroups than Meshpath reads.',
        reason: `There are more than ${MAX_CGROUPS} cgroups, or they are nested deeper than ${MAX_DEPTH}.`,
        remedy: 'Remove cgroups that nothing runs in; `systemd-cgls` and `find` on the cgroup2 mount show them.',
      });
    }
    for (const name of childFolders(join(mountPoint, path))) {
      walk(path === '/' ? `/${name}` : `${path}/${name}`, folder, depth + 1);
    }
  };
  walk('/', null, 0);
  return folders;
}

/**
 * Describes the cgroups at or below `below` with the programs that run for each, in effective order.
 * `programNames` gives the full names of programs; `links` those that hang on cgroups.
 * Throws CGROUP_NOT_FOUND, CAPABILITY_MISSING, CANCELLED.
 */
export async function describeCgroups(
  introspection: Introspection,
  mountPoint: string,
  below: CgroupPath,
  programNames: ReadonlyMap<number, string>,
  links: readonly LinkInfo[],
  signal: AbortSignal,
): Promise<CgroupInfo[]> {
  const folders = listCgroupFolders(mountPoint);
  const wanted = folders.filter(({ path }) => below === '/' || path === below || path.startsWith(`${below}/`));
  if (wanted.length === 0) {
    throw new MeshpathError({
      code: 'CGROUP_NOT_FOUND',
      message: `There is no cgroup ${below}.`,
      reason: `The cgroup2 hierarchy mounted at ${mountPoint} has no such folder.`,
      remedy: 'Take a path from the list of cgroups, or from /proc/PID/cgroup (the line that begins with `0::`).',
    });
  }
  const query = new AttachmentQuery(introspection, mountPoint, links, programNames);
  const described: CgroupInfo[] = [];
  for (const [index, folder] of wanted.entries()) {
    if (index % CGROUPS_PER_TURN === CGROUPS_PER_TURN - 1) {
      await nextTurn();
    }
    if (signal.aborted) {
      throw cancelledError('Listing the cgroups');
    }
    described.push({
      path: folder.path,
      id: toUint64Text(folder.id),
      processCount: countProcesses(join(mountPoint, folder.path)),
      attachments: query.attachmentsOf(folder),
    });
  }
  return described;
}

/** Asks for the programs of cgroups and keeps the answers for ancestors, which all their descendants need. */
class AttachmentQuery {
  readonly #introspection: Introspection;
  readonly #mountPoint: string;
  readonly #links: ReadonlyMap<string, readonly LinkId[]>;
  readonly #programNames: ReadonlyMap<number, string>;
  readonly #direct = new Map<string, readonly (AttachedPrograms | undefined)[]>();

  constructor(introspection: Introspection, mountPoint: string, links: readonly LinkInfo[], programNames: ReadonlyMap<number, string>) {
    this.#introspection = introspection;
    this.#mountPoint = mountPoint;
    this.#programNames = programNames;
    const byPlace = new Map<string, LinkId[]>();
    for (const { id, attachType, target, programId } of links) {
      if (target.kind === 'cgroup') {
        const key = `${target.cgroupId} ${attachType ?? ''} ${programId}`;
        byPlace.set(key, [...(byPlace.get(key) ?? []), id]);
      }
    }
    this.#links = byPlace;
  }

  attachmentsOf(folder: CgroupFolder): CgroupAttachment[] {
    const effective = this.#query(folder, true);
    return CGROUP_ATTACH_TYPES.flatMap((type, index) => this.#describe(folder, type.name, index, effective[index]?.programIds ?? []));
  }

  /** Finds for each effective program the nearest cgroup, this one first, that has it and was not counted yet. */
  #describe(folder: CgroupFolder, attachType: string, typeIndex: number, effective: readonly number[]): CgroupAttachment[] {
    if (effective.length === 0) {
      return [];
    }
    const places: { folder: CgroupFolder; attached: AttachedPrograms; left: Map<number, readonly (LinkId | null)[]> }[] = [];
    for (let at: CgroupFolder | null = folder; at !== null; at = at.parent) {
      const attached = this.#directOf(at)[typeIndex];
      if (attached !== undefined && attached.programIds.length > 0) {
        places.push({ folder: at, attached, left: this.#linksAt(at, attachType, attached.programIds) });
      }
    }
    return effective.map((id, order) => {
      const place = places.find(({ left }) => (left.get(id)?.length ?? 0) > 0);
      const [linkId = null, ...rest] = place?.left.get(id) ?? [];
      place?.left.set(id, rest);
      return {
        attachType,
        programId: id as ProgramId,
        programName: this.#programNames.get(id) ?? '',
        linkId,
        attachedTo: place?.folder.path ?? folder.path,
        mode: attachmentMode(place?.attached.flags ?? 0),
        order,
      };
    });
  }

  /** Gives for each program at a cgroup its links, and null for each time that it is attached without one. */
  #linksAt(folder: CgroupFolder, attachType: string, programIds: readonly number[]): Map<number, readonly (LinkId | null)[]> {
    const left = new Map<number, (LinkId | null)[]>();
    for (const id of programIds) {
      const links = this.#links.get(`${folder.id} ${attachType} ${id}`) ?? [];
      const known = left.get(id) ?? [];
      left.set(id, [...known, links[known.length] ?? null]);
    }
    return left;
  }

  #directOf(folder: CgroupFolder): readonly (AttachedPrograms | undefined)[] {
    let direct = this.#direct.get(folder.path);
    if (direct === undefined) {
      direct = this.#query(folder, false);
      this.#direct.set(folder.path, direct);
    }
    return direct;
  }

  #query(folder: CgroupFolder, effective: boolean): (AttachedPrograms | undefined)[] {
    let fd: number;
    try {
      fd = openSync(join(this.#mountPoint, folder.path), constants.O_RDONLY | constants.O_DIRECTORY);
    } catch {
      // It was removed meanwhile: no program runs for it any more.
      return CGROUP_ATTACH_TYPES.map(() => undefined);
    }
    try {
      return CGROUP_ATTACH_TYPES.map(({ number }) => this.#introspection.queryCgroup(fd, number, effective));
    } finally {
      closeSync(fd);
    }
  }
}

/** Gives what BPF_F_ALLOW_MULTI and BPF_F_ALLOW_OVERRIDE of an attachment mean for others. */
export function attachmentMode(flags: number): CgroupAttachment['mode'] {
  if ((flags & BPF_F_ALLOW_MULTI) !== 0) {
    return 'multi';
  }
  return (flags & BPF_F_ALLOW_OVERRIDE) !== 0 ? 'override' : 'exclusive';
}

function readFolder(mountPoint: string, path: string, parent: CgroupFolder | null): CgroupFolder | undefined {
  try {
    return { path: path as CgroupPath, id: statSync(join(mountPoint, path), { bigint: true }).ino, parent };
  } catch {
    return undefined;
  }
}

function childFolders(path: string): string[] {
  try {
    return readdirSync(path, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map(({ name }) => name)
      .sort();
  } catch {
    return [];
  }
}

/** Counts the lines of cgroup.procs; 0 for a threaded cgroup, which has none to read (EOPNOTSUPP). */
function countProcesses(folder: string): number {
  try {
    return readFileSync(join(folder, 'cgroup.procs'), 'latin1').split('\n').length - 1;
  } catch {
    return 0;
  }
}
