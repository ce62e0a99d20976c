import { accessSync, constants } from 'node:fs';
import { createHash, randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import type { AccelerationInfo, AccelerationRequest, DecisionCounters, LeavingPod, MeshProfile, PodEnrolment, TurnOffReport } from '../protocol/acceleration.ts';
import type { CleanReport, Leftover } from '../protocol/clean.ts';
import type { AcceptedFinding } from '../protocol/doctor.ts';
import { customizeProfile } from '../protocol/customProfile.ts';
import { checkCgroup, checkEnrolments, overlapError } from '../protocol/enrolment.ts';
import { cancelledError, MeshpathError, toMeshpathError } from '../protocol/errors.ts';
import type { WireError } from '../protocol/errors.ts';
import type { CallContext, NodeHandlers, Notify } from '../protocol/node.ts';
import type { CgroupPath } from '../protocol/scalars.ts';
import { findCgroup2Mount } from '../kernel/cgroup2Mount.ts';
import { ATTACH_TYPE } from '../libbpf/bpfObject.ts';
import { createIntrospection } from '../libbpf/introspection.ts';
import type { Libbpf } from '../libbpf/library.ts';
import { openLibbpf } from '../libbpf/library.ts';
import { describeProgram } from './attachError.ts';
import { Datapath, UNSEEN_MILLISECONDS } from './datapath.ts';
import type { DatapathOptions } from './datapath.ts';
import { heldError, KEPT_FOLDER, listSetNames, lockKeptFolder, makeKeptFolder } from './keptFolder.ts';
import type { LockedFolder } from './keptFolder.ts';
import { KeptSet, removeAbandonedSet } from './keptSet.ts';
import type { KeptRecord } from './keptSet.ts';
import { withCgroup } from './podCgroup.ts';

/** Bytes that are redirected one way without an answer before the rest goes through TCP. */
export const DEFAULT_UNREAD_LIMIT = 1024n * 1024n;
/** Enough for a person and for some hundred connections a second; a busy node has a hundred times as many. */
const DEFAULT_EVENT_LIMIT = 500;
/** How long the end waits for connections that are just being opened; normally it takes a few milliseconds. */
const PENDING_MILLISECONDS = 1_000;
/** Timers count whole milliseconds: one may be over before its time. */
const PENDING_STEP_MILLISECONDS = UNSEEN_MILLISECONDS + 1;
/** How often pods that are leaving are looked at, at first and at most; and cgroups of pods that are on. */
const FIRST_UPKEEP_MILLISECONDS = 25;
const UPKEEP_MILLISECONDS = 1_000;
const HASH_CHARACTERS = 16;
/** The kernel keeps 15 characters of a program's name. */
const CONNECT_PROGRAM_NAME = 'meshpath_connect4'.slice(0, 15);

export interface AcceleratorOptions {
  /** The contents of meshpath.bpf.o. */
  readonly object: Uint8Array;
  readonly notify: Notify;
  /** Bytes that are redirected one way without an answer before the rest goes through TCP; 1 MiB where it is left out, 0n: no limit. */
  readonly unreadLimit?: bigint;
  /** Events that are told in a tenth of a second, others are counted only; 500 where it is left out, 0: no limit. */
  readonly eventLimit?: number;
  /** Where what is kept is pinned; KEPT_FOLDER where it is left out. */
  readonly keptFolder?: string;
  /**
   * Gives what the doctor found that acceleration would be on in spite of; rejects where it may not be turned on. Nothing is looked
   * for where it is left out.
   */
  readonly passGate?: (request: AccelerationRequest, signal: AbortSignal) => Promise<readonly AcceptedFinding[]>;
}

/** The part of a node that turns acceleration on and off. */
export interface Accelerator
  extends Pick<NodeHandlers, 'turnAccelerationOn' | 'turnAccelerationOff' | 'upgradeAcceleration' | 'listAccelerations' | 'countDecisions'> {
  /** Turns off what is kept by this agent or by none, of whatever version, and removes its pins; unless `isDryRun`: then it only tells. */
  readonly clean: (request: { readonly isDryRun: boolean }, context: CallContext) => Promise<CleanReport>;
  /** Turns off what is not kept, and frees everything. Safe to call more than once. */
  readonly dispose: () => Promise<void>;
}

/** One set of programs and what it was loaded for. */
interface ManagedSet {
  readonly profile: MeshProfile;
  readonly datapath: Datapath;
  readonly since: string;
  readonly objectHash: string;
  /** The name of the kept set that it is to take the place of. */
  readonly replaces: string | null;
}

/**
 * Gives the accelerator of this machine. Nothing is opened or loaded before it is first asked for something; then it takes
 * over what is kept, unless another agent has it. Its requests run one after the other.
 */
export function createAccelerator(options: AcceleratorOptions): Accelerator {
  const accelerator = new MachineAccelerator(options);
  const inTurn = createQueue();
  const answer =
    <Request, Result>(handle: (request: Request, signal: AbortSignal) => Result | Promise<Result>) =>
    (request: Request, { signal }: { readonly signal: AbortSignal }): Promise<Result> =>
      inTurn(async () => {
        await accelerator.adoptKept();
        try {
          return await handle(request, signal);
        } finally {
          accelerator.tidy();
          schedule(FIRST_UPKEEP_MILLISECONDS);
        }
      });

  let timer: NodeJS.Timeout | undefined;
  let isDueAt = Infinity;
  // Requests that come one after the other bring it forward and never put it off.
  const schedule = (milliseconds: number): void => {
    const at = performance.now() + milliseconds;
    if (!accelerator.isIdle && at < isDueAt) {
      clearTimeout(timer);
      isDueAt = at;
      timer = setTimeout(() => {
        isDueAt = Infinity;
        void inTurn(() => {
          accelerator.upkeep();
          schedule(Math.min(milliseconds * 2, UPKEEP_MILLISECONDS));
          return Promise.resolve();
        });
      }, milliseconds);
      timer.unref();
    }
  };

  return {
    turnAccelerationOn: answer((request: AccelerationRequest, signal) => accelerator.turnOn(request, signal)),
    turnAccelerationOff: answer(({ cgroups }: { readonly cgroups: readonly CgroupPath[] | null }) => accelerator.turnOff(cgroups)),
    upgradeAcceleration: answer(({ profile }: { readonly profile: string }) => accelerator.upgrade(profile)),
    listAccelerations: answer(() => accelerator.list()),
    clean: answer(({ isDryRun }: { readonly isDryRun: boolean }) => accelerator.clean(isDryRun)),
    countDecisions: answer(({ profile }: { readonly profile: string }) => accelerator.countDecisions(profile)),
    dispose: () =>
      inTurn(async () => {
        clearTimeout(timer);
        await accelerator.dispose();
      }),
  };
}

class MachineAccelerator {
  readonly #options: AcceleratorOptions;
  readonly #keptPath: string;
  readonly #objectHash: string;
  #sets: ManagedSet[] = [];
  /** The lock of what is kept; null where nothing is, or another agent has it. */
  #folder: LockedFolder | null = null;
  /** The process that has it. */
  #holder: number | null = null;
  /** Sets that could not be taken over. */
  #unreadable: ReadonlyMap<string, MeshpathError> = new Map();
  /** What profiles are on in spite of, by their names. */
  readonly #findings = new Map<string, readonly AcceptedFinding[]>();

  constructor(options: AcceleratorOptions) {
    this.#options = options;
    this.#keptPath = options.keptFolder ?? KEPT_FOLDER;
    this.#objectHash = createHash('sha256').update(options.object).digest('hex').slice(0, HASH_CHARACTERS);
  }

  /** Whether there is nothing to look after. */
  get isIdle(): boolean {
    return this.#sets.length === 0;
  }

  async turnOn(request: AccelerationRequest, signal: AbortSignal): Promise<AccelerationInfo> {
    const profile = customizeProfile(request.profile, request.overrides);
    const isKept = request.keep === true;
    if (isKept && this.#holder !== null) {
      throw heldError(this.#holder);
    }
    const current = this.#currentSet(profile.name);
    refuseOtherSettings(profile, current);
    const pods = checkEnrolments(request.pods, [...this.#enrolled(), ...this.#leavingBeside(request.pods)]);
    const cgroupMount = findCgroup2Mount();
    for (const { cgroup } of pods) {
      // Before anything is loaded.
      withCgroup(cgroupMount, cgroup, () => undefined);
    }
    const libbpf = openLibbpf();
    refuseOtherAgents(libbpf, cgroupMount, pods);
    const findings = await this.#options.passGate?.(request, signal);
    if (signal.aborted) {
      throw cancelledError('Turning acceleration on');
    }
    // One that is off for all its pods may still see connections to their end; the same settings take it back.
    const isUsable = current?.objectHash === this.#objectHash && isDeepStrictEqual(current.profile, profile);
    const set = isUsable || (current !== undefined && current.datapath.pods.length > 0) ? current : this.#load(libbpf, profile);
    const wasOn = set.datapath.pods.length > 0;
    try {
      if (!wasOn && !isKept) {
        set.datapath.unkeep();
      }
      set.datapath.attach(pods);
      if (isKept) {
        this.#keep(libbpf, set);
      }
    } catch (error) {
      if (isKept && set.datapath.pods.some(({ cgroup }) => pods.some((pod) => pod.cgroup === cgroup))) {
        set.datapath.withdraw(new Set(pods.map(({ cgroup }) => cgroup)));
        await delay(PENDING_STEP_MILLISECONDS);
      }
      this.#settle();
      throw error;
    }
    if (findings !== undefined) {
      this.#findings.set(profile.name, findings);
    }
    this.#options.notify('changed', {});
    return this.#describe(set);
  }

  async turnOff(cgroups: readonly CgroupPath[] | null): Promise<TurnOffReport> {
    const known = new Set<string>(this.#enrolled().map(({ cgroup }) => cgroup));
    const wanted = new Set<string>(cgroups?.map(checkCgroup) ?? known);
    const unknown = [...wanted].find((cgroup) => !known.has(cgroup));
    if (unknown !== undefined || wanted.size === 0) {
      throw this.#holder === null ? notOnError(unknown ?? 'any cgroup') : heldError(this.#holder);
    }
    const sets = [...this.#sets];
    const countLinks = (): number => sets.reduce((sum, set) => sum + (this.#sets.includes(set) ? set.datapath.linkCount : 0), 0);
    const before = countLinks();
    const remainingConnections = sets.reduce((sum, { datapath }) => sum + datapath.withdraw(wanted), 0);
    // Most have no connection that is still being opened: they are detached at once.
    await delay(PENDING_STEP_MILLISECONDS);
    this.#settle();
    this.#options.notify('changed', {});
    const leaving = sets.flatMap((set): readonly LeavingPod[] => (this.#sets.includes(set) ? set.datapath.leaving.filter(({ cgroup }) => wanted.has(cgroup)) : []));
    return { detachedLinks: before - countLinks(), remainingConnections, ...(leaving.length > 0 ? { leaving } : {}) };
  }

  upgrade(profile: string): AccelerationInfo {
    const previous = this.#currentSet(profile);
    if (previous === undefined || previous.datapath.pods.length === 0) {
      throw this.#holder === null ? notOnError(`the profile ${profile.slice(0, 60)}`) : heldError(this.#holder);
    }
    if (previous.objectHash !== this.#objectHash) {
      const libbpf = openLibbpf();
      const next = this.#load(libbpf, previous.profile, previous);
      if (previous.datapath.isKept) {
        this.#keep(libbpf, next);
      }
      try {
        next.datapath.takeOver(previous.datapath);
      } catch (error) {
        next.datapath.withdraw(new Set(next.datapath.pods.map(({ cgroup }) => cgroup)));
        this.#settle();
        throw error;
      }
      this.#options.notify('changed', {});
      return this.#describe(next);
    }
    return this.#describe(previous);
  }

  list(): readonly AccelerationInfo[] {
    const own = this.#sets.map((set) => this.#describe(set));
    return this.#holder === null ? own : [...own, ...this.#listHeld(this.#holder)];
  }

  countDecisions(profile: string): DecisionCounters {
    const set = this.#currentSet(profile);
    if (set === undefined) {
      throw this.#holder === null ? notOnError(`the profile ${profile.slice(0, 60)}`) : heldError(this.#holder);
    }
    return set.datapath.countDecisions();
  }

  async clean(isDryRun: boolean): Promise<CleanReport> {
    const { complete, staged } = this.#holder === null && this.#folder === null ? { complete: [], staged: [] } : listSetNames(this.#keptPath);
    const problem = this.#holder === null ? null : heldError(this.#holder).toJSON();
    const items = [...complete, ...staged].map((name): Leftover => {
      const set = this.#sets.find(({ datapath }) => datapath.keptName === name);
      return { kind: 'kept-acceleration', where: join(this.#keptPath, name), what: describeKept(set), isRemoved: problem === null && !isDryRun, problem };
    });
    if (!isDryRun && problem === null && items.length > 0) {
      const kept = this.#sets.filter(({ datapath }) => datapath.isKept);
      for (const { datapath } of kept) {
        datapath.withdraw(new Set(datapath.pods.map(({ cgroup }) => cgroup)));
      }
      await waitForPending(kept);
      for (const { datapath } of kept) {
        // What connections still need ends with them, or with this agent.
        datapath.unkeep();
      }
      this.#settle();
      for (const name of this.#unreadable.keys()) {
        await removeAbandonedSet(this.#keptPath, name);
      }
      this.#unreadable = new Map();
      this.#options.notify('changed', {});
    }
    return { items };
  }

  /** Takes over what is kept, where there is something and nobody else has it. */
  async adoptKept(): Promise<void> {
    if (this.#folder !== null) {
      return;
    }
    this.#holder = null;
    const libbpf = openLibbpfIfThere(this.#keptPath);
    if (libbpf === undefined) {
      return;
    }
    const lock = lockKeptFolder(libbpf, this.#keptPath);
    if (lock.state === 'absent') {
      return;
    }
    if (lock.state === 'held') {
      this.#holder = lock.pid;
      return;
    }
    this.#folder = lock.folder;
    await this.#adoptSets(libbpf);
    this.tidy();
  }

  /** What has to be looked at from time to time: connections that have closed, and cgroups that are gone. */
  upkeep(): void {
    const gone = this.#sets.flatMap(({ profile, datapath }) => datapath.withdrawGone().map((pod) => goneNotice(profile.name, pod)));
    for (const notice of gone) {
      this.#options.notify('notice', notice);
    }
    if (this.#settle() || gone.length > 0) {
      this.#options.notify('changed', {});
    }
    this.tidy();
  }

  /** Gives up the lock where nothing is kept any more. */
  tidy(): void {
    if (this.#folder !== null && this.#unreadable.size === 0 && !this.#sets.some(({ datapath }) => datapath.isKept)) {
      this.#folder.unlock();
      this.#folder = null;
    }
  }

  async dispose(): Promise<void> {
    const stays = (set: ManagedSet): boolean =>
      set.datapath.isKept && this.#sets.some(({ profile, datapath }) => profile.name === set.profile.name && datapath.isKept && datapath.pods.length > 0);
    const ending = this.#sets.filter((set) => !stays(set));
    for (const { datapath } of ending) {
      datapath.withdraw(new Set(datapath.pods.map(({ cgroup }) => cgroup)));
    }
    await waitForPending(ending);
    for (const set of this.#sets.splice(0)) {
      if (ending.includes(set)) {
        set.datapath.close();
      } else {
        set.datapath.release();
      }
    }
    this.#folder?.unlock();
    this.#folder = null;
  }

  async #adoptSets(libbpf: Libbpf): Promise<void> {
    const { complete, staged } = listSetNames(this.#keptPath);
    for (const name of staged) {
      await removeAbandonedSet(this.#keptPath, name);
    }
    const records = new Map<string, { readonly set: KeptSet; readonly record: KeptRecord }>();
    const unreadable = new Map<string, MeshpathError>();
    for (const name of complete) {
      try {
        const set = KeptSet.open(libbpf, this.#keptPath, name);
        records.set(name, { set, record: set.readRecord() });
      } catch (error) {
        unreadable.set(name, toMeshpathError(error));
      }
    }
    const interrupted = new Set([...records].flatMap(([name, { record }]) => (record.replaces !== null && records.get(record.replaces)?.record.isReplaced === false ? [name, record.replaces] : [])));
    for (const [name, { set, record }] of records) {
      try {
        const { profile, since, objectHash, replaces } = record;
        this.#sets.push({ profile, since, objectHash, replaces, datapath: Datapath.adopt(this.#datapathOptions(libbpf), set, record, interrupted.has(name)) });
      } catch (error) {
        set.close();
        unreadable.set(name, toMeshpathError(error));
      }
    }
    this.#unreadable = unreadable;
    for (const { datapath, replaces } of this.#sets) {
      const previous = this.#sets.find((set) => replaces !== null && set.datapath.keptName === replaces);
      if (previous !== undefined && !previous.datapath.isReplaced) {
        datapath.takeOver(previous.datapath);
      }
    }
    for (const error of unreadable.values()) {
      this.#options.notify('notice', error.toJSON());
    }
  }

  /** What another agent keeps, as its records tell. */
  #listHeld(holder: number): readonly AccelerationInfo[] {
    const libbpf = openLibbpf();
    return listSetNames(this.#keptPath).complete.flatMap((name): AccelerationInfo[] => {
      try {
        const set = KeptSet.open(libbpf, this.#keptPath, name);
        try {
          const { profile, since, pods, objectHash, isReplaced } = set.readRecord();
          const on = pods.filter(({ isLeaving }) => !isLeaving).map(({ cgroup, addresses }) => ({ cgroup, addresses }));
          return isReplaced ? [] : [{ profile: profile.name, pods: on, since, kept: { isOutdated: objectHash !== this.#objectHash, heldBy: holder }, programIds: [], mapIds: [], linkIds: [] }];
        } finally {
          set.close();
        }
      } catch (error) {
        if (MeshpathError.is(error, 'KEPT_UNREADABLE')) {
          // It is about to be removed by the one who has it, or is of another version.
          return [];
        }
        throw error;
      }
    });
  }

  #load(libbpf: Libbpf, profile: MeshProfile, previous?: ManagedSet): ManagedSet {
    const { object, unreadLimit = DEFAULT_UNREAD_LIMIT, eventLimit = DEFAULT_EVENT_LIMIT } = this.#options;
    const datapath = Datapath.load(this.#datapathOptions(libbpf), { object, profile, unreadLimit, eventLimit }, previous?.datapath);
    const set = { profile, datapath, since: previous?.since ?? new Date().toISOString(), objectHash: this.#objectHash, replaces: previous?.datapath.keptName ?? null };
    this.#sets.push(set);
    return set;
  }

  #keep(libbpf: Libbpf, { profile, since, objectHash, replaces, datapath }: ManagedSet): void {
    if (!datapath.isKept) {
      this.#folder ??= makeKeptFolder(libbpf, this.#keptPath);
      datapath.keep(KeptSet.stage(libbpf, this.#folder.path, `${objectHash}-${randomBytes(4).toString('hex')}`), { objectHash, profile, since, replaces });
    }
  }

  #datapathOptions(libbpf: Libbpf): DatapathOptions {
    return {
      libbpf,
      cgroupMount: findCgroup2Mount(),
      onDecisions: (decisions) => {
        this.#options.notify('decisions', decisions);
      },
    };
  }

  /** Detaches what no connection needs any more; gives whether something changed. */
  #settle(): boolean {
    let hasChanged = false;
    for (const { datapath } of this.#sets) {
      hasChanged = datapath.settle({ waits: true }) || hasChanged;
    }
    const done = this.#sets.filter(({ datapath }) => datapath.pods.length + datapath.leaving.length === 0);
    for (const { datapath } of done) {
      datapath.close();
    }
    this.#sets = this.#sets.filter((set) => !done.includes(set));
    return hasChanged || done.length > 0;
  }

  /** The set that new pods of a profile join; the last one, where others see connections to their end. */
  #currentSet(profile: string): ManagedSet | undefined {
    const sets = this.#sets.filter((set) => set.profile.name === profile && !set.datapath.isReplaced);
    return sets.find(({ datapath }) => datapath.pods.length > 0) ?? sets.at(-1);
  }

  #enrolled(): readonly PodEnrolment[] {
    return this.#sets.flatMap(({ datapath }) => datapath.pods);
  }

  /** Pods that are leaving and are not among these; their addresses may be those of others by now. */
  #leavingBeside(pods: readonly PodEnrolment[]): readonly PodEnrolment[] {
    return this.#sets.flatMap(({ datapath }) => datapath.leaving.filter(({ cgroup }) => !pods.some((pod) => pod.cgroup === cgroup)).map(({ cgroup }) => ({ cgroup, addresses: [] })));
  }

  #describe({ profile, datapath, since, objectHash }: ManagedSet): AccelerationInfo {
    const { leaving } = datapath;
    const findings = this.#findings.get(profile.name);
    return {
      profile: profile.name,
      pods: datapath.pods,
      since,
      ...(leaving.length > 0 ? { leaving } : {}),
      ...(datapath.isKept ? { kept: { isOutdated: objectHash !== this.#objectHash, heldBy: null } } : {}),
      ...datapath.describe(),
      ...(findings === undefined ? {} : { findings }),
    };
  }
}

/** Gives libbpf where something is kept; undefined where nothing is, or this user may not look: nor can he change anything then. */
function openLibbpfIfThere(keptPath: string): Libbpf | undefined {
  try {
    accessSync(keptPath, constants.R_OK | constants.X_OK);
  } catch {
    return undefined;
  }
  return openLibbpf();
}

/** Refuses pods for which the programs of another agent run: two rewrites of one connection do not go together. */
function refuseOtherAgents(libbpf: Libbpf, cgroupMount: string, pods: readonly PodEnrolment[]): void {
  const introspection = createIntrospection(libbpf);
  for (const pod of pods) {
    const attached = withCgroup(cgroupMount, pod.cgroup, ({ fd }) => introspection.queryCgroup(fd, ATTACH_TYPE.cgroupInet4Connect, true));
    const other = attached?.programIds.map((id) => describeProgram(introspection, id)).find((text) => text.startsWith(CONNECT_PROGRAM_NAME));
    if (other !== undefined) {
      throw overlapError(pod, `${other} of another Meshpath agent runs for this cgroup already.`);
    }
  }
}

/** One set of programs serves all pods of a profile: they cannot be of the same name and of other settings. */
function refuseOtherSettings(profile: MeshProfile, current: ManagedSet | undefined): void {
  if ((current?.datapath.pods.length ?? 0) > 0 && !isDeepStrictEqual(current?.profile, profile)) {
    throw new MeshpathError({
      code: 'PROFILE_INVALID',
      message: `The profile ${profile.name} is on with other settings.`,
      reason: 'The pods for which it is on share its ports, owners and lists.',
      remedy: 'Give the profile with these settings a name of its own, or turn the other pods off first.',
    });
  }
}

/** Lets connections that are just being opened, and questions to the sidecars' resolvers, come to where they need the programs no more. */
async function waitForPending(sets: readonly ManagedSet[]): Promise<void> {
  const deadline = performance.now() + PENDING_MILLISECONDS;
  const isPending = (): boolean => sets.some(({ datapath }) => datapath.hasOpenQuestions() || (datapath.hasPending() && performance.now() < deadline));
  if (sets.length > 0) {
    // Between the rewrite and its SYN, a connection is nowhere to be seen.
    do {
      await delay(PENDING_STEP_MILLISECONDS);
    } while (isPending());
  }
}

function describeKept(set: ManagedSet | undefined): string {
  if (set === undefined) {
    return 'Acceleration that is kept by another agent, or of a version that this agent cannot read.';
  }
  const cgroups = set.datapath.pods.map(({ cgroup }) => cgroup);
  return cgroups.length === 0
    ? `Programs (${set.profile.name}) that see connections of before to their end.`
    : `Acceleration (${set.profile.name}) that is kept for ${cgroups.join(', ')}.`;
}

function notOnError(what: string): MeshpathError {
  return new MeshpathError({
    code: 'ACCELERATION_NOT_FOUND',
    message: `Acceleration is not on for ${what}.`,
    reason: 'This agent has not turned it on, or it was turned off already.',
    remedy: 'Look at the list of what is accelerated.',
  });
}

function goneNotice(profile: string, { cgroup }: PodEnrolment): WireError {
  return {
    code: 'CGROUP_NOT_FOUND',
    message: `Acceleration (${profile}) went off for ${cgroup}.`,
    reason: 'Its cgroup was removed, and the kernel detached the programs with it. Other pods go on.',
    remedy: 'Nothing needs to be done. If the pod runs again, turn acceleration on for its new cgroup.',
  };
}

/** Gives a function that runs one task after the other; a task that fails does not keep the next from running. */
function createQueue(): <Value>(task: () => Promise<Value>) => Promise<Value> {
  let last: Promise<unknown> = Promise.resolve();
  return (task) => {
    const result = last.then(task);
    last = result.catch(() => undefined);
    return result;
  };
}
