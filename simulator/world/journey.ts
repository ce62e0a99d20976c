import type { Endpoint, IpAddress, NamespaceId, PortNumber } from '../../agent/protocol/scalars.ts';
import type { SocketInfo } from '../../agent/protocol/snapshot.ts';
import type { PacketDraft } from '../netfilter/packetDraft.ts';

/** One packet from where it is made to where it ends. */
export interface Journey {
  /** From 0, in the order in which the packets of a simulation are sent; steps of a trace name it. */
  readonly packet: number;
  /** The packet that it answers; null for what was put in from outside. */
  readonly cause: number | null;
  /** The packet as it was sent. */
  readonly sent: PacketDraft;
  /** Every time that it left by a device, in order, as it then was. */
  readonly transmissions: readonly Transmission[];
  readonly end: JourneyEnd;
  /** How many netfilter hooks it met. */
  readonly hooks: number;
}

export interface Transmission {
  readonly namespace: NamespaceId;
  readonly device: string;
  readonly packet: PacketDraft;
}

/** Where a packet ends. `step` is the step of the trace that decided; null where no trace is kept. */
export type JourneyEnd =
  /** A socket took it, or with a null socket the kernel itself (ICMP). */
  | { readonly kind: 'delivered'; readonly namespace: NamespaceId; readonly socket: SocketView | null; readonly packet: PacketDraft; readonly originalDestination: Endpoint | null; readonly step: number | null }
  /** It reached a namespace where nobody takes it: the kernel answers, or not. */
  | { readonly kind: 'unclaimed'; readonly namespace: NamespaceId; readonly packet: PacketDraft; readonly reason: string; readonly step: number | null }
  /** With an errno, the call that sent it fails with that. `refused`: as it was when every rule had let it pass and conntrack could not keep its connection. */
  | { readonly kind: 'dropped'; readonly namespace: NamespaceId; readonly reason: string; readonly step: number | null; readonly errno?: string; readonly refused?: PacketDraft }
  /** REJECT; the answer is another journey. */
  | { readonly kind: 'rejected'; readonly namespace: NamespaceId; readonly with: string; readonly reason: string; readonly step: number | null }
  /** No way to the destination, or nobody answers for the next hop: what a sender is told. */
  | { readonly kind: 'unreachable'; readonly namespace: NamespaceId; readonly errno: string; readonly reason: string; readonly step: number | null }
  /** It leaves the world that is known. */
  | { readonly kind: 'left'; readonly namespace: NamespaceId; readonly device: string; readonly packet: PacketDraft; readonly step: number | null }
  | { readonly kind: 'unknown'; readonly dependsOn: string; readonly step: number | null };

/** A socket that takes packets: one of the snapshot, or one that the simulation opened. */
export interface SocketView {
  readonly info: SocketInfo;
  /** Whether the simulation opened it. */
  readonly opened: boolean;
}

/** Who sends a packet: the socket as rules and routing see it. */
export interface Sender {
  readonly namespace: NamespaceId;
  /** Null for packets that no socket sends. */
  readonly owner: { readonly uid: number; readonly gid: number | null } | null;
  /** SO_MARK. */
  readonly mark?: number;
  /** SO_BINDTODEVICE. */
  readonly device?: string;
  /** The cgroup2 path of the socket's creator, for `-m cgroup --path`. */
  readonly cgroup?: string;
}

/** What a process asks for with connect(2) or sendto(2). */
export interface ConnectOptions {
  readonly sender: Sender;
  readonly address: IpAddress | null;
  readonly port: PortNumber | null;
  readonly destination: Endpoint;
}
