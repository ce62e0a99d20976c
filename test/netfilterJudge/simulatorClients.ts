import { toIpAddress } from '../../agent/protocol/ipAddress.ts';
import type { NamespaceId } from '../../agent/protocol/scalars.ts';
import type { Address } from '../../simulator/netfilter/address.ts';
import { Address as AddressOf } from '../../simulator/netfilter/address.ts';
import { PROTOCOL } from '../../simulator/netfilter/protocolNumbers.ts';
import type { Journey, JourneyEnd } from '../../simulator/world/journey.ts';
import type { Exchange } from '../../simulator/world/network.ts';
import { answerDatagram, close, connect, namespaceOf, ping, sendData, sendDatagram } from '../../simulator/world/network.ts';
import type { Simulation } from '../../simulator/world/simulation.ts';
import { findOutputRoute, selectSource } from '../../simulator/world/routing.ts';
import type { OpenSocket } from '../../simulator/world/sockets.ts';
import { ownerOf } from '../../simulator/world/sockets.ts';
import type { TraceRecorder } from '../../simulator/world/traceRecorder.ts';
import type { WorldNamespace } from '../../simulator/world/world.ts';
import type { ConversationStep, JudgeClient, Stimulus } from './judgeCase.ts';

/** What sockets of the simulator do in the place of those of the kernel's driver. */

/** What the ends of a conversation send at a time. */
const SENT_BYTES = 10;

/** What a client came to: its packets and everything that they caused, and what its calls said. */
export interface ClientRun {
  readonly journeys: readonly Journey[];
  /** Those of them that opened the connection. */
  readonly opening: readonly Journey[];
  readonly outcome: Exchange['outcome'];
  /** What a datagram socket found afterwards. */
  readonly after: string;
}

type Delivered = Extract<JourneyEnd, { kind: 'delivered' }>;

/** Opens a TCP connection, and lets both ends do what the stimulus says for as long as it arrives. */
export function runConnect(simulation: Simulation, recorder: TraceRecorder, namespace: NamespaceId, stimulus: Extract<Stimulus, { kind: 'connect' }>): ClientRun {
  const opened = connect(simulation, recorder, optionsOf(namespace, stimulus));
  const journeys = [...opened.journeys];
  const server = opened.socket === null || opened.outcome.kind !== 'connected' ? undefined : acceptedBy(simulation, journeys);
  if (server !== undefined && opened.socket !== null) {
    const ends = { client: { namespace, socket: opened.socket }, server };
    for (const step of stimulus.then ?? []) {
      const caused = converse(simulation, recorder, ends, step);
      journeys.push(...caused);
      const [first] = caused;
      const { namespace: sender, socket } = step === 'send' || step === 'finClient' || step === 'resetClient' ? ends.client : ends.server;
      const isAcknowledged = caused.some(({ end }) => isTaken(end) && end.namespace === sender && end.packet.transport.kind === 'tcp' && isOwn(end, socket) && end.packet.transport.destinationPort === socket.local.port && end.packet.transport.flags.includes('ACK'));
      // What is not acknowledged is sent again, and what is small waits for it: the driver says nothing more then.
      if (first === undefined || !isTaken(first.end) || !isAcknowledged) {
        break;
      }
    }
  }
  return { journeys, opening: opened.journeys, outcome: opened.outcome, after: '' };
}

