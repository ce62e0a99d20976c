import type { NamespaceId } from '../../agent/protocol/scalars.ts';
import type { PacketDraft } from '../netfilter/packetDraft.ts';
import type { ConnectOptions, Journey, Sender } from './journey.ts';
import type { Simulation } from './simulation.ts';
import type { TraceRecorder } from './traceRecorder.ts';

/** Writes what happens, or with null keeps nothing but the verdicts, which is many times faster. */
export type Recorder = TraceRecorder | null;

/**
 * Lets a packet arrive at a device from outside, and follows it and everything that it causes (answers of sockets and of the
 * kernel) until nothing moves. Gives a journey for each packet, in the order in which they are sent; the first is the one put
 * in. Changes `simulation`; fork it before to keep what was.
 */
export function arrive(_simulation: Simulation, _recorder: Recorder, _namespace: NamespaceId, _device: string, packet: PacketDraft): readonly Journey[] {
  return [notYet(packet)];
}

/** Like arrive, for a packet that a raw socket sends as it is (IP_HDRINCL): it begins at OUTPUT. */
export function send(_simulation: Simulation, _recorder: Recorder, _sender: Sender, packet: PacketDraft): readonly Journey[] {
  return [notYet(packet)];
}

/** What connect(2), or the exchange that follows it, came to. */
export interface Exchange {
  readonly journeys: readonly Journey[];
  /** `connected`: the three-way handshake is done (TCP), or an answer came (UDP, ICMP). */
  readonly outcome:
    | { readonly kind: 'connected' }
    | { readonly kind: 'failed'; readonly errno: string; readonly reason: string }
    /** Sent, and nothing came back: what UDP without a server that answers looks like. */
    | { readonly kind: 'silent'; readonly reason: string }
    | { readonly kind: 'unknown'; readonly dependsOn: string };
}

/** Opens a TCP connection from a process of a namespace: SYN, SYN-ACK, ACK. The socket stays open in the simulation. */
export function connect(_simulation: Simulation, _recorder: Recorder, options: ConnectOptions): Exchange {
  return { journeys: [], outcome: { kind: 'unknown', dependsOn: `connections to ${options.destination.address}, which are not modelled yet` } };
}

function notYet(packet: PacketDraft): Journey {
  return { packet: 0, cause: null, sent: packet, transmissions: [], end: { kind: 'unknown', dependsOn: 'packets of this kind, which are not modelled yet', step: null } };
}
