import { readFileSync } from 'node:fs';

/** A process that is not mistaken for a later one of the same id. */
export interface ProcessIdentity {
  readonly pid: number;
  /** Clock ticks since boot when it started (field 22 of /proc/PID/stat, proc_pid_stat(5)). */
  readonly startTicks: string;
}

/** Gives the identity of a process; undefined where there is none of this id. */
export function identifyProcess(pid: number): ProcessIdentity | undefined {
  const startTicks = readStartTicks(pid);
  return startTicks === undefined ? undefined : { pid, startTicks };
}

/** Says whether it still runs. */
export function isRunning({ pid, startTicks }: ProcessIdentity): boolean {
  return readStartTicks(pid) === startTicks;
}

function readStartTicks(pid: number): string | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'latin1');
    // The name of the command stands in parentheses and may hold anything.
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
    const [state, startTicks] = [fields[0], fields[19]];
    return state === 'Z' || state === 'X' ? undefined : startTicks;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ESRCH') {
      return undefined;
    }
    throw error;
  }
}
