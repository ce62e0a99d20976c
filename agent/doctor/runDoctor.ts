import { toMeshpathError } from '../protocol/errors.ts';
import type { ErrorCode, WireError } from '../protocol/errors.ts';
import type { DoctorCheck, DoctorReport } from '../protocol/doctor.ts';
import type { NodeIdentity } from '../protocol/snapshot.ts';
import { effectiveCapabilities, kernelBtfProblem, kernelVersionProblem, missingCapabilities, capabilityError, KERNEL_BTF_PATH, OLDEST_KERNEL } from '../kernel/capabilities.ts';
import type { CapabilityName } from '../kernel/capabilities.ts';
import type { KernelObjectReader } from '../kernel/kernelObjectReader.ts';
import { findCommand } from '../snapshot/command.ts';
import { runSelfTests } from './selfTests/runSelfTests.ts';
import { checkHookOwners, checkLeftovers, checkSocketMapUsers } from './bpfChecks.ts';

/** What the doctor looks at. Each function throws a MeshpathError where the thing is not there or may not be read. */
export interface DoctorSources {
  readonly identity: NodeIdentity;
  /** Gives the version of libbpf: `v1.1`. */
  readonly openLibbpf: () => string;
  readonly findCgroupMount: () => string;
  readonly reader: () => KernelObjectReader;
  /** Gives the compiled programs. */
  readonly readObject: () => Uint8Array;
}

const ACCELERATE_CAPABILITIES: readonly CapabilityName[] = ['CAP_SYS_ADMIN', 'CAP_NET_ADMIN', 'CAP_BPF', 'CAP_PERFMON'];
/** Programs that a snapshot needs, and what is missing from it without them. */
const TOOLS: readonly (readonly [string, string])[] = [
  ['ip', 'devices, addresses and routes'],
  ['ss', 'sockets'],
  ['nsenter', 'every namespace but the own one'],
  ['iptables-save', 'IPv4 rules'],
  ['ip6tables-save', 'IPv6 rules'],
  ['conntrack', 'tracked connections'],
];

/**
 * Looks at everything that acceleration and explaining rest on, tries how the programs behave on sockets of its own, and gives a verdict.
 * Leaves nothing behind. Throws only CANCELLED.
 */
export async function runDoctor(sources: DoctorSources, signal: AbortSignal): Promise<DoctorReport> {
  const checks = [
    checkKernel(sources.identity.kernelRelease),
    checkBtf(),
    checkCgroups(sources.findCgroupMount),
    checkCapabilities(),
    checkLibbpf(sources.openLibbpf),
    ...(await checkBpfObjects(sources.reader, signal)),
    checkTools(),
    ...runSelfTests(sources.readObject),
  ];
  return { ...judge(checks), checks, at: new Date().toISOString() };
}

/** Gives the verdict of checks: one that failed rules acceleration out, one that is limited or not known limits it. */
export function judge(checks: readonly DoctorCheck[]): Pick<DoctorReport, 'verdict' | 'summary'> {
  const failed = checks.find(({ result }) => result === 'failed');
  if (failed !== undefined) {
    return { verdict: 'not-on-this-node', summary: `Acceleration is not possible here: ${lowerFirst(failed.found)}` };
  }
  const limits = checks.filter(({ result }) => result === 'limited' || result === 'unknown');
  return limits.length === 0
    ? { verdict: 'safe', summary: 'Everything that was looked at is as acceleration needs it.' }
    : { verdict: 'safe-with-limits', summary: `Acceleration is possible, with limits: ${limits.map(({ title }) => lowerFirst(title)).join(', ')}.` };
}

function checkKernel(release: string): DoctorCheck {
  const problem = kernelVersionProblem(release);
  return {
    id: 'kernel-version',
    title: 'Kernel version',
    result: problem === null ? 'ok' : 'failed',
    found: `This is Linux ${release}; ${OLDEST_KERNEL.major}.${OLDEST_KERNEL.minor} is the oldest that works.`,
    problem,
  };
}

