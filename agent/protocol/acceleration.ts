import type { AcceptedFinding } from './doctor.ts';
import type { CgroupPath, Endpoint, IpAddress, IpPrefix, LinkId, MapId, NamespaceId, PortNumber, ProgramId, Uint64Text } from './scalars.ts';

/**
 * What a mesh looks like on a node: where its sidecar listens, who it runs as, and what it leaves alone. Profiles are
 * data, which the programs read. Where a list of what is included is empty, everything is; what is excluded is left
 * alone whatever includes it; of included ports and included ranges, one is enough.
 */
export interface MeshProfile {
  readonly name: string;
  /** Where outgoing connections of the application are sent. */
  readonly outboundPort: PortNumber;
  /** Where connections that come into the pod are sent. */
  readonly inboundPort: PortNumber;
  /**
   * Where its sidecar answers DNS on loopback: questions of the application are sent there, over UDP and TCP, as long as
   * something listens there on UDP. Null where the mesh does not capture DNS.
   */
  readonly dnsPort: PortNumber | null;
  /** Resolvers that questions are captured to. */
  readonly dnsResolvers: readonly IpPrefix[];
  /** Whether port 53 in the list of excluded outbound ports leaves DNS over UDP alone too, and not only over TCP. */
  readonly excludesPortsOverUdp: boolean;
  /** Who the sidecar runs as. */
  readonly proxyUid: number;
  readonly proxyGid: number;
  /** More users whose connections are not sent to the sidecar. */
  readonly passedUids: readonly number[];
  /** Groups whose connections are not sent to the sidecar. */
  readonly passedGids: readonly number[];
  /** Source address of the sidecar when it connects on to its own application; null where the mesh has none. */
  readonly passthroughSource: IpAddress | null;
  /** The same over IPv6. */
  readonly passthroughSourceV6: IpAddress | null;
  /** Whether the sidecar reaches its application at 127.0.0.1 or ::1, and not at the address of the pod that was asked for. */
  readonly connectsToLocalhost: boolean;
  /** Whether a connection of the sidecar to an address of its own pod is sent to the inbound port. */
  readonly redirectsOwnPod: boolean;
  /** Where its sidecar takes tunnels: never redirected on the way in nor to the own pod, whatever the lists that follow say. */
  readonly tunnelPorts: readonly PortNumber[];
  /** Destination ports that are never redirected on the way in. */
  readonly excludedInboundPorts: readonly PortNumber[];
  /** Destination ports that are never redirected on the way out. */
  readonly excludedOutboundPorts: readonly PortNumber[];
  /** Destination ports that are redirected on the way in. */
  readonly includedInboundPorts: readonly PortNumber[];
  /** Destination ports that are redirected on the way out. */
  readonly includedOutboundPorts: readonly PortNumber[];
  /** Sources whose connections are never redirected on the way in. */
  readonly excludedInboundRanges: readonly IpPrefix[];
  readonly includedInboundRanges: readonly IpPrefix[];
  /** Destinations that are never redirected on the way out. */
  readonly excludedOutboundRanges: readonly IpPrefix[];
  readonly includedOutboundRanges: readonly IpPrefix[];
  /** Whether the rule for excluded destinations comes before those for the sidecar's own connections. */
  readonly excludesRangesFirst: boolean;
  /** The same for excluded destination ports. */
  readonly excludesPortsFirst: boolean;
}

/** Parts of a profile that are other than in the profile of its name. */
export type ProfileOverrides = Partial<MeshProfile>;

const NO_LISTS = {
  dnsResolvers: [],
  passedUids: [],
  passedGids: [],
  tunnelPorts: [],
  excludedInboundPorts: [],
  excludedOutboundPorts: [],
  includedInboundPorts: [],
  includedOutboundPorts: [],
  excludedInboundRanges: [],
  includedInboundRanges: [],
  excludedOutboundRanges: [],
  includedOutboundRanges: [],
} as const;

/** Istio's sidecar with its default ports (tools/istio-iptables/pkg/constants). */
export const ISTIO_PROFILE: MeshProfile = {
  ...NO_LISTS,
  name: 'istio',
  outboundPort: 15_001 as PortNumber,
  inboundPort: 15_006 as PortNumber,
  dnsPort: 15_053 as PortNumber,
  excludesPortsOverUdp: true,
  proxyUid: 1337,
  proxyGid: 1337,
  passedGids: [1337],
  passthroughSource: '127.0.0.6' as IpAddress,
  passthroughSourceV6: '::6' as IpAddress,
  connectsToLocalhost: false,
  redirectsOwnPod: true,
  tunnelPorts: [15_008] as PortNumber[],
  excludedInboundPorts: [15_020, 15_021, 15_090] as PortNumber[],
  excludesRangesFirst: false,
  excludesPortsFirst: true,
};

