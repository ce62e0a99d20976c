import { readFile, writeFile } from 'node:fs/promises';
import { MESH_PROFILES } from '../protocol/acceleration.ts';
import type { AccelerationInfo, AccelerationRequest, DecisionEvents, MeshProfile } from '../protocol/acceleration.ts';
import type { ConnectionList } from '../protocol/connections.ts';
import { cancelledError, inputError, MeshpathError } from '../protocol/errors.ts';
import { LAB_PATHS, LAB_POD_LIMITS, LAB_SERVER_PORT } from '../protocol/lab.ts';
import type { LabInfo, LabPodInfo, LabProgress, LabRequest, LabRunReport, LabRunRequest } from '../protocol/lab.ts';
import type { CgroupPath, PortNumber } from '../protocol/scalars.ts';
import { requireCommand } from '../snapshot/command.ts';
import { createLab } from './lab.ts';
import type { Lab } from './lab.ts';
import { checkLabName, programFile } from './labNames.ts';
import type { ProgramFileKind } from './labNames.ts';
import { readLabRecord, writeLabRecord } from './labRecord.ts';
import type { LabRecord, RecordedPod, RecordedProcess } from './labRecord.ts';
import { waitUntilListening } from './listening.ts';
import { APPLICATION_IDENTITY } from './pod.ts';
import type { LabPod } from './pod.ts';
import { identifyProcess, isRunning } from './processIdentity.ts';
import { endLabProcesses, findLabs, removeLab } from './removeLab.ts';
import type { LabRemains } from './removeLab.ts';
import { runTraffic } from './runTraffic.ts';
import type { ServerParams } from './programs/reports.ts';
import { checkSidecar, CONFIGURATION, describeSidecar, sidecarCommand, sidecarProcesses } from './sidecars.ts';
import type { SidecarProcess } from './sidecars.ts';

const LISTEN_MILLISECONDS = 10_000;
const MAX_LOG_CHARACTERS = 600;
const MAX_RULES_CHARACTERS = 256 * 1024;
/** Steps of making a lab beside its pods: its network, and writing it down. */
const OTHER_STEPS = 2;
/** Each pod is made, and then its programs are started. */
const STEPS_PER_POD = 2;

/** What labs need of the agent around them. */
export interface LabSurroundings {
  /** The file of the programs that run in pods. */
  readonly programPath: string;
  readonly notify: (progress: LabProgress) => void;
  readonly listAccelerations: () => Promise<readonly AccelerationInfo[]>;
  readonly turnAccelerationOn: (request: AccelerationRequest, signal: AbortSignal) => Promise<AccelerationInfo>;
  readonly turnAccelerationOff: (cgroups: readonly CgroupPath[]) => Promise<void>;
  readonly listConnections: (signal: AbortSignal) => Promise<ConnectionList>;
  /** Calls `listener` with what the programs decide until the returned function is called. */
  readonly listenDecisions: (listener: (decisions: DecisionEvents) => void) => () => void;
}

/** The labs of this machine. */
export interface LabManager {
  bringUp(request: LabRequest, signal: AbortSignal): Promise<LabInfo>;
  list(): Promise<readonly LabInfo[]>;
  run(request: LabRunRequest, signal: AbortSignal): Promise<LabRunReport>;
  takeDown(name: string): Promise<void>;
}

/** Gives the labs of this machine. What is there is read from the machine each time: another agent may have made it. */
export function createLabManager(surroundings: LabSurroundings): LabManager {
  return {
    bringUp: (request, signal) => bringUp(surroundings, request, signal),
    list: async () => Promise.all((await findLabs()).map(describeLab)),
    run: async (request, signal) => {
      const record = await requireLab(request.name);
      return withAcceleration(surroundings, record, signal, () => runTraffic(surroundings, record, request, signal));
    },
    takeDown: (name) => takeDown(surroundings, name),
  };
}

