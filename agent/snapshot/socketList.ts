import { parseIpAddress, toIpAddress } from '../protocol/ipAddress.ts';
import { toPortNumber, toUint64Text } from '../protocol/scalars.ts';
import type { CgroupPath, Endpoint } from '../protocol/scalars.ts';
import type { SocketInfo } from '../protocol/snapshot.ts';

/** A socket as `ss -Hntuae` shows it, without the process that holds it. */
export interface ListedSocket extends Omit<SocketInfo, 'owner'> {
  /** The cgroup of its creator; null where the kernel or ss does not tell. */
  readonly cgroup: CgroupPath | null;
}

/**
 * Parses one line of `ss -Hntuae` (iproute2, misc/ss.c); undefined for a line of another form.
 * `tcp ESTAB 0 0 10.0.0.1:40000 10.0.0.2:80 uid:1000 ino:4711 sk:1004 cgroup:/pod-a <->`
 */
export function parseSocketLine(line: string): ListedSocket | undefined {
  const [protocol, state, , , local, remote, ...details] = line.trim().split(/\s+/);
  if ((protocol !== 'tcp' && protocol !== 'udp') || state === undefined || local === undefined || remote === undefined) {
    return undefined;
  }
  const detail = (name: string): string | undefined => details.find((word) => word.startsWith(`${name}:`))?.slice(name.length + 1);
  const localEnd = readEndpoint(local, remote);
  const remoteEnd = readEndpoint(remote, local);
  if (localEnd === undefined || remoteEnd === undefined) {
    return undefined;
  }
  const cookie = detail('sk');
  const cgroup = detail('cgroup');
  const inode = detail('ino') ?? '0';
  const uid = detail('uid') ?? '0';
  return {
    protocol,
    state: state === 'LISTEN' ? 'listen' : state === 'ESTAB' ? 'established' : 'other',
    local: localEnd,
    remote: remoteEnd,
    // ss writes `*` for an IPv6 socket that takes IPv4 connections too.
    dualStack: local.startsWith('*:'),
    uid: /^\d{1,10}$/.test(uid) ? Number(uid) : 0,
    inode: toUint64Text(/^\d{1,19}$/.test(inode) ? BigInt(inode) : 0n),
    cookie: cookie !== undefined && /^[0-9a-f]{1,16}$/.test(cookie) ? toUint64Text(BigInt(`0x${cookie}`)) : null,
    cgroup: cgroup?.startsWith('/') === true ? (cgroup as CgroupPath) : null,
  };
}

/** Reads `10.0.0.1:80`, `[fe80::1]%eth0:80`, `*:80`; `other` is the other end, which tells the family of `*`. */
function readEndpoint(text: string, other: string): Endpoint | undefined {
  const colon = text.lastIndexOf(':');
  const port = text.slice(colon + 1);
  const host = text.slice(0, colon).replace(/%[^:\]]*/, '').replace(/^\[|\]$/g, '');
  const address = host === '*' ? toIpAddress(other.startsWith('*') || other.includes('[') ? '::' : '0.0.0.0') : parseIpAddress(host);
  if (colon < 0 || address === undefined || !/^(\*|\d{1,5})$/.test(port) || Number(port) > 0xffff) {
    return undefined;
  }
  return { address, port: toPortNumber(port === '*' ? 0 : Number(port)) };
}
