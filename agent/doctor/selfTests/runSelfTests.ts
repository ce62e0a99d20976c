import { fork } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { removeCgroup } from '../../lab/cgroupFolders.ts';
import type { DoctorCheck } from '../../protocol/doctor.ts';
import { SELF_TEST_IDS, toCheck } from '../../protocol/doctorChecks.ts';
import { cancelledError, MeshpathError, toMeshpathError } from '../../protocol/errors.ts';
import type { WireError } from '../../protocol/errors.ts';
import type { CgroupPath } from '../../protocol/scalars.ts';
import { SELF_TEST_SECONDS } from './programReports.ts';
import type { ProgramReport, ProgramRequest } from './programReports.ts';

export interface SelfTestOptions {
  /** Where the compiled programs are. */
  readonly objectPath: string;
  /** Bytes that may be redirected one way without an answer. */
  readonly unreadLimit: bigint;
  /** Where the cgroup2 hierarchy is mounted. */
  readonly cgroupMount: string;
}

/** What the cgroups of self-tests are called; the id of the process that makes them follows. */
const CGROUP_PREFIX = 'meshpath-doctor-';
/** The process ends itself before; this is for one that cannot. */
const DEADLINE_MILLISECONDS = (SELF_TEST_SECONDS + 5) * 1_000;
const MAX_COMPLAINT_CHARACTERS = 2_000;

/** The folder of this module, or of the bundle that it became part of, as in agent/libbpf/nativeKoffi.ts. */
const folder = typeof __dirname === 'string' ? __dirname : import.meta.dirname;
/** Beside the agent's bundle, below that of the command line, or the source itself. */
const PROGRAM_PATHS = [join(folder, 'selfTests.cjs'), join(folder, 'agent/selfTests.cjs'), join(folder, 'main.ts')];

/**
 * Tries how the programs behave on this kernel, in a process with a network namespace and cgroups of its own, and gives one check a test. A
 * test that cannot be made, or does not end, gives `unknown` with the reason. Leaves nothing behind. Throws only CANCELLED.
 */
export async function runSelfTests(options: SelfTestOptions, signal: AbortSignal): Promise<DoctorCheck[]> {
  const name = `${CGROUP_PREFIX}${process.pid}-${randomBytes(4).toString('hex')}`;
  const cgroupFolder = join(options.cgroupMount, name);
  const results = new Map<string, DoctorCheck>();
  let failure: WireError;
  try {
    await removeAbandoned(options.cgroupMount);
    await makeCgroups(cgroupFolder);
    try {
      failure = await runProgram({ objectPath: options.objectPath, unreadLimit: String(options.unreadLimit), cgroupMount: options.cgroupMount, cgroup: `/${name}` as CgroupPath }, results, signal);
    } finally {
      await removeCgroup(cgroupFolder);
    }
  } catch (error) {
    if (MeshpathError.is(error, 'CANCELLED')) {
      throw error;
    }
    failure = toMeshpathError(error).toJSON();
  }
  return SELF_TEST_IDS.map((id) => results.get(id) ?? toCheck(id, cannotTest(failure)));
}

/** Gives what a check of a test is that could not be made. */
export function cannotTest(problem: WireError): Pick<DoctorCheck, 'result' | 'found' | 'problem'> {
  return { result: 'unknown', found: `It could not be tested: ${problem.message}`, problem };
}

async function makeCgroups(cgroupFolder: string): Promise<void> {
  try {
    await mkdir(cgroupFolder);
    await mkdir(join(cgroupFolder, 'a'));
    await mkdir(join(cgroupFolder, 'b'));
  } catch (error) {
    throw new MeshpathError(
      {
        code: 'CAPABILITY_MISSING',
        message: 'A cgroup for tests could not be made.',
        reason: error instanceof Error ? error.message : String(error),
        remedy: 'Run the agent as root, where the cgroup2 hierarchy may be written to.',
      },
      { cause: error },
    );
  }
}

/** Removes the cgroups of agents that were killed in the middle of their tests. */
async function removeAbandoned(cgroupMount: string): Promise<void> {
  const names = (await readdir(cgroupMount)).filter((name) => name.startsWith(CGROUP_PREFIX));
  for (const name of names) {
    const pid = /^(\d{1,10})-/.exec(name.slice(CGROUP_PREFIX.length))?.[1];
    if (pid !== undefined && !existsSync(`/proc/${pid}`)) {
      await removeCgroup(join(cgroupMount, name));
    }
  }
}

/** Runs the process until it ends, and notes its results. Gives why there are no others. */
async function runProgram(request: ProgramRequest, results: Map<string, DoctorCheck>, signal: AbortSignal): Promise<WireError> {
  const path = PROGRAM_PATHS.find((candidate) => existsSync(candidate));
  if (path === undefined) {
    throw new MeshpathError({
      code: 'AGENT_START_FAILED',
      message: 'The program of the self-tests is missing.',
      reason: `None of ${PROGRAM_PATHS.join(', ')} exists.`,
      remedy: 'Install Meshpath again, or build it with `npm run build` where you work on it.',
    });
  }
  const child = fork(path, [], { stdio: ['ignore', 'ignore', 'pipe', 'ipc'] });
  const stopping = new AbortController();
  let failure: WireError | undefined;
  let complaint = '';
  child.stderr?.setEncoding('utf8').on('data', (text: string) => (complaint = (complaint + text).slice(-MAX_COMPLAINT_CHARACTERS)));
  child.on('message', (report: ProgramReport) => {
    if (report.kind === 'failed') {
      failure = report.error;
    } else {
      results.set(report.id, toCheck(report.id, report));
    }
  });
  const ended = waitForExit(child);
  try {
    child.send(request, () => undefined);
    const onAbort = new Promise<'aborted'>((resolve) => {
      signal.addEventListener('abort', () => resolve('aborted'), { once: true, signal: stopping.signal });
    });
    const outcome = signal.aborted ? 'aborted' : await Promise.race([ended, onAbort, delay(DEADLINE_MILLISECONDS, 'late' as const, { signal: stopping.signal, ref: false })]);
    if (outcome === 'aborted') {
      throw cancelledError('The self-tests');
    }
    return failure ?? endedError(outcome === 'late' ? `did not end within ${DEADLINE_MILLISECONDS / 1_000} s` : outcome, complaint);
  } finally {
    stopping.abort();
    child.kill('SIGKILL');
    await ended;
  }
}

/** Gives how the process ended, as the end of a sentence. */
async function waitForExit(child: ChildProcess): Promise<string> {
  return new Promise((resolve) => {
    child.once('error', (error) => {
      resolve(`could not be started: ${error.message}`);
    });
    child.once('close', (code, signal) => {
      resolve(`ended with ${String(code ?? signal)}`);
    });
  });
}

function endedError(how: string, complaint: string): WireError {
  return {
    code: 'TIMED_OUT',
    message: 'The self-tests did not come to their end.',
    reason: `Their process ${how}. ${complaint.trim()}`.trim(),
    remedy: 'Look at what the kernel says (`dmesg`), and run the doctor again.',
  };
}
