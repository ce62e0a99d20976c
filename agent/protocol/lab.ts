import type { DecisionEvent, DecisionHook, DecisionReason } from './acceleration.ts';
import type { ConnectionEnd, ConnectionList, ConnectionReason, ConnectionState } from './connections.ts';
import { inputError } from './errors.ts';
import type { CgroupPath, Endpoint, IpAddress, NamespaceId } from './scalars.ts';

/**
 * A lab is a stage for traffic on one node: pods with a client, a server and a transparent sidecar each, on a bridge of their own,
 * without Kubernetes and without a way to any other network.
 */

/** How traffic gets to the sidecars: by the mesh's iptables rules, by eBPF programs without any rules, or not at all. */
export const LAB_PATHS = ['iptables', 'ebpf', 'none'] as const;
export type LabPath = (typeof LAB_PATHS)[number];

/**
 * The sidecars that a lab knows how to set up. `builtin` is a small one of Meshpath; `haproxy` and `redsocks` are programs of the
 * node; `none` leaves the ports of the mesh free for one that a person starts.
 */
export const LAB_SIDECARS = ['builtin', 'haproxy', 'redsocks', 'none'] as const;
export type LabSidecarName = (typeof LAB_SIDECARS)[number];

/** A sidecar of LAB_SIDECARS, or any command that listens on the mesh's ports, which runs as the mesh's sidecar does. */
export type LabSidecar = LabSidecarName | { readonly command: readonly string[] };

/** The name of a lab for which nobody gave one. */
export const DEFAULT_LAB_NAME = 'lab';
export const LAB_POD_LIMITS = { least: 2, most: 26 } as const;
export const LAB_RUN_LIMITS = { connections: 10_000, bytes: 4 * 1024 * 1024, parallel: 64 } as const;
/** Where the application of every pod listens: an echo server. */
export const LAB_SERVER_PORT = 8080;

export interface LabRequest {
  /** Lower-case letters, digits and hyphens; another lab of this name must not be there. */
  readonly name: string;
  /** How many pods: within LAB_POD_LIMITS. */
  readonly pods: number;
  /** The mesh: a name of MESH_PROFILES. */
  readonly profile: string;
  readonly path: LabPath;
  /** The mesh's rules for one pod over IPv4, in the form of iptables-save; needed where `path` is `iptables`, else null. */
  readonly rules: string | null;
  readonly sidecar: LabSidecar;
}

/** A process of a lab. */
export interface LabProcess {
  /** `server`, `sidecar`, `sidecar inbound`. */
  readonly role: string;
  readonly pid: number;
  readonly running: boolean;
}

export interface LabPodInfo {
  /** `pod-a`, `pod-b` and so on. */
  readonly name: string;
  readonly namespace: NamespaceId;
  /** Under /run/netns. */
  readonly namespaceName: string;
  readonly cgroup: CgroupPath;
  readonly address: IpAddress;
  /** Where its application listens. */
  readonly server: Endpoint;
  readonly processes: readonly LabProcess[];
}

export interface LabInfo {
  readonly name: string;
  /** `left`: it is not complete and nobody works on it any more; it can only be taken down. */
  readonly state: 'up' | 'being-made' | 'left';
  /** When it was made, ISO 8601; null where that is not written down. */
  readonly since: string | null;
  readonly profile: string | null;
  readonly path: LabPath | null;
  /** A name of LAB_SIDECARS, or the command. */
  readonly sidecar: string | null;
  readonly pods: readonly LabPodInfo[];
  /** What is not as it was made, a sentence each. */
  readonly problems: readonly string[];
}

/** What a lab is busy with. */
export interface LabProgress {
  readonly name: string;
  /** What was done last, a few words. */
  readonly text: string;
  readonly done: number;
  readonly total: number;
}

export interface LabRunRequest {
  readonly name: string;
  /** The pods whose client connects and whose server answers. */
  readonly from: string;
  readonly to: string;
  readonly connections: number;
  /** Sent and awaited back on each connection, in one exchange. */
  readonly bytes: number;
  /** How many connections are open at a time. */
  readonly parallel: number;
}

/** Something that was seen, and how often. */
export interface Seen<Value> {
  readonly value: Value;
  readonly count: number;
}

/** What the sidecar of a pod was told about the connections that came to it. */
export interface LabSidecarView {
  readonly pod: string;
  readonly side: 'outbound' | 'inbound';
  readonly connections: number;
  /** Answers to SO_ORIGINAL_DST: null where it was told nothing. The most frequent first. */
  readonly originalDestinations: readonly Seen<Endpoint | null>[];
  /** Addresses that it saw connections come from. */
  readonly peers: readonly Seen<IpAddress>[];
}

