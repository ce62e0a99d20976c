import type { CgroupPath, NamespaceId, Uint64Text } from '../protocol/scalars.ts';
import { toUint64Text } from '../protocol/scalars.ts';
import { requireCommand, runCommand } from '../snapshot/command.ts';
import { listNamespaces } from '../snapshot/namespaceList.ts';
import type { NamespaceHandle } from '../snapshot/namespaceList.ts';
import { scanProcesses } from '../snapshot/processScan.ts';
import { parseSocketLine } from '../snapshot/socketList.ts';

/** An established TCP socket, by the cookie that the programs know it by. */
export interface EstablishedSocket {
  readonly cookie: Uint64Text;
  /** The cgroup of its creator; null where the kernel or ss does not tell. */
  readonly cgroup: CgroupPath | null;
  /** Bytes that it sent through TCP (tcpi_bytes_sent); null where ss does not tell. */
  readonly tcpBytes: Uint64Text | null;
}

/** Reads the established TCP sockets of a network namespace. Throws NOT_SUPPORTED, TIMED_OUT, KERNEL_UNSUITABLE, CANCELLED. */
export async function readEstablishedSockets(handle: NamespaceHandle, signal: AbortSignal): Promise<EstablishedSocket[]> {
  // One line a socket; -i writes more of TCP behind what -e writes.
  const command = [requireCommand('ss'), '-HtneiO'];
  const [program = '', ...args] = handle.own ? command : [requireCommand('nsenter'), `--net=${handle.path}`, '--', ...command];
  const output = await runCommand(program, args, signal);
  return output.split('\n').flatMap((line) => parseEstablishedLine(line) ?? []);
}

/** Parses a line of `ss -HtneiO`; undefined for one that is not of an established socket with a cookie. */
export function parseEstablishedLine(line: string): EstablishedSocket | undefined {
  // Without -u or -x ss leaves the protocol out.
  const listed = parseSocketLine(`tcp ${line.trim()}`);
  if (listed?.state !== 'established' || listed.cookie === null) {
    return undefined;
  }
  const sent = /\sbytes_sent:(\d{1,19})(?:\s|$)/.exec(line)?.[1];
  return { cookie: listed.cookie, cgroup: listed.cgroup, tcpBytes: sent === undefined ? null : toUint64Text(BigInt(sent)) };
}

/** Gives the cookies of the sockets that are open in these cgroups or below. Throws as readEstablishedSockets does. */
export async function listOpenCookies(cgroups: readonly CgroupPath[], signal: AbortSignal): Promise<Uint64Text[]> {
  const { processes } = await scanProcesses(signal);
  const isOfPod = (path: CgroupPath | null): boolean => path !== null && cgroups.some((cgroup) => path === cgroup || path.startsWith(`${cgroup}/`));
  const wanted = new Set<NamespaceId>(processes.filter(({ cgroup }) => isOfPod(cgroup)).map(({ namespace }) => namespace));
  const handles = listNamespaces(processes).namespaces.filter(({ id }) => wanted.has(id));
  const found: Uint64Text[] = [];
  for (const handle of handles) {
    const sockets = await readEstablishedSockets(handle, signal);
    found.push(...sockets.filter(({ cgroup }) => cgroup === null || isOfPod(cgroup)).map(({ cookie }) => cookie));
  }
  return found;
}
