import type { Endpoint, IpAddress, PortNumber } from '../../agent/protocol/scalars.ts';
import type { Hook, TableName } from '../../agent/protocol/trace.ts';
import type { PacketDraft } from '../../simulator/netfilter/packetDraft.ts';

/**
 * What is put before the kernel and the simulator, and what each of them answers. All of it is JSON, so that a case and
 * the kernel's answer can be recorded and replayed where there is no root.
 */

export type Backend = 'nft' | 'legacy';

/** The network of a case: every namespace has its loopback device besides. */
export interface JudgeWorld {
  readonly namespaces: readonly JudgeNamespace[];
}

export interface JudgeNamespace {
  readonly name: string;
  readonly links: readonly JudgeLink[];
  /** What connected addresses do not bring; in the words of ip(8) after `ip route add`. */
  readonly routes: readonly JudgeRoute[];
  readonly routingRules: readonly JudgeRoutingRule[];
  /** Dotted names below net. */
  readonly sysctls: Readonly<Record<string, string>>;
  readonly sockets: readonly JudgeSocket[];
  /** What `ipset restore` reads; left out where there are none. */
  readonly ipSets?: string;
}

export interface JudgeLink {
  readonly name: string;
  readonly macAddress: string;
  /** The other end of the veth pair. */
  readonly peer: { readonly namespace: string; readonly name: string };
  readonly addresses: readonly { readonly address: IpAddress; readonly prefixLength: number }[];
}

export interface JudgeRoute {
  readonly type: 'unicast' | 'local' | 'blackhole' | 'unreachable' | 'prohibit' | 'throw';
  readonly destination: { readonly address: IpAddress; readonly prefixLength: number };
  readonly gateway: IpAddress | null;
  readonly device: string | null;
  readonly table: number;
}

export interface JudgeRoutingRule {
  readonly family: 'ipv4' | 'ipv6';
  readonly priority: number;
  readonly mark: { readonly value: number; readonly mask: number } | null;
  readonly source: { readonly address: IpAddress; readonly prefixLength: number } | null;
  readonly inInterface: string | null;
  readonly table: number;
}

/** A socket that waits: it listens (TCP) or is bound (UDP). It answers nothing on its own. */
export interface JudgeSocket {
  readonly protocol: 'tcp' | 'udp';
  readonly address: IpAddress;
  readonly port: PortNumber;
  readonly uid: number;
  readonly gid: number;
  /** IP_TRANSPARENT */
  readonly transparent: boolean;
}

/** Rules in the form of iptables-save; '' where there are none. */
export interface JudgeRules {
  readonly namespace: string;
  readonly ipv4: string;
  readonly ipv6: string;
}

export interface JudgeUser {
  readonly uid: number;
  readonly gid: number;
}

/** One thing that is done from outside; everything that it causes belongs to it. */
export type Stimulus =
  /** A packet comes in at a device. */
  | { readonly kind: 'arrive'; readonly namespace: string; readonly device: string; readonly packet: PacketDraft }
  /** A raw socket sends a packet as it is. */
  | { readonly kind: 'send'; readonly namespace: string; readonly user: JudgeUser; readonly mark: number; readonly packet: PacketDraft }
  /** connect(2) of a TCP socket, and what the two ends do then as long as each step arrives. */
  | (JudgeClient & { readonly kind: 'connect'; readonly then?: readonly ConversationStep[] })
  /** send(2) of a connected UDP socket, or of a ping socket with the port as its identifier; `isAnswered`: whoever receives it sends something back. */
  | (JudgeClient & { readonly kind: 'datagram'; readonly protocol: 'udp' | 'icmp'; readonly isAnswered: boolean });

/** A socket that is bound to the port, and to the address unless it is null. */
export interface JudgeClient {
  readonly namespace: string;
  readonly user: JudgeUser;
  readonly mark: number;
  /** SO_BINDTODEVICE */
  readonly device?: string;
  readonly address: IpAddress | null;
  readonly port: PortNumber;
  readonly destination: Endpoint;
}

/** Ten bytes from client to server or back, a FIN or a RST of either. */
export type ConversationStep = 'send' | 'answer' | 'finClient' | 'finServer' | 'resetClient' | 'resetServer';

export interface JudgeCase {
  readonly backend: Backend;
  readonly world: JudgeWorld;
  readonly rules: readonly JudgeRules[];
  readonly stimuli: readonly Stimulus[];
}

/** A rule that matched, the policy of a built-in chain (`policy`) or the end of a user chain (`return`). */
export interface Visit {
  readonly table: TableName;
  readonly chain: string;
  readonly rule: number | 'policy' | 'return';
  /** The packet's mark before the rule; null where it is not known. */
  readonly markBefore: number | null;
  readonly markAfter: number | null;
  /** The packet's addresses and ports before the rule as writeEnds writes them; null where they are not known. */
  readonly ends: string | null;
}

/** A packet's way through one namespace, from PREROUTING or OUTPUT on; what comes back over lo begins a new one. */
export interface Passage {
  readonly namespace: string;
  readonly family: 'ipv4' | 'ipv6';
  /** The packet as writePacket writes it; the device is '' for OUTPUT. */
  readonly start: { readonly hook: Extract<Hook, 'PREROUTING' | 'OUTPUT'>; readonly packet: string; readonly device: string };
  readonly visits: readonly Visit[];
  /** Where it leaves netfilter: to the sockets or to a device; null where it did not. */
  readonly end: { readonly hook: Extract<Hook, 'INPUT' | 'POSTROUTING'>; readonly packet: string; readonly device: string } | null;
}

/** A connection in the table of a namespace, in one line. */
export interface ConnectionEntry {
  readonly namespace: string;
  /** `tcp 10.0.0.1:4000>10.0.0.2:80 / 10.0.0.2:80>10.0.0.1:4000 mark 0 zone 0 ESTABLISHED ASSURED` */
  readonly text: string;
}

/** What one stimulus came to. */
export interface Observation {
  readonly passages: readonly Passage[];
  /** `node tcp 10.0.0.1:80 from 10.0.0.2:4000 to 10.0.0.1:80 original 10.0.0.1:80` */
  readonly received: readonly string[];
  /** What connect(2) or sendto(2) said: `ok`, `waits` or an errno; null for packets that arrive. */
  readonly call: string | null;
  readonly connections: readonly ConnectionEntry[];
}

/** What the simulator says of one stimulus: what the kernel would, or that it depends on something. */
export type Prediction = { readonly kind: 'known'; readonly observation: Observation } | { readonly kind: 'unknown'; readonly dependsOn: string };
