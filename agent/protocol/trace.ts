import type { CgroupPath, Endpoint, IpAddress, NamespaceId, PortNumber } from './scalars.ts';

/** A connection to explain: who opens it and to where. */
export interface Flow {
  readonly protocol: 'tcp';
  readonly source: FlowSource;
  readonly destination: Endpoint;
}

/** A process that connects. (Packets that arrive at an interface will be another kind.) */
export interface FlowSource {
  readonly kind: 'process';
  readonly namespace: NamespaceId;
  /** The cgroup of the socket's creator; null where it is not known or does not matter. */
  readonly cgroup: CgroupPath | null;
  /** The owner as `-m owner` sees it: fsuid and fsgid of the socket's creator (net/netfilter/xt_owner.c). */
  readonly uid: number;
  readonly gid: number;
  /** The address that the socket is bound to; null: chosen by routing. */
  readonly address: IpAddress | null;
  /** The port that it is bound to; null: an ephemeral port. */
  readonly port: PortNumber | null;
}

/** A protocol that flows of packets are made of; a number is an IP protocol without a model of its own. */
export type FlowProtocol = 'tcp' | 'udp' | 'icmp' | 'icmpv6' | number;

/** A flow of packets of any protocol and family: sent by a process, or arriving at an interface. */
export interface PacketFlow {
  readonly protocol: FlowProtocol;
  readonly from: FlowOrigin;
  /** Null where routing chooses the address, or the kernel the port (processes only). ICMP has its identifier as the port. */
  readonly source: { readonly address: IpAddress | null; readonly port: PortNumber | null };
  /** The port is 0 where the protocol has none. */
  readonly destination: Endpoint;
}

export type FlowOrigin =
  /** A socket of this owner (fsuid and fsgid of its creator). A null group is not known. */
  | { readonly kind: 'process'; readonly namespace: NamespaceId; readonly uid: number; readonly gid: number | null }
  /** Packets that arrive at a device from outside; a null link address is not known. */
  | { readonly kind: 'arrival'; readonly namespace: NamespaceId; readonly device: string; readonly macAddress: string | null };

/**
 * What happens to one connection on one kind of path, as an ordered list of steps, each at one place. The simulator
 * predicts traces, the agent observes them, and one view shows either.
 */
export interface Trace<TracedFlow = Flow> {
  readonly origin: 'predicted' | 'observed';
  readonly path: PathKind;
  readonly flow: TracedFlow;
  /** The TCP connections that the flow is made of, in the order in which they are opened. */
  readonly legs: readonly TraceLeg[];
  readonly steps: readonly TraceStep[];
  readonly outcome: TraceOutcome;
  readonly cost: TraceCost;
  /** What the trace takes to be so without having seen it: a proxy's behaviour, the other node. */
  readonly assumptions: readonly string[];
}

/** `iptables`: as netfilter's rules send it; `sockops`: as the eBPF programs do. */
export type PathKind = 'iptables' | 'sockops';

/** One TCP connection of a flow: application to sidecar, sidecar to sidecar, sidecar to application. */
export interface TraceLeg {
  readonly index: number;
  /** `application → sidecar` */
  readonly title: string;
  readonly client: SocketEnd;
  /** Null where nobody accepted. */
  readonly server: SocketEnd | null;
  /** What the client asked to connect to. */
  readonly requested: Endpoint;
  /** What the server is told by SO_ORIGINAL_DST; null where it is told nothing. */
  readonly originalDestination: Endpoint | null;
  /** What getpeername answers to the client. */
  readonly peerSeenByClient: Endpoint | null;
  /** How messages travel once the connection is open. */
  readonly data: 'tcp' | 'socket-to-socket' | 'none';
}

/** One end of a leg. */
export interface SocketEnd {
  readonly namespace: NamespaceId;
  /** `app in pod-a`, from untrusted names. */
  readonly description: string;
  readonly uid: number;
  readonly address: Endpoint;
}

export interface TraceStep {
  /** From 0, in order. */
  readonly index: number;
  readonly leg: number;
  readonly phase: TracePhase;
  /** Which packet of the flow this step is about, from 0 in the order in which they are sent; absent where it is about none. */
  readonly packet?: number;
  readonly place: Place;
  readonly before: PacketState;
  /** What it is after the step; equal to `before` where nothing changed. */
  readonly after: PacketState;
  /** Every condition that was compared, in the order in which the kernel compares them. */
  readonly conditions: readonly Condition[];
  readonly decision: Decision;
  /** Why, in one plain sentence. */
  readonly reason: string;
}

/** `connect`: inside connect(2); `packet`: the first packet on its way; `query`: what the ends ask; `data`: messages. */
export type TracePhase = 'socket' | 'connect' | 'packet' | 'accept' | 'query' | 'data';

export type Hook = 'PREROUTING' | 'INPUT' | 'FORWARD' | 'OUTPUT' | 'POSTROUTING';
export type TableName = 'raw' | 'mangle' | 'nat' | 'filter' | 'security';

