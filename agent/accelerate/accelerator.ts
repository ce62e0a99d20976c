import { setTimeout as delay } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import type { AccelerationInfo, AccelerationRequest, MeshProfile, PodEnrolment, TurnOffReport } from '../protocol/acceleration.ts';
import { customizeProfile } from '../protocol/customProfile.ts';
import { cancelledError, MeshpathError } from '../protocol/errors.ts';
import type { NodeHandlers, Notify } from '../protocol/node.ts';
import type { CgroupPath } from '../protocol/scalars.ts';
import { findCgroup2Mount } from '../kernel/cgroup2Mount.ts';
import { ATTACH_TYPE } from '../libbpf/bpfObject.ts';
import { createIntrospection } from '../libbpf/introspection.ts';
import type { Libbpf } from '../libbpf/library.ts';
import { openLibbpf } from '../libbpf/library.ts';
import { describeProgram } from './attachError.ts';
import { Datapath } from './datapath.ts';
import { checkCgroup, checkEnrolments, overlapError } from '../protocol/enrolment.ts';
import { withCgroup } from './podCgroup.ts';

const DEFAULT_UNREAD_LIMIT = 1024n * 1024n;
/** Enough for a person and for some hundred connections a second; a busy node has a hundred times as many. */
const DEFAULT_EVENT_LIMIT = 500;
/** How long turning off waits for connections that are just being opened; normally it takes a few milliseconds. */
const PENDING_MILLISECONDS = 1_000;
/** How long an answer of a resolver may take: then those who asked ask again (resolv.conf(5), `timeout`). */
const ANSWER_MILLISECONDS = 5_000;
const PENDING_STEP_MILLISECONDS = 10;
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
}

/** The part of a node that turns acceleration on and off. */
export interface Accelerator extends Pick<NodeHandlers, 'turnAccelerationOn' | 'turnAccelerationOff' | 'listAccelerations' | 'countDecisions'> {
  /** Turns everything off and frees it. Safe to call more than once. */
  readonly dispose: () => Promise<void>;
}

/** Acceleration that is on for one profile. */
interface ActiveProfile {
  readonly profile: MeshProfile;
  readonly datapath: Datapath;
  readonly since: string;
}

/**
 * Gives the accelerator of this machine. Nothing is opened or loaded before acceleration is turned on. Its requests run
 * one after the other.
 */
export function createAccelerator(options: AcceleratorOptions): Accelerator {
  const active = new Map<string, ActiveProfile>();
  const inTurn = createQueue();

  return {
    turnAccelerationOn: (request, { signal }) => inTurn(() => turnOn(options, active, request, signal)),
    turnAccelerationOff: ({ cgroups }) => inTurn(() => turnOff(options, active, cgroups)),
    listAccelerations: () => inTurn(() => Promise.resolve([...active.values()].map(describe))),
    countDecisions: ({ profile }) =>
      inTurn(() => {
        const found = active.get(profile);
        return found === undefined ? Promise.reject(notOnError(`the profile ${profile.slice(0, 60)}`)) : Promise.resolve(found.datapath.countDecisions());
      }),
    dispose: async () => {
      await inTurn(async () => {
        if (active.size > 0) {
          await turnOff(options, active, null);
        }
      });
    },
  };
}

async function turnOn(
  options: AcceleratorOptions,
  active: Map<string, ActiveProfile>,
  request: AccelerationRequest,
  signal: AbortSignal,
): Promise<AccelerationInfo> {
  const profile = customizeProfile(request.profile, request.overrides);
  refuseOtherSettings(profile, active.get(profile.name));
  const enrolled = [...active.values()].flatMap(({ datapath }) => datapath.pods);
  const pods = checkEnrolments(request.pods, enrolled);
  const cgroupMount = findCgroup2Mount();
  for (const { cgroup } of pods) {
    // Before anything is loaded.
    withCgroup(cgroupMount, cgroup, () => undefined);
  }
  const libbpf = openLibbpf();
  refuseOtherAgents(libbpf, cgroupMount, pods);
  if (signal.aborted) {
    throw cancelledError('Turning acceleration on');
  }
  const current = active.get(profile.name) ?? start(options, libbpf, cgroupMount, profile);
  try {
    current.datapath.attach(pods);
  } catch (error) {
    if (!active.has(profile.name)) {
      current.datapath.close();
    }
    throw error;
  }
  active.set(profile.name, current);
  options.notify('changed', {});
  return Promise.resolve(describe(current));
}