/** Linkerd's proxy with the defaults of its charts (linkerd2-proxy-init, pkg/iptables). It has no address of its own to connect on from. */
export const LINKERD_PROFILE: MeshProfile = {
  ...NO_LISTS,
  name: 'linkerd',
  outboundPort: 4_140 as PortNumber,
  inboundPort: 4_143 as PortNumber,
  dnsPort: null,
  excludesPortsOverUdp: false,
  proxyUid: 2102,
  proxyGid: 2102,
  passthroughSource: null,
  passthroughSourceV6: null,
  connectsToLocalhost: false,
  redirectsOwnPod: false,
  excludedInboundPorts: [4_190, 4_191, 4_567, 4_568] as PortNumber[],
  excludedOutboundPorts: [4_567, 4_568] as PortNumber[],
  excludesRangesFirst: false,
  excludesPortsFirst: true,
};

/** Kuma's sidecar with its default ports (kumactl install transparent-proxy). */
export const KUMA_PROFILE: MeshProfile = {
  ...NO_LISTS,
  name: 'kuma',
  outboundPort: 15_001 as PortNumber,
  inboundPort: 15_006 as PortNumber,
  dnsPort: 15_053 as PortNumber,
  excludesPortsOverUdp: false,
  proxyUid: 5678,
  proxyGid: 5678,
  passthroughSource: '127.0.0.6' as IpAddress,
  passthroughSourceV6: '::6' as IpAddress,
  connectsToLocalhost: false,
  redirectsOwnPod: true,
  excludesRangesFirst: true,
  excludesPortsFirst: true,
};

/** Open Service Mesh's sidecar, as of its last releases (pkg/injector/iptables.go of osm 1.2, which is archived). */
export const OSM_PROFILE: MeshProfile = {
  ...NO_LISTS,
  name: 'osm',
  outboundPort: 15_001 as PortNumber,
  inboundPort: 15_003 as PortNumber,
  dnsPort: null,
  excludesPortsOverUdp: false,
  proxyUid: 1500,
  proxyGid: 1500,
  passthroughSource: null,
  passthroughSourceV6: null,
  connectsToLocalhost: true,
  redirectsOwnPod: true,
  excludedInboundPorts: [15_010, 15_901, 15_902, 15_903, 15_904] as PortNumber[],
  excludesRangesFirst: false,
  excludesPortsFirst: false,
};

/** The profiles that can be named. */
export const MESH_PROFILES: readonly MeshProfile[] = [ISTIO_PROFILE, LINKERD_PROFILE, KUMA_PROFILE, OSM_PROFILE];

/** A pod to accelerate: its cgroup and every address that its network namespace owns. */
export interface PodEnrolment {
  readonly cgroup: CgroupPath;
  readonly addresses: readonly IpAddress[];
}

export interface AccelerationRequest {
  /** The name of a profile of MESH_PROFILES. */
  readonly profile: string;
  readonly pods: readonly PodEnrolment[];
  /** What is other than in that profile. With a `name` of its own it is another profile, which is on beside it. */
  readonly overrides?: ProfileOverrides;
  /**
   * Whether it stays on when the agent ends, for all pods of the profile: everything is pinned in one folder of bpffs, where the
   * next agent takes it over. Where it is left out, pods that join others are kept if those are.
   */
  readonly keep?: boolean;
  /** Ids of the doctor's checks whose limits were accepted. Where it is left out, limits are told and nobody is asked. */
  readonly acceptedLimits?: readonly string[];
  /** Ids of the doctor's checks that would refuse acceleration and are overridden. */
  readonly overriddenFindings?: readonly string[];
}

/** A pod that acceleration was turned off for: the programs stay attached to it until its last connection closes. */
export interface LeavingPod {
  readonly cgroup: CgroupPath;
  /** Connections that the programs wrote down, of one side or the other. */
  readonly openConnections: number;
}

/** Acceleration that stays on when its agent ends. */
export interface KeptAcceleration {
  /** Whether its programs are of another version of Meshpath: upgradeAcceleration replaces them. */
  readonly isOutdated: boolean;
  /** The process of the other agent that has it, which alone can change it; null where it is this one. */
  readonly heldBy: number | null;
}

/** Acceleration as it is on for some pods of a node. One set of programs and maps serves all pods of one profile. */
export interface AccelerationInfo {
  readonly profile: string;
  readonly pods: readonly PodEnrolment[];
  readonly since: string;
  /** Left out where there are none. */
  readonly leaving?: readonly LeavingPod[];
  /** Left out where it ends with the agent. */
  readonly kept?: KeptAcceleration;
  readonly programIds: readonly ProgramId[];
  readonly mapIds: readonly MapId[];
  readonly linkIds: readonly LinkId[];
  /** What the doctor found that it is on in spite of; left out where nothing was looked for. */
  readonly findings?: readonly AcceptedFinding[];
}

/** What turning off did. */
export interface TurnOffReport {
  readonly detachedLinks: number;
  /**
   * Connections that were accelerated and are still open: they go on over plain TCP, and the kernel frees the
   * programs when the last of them closes.
   */
  readonly remainingConnections: number;
  /** Pods of which some connection needs the programs still; they are detached when the last of them closes. Left out: none. */
  readonly leaving?: readonly LeavingPod[];
}

