import { readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';

const PAUSE_MILLISECONDS = 20;
/** The state LISTEN in /proc/net/tcp (include/net/tcp_states.h). */
const LISTEN = '0A';

/** Gives the TCP ports on which sockets listen, from the text of /proc/PID/net/tcp or tcp6 (proc_pid_net(5)). */
export function parseListeningPorts(text: string): ReadonlySet<number> {
  const ports = text.split('\n').flatMap((line) => {
    const [, local = '', , state] = line.trim().split(/\s+/);
    const port = Number.parseInt(local.slice(local.lastIndexOf(':') + 1), 16);
    return state === LISTEN && Number.isInteger(port) ? [port] : [];
  });
  return new Set(ports);
}

/**
 * Waits until all of `ports` are listened on in the network namespace of a process. Gives false once the time is over, or the process
 * has ended.
 */
export async function waitUntilListening(pid: number, ports: readonly number[], milliseconds: number, signal: AbortSignal): Promise<boolean> {
  const deadline = Date.now() + milliseconds;
  for (;;) {
    const listening = readListeningPorts(pid);
    if (listening !== undefined && ports.every((port) => listening.has(port))) {
      return true;
    }
    if (listening === undefined || signal.aborted || Date.now() > deadline) {
      return false;
    }
    await delay(PAUSE_MILLISECONDS);
  }
}

function readListeningPorts(pid: number): ReadonlySet<number> | undefined {
  try {
    return new Set(['tcp', 'tcp6'].flatMap((name) => [...parseListeningPorts(readFileSync(`/proc/${pid}/net/${name}`, 'latin1'))]));
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ESRCH' || code === 'EINVAL') {
      return undefined;
    }
    throw error;
  }
}
