import type { DecisionReason } from './acceleration.ts';
import type { ProcessReference } from './kernelObjects.ts';
import type { CgroupPath, Endpoint, NamespaceId, Uint64Text } from './scalars.ts';
import type { Omission } from './snapshot.ts';

/** Which connections are listed: those with an end in a pod for which programs run, or all TCP connections of the node. */
export type ConnectionScope = 'accelerated-pods' | 'all';

/** Decisions of the programs that leave a connection, or one direction of it, to TCP. */
export type PassReason = Extract<
  DecisionReason,
  `passed_${string}` | `message_passed_${string}` | 'failed_storage' | 'enrol_failed' | 'connections_full'
>;

/** Why a connection is not accelerated, or why it cannot be told. */
export type ConnectionReason =
  | PassReason
  /** It was open when the programs were attached. */
  | 'opened_before'
  /** The connecting end is on this node, in no pod for which the programs run. */
  | 'connecting_side_not_enrolled'
  /** The other end has no address of this node. */
  | 'other_node'
  /** The accepting end never came by the programs: it is in no pod for which they run. */
  | 'accepting_side_not_enrolled'
  /** One of the ends could not be put into the sockhash (yet), and no failure was told. */
  | 'not_enrolled_yet'
  /** The programs of this version do not see connections over IPv6. */
  | 'address_family'
  /** Neither end is in a pod for which programs run. */
  | 'no_pod'
  /** Not known: decisions were lost on their way, or are not kept any more. */
  | 'decision_lost'
  /** Not known: another process turned acceleration on, and it alone is told of decisions. */
  | 'decided_elsewhere'
  /** Not known: nobody told of a decision about it. */
  | 'decision_not_seen';

/** `partly`: one direction is redirected and the other goes through TCP. */
export type ConnectionState = 'accelerated' | 'partly' | 'not' | 'unknown';

/** Whether a connection is accelerated, and if not, why not. */
export interface ConnectionVerdict {
  readonly state: ConnectionState;
  /** Null where it is accelerated. */
  readonly reason: ConnectionReason | null;
  /** One sentence for a person. */
  readonly text: string;
}

/** One end of a connection: a socket on this node. */
export interface ConnectionEnd {
  readonly namespace: NamespaceId;
  /** The name of the pod that its network namespace is; null where it is none. Untrusted text. */
  readonly pod: string | null;
  readonly cgroup: CgroupPath | null;
  /** Whether programs of Meshpath run for its cgroup. */
  readonly inAcceleratedPod: boolean;
  /** As this socket has them, after any rewrite or NAT. */
  readonly local: Endpoint;
  readonly remote: Endpoint;
  readonly uid: number;
  readonly process: ProcessReference | null;
  readonly cookie: Uint64Text | null;
  /** Bytes that it sent past TCP, and those that it sent through TCP; null where they are not known. */
  readonly redirectedBytes: Uint64Text | null;
  readonly tcpBytes: Uint64Text | null;
}

/** A TCP connection with what is known of both ends. */
export interface ConnectionInfo {
  /** The same for the same connection in every list of one node. */
  readonly id: string;
  /** The end that connects, where that is on this node and known; else whichever end is here. */
  readonly near: ConnectionEnd;
  /** The other end, where it is on this node. */
  readonly far: ConnectionEnd | null;
  /** What `near` did. */
  readonly role: 'connecting' | 'accepting' | 'unknown';
  /** What connect(2) was asked for, where the programs rewrote it. */
  readonly original: Endpoint | null;
  /** The mesh profile that decided; null where it is not known. */
  readonly profile: string | null;
  /** Nanoseconds since boot (CLOCK_BOOTTIME) when it was opened; null where the programs do not know it. */
  readonly openedBootNanoseconds: Uint64Text | null;
  readonly verdict: ConnectionVerdict;
}

export interface ConnectionList {
  readonly connections: readonly ConnectionInfo[];
  /** When it was read, ISO 8601. */
  readonly readAt: string;
  /** Decisions that were lost on their way or dropped since acceleration was turned on: reasons may be missing. */
  readonly lostDecisions: number;
  /** What could not be read. */
  readonly omissions: readonly Omission[];
}

/** The most connections that a list holds; more are an omission. */
export const MAX_LISTED_CONNECTIONS = 20_000;

/** What each reason means for a connection, as a sentence. */
export const CONNECTION_TEXTS: Readonly<Record<ConnectionReason, string>> = {
  passed_loopback: 'It goes to a loopback address, which the mesh leaves alone.',
  passed_own_address: 'An application connected to its own pod, which is left to iptables.',
  passed_excluded_port: 'The mesh profile leaves its port alone.',
  passed_excluded_range: 'The mesh profile leaves the address range of its destination alone.',
  passed_not_included: 'The mesh profile includes other destinations only.',
  passed_link_local: 'It goes to a link-local address, which the mesh leaves alone.',
  passed_peer_not_enrolled: 'When it was opened, its destination was the address of no accelerated pod.',
  passed_not_configured: 'When it was opened, the addresses of its pod were not known yet.',
  passed_bind_failed: 'Its source address could not be set, so it was left to iptables.',
  passed_switched_off: 'When it was opened, acceleration was switched off.',
  failed_storage: 'The kernel had no memory to keep state with its socket.',
  enrol_failed: 'The sockhash refused one of its sockets: another program or protocol (kTLS, another sockmap) may own it.',
  connections_full: 'When it was opened, the map of connections was full.',
  message_passed_peer_missing: 'A message was sent before the other end was ready; from then on this direction stays with TCP, so that no byte overtakes another.',
  message_passed_unread_limit: 'Too many redirected bytes were unread; this direction went on over TCP, which has back-pressure.',
  message_passed_switched_off: 'Acceleration of it was turned off; it goes on over TCP.',
  opened_before: 'It was open before acceleration was turned on; only new connections are accelerated.',
  connecting_side_not_enrolled: 'The end that connected is in no accelerated pod.',
  other_node: 'Its other end is not on this node.',
  accepting_side_not_enrolled: 'The end that accepted it is in no accelerated pod.',
  not_enrolled_yet: 'Its two ends are not both in the sockhash yet.',
  address_family: 'It is an IPv6 connection, which the programs do not see.',
  no_pod: 'Neither end is in an accelerated pod.',
  decision_lost: 'Not known: decisions were lost on their way or are not kept any more.',
  decided_elsewhere: 'Not known: acceleration was turned on by another process, which alone is told of decisions.',
  decision_not_seen: 'Not known: no decision about it was told.',
};
