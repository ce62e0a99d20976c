import type { DoctorCheck } from '../protocol/doctor.ts';
import { toCheck } from '../protocol/doctorChecks.ts';
import type { DoctorCheckId } from '../protocol/doctorChecks.ts';
import { toMeshpathError } from '../protocol/errors.ts';
import { capabilityError, effectiveCapabilities, kernelBtfProblem, KERNEL_BTF_PATH, kernelVersionProblem, missingCapabilities, OLDEST_KERNEL } from '../kernel/capabilities.ts';
import type { CapabilityName } from '../kernel/capabilities.ts';

/** What the node has to have before any program can be loaded. Each function throws a MeshpathError where it is not there. */
export interface NodeSources {
  readonly kernelRelease: string;
  /** Gives the version of libbpf: `v1.1`. */
  readonly openLibbpf: () => string;
  /** Gives where the cgroup2 hierarchy is mounted. */
  readonly findCgroupMount: () => string;
}

const ACCELERATE_CAPABILITIES: readonly CapabilityName[] = ['CAP_SYS_ADMIN', 'CAP_NET_ADMIN', 'CAP_BPF', 'CAP_PERFMON'];

/** Looks at what everything else needs; takes no time worth speaking of. */
export function checkNode({ kernelRelease, openLibbpf, findCgroupMount }: NodeSources): DoctorCheck[] {
  return [
    checkKernel(kernelRelease),
    checkBtf(),
    checkThat('cgroup2', () => `It is mounted at ${findCgroupMount()}.`),
    checkCapabilities(),
    checkThat('libbpf', () => `libbpf ${openLibbpf()} is installed.`),
  ];
}

function checkKernel(release: string): DoctorCheck {
  const problem = kernelVersionProblem(release);
  return toCheck('kernel-version', {
    result: problem === null ? 'ok' : 'failed',
    found: `This is Linux ${release}; ${OLDEST_KERNEL.major}.${OLDEST_KERNEL.minor} is the oldest that works.`,
    problem,
  });
}

function checkBtf(): DoctorCheck {
  const problem = kernelBtfProblem();
  return toCheck('btf', {
    result: problem === null ? 'ok' : 'failed',
    found: problem === null ? `The kernel has BTF at ${KERNEL_BTF_PATH}.` : problem.reason,
    problem,
  });
}

function checkCapabilities(): DoctorCheck {
  const missing = missingCapabilities(effectiveCapabilities(), ACCELERATE_CAPABILITIES);
  return toCheck('capability-bpf', {
    result: missing.length === 0 ? 'ok' : 'failed',
    found: missing.length === 0 ? `The agent has ${ACCELERATE_CAPABILITIES.join(', ')} or what includes them.` : `The agent runs without ${missing.join(' and ')}.`,
    problem: missing.length === 0 ? null : capabilityError('load and attach BPF programs', missing).toJSON(),
  });
}

function checkThat(id: DoctorCheckId, find: () => string): DoctorCheck {
  try {
    return toCheck(id, { result: 'ok', found: find(), problem: null });
  } catch (error) {
    const problem = toMeshpathError(error).toJSON();
    return toCheck(id, { result: 'failed', found: problem.message, problem });
  }
}
