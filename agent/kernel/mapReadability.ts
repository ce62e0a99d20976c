import type { MapInfo } from '../protocol/kernelObjects.ts';
import { mapTypeName } from './kernelNames.ts';

const BPF_F_WRONLY = 1 << 4;

/** Map types whose entries user space cannot list, and why (kernel/bpf/*.c: their map_get_next_key or map_lookup_elem). */
const UNREADABLE: Readonly<Record<string, string>> = {
  perf_event_array: 'It holds perf events, and the kernel gives out none of them.',
  cgroup_array: 'It holds references to cgroups, and the kernel gives out none of them.',
  xskmap: 'It holds AF_XDP sockets, and the kernel gives out none of them.',
  queue: 'Reading an entry of a queue would take it out: it has no keys.',
  stack: 'Reading an entry of a stack would take it out: it has no keys.',
  bloom_filter: 'A Bloom filter keeps no entries, only whether a value may be in it.',
  ringbuf: 'A ring buffer has no entries: whoever consumes it takes its records out.',
  user_ringbuf: 'A ring buffer has no entries: the program that consumes it takes its records out.',
  arena: 'An arena is memory without entries.',
  sk_storage: 'Each entry belongs to a socket and can only be looked up by a descriptor of that socket.',
  inode_storage: 'Each entry belongs to a file and can only be looked up by a descriptor of that file.',
  task_storage: 'Each entry belongs to a task and can only be looked up by a descriptor of that task.',
  cgrp_storage: 'Each entry belongs to a cgroup and can only be looked up by a descriptor of that cgroup.',
};

const SOCKET_COOKIE_BYTES = 8;

/** Says whether user space can list the entries of a map, and why not where it cannot. */
export function mapReadability(map: { readonly type: number; readonly valueBytes: number; readonly flags: number }): MapInfo['readable'] {
  const type = mapTypeName(map.type);
  const reason = UNREADABLE[type];
  if (reason !== undefined) {
    return { ok: false, reason };
  }
  if ((map.flags & BPF_F_WRONLY) !== 0) {
    return { ok: false, reason: 'It was created write-only for user space (BPF_F_WRONLY).' };
  }
  const holdsSockets = type === 'sockhash' || type === 'sockmap' || type === 'reuseport_sockarray';
  if (holdsSockets && map.valueBytes !== SOCKET_COOKIE_BYTES) {
    return {
      ok: false,
      reason: `Its values have ${map.valueBytes} bytes: the kernel gives out sockets only as cookies of 8 bytes, and answers ENOSPC otherwise.`,
    };
  }
  return { ok: true };
}
