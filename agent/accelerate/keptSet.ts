import { closeSync, existsSync, lstatSync, mkdirSync, readdirSync, renameSync, rmdirSync, unlinkSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { MeshProfile } from '../protocol/acceleration.ts';
import { customizeProfile } from '../protocol/customProfile.ts';
import { REWRITING_PROGRAMS } from '../protocol/datapath.ts';
import { checkCgroup } from '../protocol/enrolment.ts';
import { MeshpathError, toMeshpathError } from '../protocol/errors.ts';
import { parseIpAddress } from '../protocol/ipAddress.ts';
import type { CgroupPath, IpAddress } from '../protocol/scalars.ts';
import { createIntrospection } from '../libbpf/introspection.ts';
import type { Libbpf } from '../libbpf/library.ts';
import { lookupElement, updateElement } from '../libbpf/maps.ts';
import { SET_PREFIX, STAGED_PREFIX } from './keptFolder.ts';

/** Raised by every change of the record that another version would misunderstand. */
const RECORD_FORMAT = 1;
/** Room for the record: its length in four bytes, then JSON. */
const RECORD_BYTES = 512 * 1024;
const LENGTH_BYTES = 4;
const RECORD_KEY = new Uint8Array(4);
const ARRAY_MAP = 2;
const MAX_KEPT_PODS = 1_024;
const FOLDER_MODE = 0o700;
/** How long connections that are just being opened need answers, once nothing takes new ones. */
const PENDING_MILLISECONDS = 1_000;

/** A pod of a set. Of one that is being attached or detached some links may be missing. */
export interface KeptPod {
  readonly cgroup: CgroupPath;
  readonly cgroupId: bigint;
  readonly addresses: readonly IpAddress[];
  readonly isLeaving: boolean;
}

/** What the next agent has to know of a set and cannot read from its objects. */
export interface KeptRecord {
  /** Of the file meshpath.bpf.o. */
  readonly objectHash: string;
  readonly profile: MeshProfile;
  /** ISO 8601. */
  readonly since: string;
  /** The name of the set that this one takes the place of. */
  readonly replaces: string | null;
  /** Whether another set has taken the place of this one: it only sees its connections to their end. */
  readonly isReplaced: boolean;
  readonly pods: readonly KeptPod[];
}

/**
 * One set of programs, maps and links as files of bpffs, in a folder of its own:
 *
 *     record              the record, in a map: bpffs has no other files
 *     programs/NAME maps/NAME
 *     message             the link of sk_msg, where the kernel has such links
 *     pods/CGROUP_ID/PROGRAM
 *
 * Whoever ends in the middle of a change leaves what works: what answers about connections is pinned before what rewrites
 * them, and goes after it; a folder has its name only once everything is in it.
 */
export class KeptSet {
  readonly #libbpf: Libbpf;
  readonly #parent: string;
  #name: string;
  #recordFd: number;

  private constructor(libbpf: Libbpf, parent: string, name: string, recordFd: number) {
    this.#libbpf = libbpf;
    this.#parent = parent;
    this.#name = name;
    this.#recordFd = recordFd;
  }

  /** Makes the folder of a set that is not complete yet. Throws BPFFS_MISSING. */
  static stage(libbpf: Libbpf, parent: string, suffix: string): KeptSet {
    const name = `${STAGED_PREFIX}${suffix}`;
    for (const folder of ['', 'programs', 'maps', 'pods']) {
      mkdirSync(join(parent, name, folder), { mode: FOLDER_MODE });
    }
    const fd = libbpf.functions.bpf_map_create(ARRAY_MAP, 'meshpath_kept', LENGTH_BYTES, RECORD_BYTES, 1, null);
    if (fd < 0) {
      throw pinError(libbpf, `${name}/record`, -fd);
    }
    const set = new KeptSet(libbpf, parent, name, fd);
    try {
      set.pin(fd, 'record');
      return set;
    } catch (error) {
      set.close();
      throw error;
    }
  }

  /** Opens the folder of a complete set. Throws KEPT_UNREADABLE. */
  static open(libbpf: Libbpf, parent: string, name: string): KeptSet {
    const fd = libbpf.functions.bpf_obj_get(join(parent, name, 'record'));
    if (fd < 0) {
      throw unreadableError(name, `Opening its record failed with ${libbpf.describe(-fd)}.`);
    }
    return new KeptSet(libbpf, parent, name, fd);
  }

  get name(): string {
    return this.#name;
  }

  /** Gives the folder its name: from now on it is complete. */
  complete(): void {
    const name = this.#name.replace(STAGED_PREFIX, SET_PREFIX);
    renameSync(join(this.#parent, this.#name), join(this.#parent, name));
    this.#name = name;
  }

  /** Pins an object at a path below the folder of the set. Throws BPFFS_MISSING. */
  pin(fd: number, ...path: readonly string[]): void {
    const result = this.#libbpf.functions.bpf_obj_pin(fd, this.#path(...path));
    if (result < 0) {
      throw pinError(this.#libbpf, join(this.#name, ...path), -result);
    }
  }

  /** Opens what is pinned at a path; the descriptor belongs to the caller. Throws KEPT_UNREADABLE. */
  openPin(...path: readonly string[]): number {
    const fd = this.#libbpf.functions.bpf_obj_get(this.#path(...path));
    if (fd < 0) {
      throw unreadableError(this.#name, `Opening ${join(...path)} failed with ${this.#libbpf.describe(-fd)}.`);
    }
    return fd;
  }

  has(...path: readonly string[]): boolean {
    return existsSync(this.#path(...path));
  }

  /** Gives the names in one of its folders; none where it is not there. */
  list(...path: readonly string[]): readonly string[] {
    return this.has(...path) ? readdirSync(this.#path(...path)).sort() : [];
  }

  /** Pins the link of a program to a pod. */
  pinLink(cgroupId: bigint, program: string, fd: number): void {
    mkdirSync(this.#path('pods', String(cgroupId)), { recursive: true, mode: FOLDER_MODE });
    this.pin(fd, 'pods', String(cgroupId), program);
  }

  unpinLink(cgroupId: bigint, program: string): void {
    removeFile(this.#path('pods', String(cgroupId), program));
  }

  /** Makes a link of another set one of this one. */
  takeLink(from: KeptSet, cgroupId: bigint, program: string): void {
    mkdirSync(this.#path('pods', String(cgroupId)), { recursive: true, mode: FOLDER_MODE });
    renameSync(from.#path('pods', String(cgroupId), program), this.#path('pods', String(cgroupId), program));
  }

  /** Removes the folder of a pod, which has no links any more. */
  removePod(cgroupId: bigint): void {
    if (this.has('pods', String(cgroupId))) {
      rmdirSync(this.#path('pods', String(cgroupId)));
    }
  }

  /** Throws KEPT_UNREADABLE where it is not one that this version knows. */
  readRecord(): KeptRecord {
    const bytes = lookupElement(this.#libbpf, this.#recordFd, RECORD_KEY, this.#recordBytes());
    try {
      const view = Buffer.from(bytes ?? []);
      const length = view.readUInt32LE(0);
      return parseRecord(view.subarray(LENGTH_BYTES, LENGTH_BYTES + length).toString('utf8'));
    } catch (error) {
      throw unreadableError(this.#name, toMeshpathError(error).reason);
    }
  }

  /** Throws LIMIT_EXCEEDED where there are too many pods. */
  writeRecord(record: KeptRecord): void {
    const text = Buffer.from(JSON.stringify({ format: RECORD_FORMAT, ...record, pods: record.pods.map((pod) => ({ ...pod, cgroupId: String(pod.cgroupId) })) }));
    const bytes = Buffer.alloc(this.#recordBytes());
    if (LENGTH_BYTES + text.length > bytes.length) {
      throw new MeshpathError({
        code: 'LIMIT_EXCEEDED',
        message: 'There are too many pods to keep acceleration for.',
        reason: `What is written down of them has ${text.length} bytes, and there is room for ${bytes.length - LENGTH_BYTES}.`,
        remedy: 'Keep it for fewer pods, or turn it on without keeping it.',
      });
    }
    bytes.writeUInt32LE(text.length, 0);
    text.copy(bytes, LENGTH_BYTES);
    updateElement(this.#libbpf, this.#recordFd, RECORD_KEY, bytes);
  }

  /** Ends the use of it; the files stay. */
  close(): void {
    closeSync(this.#recordFd);
  }

  /** Removes all its files; what they hold goes on as long as somebody has it open. */
  remove(): void {
    removeSetFiles(join(this.#parent, this.#name));
    this.close();
  }

  #recordBytes(): number {
    return createIntrospection(this.#libbpf).mapInfo(this.#recordFd).valueBytes;
  }

  #path(...path: readonly string[]): string {
    return join(this.#parent, this.#name, ...path);
  }
}

/**
 * Removes a set that nobody has open, of whatever version: first what rewrites connections, then, once connections that are
 * just being opened were answered, all else. Established connections go on.
 */
export async function removeAbandonedSet(parent: string, name: string): Promise<void> {
  const folder = join(parent, name);
  const links = listFiles(join(folder, 'pods'));
  const rewriting = links.filter((path) => REWRITING_PROGRAMS.some((program) => path.endsWith(`/${program}`)));
  rewriting.forEach(removeFile);
  if (rewriting.length > 0) {
    await delay(PENDING_MILLISECONDS);
  }
  removeSetFiles(folder);
}

function removeSetFiles(folder: string): void {
  const files = listFiles(folder);
  const isRewriting = (path: string): boolean => REWRITING_PROGRAMS.some((program) => path.endsWith(`/${program}`));
  [...files.filter(isRewriting), ...files.filter((path) => !isRewriting(path))].forEach(removeFile);
  removeFolders(folder);
}

/** bpffs has folders and pinned objects; links to other places are not followed. */
function listFiles(folder: string): string[] {
  if (!existsSync(folder)) {
    return [];
  }
  return readdirSync(folder)
    .map((name) => join(folder, name))
    .flatMap((path) => (lstatSync(path).isDirectory() ? listFiles(path) : [path]));
}

function removeFolders(folder: string): void {
  if (existsSync(folder)) {
    for (const name of readdirSync(folder)) {
      removeFolders(join(folder, name));
    }
    rmdirSync(folder);
  }
}

function removeFile(path: string): void {
  try {
    unlinkSync(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') {
      throw error;
    }
  }
}

function parseRecord(text: string): KeptRecord {
  const value = JSON.parse(text) as Record<string, unknown>;
  const { format, objectHash, profile, since, replaces, isReplaced, pods } = value;
  if (
    format !== RECORD_FORMAT ||
    typeof objectHash !== 'string' ||
    typeof since !== 'string' ||
    !(replaces === null || typeof replaces === 'string') ||
    typeof isReplaced !== 'boolean' ||
    typeof profile !== 'object' ||
    profile === null ||
    !Array.isArray(pods) ||
    pods.length > MAX_KEPT_PODS
  ) {
    throw new Error('Its record is of another form.');
  }
  return { objectHash, since, replaces, isReplaced, profile: readProfile(profile), pods: pods.map(readPod) };
}

function readProfile(profile: MeshProfile | object): MeshProfile {
  const base = 'name' in profile && typeof profile.name === 'string' ? profile.name : '';
  try {
    return customizeProfile(base, profile);
  } catch (error) {
    if (MeshpathError.is(error, 'PROFILE_INVALID')) {
      // One with a name of its own: all its fields are in the record.
      return customizeProfile('istio', profile);
    }
    throw error;
  }
}

function readPod(value: unknown): KeptPod {
  const { cgroup, cgroupId, addresses, isLeaving } = (value ?? {}) as Partial<Record<string, unknown>>;
  if (typeof cgroup !== 'string' || typeof cgroupId !== 'string' || !/^\d{1,20}$/.test(cgroupId) || !Array.isArray(addresses) || typeof isLeaving !== 'boolean') {
    throw new Error('Its record has a pod of another form.');
  }
  return {
    cgroup: checkCgroup(cgroup),
    cgroupId: BigInt(cgroupId),
    isLeaving,
    addresses: addresses.map((text: unknown) => {
      const address = typeof text === 'string' ? parseIpAddress(text) : undefined;
      if (address === undefined) {
        throw new Error('Its record has an address of another form.');
      }
      return address;
    }),
  };
}

function pinError({ describe }: Libbpf, path: string, errno: number): MeshpathError {
  return new MeshpathError({
    code: 'BPFFS_MISSING',
    message: 'Acceleration cannot be kept: pinning failed.',
    reason: `Pinning ${path} failed with ${describe(errno)}.`,
    remedy: 'Check that /sys/fs/bpf is mounted for reading and writing and that you are root; or turn acceleration on without keeping it.',
  });
}

function unreadableError(name: string, reason: string): MeshpathError {
  return new MeshpathError({
    code: 'KEPT_UNREADABLE',
    message: 'What is kept of acceleration on this node cannot be taken over.',
    reason: `${name}: ${reason}`,
    remedy: 'Remove it with `meshpath clean` (in VS Code: Meshpath: Clean Up Node), or look at it with the version of Meshpath that turned it on.',
  });
}