function start(options: AcceleratorOptions, libbpf: Libbpf, cgroupMount: string, profile: MeshProfile): ActiveProfile {
  const datapath = Datapath.load({
    libbpf,
    object: options.object,
    profile,
    unreadLimit: options.unreadLimit ?? DEFAULT_UNREAD_LIMIT,
    eventLimit: options.eventLimit ?? DEFAULT_EVENT_LIMIT,
    cgroupMount,
    onDecisions: (decisions) => {
      options.notify('decisions', decisions);
    },
  });
  return { profile, datapath, since: new Date().toISOString() };
}

async function turnOff(
  options: AcceleratorOptions,
  active: Map<string, ActiveProfile>,
  cgroups: readonly CgroupPath[] | null,
): Promise<TurnOffReport> {
  const on = [...active.values()];
  const wanted = new Set<string>(cgroups?.map(checkCgroup) ?? on.flatMap(({ datapath }) => datapath.pods.map(({ cgroup }) => cgroup)));
  const known = new Set<string>(on.flatMap(({ datapath }) => datapath.pods.map(({ cgroup }) => cgroup)));
  const unknown = [...wanted].find((cgroup) => !known.has(cgroup));
  if (unknown !== undefined) {
    throw notOnError(unknown);
  }
  if (wanted.size === 0) {
    throw notOnError('any cgroup');
  }
  let detachedLinks = 0;
  let remainingConnections = 0;
  for (const { profile, datapath } of on) {
    const isLast = datapath.pods.every(({ cgroup }) => wanted.has(cgroup));
    if (isLast) {
      datapath.switchOff();
    }
    datapath.withdraw(wanted);
    await waitForPending(datapath, wanted);
    const report = datapath.detach(wanted);
    detachedLinks += report.detachedLinks;
    remainingConnections += report.remainingConnections;
    if (isLast) {
      active.delete(profile.name);
      detachedLinks += datapath.close();
    }
  }
  options.notify('changed', {});
  return { detachedLinks, remainingConnections };
}

/**
 * Lets connections that were rewritten a moment ago come to the point at which they need the programs no more, and questions
 * to the sidecar's resolver be answered.
 */
async function waitForPending(datapath: Datapath, cgroups: ReadonlySet<string>): Promise<void> {
  const deadline = performance.now() + PENDING_MILLISECONDS;
  const isPending = (): boolean => datapath.hasPending(cgroups) && performance.now() < deadline;
  // Between the rewrite and its SYN, a connection is nowhere to be seen.
  do {
    await delay(PENDING_STEP_MILLISECONDS);
  } while (isPending() || datapath.hasOpenQuestions(cgroups, ANSWER_MILLISECONDS));
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
function refuseOtherSettings(profile: MeshProfile, active: ActiveProfile | undefined): void {
  if (active !== undefined && !isDeepStrictEqual(active.profile, profile)) {
    throw new MeshpathError({
      code: 'PROFILE_INVALID',
      message: `The profile ${profile.name} is on with other settings.`,
      reason: 'The pods for which it is on share its ports, owners and lists.',
      remedy: 'Give the profile with these settings a name of its own, or turn the other pods off first.',
    });
  }
}

function describe({ profile, datapath, since }: ActiveProfile): AccelerationInfo {
  return { profile: profile.name, pods: datapath.pods, since, ...datapath.describe() };
}

function notOnError(what: string): MeshpathError {
  return new MeshpathError({
    code: 'ACCELERATION_NOT_FOUND',
    message: `Acceleration is not on for ${what}.`,
    reason: 'This agent has not turned it on, or it was turned off already.',
    remedy: 'Look at the list of what is accelerated.',
  });
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
