import type { CgroupPath, LinkId, MapId, NamespaceId, ProgramId, Uint64Text } from './scalars.ts';

/** Where an object comes from, as far as its pins, names and holders tell. */
export interface ObjectOwner {
  /**
   * `meshpath` for what Meshpath loaded, in this agent or another, and for what is left of it (then no process holds it);
   * else `process` where a process holds it, `pinned` where only a pin keeps it, and `kernel`.
   */
  readonly kind: 'meshpath' | 'process' | 'pinned' | 'kernel';
  /** The processes that hold a file descriptor of it. */
  readonly processes: readonly ProcessReference[];
  /** Paths below a bpffs at which it is pinned. */
  readonly pins: readonly string[];
}

export interface ProcessReference {
  readonly pid: number;
  /** The kernel's name of the process (`comm`), at most 15 bytes; untrusted text. */
  readonly command: string;
}

/** A loaded BPF program (struct bpf_prog_info, include/uapi/linux/bpf.h). */
export interface ProgramInfo {
  readonly id: ProgramId;
  /** The full name by BTF where there is one, else the kernel's 15 bytes. */
  readonly name: string;
  /** The kernel's program type in lower case without prefix: `sock_ops`, `sk_msg`, `cgroup_sock_addr`. */
  readonly type: string;
  /** The tag of the instructions, 16 hexadecimal digits. */
  readonly tag: string;
  /** When it was loaded, ISO 8601. */
  readonly loadedAt: string;
  readonly loadedByUid: number;
  readonly mapIds: readonly MapId[];
  readonly btfId: number | null;
  readonly instructionCount: number;
  readonly jitedBytes: number;
  /** Bytes of memory that it is charged for, where the kernel tells. */
  readonly memoryBytes: number | null;
  readonly runCount: Uint64Text;
  readonly runTimeNanoseconds: Uint64Text;
  readonly gplCompatible: boolean;
  readonly owner: ObjectOwner;
}

/** A BPF map (struct bpf_map_info). */
export interface MapInfo {
  readonly id: MapId;
  readonly name: string;
  /** The kernel's map type in lower case without prefix: `sockhash`, `hash`, `ringbuf`, `percpu_array`. */
  readonly type: string;
  readonly keyBytes: number;
  readonly valueBytes: number;
  readonly maxEntries: number;
  readonly flags: readonly string[];
  readonly btfId: number | null;
  /** The C type of key and value by BTF, where there is BTF: `struct connection_key`. */
  readonly keyType: string | null;
  readonly valueType: string | null;
  readonly memoryBytes: number | null;
  readonly frozen: boolean;
  /** Whether its entries can be read from user space, and why not where they cannot. */
  readonly readable: { readonly ok: true } | { readonly ok: false; readonly reason: string };
  readonly programIds: readonly ProgramId[];
  readonly owner: ObjectOwner;
}

/** What a link or a legacy attachment hangs on. */
export type AttachTarget =
  | { readonly kind: 'cgroup'; readonly cgroupId: Uint64Text; readonly path: CgroupPath | null }
  | { readonly kind: 'map'; readonly mapId: MapId }
  | { readonly kind: 'namespace'; readonly namespace: NamespaceId }
  | { readonly kind: 'device'; readonly interfaceIndex: number; readonly name: string | null }
  | { readonly kind: 'other'; readonly text: string };

/** A BPF link (struct bpf_link_info). */
export interface LinkInfo {
  readonly id: LinkId;
  /** `cgroup`, `sockmap`, `netns`, `tracing`, … in lower case. */
  readonly type: string;
  readonly programId: ProgramId;
  /** The attach type as the kernel names it, in lower case: `cgroup_inet4_connect`, `sk_msg_verdict`. */
  readonly attachType: string | null;
  readonly target: AttachTarget;
  readonly owner: ObjectOwner;
}

/** One program as it runs for one cgroup and attach type. */
export interface CgroupAttachment {
  readonly attachType: string;
  readonly programId: ProgramId;
  readonly programName: string;
  /** The link that holds it; null for a legacy attachment (BPF_PROG_ATTACH). */
  readonly linkId: LinkId | null;
  /** The cgroup that it is attached to: this one, or the ancestor that it is inherited from. */
  readonly attachedTo: CgroupPath;
  /** `exclusive` attachments refuse others below them (include/uapi/linux/bpf.h, BPF_F_ALLOW_*). */
  readonly mode: 'multi' | 'override' | 'exclusive';
  /** Its place in the effective order of this cgroup and attach type, from 0. */
  readonly order: number;
}

/** A cgroup2 folder. */
export interface CgroupInfo {
  readonly path: CgroupPath;
  /** The kernel's cgroup id: the inode number of its folder. */
  readonly id: Uint64Text;
  /** How many processes are in it, not counting those of cgroups below. */
  readonly processCount: number;
  /** The programs that run for it, effective order, inherited ones too. */
  readonly attachments: readonly CgroupAttachment[];
}