async function bringUp(surroundings: LabSurroundings, request: LabRequest, signal: AbortSignal): Promise<LabInfo> {
  const { name, pods: count, path, rules } = request;
  const profile = checkRequest(request);
  const sidecar = checkSidecar(request.sidecar);
  const command = sidecarCommand(sidecar);
  if (command !== null && !command.includes('/')) {
    requireCommand(command);
  }
  let done = 0;
  const total = OTHER_STEPS + STEPS_PER_POD * count;
  const report = (text: string): void => {
    done += 1;
    surroundings.notify({ name, text, done, total });
  };
  const lab = await createLab({ name, pods: count, rules: path === 'iptables' ? rules : null, programPath: surroundings.programPath, signal, report });
  let undo = (): Promise<void> => Promise.resolve();
  try {
    const pods: RecordedPod[] = [];
    for (const pod of lab.pods) {
      const processes = await startPrograms(lab, pod, sidecarProcesses(sidecar, profile), profile, signal);
      pods.push({ name: pod.name, namespaceName: pod.namespaceName, namespaceId: pod.namespaceId, cgroup: pod.cgroup, address: pod.address, processes });
      report(`${pod.name} runs its server and its sidecar.`);
    }
    if (signal.aborted) {
      throw cancelledError('Making the lab');
    }
    if (path === 'ebpf') {
      await surroundings.turnAccelerationOn({ ...accelerationOf(name, profile.name, pods), keep: true }, signal);
      undo = () => surroundings.turnAccelerationOff(pods.map(({ cgroup }) => cgroup));
    }
    await writeLabRecord({ name, since: new Date().toISOString(), owner: null, setting: { profile: profile.name, path, sidecar }, pods });
    report('The lab is up.');
  } catch (error) {
    await undo().finally(() => lab.dispose());
    throw signal.aborted ? cancelledError('Making the lab') : error;
  }
  return describeNamed(name);
}

function checkRequest({ name, pods, path, rules, profile }: LabRequest): MeshProfile {
  checkLabName(name);
  if (!Number.isInteger(pods) || pods < LAB_POD_LIMITS.least || pods > LAB_POD_LIMITS.most) {
    throw inputError('A lab cannot have so many pods.', `${pods} is not a whole number from ${LAB_POD_LIMITS.least} to ${LAB_POD_LIMITS.most}.`, 'Give another number of pods.');
  }
  if (!LAB_PATHS.includes(path)) {
    throw inputError('Traffic of a lab cannot take this path.', `The paths are ${LAB_PATHS.join(', ')}.`, 'Name one of them.');
  }
  if ((path === 'iptables') !== (rules !== null) || (rules !== null && (rules === '' || rules.length > MAX_RULES_CHARACTERS))) {
    throw inputError('The rules of the lab are missing or cannot be used.', `A lab of the path iptables is made with rules of at most ${MAX_RULES_CHARACTERS} characters, others without.`, 'Give rules exactly where the path is iptables.');
  }
  const found = MESH_PROFILES.find((known) => known.name === profile);
  if (found === undefined) {
    throw new MeshpathError({
      code: 'PROFILE_INVALID',
      message: `There is no mesh profile '${profile.slice(0, 60)}'.`,
      reason: `The profiles are: ${MESH_PROFILES.map((known) => known.name).join(', ')}.`,
      remedy: 'Name one of them.',
    });
  }
  return found;
}

