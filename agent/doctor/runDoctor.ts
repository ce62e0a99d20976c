import { toMeshpathError } from '../protocol/errors.ts';
import type { ErrorCode, WireError } from '../protocol/errors.ts';
import type { DoctorCheck, DoctorReport } from '../protocol/doctor.ts';
import { DOCTOR_CHECKS, toCheck } from '../protocol/doctorChecks.ts';
import type { DoctorCheckId } from '../protocol/doctorChecks.ts';
import type { KernelObjectReader } from '../kernel/kernelObjectReader.ts';
import { findCommand } from '../snapshot/command.ts';
import { toReport } from './accelerationGate.ts';
import { checkHookOwners, checkLeftovers, checkSocketMapUsers } from './bpfChecks.ts';

/** What the doctor looks at. */
export interface DoctorSources {
  /** Throws a MeshpathError where objects may not be read. */
  readonly reader: () => KernelObjectReader;
  /** Gives what decides whether acceleration may be turned on. Throws CANCELLED. */
  readonly checkAcceleration: (signal: AbortSignal) => Promise<readonly DoctorCheck[]>;
}

/** The order of the report; what another version may have added comes last. */
const ORDER = new Map<string, number>(Object.keys(DOCTOR_CHECKS).map((id, index) => [id, index]));
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
  const checks = [...(await sources.checkAcceleration(signal)), ...(await checkBpfObjects(sources.reader, signal)), checkTools()];
  const placeOf = ({ id }: DoctorCheck): number => ORDER.get(id) ?? ORDER.size;
  return toReport(checks.sort((a, b) => placeOf(a) - placeOf(b)));
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
    return (['hook-owners', 'socket-map-users', 'leftovers'] as const satisfies readonly DoctorCheckId[]).map((id) =>
      toCheck(id, { result: 'unknown', found: 'The BPF objects of this node could not be read.', problem: problem.toJSON() }),
    );
  }
}

function checkTools(): DoctorCheck {
  const missing = TOOLS.filter(([name]) => findCommand(name) === undefined);
  const names = missing.map(([name]) => name).join(', ');
  return toCheck('tools', {
    result: missing.length === 0 ? 'ok' : 'limited',
    found: missing.length === 0 ? `${TOOLS.map(([name]) => name).join(', ')} are installed.` : `${names} cannot be found.`,
    problem:
      missing.length === 0
        ? null
        : problemOf('NOT_SUPPORTED', 'Snapshots of this node will be incomplete.', `Without ${names} they lack ${missing.map(([, what]) => what).join(', ')}.`, 'Install them: `sudo apt-get install iproute2 iptables conntrack util-linux`.'),
  });
}

function problemOf(code: ErrorCode, message: string, reason: string, remedy: string): WireError {
  return { code, message, reason, remedy };
}