/** Where a step happens. */
export type Place =
  | { readonly kind: 'socket'; readonly namespace: NamespaceId; readonly description: string }
  | { readonly kind: 'routing'; readonly namespace: NamespaceId; readonly table: number | null; readonly route: string | null }
  | { readonly kind: 'device'; readonly namespace: NamespaceId; readonly device: string }
  | { readonly kind: 'conntrack'; readonly namespace: NamespaceId; readonly hook: Hook }
  | RulePlace
  | ProgramPlace;

/** A rule, or the policy of a chain (`rule` null). */
export interface RulePlace {
  readonly kind: 'rule';
  readonly namespace: NamespaceId;
  readonly hook: Hook;
  readonly table: TableName;
  readonly chain: string;
  /** The place in its chain from 1, as `iptables -L --line-numbers` counts; null for the policy. */
  readonly rule: number | null;
  /** The rule as iptables-save prints it; untrusted text. */
  readonly text: string;
  /** The line in the rule set, from 1; null where it has none. */
  readonly line: number | null;
}

/** A BPF program that ran. */
export interface ProgramPlace {
  readonly kind: 'program';
  readonly namespace: NamespaceId;
  readonly cgroup: CgroupPath | null;
  /** `cgroup_inet4_connect`, `sk_msg_verdict`. */
  readonly attachType: string;
  readonly program: string;
  /** The line of its source that decided, by BTF line information. */
  readonly source: SourceLine | null;
  /** How many instructions ran. */
  readonly instructions: number;
}

export interface SourceLine {
  readonly file: string;
  readonly line: number;
  readonly text: string;
}

/** The packet, or the message and its socket, at one moment. */
export interface PacketState {
  readonly source: Endpoint;
  readonly destination: Endpoint;
  readonly inInterface: string | null;
  readonly outInterface: string | null;
  readonly mark: number;
  /** The state of conntrack as rules see it; null before conntrack looked, and where no packet exists. */
  readonly connection: 'NEW' | 'ESTABLISHED' | 'RELATED' | 'INVALID' | 'UNTRACKED' | null;
  /** `TCP SYN`, `UDP`, `ICMP echo request`: what the packet is; absent in traces of connections, whose packets are TCP. */
  readonly summary?: string;
  /** The mark of the connection; absent where there is none. */
  readonly connectionMark?: number;
  readonly ttl?: number;
}

/** One comparison. `unknown` is not a guess: the trace then depends on it. */
export interface Condition {
  /** What is compared, in a person's words: `destination port`. */
  readonly what: string;
  /** What the rule or program wants: `! 127.0.0.1/32`. */
  readonly wanted: string;
  readonly actual: string;
  readonly result: 'matched' | 'failed' | 'unknown';
}

export type Decision =
  /** The rule does not match, or its target lets the packet go on: the next rule. */
  | { readonly kind: 'continue' }
  | { readonly kind: 'jump'; readonly chain: string; readonly goto: boolean }
  | { readonly kind: 'return' }
  /** The end of a table at this hook, or of the packet. */
  | { readonly kind: 'verdict'; readonly verdict: 'ACCEPT' | 'DROP' | 'REJECT' | 'QUEUE' | 'STOLEN' }
  /** Addresses or ports change: NAT, or a program that rewrites connect. */
  | { readonly kind: 'rewrite'; readonly target: string }
  /** The packet or its connection is marked or otherwise noted, and goes on. */
  | { readonly kind: 'note'; readonly target: string }
  | { readonly kind: 'route'; readonly device: string; readonly local: boolean }
  | { readonly kind: 'deliver'; readonly socket: string }
  /** A socket is put into a sockhash. */
  | { readonly kind: 'enrol' }
  /** A message goes straight to another socket. */
  | { readonly kind: 'redirect'; readonly socket: string }
  | { readonly kind: 'answer'; readonly endpoint: Endpoint }
  | { readonly kind: 'refuse'; readonly errno: string }
  /** Nothing can be said for sure; the outcome depends on what is named. */
  | { readonly kind: 'unknown'; readonly dependsOn: string };

/** Three-valued, always: never a guess. */
export type TraceOutcome =
  | { readonly result: 'delivered'; readonly summary: string }
  | { readonly result: 'refused'; readonly summary: string; readonly step: number }
  | { readonly result: 'depends'; readonly summary: string; readonly dependsOn: readonly string[] };

/** What the path costs, counted and not timed. Per connection, and per message once it is open. */
export interface TraceCost {
  readonly tcpConnections: number;
  /** Tables that were asked for the first packets of all legs. */
  readonly tablesVisited: number;
  readonly rulesCompared: number;
  readonly conntrackEntries: number;
  readonly bpfInstructions: number;
  /** Netfilter hooks that one message meets on its whole way, all legs. */
  readonly hooksPerMessage: number;
  /** How many times one message goes down and up the TCP/IP stack. */
  readonly stackTraversalsPerMessage: number;
}

/** Both paths of one flow side by side. */
export interface Explanation {
  readonly flow: Flow;
  readonly iptables: Trace;
  /** With the node's rules in place and the programs in front of them. */
  readonly sockops: Trace;
  /** Which of the two is in force at the moment the snapshot was taken. */
  readonly current: PathKind;
  /** What differs for the applications and in cost: sentences. */
  readonly differences: readonly string[];
}