/** Starts what stays in a pod: its server as the application, then its sidecar as the mesh's user. */
async function startPrograms(lab: Lab, pod: LabPod, sidecar: readonly SidecarProcess[], profile: MeshProfile, signal: AbortSignal): Promise<RecordedProcess[]> {
  const place = (role: string, kind: ProgramFileKind): string => programFile(lab.folder, pod.name, role, kind);
  const params: ServerParams = { identity: APPLICATION_IDENTITY, address: '0.0.0.0', port: LAB_SERVER_PORT, mode: 'echo', greeting: null };
  const server = await pod.leaveProgram('server', params, 'app', { controlPath: place('server', 'sock'), logPath: place('server', 'log') });
  const processes = [recordProcess('server', server)];
  const identity = { uid: profile.proxyUid, gid: profile.proxyGid };
  for (const { role, start, listens } of sidecar) {
    let pid: number;
    if (start.kind === 'program') {
      pid = await pod.leaveProgram(start.name, { ...start.params, identity }, 'sidecar', { controlPath: place(role, 'sock'), logPath: place(role, 'log') });
    } else {
      const configurationPath = place(role, 'conf');
      if (start.configuration !== null) {
        await writeFile(configurationPath, start.configuration, { mode: 0o644 });
      }
      const [file, ...words] = start.command;
      pid = (await pod.leaveCommand([file, ...words.map((word) => (word === CONFIGURATION ? configurationPath : word))], identity, 'sidecar', place(role, 'log'))).pid ?? 0;
    }
    if (!(await waitUntilListening(pid, listens, LISTEN_MILLISECONDS, signal))) {
      throw await sidecarError(pod.name, role, listens, place(role, 'log'));
    }
    processes.push(recordProcess(role, pid));
  }
  return processes;
}

function recordProcess(role: string, pid: number): RecordedProcess {
  const identity = identifyProcess(pid);
  if (identity === undefined) {
    throw new MeshpathError({ code: 'LAB_FAILED', message: `The ${role} of the lab ended as soon as it was started.`, reason: `Process ${pid} is not there any more.`, remedy: 'Make the lab again; look into the log of the node for what ended it.' });
  }
  return { role, process: identity };
}

async function sidecarError(pod: string, role: string, ports: readonly number[], logPath: string): Promise<MeshpathError> {
  const log = (await readFile(logPath, 'utf8').catch(() => '')).trim().slice(-MAX_LOG_CHARACTERS);
  return new MeshpathError({
    code: 'LAB_FAILED',
    message: `The ${role} of ${pod} did not start.`,
    reason: `Nothing listens on port ${ports.join(' and ')} in its network namespace. ${log === '' ? 'It said nothing.' : `It said: ${log}`}`,
    remedy: 'Correct what it complains about, or take another sidecar. What the lab had made by then is removed.',
  });
}

async function takeDown(surroundings: LabSurroundings, name: string): Promise<void> {
  const remains = await requireRemains(name);
  if (remains.state === 'owned') {
    const owner = (await readLabRecord(name))?.owner?.pid;
    throw new MeshpathError({
      code: 'LAB_EXISTS',
      message: `The lab ${name} belongs to a process that is running.`,
      reason: `Process ${owner ?? 'unknown'} makes it, or removes it when it ends.`,
      remedy: 'Wait for that process or end it, then take the lab down.',
    });
  }
  const record = await readLabRecord(name).catch(() => undefined);
  const { cgroups, heldBy } = await acceleratedPods(surroundings, record);
  if (heldBy !== null) {
    throw new MeshpathError({
      code: 'ACCELERATION_HELD',
      message: `Another agent has the acceleration of the lab ${name}.`,
      reason: `The agent with the process id ${heldBy} holds it, and two at once would undo what the other does.`,
      remedy: 'Take the lab down there, or end that agent (disconnect) and try again.',
    });
  }
  if (cgroups.length > 0) {
    // Without its processes no connection is left for which programs would have to stay.
    await endLabProcesses(name);
    await surroundings.turnAccelerationOff(cgroups);
  }
  await removeLab(name);
}

/** Runs `task` with acceleration on where the lab was made for it; what was not on before is off afterwards. */
async function withAcceleration<Result>(surroundings: LabSurroundings, record: LabRecord, signal: AbortSignal, task: () => Promise<Result>): Promise<Result> {
  const { setting, pods } = record;
  if (setting?.path !== 'ebpf') {
    return task();
  }
  const { cgroups } = await acceleratedPods(surroundings, record);
  const missing = pods.filter(({ cgroup }) => !cgroups.includes(cgroup));
  if (missing.length === 0) {
    return task();
  }
  await surroundings.turnAccelerationOn(accelerationOf(record.name, setting.profile, missing), signal);
  try {
    return await task();
  } finally {
    await surroundings.turnAccelerationOff(missing.map(({ cgroup }) => cgroup));
  }
}