/** Sends a datagram from a connected socket; who receives it answers from the address that routing gives. */
export function runDatagram(simulation: Simulation, recorder: TraceRecorder, namespace: NamespaceId, stimulus: Extract<Stimulus, { kind: 'datagram' }>): ClientRun {
  const options = optionsOf(namespace, stimulus);
  const sent = stimulus.protocol === 'udp' ? sendDatagram(simulation, recorder, options, SENT_BYTES) : ping(simulation, recorder, options, SENT_BYTES);
  const journeys = [...sent.journeys];
  const questions = stimulus.isAnswered ? sent.journeys.map(({ end }) => end).filter((end): end is Delivered => isTaken(end) && end.packet.transport.kind === 'udp') : [];
  for (const { namespace: where, socket, packet } of questions) {
    if (socket !== null && !socket.opened && packet.transport.kind === 'udp') {
      const destination = sourceOfAnswer(namespaceOf(simulation, where), socket.info.local.address, AddressOf.of(packet.source));
      journeys.push(...(destination === null ? [] : answerDatagram(simulation, recorder, where, { ...packet, destination: destination.text, transport: { ...packet.transport, destinationPort: socket.info.local.port } }, ownerOf(socket.info), SENT_BYTES)));
    }
  }
  const { socket: client } = sent;
  const isAnswered = client !== null && journeys.some(({ end }) => isTaken(end) && end.socket?.opened === true && end.namespace === namespace && end.packet.transport.kind !== 'tcp' && !isError(end) && isOwn(end, client));
  const now = client === null ? undefined : simulation.stateOf(namespaceOf(simulation, namespace)).sockets.connected(client.protocol, client.local, client.remote);
  const error = now?.error ?? null;
  return { journeys, opening: journeys, outcome: client !== null && sent.outcome.kind === 'failed' ? { kind: 'connected' } : sent.outcome, after: error !== null ? `, then ${error}` : isAnswered ? ', answered' : '' };
}

/** The address that a socket which is bound to `bound` answers from; null where there is no way. */
function sourceOfAnswer(namespace: WorldNamespace, bound: string, peer: Address): Address | null {
  const isAny = bound === '0.0.0.0' || bound === '::';
  const source = isAny ? null : AddressOf.of(toIpAddress(bound));
  const route = findOutputRoute(namespace, { destination: peer, source, mark: 0, inInterface: 'lo' }, false);
  return route.kind === 'refuse' || route.kind === 'unknown' ? null : (source ?? selectSource(namespace, route, peer));
}

function optionsOf(namespace: NamespaceId, { user, mark, device, address, port, destination }: JudgeClient): Parameters<typeof connect>[2] {
  return { sender: { namespace, owner: user, mark, ...(device === undefined ? {} : { device }) }, address, port, destination };
}

interface End {
  readonly namespace: NamespaceId;
  readonly socket: OpenSocket;
}

/** The end of a connection that a listener accepted, by the last ACK that came to it. */
function acceptedBy(simulation: Simulation, journeys: readonly Journey[]): End | undefined {
  for (const { end } of journeys) {
    if (isTaken(end) && end.packet.transport.kind === 'tcp' && end.socket?.opened === true) {
      const { source, destination, transport } = end.packet;
      const local = { address: AddressOf.of(destination), port: transport.destinationPort };
      const remote = { address: AddressOf.of(source), port: transport.sourcePort };
      const socket = simulation.stateOf(namespaceOf(simulation, end.namespace)).sockets.connected(PROTOCOL.tcp, local, remote);
      if (socket?.state === 'established' && !transport.flags.includes('SYN')) {
        return { namespace: end.namespace, socket };
      }
    }
  }
  return undefined;
}

function converse(simulation: Simulation, recorder: TraceRecorder, { client, server }: Readonly<Record<'client' | 'server', End>>, step: ConversationStep): readonly Journey[] {
  switch (step) {
    case 'send':
      return sendData(simulation, recorder, client.namespace, client.socket, SENT_BYTES);
    case 'answer':
      return sendData(simulation, recorder, server.namespace, server.socket, SENT_BYTES);
    case 'finClient':
    case 'resetClient':
      return close(simulation, recorder, client.namespace, client.socket, { reset: step === 'resetClient' });
    case 'finServer':
    case 'resetServer':
      return close(simulation, recorder, server.namespace, server.socket, { reset: step === 'resetServer' });
  }
}

function isTaken(end: JourneyEnd): end is Delivered {
  return end.kind === 'delivered' && end.socket !== null;
}

function isError({ packet: { transport } }: Delivered): boolean {
  return transport.kind === 'icmp' && transport.about !== undefined;
}

/** Whether a packet came to a socket from the peer that it is connected to; ping sockets do not ask by whom. */
function isOwn({ packet }: Delivered, { local, remote }: OpenSocket): boolean {
  const isSame = (left: string, right: Address): boolean => left === right.text;
  return isSame(packet.destination, local.address) && (packet.transport.kind === 'icmp' || isSame(packet.source, remote.address));
}
