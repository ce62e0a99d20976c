import { inputError } from '../../agent/protocol/errors.ts';
import { toPortNumber } from '../../agent/protocol/scalars.ts';
import type { FlowOrigin, PacketFlow, Trace, TraceLeg, TraceOutcome } from '../../agent/protocol/trace.ts';
import type { PacketDraft, TransportDraft } from '../netfilter/packetDraft.ts';
import type { ConnectOptions, Journey, JourneyEnd } from '../world/journey.ts';
import type { Exchange } from '../world/network.ts';
import { answerDatagram, arrive, close, connect, ping, sendData, sendDatagram, sendFrom, namespaceOf } from '../world/network.ts';
import { packetOf } from '../netfilter/packet.ts';
import { Simulation } from '../world/simulation.ts';
import { KERNEL_SOCKET, describeOwner, ownerOf } from '../world/sockets.ts';
import { TraceRecorder } from '../world/traceRecorder.ts';
import { writeEndpoint } from '../world/tuple.ts';
import type { World } from '../world/world.ts';

/** What a flow came to, with the state of the world after it. */
export interface PacketExplanation {
  readonly trace: Trace<PacketFlow>;
  readonly journeys: readonly Journey[];
  readonly after: Simulation;
}

/** Bytes of a request and of an answer. */
const MESSAGE_BYTES = 100;

/**
 * Explains a whole conversation: TCP from SYN to close, a UDP request and its answer, an ICMP echo and its reply; for packets
 * that arrive from outside, the first packet and what the namespace answers. Deterministic. `before` gives the state in which
 * it begins (connections that exist, recent lists, limits); it is not changed. Throws INPUT_INVALID for a flow that is not of
 * this world or whose parts contradict each other.
 */
export function explainPackets(world: World, flow: PacketFlow, before?: Simulation): PacketExplanation {
  const simulation = before?.fork() ?? new Simulation(world);
  const recorder = new TraceRecorder();
  recorder.enter(0, 'packet');
  checkFlow(flow);
  for (const omission of world.snapshot.omissions) {
    simulation.assumptions.add(`The snapshot lacks ${omission.what}: ${omission.reason}`);
  }
  const told = new Conversation(simulation, recorder, flow).run();
  return {
    trace: {
      origin: 'predicted', path: 'iptables', flow, legs: told.legs, steps: recorder.steps, outcome: told.outcome,
      cost: {
        tcpConnections: told.isConnected && flow.protocol === 'tcp' ? 1 : 0,
        tablesVisited: recorder.tablesVisited,
        rulesCompared: recorder.rulesCompared,
        conntrackEntries: simulation.conntrackEntries - (before?.conntrackEntries ?? 0),
        bpfInstructions: 0,
        hooksPerMessage: told.hooksPerMessage,
        stackTraversalsPerMessage: told.isConnected ? 1 : 0,
      },
      assumptions: [...simulation.assumptions],
    },
    journeys: told.journeys,
    after: simulation,
  };
}

interface Told {
  readonly legs: readonly TraceLeg[];
  readonly outcome: TraceOutcome;
  readonly journeys: readonly Journey[];
  readonly isConnected: boolean;
  readonly hooksPerMessage: number;
}

class Conversation {
  readonly #simulation: Simulation;
  readonly #recorder: TraceRecorder;
  readonly #flow: PacketFlow;
  readonly #journeys: Journey[] = [];
  #hooksPerMessage = 0;

  constructor(simulation: Simulation, recorder: TraceRecorder, flow: PacketFlow) {
    this.#simulation = simulation;
    this.#recorder = recorder;
    this.#flow = flow;
  }

  run(): Told {
    const { from, protocol } = this.#flow;
    if (from.kind === 'arrival') {
      return this.#arrive(from);
    }
    const options: ConnectOptions = { sender: { namespace: from.namespace, owner: { uid: from.uid, gid: from.gid } }, address: this.#flow.source.address, port: this.#flow.source.port, destination: this.#flow.destination };
    switch (protocol) {
      case 'tcp':
        return this.#converse(connect(this.#simulation, this.#recorder, options), (exchange, server) => this.#finishTcp(exchange, from, server));
      case 'udp':
        return this.#converse(sendDatagram(this.#simulation, this.#recorder, options, MESSAGE_BYTES), (_, server) => this.#answerUdp(server));
      case 'icmp':
      case 'icmpv6':
        return this.#converse(ping(this.#simulation, this.#recorder, options, 56), () => undefined);
      default:
        return this.#sendOther(from, protocol);
    }
  }

  /** Packets that come from outside: one, and what is answered. */
  #arrive(from: Extract<FlowOrigin, { kind: 'arrival' }>): Told {
    const packet = draftFor(this.#flow, from.macAddress);
    this.#journeys.push(...arrive(this.#simulation, this.#recorder, from.namespace, from.device, packet));
    return this.#tell(null);
  }

  /** A protocol without a model of its own: one packet. */
  #sendOther(from: Extract<FlowOrigin, { kind: 'process' }>, protocol: number): Told {
    const { source, destination } = this.#flow;
    if (source.address === null) {
      throw inputError(`A packet of IP protocol ${protocol} needs a source address.`, 'The flow has none.', 'Give the address that it is sent from.');
    }
    const packet = packetOf<never>({ source: source.address, destination: destination.address, transport: { kind: 'other', protocol } });
    packet.socket = { ...KERNEL_SOCKET, uid: from.uid, gid: from.gid, hasFile: true };
    this.#journeys.push(...sendFrom(this.#simulation, this.#recorder, namespaceOf(this.#simulation, from.namespace), packet));
    return this.#tell(null);
  }

