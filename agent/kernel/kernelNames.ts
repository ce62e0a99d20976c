/**
 * Names of BPF enumerations (include/uapi/linux/bpf.h) in lower case without their prefixes; the place in a list is the
 * number. A kernel may be newer than these lists.
 */
const PROGRAM_TYPES = [
  'unspec', 'socket_filter', 'kprobe', 'sched_cls', 'sched_act', 'tracepoint', 'xdp', 'perf_event', 'cgroup_skb', 'cgroup_sock',
  'lwt_in', 'lwt_out', 'lwt_xmit', 'sock_ops', 'sk_skb', 'cgroup_device', 'sk_msg', 'raw_tracepoint', 'cgroup_sock_addr',
  'lwt_seg6local', 'lirc_mode2', 'sk_reuseport', 'flow_dissector', 'cgroup_sysctl', 'raw_tracepoint_writable', 'cgroup_sockopt',
  'tracing', 'struct_ops', 'ext', 'lsm', 'sk_lookup', 'syscall', 'netfilter',
] as const;

const MAP_TYPES = [
  'unspec', 'hash', 'array', 'prog_array', 'perf_event_array', 'percpu_hash', 'percpu_array', 'stack_trace', 'cgroup_array',
  'lru_hash', 'lru_percpu_hash', 'lpm_trie', 'array_of_maps', 'hash_of_maps', 'devmap', 'sockmap', 'cpumap', 'xskmap', 'sockhash',
  'cgroup_storage', 'reuseport_sockarray', 'percpu_cgroup_storage', 'queue', 'stack', 'sk_storage', 'devmap_hash', 'struct_ops',
  'ringbuf', 'inode_storage', 'task_storage', 'bloom_filter', 'user_ringbuf', 'cgrp_storage', 'arena',
] as const;

const ATTACH_TYPES = [
  'cgroup_inet_ingress', 'cgroup_inet_egress', 'cgroup_inet_sock_create', 'cgroup_sock_ops', 'sk_skb_stream_parser',
  'sk_skb_stream_verdict', 'cgroup_device', 'sk_msg_verdict', 'cgroup_inet4_bind', 'cgroup_inet6_bind', 'cgroup_inet4_connect',
  'cgroup_inet6_connect', 'cgroup_inet4_post_bind', 'cgroup_inet6_post_bind', 'cgroup_udp4_sendmsg', 'cgroup_udp6_sendmsg',
  'lirc_mode2', 'flow_dissector', 'cgroup_sysctl', 'cgroup_udp4_recvmsg', 'cgroup_udp6_recvmsg', 'cgroup_getsockopt',
  'cgroup_setsockopt', 'trace_raw_tp', 'trace_fentry', 'trace_fexit', 'modify_return', 'lsm_mac', 'trace_iter',
  'cgroup_inet4_getpeername', 'cgroup_inet6_getpeername', 'cgroup_inet4_getsockname', 'cgroup_inet6_getsockname', 'xdp_devmap',
  'cgroup_inet_sock_release', 'xdp_cpumap', 'sk_lookup', 'xdp', 'sk_skb_verdict', 'sk_reuseport_select',
  'sk_reuseport_select_or_migrate', 'perf_event', 'trace_kprobe_multi', 'lsm_cgroup', 'struct_ops', 'netfilter', 'tcx_ingress',
  'tcx_egress', 'trace_uprobe_multi', 'cgroup_unix_connect', 'cgroup_unix_sendmsg', 'cgroup_unix_recvmsg',
  'cgroup_unix_getpeername', 'cgroup_unix_getsockname', 'netkit_primary', 'netkit_peer', 'trace_kprobe_session',
  'trace_uprobe_session',
] as const;

const LINK_TYPES = [
  'unspec', 'raw_tracepoint', 'tracing', 'cgroup', 'iter', 'netns', 'xdp', 'perf_event', 'kprobe_multi', 'struct_ops', 'netfilter',
  'tcx', 'uprobe_multi', 'netkit', 'sockmap',
] as const;

/** The flags of maps (BPF_F_*), by bit. */
const MAP_FLAGS = [
  'no_prealloc', 'no_common_lru', 'numa_node', 'rdonly', 'wronly', 'stack_build_id', 'zero_seed', 'rdonly_prog', 'wronly_prog',
  'clone', 'mmapable', 'preserve_elems', 'inner_map', 'link', 'path_fd', 'vtype_btf_obj_fd', 'token_fd', 'segv_on_fault',
  'no_user_conv',
] as const;

type AttachTypeName = (typeof ATTACH_TYPES)[number];

/** Gives the name of a program type; `type 47` for a number that is not known. */
export function programTypeName(type: number): string {
  return PROGRAM_TYPES[type] ?? unknownName(type);
}

/** Gives the name of a map type; `type 47` for a number that is not known. */
export function mapTypeName(type: number): string {
  return MAP_TYPES[type] ?? unknownName(type);
}

/** Gives the name of a link type; `type 47` for a number that is not known. */
export function linkTypeName(type: number): string {
  return LINK_TYPES[type] ?? unknownName(type);
}

/** Gives the name of an attach type; `type 47` for a number that is not known. */
export function attachTypeName(type: number): string {
  return ATTACH_TYPES[type] ?? unknownName(type);
}

/** The attach types of cgroups with their numbers. */
export const CGROUP_ATTACH_TYPES: readonly { readonly name: AttachTypeName; readonly number: number }[] = ATTACH_TYPES.map((name, number) => ({
  name,
  number,
})).filter(({ name }) => name.startsWith('cgroup_') || name === 'lsm_cgroup');

/** Gives the names of the flags that are set; a bit that is not known is given as `bit 23`. */
export function mapFlagNames(flags: number): readonly string[] {
  return Array.from({ length: 32 }, (_, bit) => bit)
    .filter((bit) => ((flags >>> bit) & 1) === 1)
    .map((bit) => MAP_FLAGS[bit] ?? `bit ${bit}`);
}

function unknownName(number: number): string {
  return `type ${number}`;
}
