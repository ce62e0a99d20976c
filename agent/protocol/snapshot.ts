import type { AccelerationInfo, PodInfo } from './acceleration.ts';
import type { CgroupInfo, LinkInfo, MapInfo, ProgramInfo } from './kernelObjects.ts';
import type { MapEntry } from './mapEntries.ts';
import type { CgroupPath, Endpoint, IpAddress, MapId, NamespaceId, Uint64Text } from './scalars.ts';

export const SNAPSHOT_FORMAT = 'meshpath-snapshot';
export const SNAPSHOT_VERSION = 1;

/**
 * The whole state of a node that matters to a path, as one JSON document. Explaining works on this and nothing else,
 * so that a snapshot in a file, in a bug report or in a test explains the same as the node that it was taken from.
 */
export interface Snapshot {
  readonly format: typeof SNAPSHOT_FORMAT;
  readonly formatVersion: typeof SNAPSHOT_VERSION;
  /** ISO 8601. */
  readonly takenAt: string;
  readonly node: NodeIdentity;
  readonly namespaces: readonly NetworkNamespace[];
  readonly pods: readonly PodInfo[];
  readonly cgroups: readonly CgroupInfo[];
  readonly bpf: BpfState;
  /** What is accelerated, by the agent that took the snapshot and by others on the node. */
  readonly accelerations: readonly AccelerationInfo[];
  /** What could not be read, and why; explaining says where it depends on these. */
  readonly omissions: readonly Omission[];
}

export interface NodeIdentity {
  readonly hostname: string;
  readonly kernelRelease: string;
  /** `x86_64`, `aarch64`. */
  readonly machine: string;
  readonly kind: 'linux' | 'simulated';
}

export interface NetworkNamespace {
  readonly id: NamespaceId;
  /** Names under /run/netns, and `host` for the namespace of PID 1. */
  readonly names: readonly string[];
  readonly links: readonly NetworkLink[];
  readonly routes: readonly Route[];
  readonly routingRules: readonly RoutingRule[];
  /** Dotted sysctl names below net: `net.ipv4.ip_forward`, `net.ipv4.conf.eth0.rp_filter`. */
  readonly sysctls: Readonly<Record<string, string>>;
  readonly ruleSets: readonly RuleSet[];
  readonly conntrack: readonly ConntrackEntry[];
  readonly sockets: readonly SocketInfo[];
  /** The IP sets as `ipset save` printed them; absent where they were not read: matches of sets are then not known. */
  readonly ipSets?: string;
}

export interface NetworkLink {
  readonly index: number;
  readonly name: string;
  /** `loopback`, `veth`, `bridge`, … */
  readonly kind: string;
  readonly up: boolean;
  readonly mtu: number;
  readonly macAddress: string | null;
  /** The name of the bridge or bond that it belongs to. */
  readonly master: string | null;
  /** For veth: where the other end is, as far as it is known. */
  readonly peer: { readonly namespace: NamespaceId | null; readonly index: number } | null;
  readonly addresses: readonly InterfaceAddress[];
  /** Multicast groups that programs have joined there (`ip maddr`); left out where they are not known. */
  readonly groups?: readonly IpAddress[];
}

export interface InterfaceAddress {
  readonly address: IpAddress;
  readonly prefixLength: number;
  readonly scope: 'global' | 'link' | 'host';
}

export interface Route {
  readonly family: 'ipv4' | 'ipv6';
  /** `unicast`, `local`, `broadcast`, `blackhole`, `unreachable`, `prohibit`, `throw`. */
  readonly type: string;
  /** `default` is written as 0.0.0.0/0 or ::/0. */
  readonly destination: { readonly address: IpAddress; readonly prefixLength: number };
  readonly gateway: IpAddress | null;
  readonly device: string | null;
  readonly preferredSource: IpAddress | null;
  /** The number of the table: main is 254, local is 255. */
  readonly table: number;
  readonly metric: number;
  readonly scope: string;
}

export interface RoutingRule {
  readonly family: 'ipv4' | 'ipv6';
  readonly priority: number;
  readonly source: { readonly address: IpAddress; readonly prefixLength: number } | null;
  readonly destination: { readonly address: IpAddress; readonly prefixLength: number } | null;
  readonly mark: { readonly value: number; readonly mask: number } | null;
  readonly inInterface: string | null;
  readonly outInterface: string | null;
  readonly table: number | null;
  readonly action: string;
}

/** One rule set as `iptables-save -c` printed it. */
export interface RuleSet {
  readonly family: 'ipv4' | 'ipv6';
  readonly backend: 'nft' | 'legacy';
  readonly text: string;
}

export interface ConntrackTuple {
  readonly source: Endpoint;
  readonly destination: Endpoint;
}

export interface ConntrackEntry {
  readonly protocol: 'tcp' | 'udp' | 'icmp' | 'icmpv6' | 'other';
  readonly state: string | null;
  readonly original: ConntrackTuple;
  readonly reply: ConntrackTuple;
  readonly mark: number;
  readonly zone: number;
  readonly timeoutSeconds: number | null;
}

export interface SocketInfo {
  readonly protocol: 'tcp' | 'udp';
  readonly state: 'listen' | 'established' | 'other';
  readonly local: Endpoint;
  readonly remote: Endpoint;
  /** True for a socket bound to :: that takes IPv4 connections too. */
  readonly dualStack: boolean;
  readonly uid: number;
  /** IP_TRANSPARENT, which TPROXY asks of the sockets that it hands packets to; absent where it is not known. */
  readonly transparent?: boolean;
  readonly inode: Uint64Text;
  readonly cookie: Uint64Text | null;
  /** The processes that hold it, and the cgroup that owns it, as far as they could be read. */
  readonly owner: SocketOwner | null;
}

export interface SocketOwner {
  readonly pid: number;
  readonly command: string;
  readonly cgroup: CgroupPath | null;
  readonly gid: number | null;
}

export interface BpfState {
  readonly programs: readonly ProgramInfo[];
  readonly maps: readonly MapInfo[];
  readonly links: readonly LinkInfo[];
  /** The contents of the maps that take part in a path. */
  readonly contents: readonly MapContents[];
}

export interface MapContents {
  readonly mapId: MapId;
  readonly entries: readonly MapEntry[];
  /** True where there were more entries than the snapshot keeps. */
  readonly truncated: boolean;
}

export interface Omission {
  /** What is missing: `conntrack of namespace 4026532281`. */
  readonly what: string;
  readonly reason: string;
  readonly remedy: string;
}
