import { existsSync, readFileSync, readdirSync, readlinkSync } from 'node:fs';
import { setImmediate as nextTurn } from 'node:timers/promises';

import { cancelledError } from '../protocol/errors.ts';
import type { CgroupPath, NamespaceId } from '../protocol/scalars.ts';
import type { SocketOwner } from '../protocol/snapshot.ts';

/** A process, as far as it matters to the network. */
export interface ScannedProcess {
  readonly pid: number;
  readonly namespace: NamespaceId;
  readonly cgroup: CgroupPath | null;
}

export interface ProcessScan {
  readonly processes: readonly ScannedProcess[];
  /** How many processes this one may not look into: those of other users, where it is not privileged. */
  readonly hiddenCount: number;
  /** The process that holds a socket, by the socket's inode; the one with the lowest pid where several do. */
  readonly socketOwner: (inode: string) => SocketOwner | null;
}

const MAX_PROCESSES = 65_536;
const TURN_MILLISECONDS = 8;

/** Looks at every process that this one may look into. Those that end meanwhile are left out. Throws CANCELLED. */
export async function scanProcesses(signal: AbortSignal): Promise<ProcessScan> {
  const processes: ScannedProcess[] = [];
  const owners = new Map<string, SocketOwner>();
  let hiddenCount = 0;
  let turn = performance.now();
  const pids = readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .sort((a, b) => a - b)
    .slice(0, MAX_PROCESSES);
  for (const pid of pids) {
    if (performance.now() - turn > TURN_MILLISECONDS) {
      await nextTurn();
      turn = performance.now();
    }
    if (signal.aborted) {
      throw cancelledError('Looking at the processes');
    }
    const namespace = parseNamespaceLink(tryRead(() => readlinkSync(`/proc/${pid}/ns/net`)));
    if (namespace === undefined) {
      hiddenCount += existsSync(`/proc/${pid}`) ? 1 : 0;
      continue;
    }
    const cgroup = parseCgroup2(tryRead(() => readFileSync(`/proc/${pid}/cgroup`, 'utf8')) ?? '');
    processes.push({ pid, namespace, cgroup });
    const inodes = socketInodes(pid).filter((inode) => !owners.has(inode));
    if (inodes.length > 0) {
      const owner = {
        pid,
        command: tryRead(() => readFileSync(`/proc/${pid}/comm`, 'utf8'))?.trimEnd() ?? '',
        cgroup,
        gid: parseFilesystemGid(tryRead(() => readFileSync(`/proc/${pid}/status`, 'utf8')) ?? ''),
      };
      for (const inode of inodes) {
        owners.set(inode, owner);
      }
    }
  }
  return { processes, hiddenCount, socketOwner: (inode) => owners.get(inode) ?? null };
}

/** Reads `net:[4026531840]`, the target of /proc/PID/ns/net. */
export function parseNamespaceLink(target: string | undefined): NamespaceId | undefined {
  return /^net:\[(\d{1,19})\]$/.exec(target ?? '')?.[1] as NamespaceId | undefined;
}

/** Gives the cgroup2 path of /proc/PID/cgroup: the line of hierarchy 0. Null where the process is in none. */
export function parseCgroup2(text: string): CgroupPath | null {
  const path = /^0::(\/.*)$/m.exec(text)?.[1];
  return path === undefined || path.endsWith(' (deleted)') ? null : (path as CgroupPath);
}

/** Gives the filesystem gid of /proc/PID/status (proc_pid_status(5): real, effective, saved set, filesystem), which `-m owner` compares. */
export function parseFilesystemGid(status: string): number | null {
  const gid = /^Gid:\s+\d+\s+\d+\s+\d+\s+(\d{1,10})\s*$/m.exec(status)?.[1];
  return gid === undefined ? null : Number(gid);
}

function socketInodes(pid: number): string[] {
  return (tryRead(() => readdirSync(`/proc/${pid}/fd`)) ?? []).flatMap((descriptor) => {
    const target = tryRead(() => readlinkSync(`/proc/${pid}/fd/${descriptor}`)) ?? '';
    return /^socket:\[(\d+)\]$/.exec(target)?.[1] ?? [];
  });
}

/** A process may end between two looks, or not be ours to look into. */
function tryRead<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch {
    return undefined;
  }
}
