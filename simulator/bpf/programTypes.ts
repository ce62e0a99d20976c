/** What libbpf makes of a section name: the type of its programs and where they attach. */
export interface ProgramKind {
  /** The kernel's program type in lower case without prefix. */
  readonly type: string;
  /** The kernel's attach type in lower case without prefix; null for types that have none. */
  readonly attachType: string | null;
}

/** The section names of libbpf's section_defs (tools/lib/bpf/libbpf.c) that have to do with sockets and packets. */
const KINDS: Readonly<Record<string, ProgramKind>> = {
  'cgroup/connect4': { type: 'cgroup_sock_addr', attachType: 'cgroup_inet4_connect' },
  'cgroup/connect6': { type: 'cgroup_sock_addr', attachType: 'cgroup_inet6_connect' },
  'cgroup/bind4': { type: 'cgroup_sock_addr', attachType: 'cgroup_inet4_bind' },
  'cgroup/bind6': { type: 'cgroup_sock_addr', attachType: 'cgroup_inet6_bind' },
  'cgroup/sendmsg4': { type: 'cgroup_sock_addr', attachType: 'cgroup_udp4_sendmsg' },
  'cgroup/sendmsg6': { type: 'cgroup_sock_addr', attachType: 'cgroup_udp6_sendmsg' },
  'cgroup/recvmsg4': { type: 'cgroup_sock_addr', attachType: 'cgroup_udp4_recvmsg' },
  'cgroup/recvmsg6': { type: 'cgroup_sock_addr', attachType: 'cgroup_udp6_recvmsg' },
  'cgroup/getpeername4': { type: 'cgroup_sock_addr', attachType: 'cgroup_inet4_getpeername' },
  'cgroup/getpeername6': { type: 'cgroup_sock_addr', attachType: 'cgroup_inet6_getpeername' },
  'cgroup/getsockname4': { type: 'cgroup_sock_addr', attachType: 'cgroup_inet4_getsockname' },
  'cgroup/getsockname6': { type: 'cgroup_sock_addr', attachType: 'cgroup_inet6_getsockname' },
  'cgroup/getsockopt': { type: 'cgroup_sockopt', attachType: 'cgroup_getsockopt' },
  'cgroup/setsockopt': { type: 'cgroup_sockopt', attachType: 'cgroup_setsockopt' },
  'cgroup/sock_create': { type: 'cgroup_sock', attachType: 'cgroup_inet_sock_create' },
  'cgroup/sock_release': { type: 'cgroup_sock', attachType: 'cgroup_inet_sock_release' },
  'cgroup/dev': { type: 'cgroup_device', attachType: 'cgroup_device' },
  'cgroup/sysctl': { type: 'cgroup_sysctl', attachType: 'cgroup_sysctl' },
  'cgroup_skb/ingress': { type: 'cgroup_skb', attachType: 'cgroup_inet_ingress' },
  'cgroup_skb/egress': { type: 'cgroup_skb', attachType: 'cgroup_inet_egress' },
  sockops: { type: 'sock_ops', attachType: 'cgroup_sock_ops' },
  sk_msg: { type: 'sk_msg', attachType: 'sk_msg_verdict' },
  'sk_skb/stream_parser': { type: 'sk_skb', attachType: 'sk_skb_stream_parser' },
  'sk_skb/stream_verdict': { type: 'sk_skb', attachType: 'sk_skb_stream_verdict' },
  socket: { type: 'socket_filter', attachType: null },
  classifier: { type: 'sched_cls', attachType: null },
  tc: { type: 'sched_cls', attachType: null },
  xdp: { type: 'xdp', attachType: 'xdp' },
};

/** Gives what programs of a section are; undefined where the section name says nothing that is known here. */
export function programKind(section: string): ProgramKind | undefined {
  return KINDS[section.replace(/^\?/, '')];
}

/** The map types of enum bpf_map_type that objects of socket programs use, by number, in the kernel's lower-case names. */
const MAP_TYPES: Readonly<Record<number, string>> = {
  1: 'hash',
  2: 'array',
  3: 'prog_array',
  4: 'perf_event_array',
  5: 'percpu_hash',
  6: 'percpu_array',
  9: 'lru_hash',
  11: 'lpm_trie',
  15: 'sockmap',
  18: 'sockhash',
  19: 'cgroup_storage',
  24: 'sk_storage',
  27: 'ringbuf',
};

/** Gives the name of a map type; `type_N` where it is none of those above. */
export function mapTypeName(type: number): string {
  return MAP_TYPES[type] ?? `type_${type}`;
}