  #converse(exchange: Exchange, goOn: (exchange: Exchange, server: Extract<JourneyEnd, { kind: 'delivered' }>) => void): Told {
    this.#journeys.push(...exchange.journeys);
    const first = exchange.journeys[0]?.end;
    if (exchange.outcome.kind === 'connected' && first?.kind === 'delivered') {
      goOn(exchange, first);
    }
    return this.#tell(exchange);
  }

  /** A request, its answer, and closing from the client's side. */
  #finishTcp(exchange: Exchange, from: Extract<FlowOrigin, { kind: 'process' }>, server: Extract<JourneyEnd, { kind: 'delivered' }>): void {
    const { socket } = exchange;
    const { transport } = server.packet;
    const simulation = this.#simulation;
    if (socket === null || transport.kind !== 'tcp') {
      return;
    }
    this.#recorder.enter(0, 'data');
    const serverNamespace = namespaceOf(simulation, server.namespace);
    const request = sendData(simulation, this.#recorder, from.namespace, socket, MESSAGE_BYTES);
    this.#hooksPerMessage = request[0]?.hooks ?? 0;
    this.#journeys.push(...request);
    const ends = packetOf(server.packet);
    const accepted = simulation.stateOf(serverNamespace).sockets.connected(socket.protocol, { address: ends.destination, port: ends.destinationPort }, { address: ends.source, port: ends.sourcePort });
    if (accepted === undefined) {
      return;
    }
    this.#journeys.push(...sendData(simulation, this.#recorder, server.namespace, accepted, MESSAGE_BYTES));
    this.#journeys.push(...close(simulation, this.#recorder, from.namespace, socket));
    this.#journeys.push(...close(simulation, this.#recorder, server.namespace, accepted));
  }

  #answerUdp(server: Extract<JourneyEnd, { kind: 'delivered' }>): void {
    if (server.socket === null) {
      return;
    }
    this.#recorder.enter(0, 'data');
    this.#hooksPerMessage = this.#journeys[0]?.hooks ?? 0;
    this.#simulation.assumptions.add('The server answers the datagram from the address that it was sent to.');
    this.#journeys.push(...answerDatagram(this.#simulation, this.#recorder, server.namespace, server.packet, ownerOf(server.socket.info), MESSAGE_BYTES));
  }

  #tell(exchange: Exchange | null): Told {
    const outcome = this.#outcome(exchange);
    const [first] = this.#journeys;
    const isConnected = outcome.result === 'delivered';
    return { legs: first === undefined ? [] : [this.#leg(first, exchange, isConnected)], outcome, journeys: this.#journeys, isConnected, hooksPerMessage: this.#hooksPerMessage };
  }

  #outcome(exchange: Exchange | null): TraceOutcome {
    const failed = exchange?.outcome;
    const lastStep = Math.max(0, this.#recorder.steps.length - 1);
    if (failed?.kind === 'unknown') {
      return { result: 'depends', summary: `It depends on ${failed.dependsOn}.`, dependsOn: [failed.dependsOn] };
    }
    const step = this.#journeys.map(({ end }) => end).find((end) => end.kind !== 'delivered')?.step ?? lastStep;
    if (failed?.kind === 'failed') {
      return { result: 'refused', summary: `The process gets ${failed.errno}: ${failed.reason}.`, step };
    }
    for (const { end, sent } of this.#journeys) {
      const problem = describeEnd(end);
      if (problem !== null) {
        const which = end === this.#journeys[0]?.end ? '' : ` (the packet from ${sent.source} to ${sent.destination})`;
        return end.kind === 'unknown' || end.kind === 'left'
          ? { result: 'depends', summary: `It depends on ${problem}${which}.`, dependsOn: [problem] }
          : { result: 'refused', summary: `${capitalize(problem)}${which}.`, step: end.step ?? lastStep };
      }
    }
    const end = this.#journeys[0]?.end;
    const taker = end?.kind === 'delivered' ? this.#describe(end) : 'the kernel';
    return { result: 'delivered', summary: `${capitalize(taker)} takes what is sent.` };
  }

  #describe(end: Extract<JourneyEnd, { kind: 'delivered' }>): string {
    const namespace = namespaceOf(this.#simulation, end.namespace);
    return end.socket === null ? `the kernel of ${namespace.title}` : describeOwner(namespace, end.socket.info);
  }

  #leg(first: Journey, exchange: Exchange | null, isConnected: boolean): TraceLeg {
    const { end, sent } = first;
    const { from, destination, protocol } = this.#flow;
    const ends = endpointsOfDraft(sent);
    const delivered = end.kind === 'delivered' ? end : null;
    const server = delivered === null ? null : endpointsOfDraft(delivered.packet).destination;
    const uid = from.kind === 'process' ? from.uid : 0;
    return {
      index: 0,
      title: from.kind === 'process' ? `process → ${writeEndpoint(destination)}` : `${from.device} → ${writeEndpoint(destination)}`,
      client: { namespace: from.namespace, description: from.kind === 'process' ? `user ${uid}` : `outside of ${from.device}`, uid, address: ends.source },
      server: delivered === null || server === null ? null : { namespace: delivered.namespace, description: this.#describe(delivered), uid: delivered.socket?.info.uid ?? 0, address: server },
      requested: destination,
      originalDestination: delivered?.originalDestination ?? null,
      peerSeenByClient: isConnected && exchange !== null ? destination : null,
      data: isConnected && protocol === 'tcp' ? 'tcp' : 'none',
    };
  }
}

