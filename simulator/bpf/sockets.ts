import type { CgroupPath, Endpoint, NamespaceId } from '../../agent/protocol/scalars.ts';
import type { BpfMap } from './maps.ts';

/** TCP states as programs see them (include/net/tcp_states.h). */
export const TCP_STATE = { ESTABLISHED: 1, SYN_SENT: 2, SYN_RECEIVED: 3, CLOSE: 7, LISTEN: 10 } as const;

/** The process that acts, as helpers about the current task tell. */
export interface Task {
  readonly pid: number;
  readonly command: string;
  readonly uid: number;
  readonly gid: number;
  readonly cgroupId: bigint;
}

/** A TCP socket of the simulated kernel, as much of it as BPF programs can see and change. */
export interface KernelSocket {
  readonly cookie: bigint;
  readonly namespace: NamespaceId;
  readonly netnsCookie: bigint;
  /** AF_INET 2 or AF_INET6 10: a socket accepted on `::` is of AF_INET6 even where its peer has an IPv4 address. */
  readonly family: 2 | 10;
  readonly protocol: 'tcp' | 'udp';
  readonly cgroup: CgroupPath | null;
  readonly cgroupId: bigint;
  readonly owner: Task;
  /** What programs may set when the socket is made: SO_BINDTODEVICE as an index, SO_MARK and SO_PRIORITY. */
  boundDevice: number;
  mark: number;
  priority: number;
  local: Endpoint;
  remote: Endpoint;
  state: number;
  /** BPF_SOCK_OPS_*_CB_FLAG bits that a program asked for. */
  callbacks: number;
  /** The sequence number of the next byte that it sends, and of the next that it expects (snd_nxt, rcv_nxt). */
  nextSent: number;
  nextReceived: number;
  /** Bytes that were redirected into it and that nobody has read. */
  unreadBytes: number;
  /** What the sk_msg program said of the next so many bytes, for which it is not run again; null: it is (bpf_msg_apply_bytes). */
  appliedVerdict: { readonly allowed: boolean; readonly redirect: KernelSocket | null; readonly bytes: number } | null;
  /** What programs keep with it (BPF_MAP_TYPE_SK_STORAGE); freed with the socket. */
  readonly storage: Map<BpfMap, Uint8Array>;
}