/** Connections that were open at the same moment, alike in all of this. */
export interface LabLeg {
  /** `shop (pod-a) → envoy (pod-a)`: processes and their pods. Untrusted text. */
  readonly text: string;
  readonly count: number;
  readonly state: ConnectionState;
  readonly reason: ConnectionReason | null;
}

/** The spread of what was measured, microseconds. */
export interface LabLatency {
  readonly least: number;
  readonly median: number;
  readonly most: number;
}

export interface LabRunReport {
  readonly lab: string;
  readonly from: string;
  readonly to: string;
  readonly destination: Endpoint;
  /** Connections that were opened and closed in good order with every byte right. */
  readonly exact: number;
  /** The others, by what went wrong. */
  readonly failures: readonly Seen<string>[];
  /** Bytes that came back. */
  readonly bytes: number;
  /** The address that getpeername(2) told the client. */
  readonly clientPeers: readonly Seen<Endpoint>[];
  /** The addresses that the server saw. */
  readonly serverPeers: readonly Seen<IpAddress>[];
  /** What sidecars were told; empty where there is none that tells it. */
  readonly sidecars: readonly LabSidecarView[];
  /** The connections that were open at one moment of the run, and whether each was accelerated. */
  readonly legs: readonly LabLeg[];
  /** connect(2), and one exchange; null where the clock is not a real one or nothing was measured. */
  readonly connectLatency: LabLatency | null;
  readonly exchangeLatency: LabLatency | null;
  /** What the programs decided meanwhile; nothing where they did nothing, or another process is told of it. */
  readonly decisions: readonly Seen<{ readonly hook: DecisionHook; readonly reason: DecisionReason }>[];
  /** The first of these decisions, at most MAX_LAB_EVENTS. */
  readonly events: readonly DecisionEvent[];
  /** Decisions of the whole node that came faster than they could be read. */
  readonly lostEvents: number;
  /** What could not be seen, and why. */
  readonly omissions: readonly string[];
}

/** The most events that a report keeps. */
export const MAX_LAB_EVENTS = 100;

/** Counts equal values, the most frequent first; values are equal where their JSON is. */
export function countSeen<Value>(values: readonly Value[]): Seen<Value>[] {
  const counts = new Map<string, { value: Value; count: number }>();
  for (const value of values) {
    const key = JSON.stringify(value);
    const seen = counts.get(key) ?? { value, count: 0 };
    seen.count += 1;
    counts.set(key, seen);
  }
  return [...counts.values()].sort((left, right) => right.count - left.count);
}

/**
 * Counts the connections of a lab's pods that are alike, of those with an end in an accelerated pod. `pods` are the names of the lab's
 * pods by their network namespace.
 */
export function describeLabLegs({ connections }: ConnectionList, pods: ReadonlyMap<NamespaceId, string>): LabLeg[] {
  const describeEnd = ({ process, uid, namespace }: ConnectionEnd): string => `${process?.command ?? `user ${uid}`} (${pods.get(namespace) ?? 'elsewhere'})`;
  const legs = connections
    .filter(({ near, far }) => pods.has(near.namespace) && (near.inAcceleratedPod || far?.inAcceleratedPod === true))
    .map(({ near, far, verdict }) => ({ text: `${describeEnd(near)} → ${far === null ? 'an end that was not found' : describeEnd(far)}`, state: verdict.state, reason: verdict.reason }));
  return countSeen(legs).map(({ value, count }) => ({ ...value, count }));
}

/** Gives the spread of durations in milliseconds; null where there is none. */
export function describeLatency(milliseconds: readonly number[]): LabLatency | null {
  const sorted = milliseconds.toSorted((left, right) => left - right);
  const [least, median, most] = [sorted[0], sorted[Math.floor(sorted.length / 2)], sorted.at(-1)];
  return least === undefined || median === undefined || most === undefined
    ? null
    : { least: least * 1_000, median: median * 1_000, most: most * 1_000 };
}

/** Throws INPUT_INVALID where a run is not one that can be made. */
export function checkLabRun({ connections, bytes, parallel }: LabRunRequest): void {
  for (const [name, value, most] of [
    ['connections', connections, LAB_RUN_LIMITS.connections],
    ['bytes', bytes, LAB_RUN_LIMITS.bytes],
    ['parallel', parallel, LAB_RUN_LIMITS.parallel],
  ] as const) {
    if (!Number.isInteger(value) || value < 1 || value > most) {
      throw inputError(`The lab cannot run this traffic.`, `'${name}' is ${value}, and must be a whole number from 1 to ${most}.`, `Give another number for ${name}.`);
    }
  }
}
