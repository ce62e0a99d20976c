import { existsSync, readFileSync } from 'node:fs';

import { MeshpathError, toMeshpathError } from '../protocol/errors.ts';
import type { WireError } from '../protocol/errors.ts';
import type { Ability } from '../protocol/methods.ts';

/** Linux capabilities that Meshpath asks for, with their numbers (include/uapi/linux/capability.h). */
const CAPABILITIES = { CAP_NET_ADMIN: 12, CAP_SYS_ADMIN: 21, CAP_PERFMON: 38, CAP_BPF: 39 } as const;
export type CapabilityName = keyof typeof CAPABILITIES;

/** The oldest kernel that Meshpath was tried on. */
export const OLDEST_KERNEL = { major: 5, minor: 10 } as const;
export const KERNEL_BTF_PATH = '/sys/kernel/btf/vmlinux';

const ROOT_REMEDY = 'Connect as root, or as a user whom sudo lets run the agent as root.';

/** Gives the effective capabilities of a process from the text of /proc/PID/status; none where it does not tell. */
export function parseEffectiveCapabilities(status: string): ReadonlySet<CapabilityName> {
  const digits = /^CapEff:\s*([0-9a-f]{1,16})$/m.exec(status)?.[1];
  const bits = digits === undefined ? 0n : BigInt(`0x${digits}`);
  const names = Object.keys(CAPABILITIES) as CapabilityName[];
  return new Set(names.filter((name) => ((bits >> BigInt(CAPABILITIES[name])) & 1n) === 1n));
}

/** Gives the effective capabilities of this process. */
export function effectiveCapabilities(): ReadonlySet<CapabilityName> {
  return parseEffectiveCapabilities(readFileSync('/proc/self/status', 'utf8'));
}

/** The kernel lets CAP_SYS_ADMIN do what CAP_BPF and CAP_PERFMON do (include/linux/capability.h, bpf_capable). */
export function missingCapabilities(held: ReadonlySet<CapabilityName>, wanted: readonly CapabilityName[]): CapabilityName[] {
  return wanted.filter((name) => !held.has(name) && !(held.has('CAP_SYS_ADMIN') && (name === 'CAP_BPF' || name === 'CAP_PERFMON')));
}

/** The error for capabilities that this process has not. */
export function capabilityError(what: string, missing: readonly CapabilityName[]): MeshpathError {
  return new MeshpathError({
    code: 'CAPABILITY_MISSING',
    message: `This user may not ${what}.`,
    reason: `The agent runs without ${missing.join(' and ')} (user id ${process.getuid?.() ?? 'unknown'}).`,
    remedy: ROOT_REMEDY,
  });
}

/** Reads major and minor of a kernel release: `6.18.44-generic`. Undefined where it does not begin with two numbers. */
function parseKernelVersion(release: string): { readonly major: number; readonly minor: number } | undefined {
  const match = /^(\d{1,5})\.(\d{1,5})/.exec(release);
  return match === null ? undefined : { major: Number(match[1]), minor: Number(match[2]) };
}

/** Says whether a kernel is new enough to accelerate; gives the error where it is not. */
export function kernelVersionProblem(release: string): WireError | null {
  const version = parseKernelVersion(release);
  const { major, minor } = OLDEST_KERNEL;
  if (version === undefined || version.major > major || (version.major === major && version.minor >= minor)) {
    return null;
  }
  return {
    code: 'KERNEL_TOO_OLD',
    message: `Acceleration needs Linux ${major}.${minor} or newer.`,
    reason: `This is Linux ${release}; older ones lack helpers that the programs call, such as sk_storage for sk_msg and sock_addr.`,
    remedy: `Upgrade the kernel of the node to ${major}.${minor} or newer. Reading and explaining work on this one, too.`,
  };
}

/** Says whether the kernel carries its own BTF; gives the error where it does not. */
export function kernelBtfProblem(): WireError | null {
  return existsSync(KERNEL_BTF_PATH)
    ? null
    : {
        code: 'BTF_MISSING',
        message: 'The kernel of this node carries no type information (BTF).',
        reason: `${KERNEL_BTF_PATH} does not exist: the kernel was built without CONFIG_DEBUG_INFO_BTF.`,
        remedy: 'Use a kernel of the distribution (Debian 11, Ubuntu 20.10, RHEL 8.2 and newer have BTF), or build one with CONFIG_DEBUG_INFO_BTF=y.',
      };
}

/** What may go wrong with the parts that abilities rest on: each function throws a MeshpathError where it does. */
export interface AbilityProbes {
  readonly kernelRelease: string;
  readonly openLibbpf: () => unknown;
  readonly findCgroupMount: () => unknown;
  /** Asks the kernel for the id of a program, which it answers only to those who may. */
  readonly listProgramIds: () => unknown;
}

/** Gives what this process can do on this node, and for what it cannot, why and what to do about it. */
export function describeAbilities(probes: AbilityProbes): readonly Ability[] {
  const held = effectiveCapabilities();
  const problemOf = (probe: () => unknown): WireError | null => {
    try {
      probe();
      return null;
    } catch (error) {
      return toMeshpathError(error).toJSON();
    }
  };
  const need = (what: string, wanted: readonly CapabilityName[]): WireError | null => {
    const missing = missingCapabilities(held, wanted);
    return missing.length === 0 ? null : capabilityError(what, missing).toJSON();
  };
  return [
    { name: 'read-bpf', problem: problemOf(probes.openLibbpf) ?? need('read BPF objects', ['CAP_SYS_ADMIN']) ?? problemOf(probes.listProgramIds) },
    { name: 'read-network', problem: need('read network namespaces and rules', ['CAP_SYS_ADMIN', 'CAP_NET_ADMIN']) },
    {
      name: 'accelerate',
      problem:
        kernelVersionProblem(probes.kernelRelease) ??
        kernelBtfProblem() ??
        problemOf(probes.findCgroupMount) ??
        problemOf(probes.openLibbpf) ??
        need('load and attach BPF programs', ['CAP_SYS_ADMIN', 'CAP_NET_ADMIN', 'CAP_BPF', 'CAP_PERFMON']),
    },
  ];
}