/** The programs that decide. The numbers are those of `enum decision_hook` in bpf/meshpath.h. */
export const DECISION_HOOKS = [
  'connect4',
  'sockops',
  'sk_msg',
  'getsockopt',
  'getpeername4',
  'connect6',
  'getpeername6',
  'sendmsg4',
  'sendmsg6',
  'recvmsg4',
  'recvmsg6',
  'getsockname4',
  'getsockname6',
] as const;
export type DecisionHook = (typeof DECISION_HOOKS)[number];

/**
 * What was decided and why, as `enum decision_reason` in bpf/meshpath.h counts it (the order is that of the enum).
 * A test holds the two lists together.
 */
export const DECISION_REASONS = [
  'redirected_to_outbound', // connect4: an application's connection now goes to the sidecar
  'redirected_to_inbound', // connect4: a sidecar's connection now goes to the peer's sidecar
  'sidecar_to_application', // connect4: a sidecar's connection into its own pod stays as it is and is accelerated
  'passed_loopback', // connect4: to 127.0.0.0/8
  'passed_own_address', // connect4: an application connects to its own pod
  'passed_excluded_port', // connect4: the profile leaves this port alone
  'passed_excluded_range', // connect4: the profile leaves this range of addresses alone
  'passed_not_included', // connect4: the profile takes other ports or ranges only
  'passed_link_local', // connect6: to a link-local address, whose source would be one too
  'passed_peer_not_enrolled', // connect4: a sidecar connects to an address of no enrolled pod
  'passed_not_configured', // connect4: the pod's addresses are not known (yet)
  'passed_bind_failed', // connect4: the source address could not be set
  'passed_switched_off', // connect4: turned off
  'failed_storage', // no memory for socket storage
  'enrolled_active', // sockops: the connecting socket is in the sockhash
  'enrolled_passive', // sockops: the accepting socket is in the sockhash
  'enrol_failed', // sockops: the sockhash refused it; errno is in the event
  'connections_full', // sockops: the connections map is full
  'message_redirected', // sk_msg: from here on messages of this direction go straight to the peer
  'message_passed_peer_missing', // sk_msg: the peer is not in the sockhash: plain TCP for the rest of this direction
  'message_passed_unread_limit', // sk_msg: too much unread data: plain TCP for the rest of this direction
  'message_passed_switched_off', // sk_msg: turned off: plain TCP for the rest of this direction
  'answered_original_destination', // getsockopt: SO_ORIGINAL_DST was answered
  'answered_peer_name', // getpeername4: the address that the application asked for was answered
  'connection_closed', // sockops: state deleted
  'redirected_to_resolver', // connect, sendmsg: a question of an application now goes to the resolver of the sidecar
  'question_passed_sidecar', // connect, sendmsg of UDP: the sidecar, or whom the mesh leaves alone, asks itself
  'question_passed_older_socket', // connect, sendmsg of UDP: the socket is older than the acceleration
  'question_passed_no_resolver', // connect, sendmsg of UDP: the sidecar does not answer DNS
  'question_passed_ambiguous', // connect, sendmsg of UDP: answers of so many resolvers could not be told apart
  'question_passed_full', // connect, sendmsg of UDP: the map of questions is full
  'answered_resolver', // recvmsg: the answer of the sidecar is told to be that of the resolver that was asked
  'answered_own_name', // getsockname: the address that routing would have picked was answered
] as const;
export type DecisionReason = (typeof DECISION_REASONS)[number];

/** One decision of one program, from the ring buffer. */
export interface DecisionEvent {
  /** Nanoseconds since boot (bpf_ktime_get_boot_ns), decimal. */
  readonly bootNanoseconds: Uint64Text;
  readonly hook: DecisionHook;
  readonly reason: DecisionReason;
  /** The errno of a failure, positive; 0 for none. */
  readonly errno: number;
  readonly socketCookie: Uint64Text;
  /** Inode number of the cgroup whose pod decided; "0" where the program cannot know. */
  readonly cgroupId: Uint64Text;
  readonly netnsCookie: Uint64Text;
  readonly uid: number | null;
  /** The tuple from the point of view of the socket, after any rewrite. */
  readonly local: Endpoint;
  readonly remote: Endpoint;
  /** The destination before the rewrite, or the original destination that was answered. */
  readonly original: Endpoint | null;
  /** Bytes of the message (sk_msg only), else 0. */
  readonly bytes: number;
}

export interface DecisionEvents {
  readonly events: readonly DecisionEvent[];
  /** Events that the ring buffer had no room for since the last batch. */
  readonly lost: number;
}

/** How often each reason was counted since the programs were loaded. */
export type DecisionCounters = Readonly<Record<DecisionReason, Uint64Text>>;

/** A network namespace with the cgroups whose processes live in it: what the agent takes a pod to be. */
export interface PodInfo {
  /** A name that people know: the folder of the cgroup, or the name under /run/netns. Untrusted text. */
  readonly name: string;
  readonly namespace: NamespaceId;
  readonly cgroups: readonly CgroupPath[];
  /** Addresses of its devices other than loopback. */
  readonly addresses: readonly IpAddress[];
  /** The mesh whose sidecar listens in it, where one does. */
  readonly profile: string | null;
}
