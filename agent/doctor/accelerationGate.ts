import type { DoctorCheck, DoctorReport } from '../protocol/doctor.ts';
import { judge, SELF_TEST_IDS, toCheck } from '../protocol/doctorChecks.ts';
import { MeshpathError, toMeshpathError } from '../protocol/errors.ts';
import type { WireError } from '../protocol/errors.ts';
import { checkNode } from './nodeChecks.ts';
import type { NodeSources } from './nodeChecks.ts';
import { cannotTest, runSelfTests } from './selfTests/runSelfTests.ts';
import { readRecord, recordName, writeRecord } from './selfTests/selfTestRecord.ts';

export interface GateSources extends NodeSources {
  readonly agentVersion: string;
  readonly objectPath: string;
  /** Gives the compiled programs. Throws BPF_OBJECT_INVALID. */
  readonly readObject: () => Uint8Array;
  /** The bound of acceleration, which the tests try. */
  readonly unreadLimit: bigint;
}

/** What decides whether acceleration may be turned on: what the node has, and how its kernel behaves. */
export interface AccelerationGate {
  /** Gives the checks; results of the self-tests of this boot, kernel and object are taken as they were kept. Throws CANCELLED. */
  readonly check: (signal: AbortSignal) => Promise<readonly DoctorCheck[]>;
  /** The same with all self-tests made anew, and kept. Throws CANCELLED. */
  readonly checkAnew: (signal: AbortSignal) => Promise<readonly DoctorCheck[]>;
}

/** Gives the gate of this machine. Nothing is opened before it is asked. */
export function createAccelerationGate(sources: GateSources): AccelerationGate {
  const check = async (signal: AbortSignal, isAnew: boolean): Promise<readonly DoctorCheck[]> => {
    const needed = checkNode(sources);
    const problem = needed.find(({ result }) => result === 'failed')?.problem ?? null;
    const tested = problem === null ? await testKernel(sources, signal, isAnew) : allUntested(problem);
    return [...needed, ...tested];
  };
  return { check: (signal) => check(signal, false), checkAnew: (signal) => check(signal, true) };
}

/** Gives the report of checks. */
export function toReport(checks: readonly DoctorCheck[]): DoctorReport {
  return { ...judge(checks), checks, at: new Date().toISOString() };
}

async function testKernel(sources: GateSources, signal: AbortSignal, isAnew: boolean): Promise<readonly DoctorCheck[]> {
  try {
    const name = recordName({ ...sources, object: sources.readObject() });
    const kept = isAnew ? undefined : await readRecord(name);
    if (kept !== undefined) {
      return kept;
    }
    const checks = await runSelfTests({ objectPath: sources.objectPath, unreadLimit: sources.unreadLimit, cgroupMount: sources.findCgroupMount() }, signal);
    // What could not be tested may be possible next time.
    if (checks.every(({ result }) => result !== 'unknown')) {
      await writeRecord(name, checks);
    }
    return checks;
  } catch (error) {
    if (MeshpathError.is(error, 'CANCELLED')) {
      throw error;
    }
    return allUntested(toMeshpathError(error).toJSON());
  }
}

function allUntested(problem: WireError): DoctorCheck[] {
  return SELF_TEST_IDS.map((id) => toCheck(id, cannotTest(problem)));
}