function checkBtf(): DoctorCheck {
  const problem = kernelBtfProblem();
  return {
    id: 'btf',
    title: 'Type information of the kernel (BTF)',
    result: problem === null ? 'ok' : 'failed',
    found: problem === null ? `The kernel has BTF at ${KERNEL_BTF_PATH}.` : problem.reason,
    problem,
  };
}

function checkCgroups(findCgroupMount: () => string): DoctorCheck {
  const id = 'cgroup2';
  const title = 'cgroup2 hierarchy';
  try {
    return { id, title, result: 'ok', found: `It is mounted at ${findCgroupMount()}.`, problem: null };
  } catch (error) {
    const problem = toMeshpathError(error).toJSON();
    return { id, title, result: 'failed', found: problem.message, problem };
  }
}

function checkCapabilities(): DoctorCheck {
  const missing = missingCapabilities(effectiveCapabilities(), ACCELERATE_CAPABILITIES);
  return {
    id: 'capability-bpf',
    title: 'Privileges of the agent',
    result: missing.length === 0 ? 'ok' : 'failed',
    found: missing.length === 0 ? `The agent has ${ACCELERATE_CAPABILITIES.join(', ')} or what includes them.` : `The agent runs without ${missing.join(' and ')}.`,
    problem: missing.length === 0 ? null : capabilityError('load and attach BPF programs', missing).toJSON(),
  };
}

function checkLibbpf(openLibbpf: () => string): DoctorCheck {
  const id = 'libbpf';
  const title = 'libbpf';
  try {
    return { id, title, result: 'ok', found: `libbpf ${openLibbpf()} is installed.`, problem: null };
  } catch (error) {
    const problem = toMeshpathError(error).toJSON();
    return { id, title, result: 'failed', found: problem.message, problem };
  }
}

async function checkBpfObjects(reader: () => KernelObjectReader, signal: AbortSignal): Promise<DoctorCheck[]> {
  try {
    const objects = await reader().readEverything(signal);
    return [checkHookOwners(objects.cgroups, objects.programs), checkSocketMapUsers(objects.programs), checkLeftovers(objects)];
  } catch (error) {
    const problem = toMeshpathError(error);
    if (problem.code === 'CANCELLED') {
      throw problem;
    }
    return [
      { id: 'hook-owners', title: 'Other owners of the hooks' },
      { id: 'socket-map-users', title: 'Other users of socket maps' },
      { id: 'leftovers', title: 'Leftovers of Meshpath' },
    ].map((check) => ({ ...check, result: 'unknown', found: 'The BPF objects of this node could not be read.', problem: problem.toJSON() }) as const);
  }
}

function checkTools(): DoctorCheck {
  const missing = TOOLS.filter(([name]) => findCommand(name) === undefined);
  const names = missing.map(([name]) => name).join(', ');
  return {
    id: 'tools',
    title: 'Programs that snapshots are taken with',
    result: missing.length === 0 ? 'ok' : 'limited',
    found: missing.length === 0 ? `${TOOLS.map(([name]) => name).join(', ')} are installed.` : `${names} cannot be found.`,
    problem:
      missing.length === 0
        ? null
        : problemOf('NOT_SUPPORTED', 'Snapshots of this node will be incomplete.', `Without ${names} they lack ${missing.map(([, what]) => what).join(', ')}.`, 'Install them: `sudo apt-get install iproute2 iptables conntrack util-linux`.'),
  };
}

function problemOf(code: ErrorCode, message: string, reason: string, remedy: string): WireError {
  return { code, message, reason, remedy };
}

function lowerFirst(text: string): string {
  // Names and abbreviations keep their capitals.
  return /^[A-Z][a-z ]/.test(text) ? `${text[0]?.toLowerCase() ?? ''}${text.slice(1)}` : text;
}