/** A lab's acceleration is a profile of its own: keeping it keeps nothing else of the node, and nothing else joins it. */
function accelerationOf(name: string, profile: string, pods: readonly RecordedPod[]): AccelerationRequest {
  return { profile, overrides: { name: `lab-${name}` }, pods: pods.map(({ cgroup, address }) => ({ cgroup, addresses: [address] })) };
}

/** Gives the pods of a lab for which acceleration is on, and the other agent that has it, where one has. */
async function acceleratedPods(surroundings: LabSurroundings, record: LabRecord | undefined): Promise<{ readonly cgroups: readonly CgroupPath[]; readonly heldBy: number | null }> {
  const own = new Set(record?.pods.map(({ cgroup }) => cgroup));
  const on = (await surroundings.listAccelerations()).filter(({ pods }) => pods.some(({ cgroup }) => own.has(cgroup)));
  return {
    cgroups: on.flatMap(({ pods }) => pods.map(({ cgroup }) => cgroup)).filter((cgroup) => own.has(cgroup)),
    heldBy: on.map(({ kept }) => kept?.heldBy ?? null).find((pid) => pid !== null) ?? null,
  };
}

async function requireRemains(name: string): Promise<LabRemains> {
  checkLabName(name);
  const labs = await findLabs();
  const found = labs.find((lab) => lab.name === name);
  if (found === undefined) {
    throw new MeshpathError({
      code: 'LAB_NOT_FOUND',
      message: `There is no lab ${name} on this node.`,
      reason: labs.length === 0 ? 'There is no lab at all.' : `The labs are: ${labs.map((lab) => lab.name).join(', ').slice(0, 400)}.`,
      remedy: labs.length === 0 ? 'Bring one up first.' : 'Name one of them.',
    });
  }
  return found;
}

async function requireLab(name: string): Promise<LabRecord> {
  const remains = await requireRemains(name);
  const record = await readLabRecord(name);
  if (remains.state !== 'up' || record === undefined) {
    throw new MeshpathError({
      code: 'LAB_FAILED',
      message: `The lab ${name} is not up.`,
      reason: remains.state === 'owned' ? 'A process is still making it, or holds it for itself.' : 'It was left half-made or half-removed.',
      remedy: remains.state === 'owned' ? 'Wait until it is up.' : `Take it down (meshpath lab down --name ${name}) and make it anew.`,
    });
  }
  return record;
}

async function describeNamed(name: string): Promise<LabInfo> {
  return describeLab(await requireRemains(name));
}

async function describeLab(remains: LabRemains): Promise<LabInfo> {
  const { name, state } = remains;
  const problems: string[] = [];
  const record = await readLabRecord(name).catch((error: unknown) => {
    problems.push(error instanceof MeshpathError ? error.message : String(error));
    return undefined;
  });
  const pods = (record?.pods ?? []).map((pod): LabPodInfo => {
    const { name: podName, namespaceId, namespaceName, cgroup, address } = pod;
    const processes = pod.processes.map(({ role, process }) => ({ role, pid: process.pid, running: isRunning(process) }));
    problems.push(...processes.filter(({ running }) => !running).map(({ role, pid }) => `The ${role} of ${podName} (process ${pid}) has ended.`));
    if (!remains.namespaces.includes(namespaceName)) {
      problems.push(`The network namespace ${namespaceName} is gone.`);
    }
    return { name: podName, namespace: namespaceId, namespaceName, cgroup, address, server: { address, port: LAB_SERVER_PORT as PortNumber }, processes };
  });
  if (state === 'left') {
    problems.push('It was left half-made or half-removed, or its owner has ended.');
  }
  const setting = record?.setting ?? null;
  return {
    name,
    state: state === 'owned' ? 'being-made' : state,
    since: record?.since ?? null,
    profile: setting?.profile ?? null,
    path: setting?.path ?? null,
    sidecar: setting === null ? null : describeSidecar(setting.sidecar),
    pods,
    problems,
  };
}