function checkFlow({ source, destination, protocol }: PacketFlow): void {
  const isIpv4 = !destination.address.includes(':');
  if (source.address !== null && source.address.includes(':') === isIpv4) {
    throw inputError('The source and the destination are of two families.', `The flow goes from ${source.address} to ${destination.address}.`, 'Give both as IPv4 or both as IPv6.');
  }
  if ((protocol === 'icmp' && !isIpv4) || (protocol === 'icmpv6' && isIpv4)) {
    throw inputError(`${protocol} does not go to ${destination.address}.`, 'icmp is for IPv4, icmpv6 for IPv6.', 'Give the protocol of the family of the addresses.');
  }
}

/** The first packet of a flow that comes from outside. */
function draftFor(flow: PacketFlow, macAddress: string | null): PacketDraft {
  const { source, destination, protocol } = flow;
  if (source.address === null) {
    throw inputError('A packet that arrives has a source address.', 'The flow has none.', 'Give the address that it comes from.');
  }
  const ports = { sourcePort: source.port ?? toPortNumber(40_000), destinationPort: destination.port };
  return {
    source: source.address, destination: destination.address, transport: transportFor(protocol, ports),
    ...(protocol === 'udp' ? { payload: MESSAGE_BYTES } : {}), ...(macAddress === null ? {} : { macSource: macAddress }),
  };
}

function transportFor(protocol: PacketFlow['protocol'], ports: { readonly sourcePort: PacketFlow['destination']['port']; readonly destinationPort: PacketFlow['destination']['port'] }): TransportDraft {
  switch (protocol) {
    case 'tcp':
      return { kind: 'tcp', ...ports, flags: ['SYN'], options: [2, 4, 8, 1, 3], mss: 1460 };
    case 'udp':
      return { kind: 'udp', ...ports };
    case 'icmp':
    case 'icmpv6':
      return { kind: 'icmp', type: protocol === 'icmp' ? 8 : 128, code: 0, identifier: ports.sourcePort };
    default:
      return { kind: 'other', protocol, ...ports };
  }
}

/** Why a packet did not get through; null where it did. */
function describeEnd(end: JourneyEnd): string | null {
  switch (end.kind) {
    case 'delivered':
      return null;
    case 'unknown':
      return end.dependsOn;
    case 'left':
      return `what is outside of this node: the packet leaves it by ${end.device}`;
    default:
      return end.reason;
  }
}

function endpointsOfDraft({ source, destination, transport }: PacketDraft): Pick<PacketFlow, 'destination'> & { readonly source: PacketFlow['destination'] } {
  const identifier = toPortNumber(transport.kind === 'icmp' ? (transport.identifier ?? 0) : 'sourcePort' in transport ? (transport.sourcePort ?? 0) : 0);
  const port = toPortNumber(transport.kind !== 'icmp' && 'destinationPort' in transport ? (transport.destinationPort ?? 0) : 0);
  return { source: { address: source, port: identifier }, destination: { address: destination, port } };
}

function capitalize(text: string): string {
  return `${text.charAt(0).toUpperCase()}${text.slice(1)}`;
}
