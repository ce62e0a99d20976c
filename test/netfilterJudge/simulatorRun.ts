import { isIpv4, toIpAddress } from '../../agent/protocol/ipAddress.ts';
import type { NamespaceId, PortNumber, Uint64Text } from '../../agent/protocol/scalars.ts';
import type { NetworkLink, NetworkNamespace, Route, RoutingRule, Snapshot, SocketInfo } from '../../agent/protocol/snapshot.ts';
import { SNAPSHOT_FORMAT, SNAPSHOT_VERSION } from '../../agent/protocol/snapshot.ts';
import type { Hook, RulePlace, TraceStep } from '../../agent/protocol/trace.ts';
import type { PacketDraft } from '../../simulator/netfilter/packetDraft.ts';
import type { Connection } from '../../simulator/world/conntrack.ts';
import type { Journey } from '../../simulator/world/journey.ts';
import type { Exchange } from '../../simulator/world/network.ts';
import { arrive, send } from '../../simulator/world/network.ts';
import { Simulation } from '../../simulator/world/simulation.ts';
import { TraceRecorder } from '../../simulator/world/traceRecorder.ts';
import type { Tuple } from '../../simulator/world/tuple.ts';
import type { World } from '../../simulator/world/world.ts';
import { buildWorld } from '../../simulator/world/world.ts';
import type { TupleText } from './connectionTable.ts';
import { writeConnection } from './connectionTable.ts';
import type { ConnectionEntry, JudgeCase, JudgeLink, JudgeNamespace, JudgeWorld, Observation, Passage, Prediction, Stimulus, Visit } from './judgeCase.ts';
import { writeEnds, writePacket } from './packetBytes.ts';
import { runConnect, runDatagram } from './simulatorClients.ts';

/** Asks the simulator for what the kernel is asked, and writes its answer in the same words. */

const LOCAL_TABLE = 255;
const MAIN_TABLE = 254;
const PROTOCOLS: Readonly<Record<number, string>> = { 6: 'tcp', 17: 'udp', 1: 'icmp', 58: 'icmp' };

/** Gives a prediction for each stimulus of a case. `world` is made of the snapshot of the case, where it is not given. */
export function predictCase(judged: JudgeCase, world = buildWorld(makeSnapshot(judged))): readonly Prediction[] {
  const simulation = new Simulation(world);
  return judged.stimuli.map((stimulus) => predictStimulus(judged.world, world, simulation, stimulus));
}

function predictStimulus(judgeWorld: JudgeWorld, world: World, simulation: Simulation, stimulus: Stimulus): Prediction {
  const recorder = new TraceRecorder();
  recorder.enter(0, 'packet');
  const namespace = namespaceId(judgeWorld, stimulus.namespace);
  const forgetSockets = (): void => {
    for (const one of world.namespaces.values()) {
      simulation.stateOf(one).sockets.forgetOpened(stimulus.kind !== 'connect');
    }
  };
  forgetSockets();
  const { journeys, opening, outcome, after = '' } = applyStimulus(simulation, recorder, namespace, stimulus);
  const unknown = journeys.find((journey) => journey.end.kind === 'unknown');
  if (unknown?.end.kind === 'unknown') {
    return { kind: 'unknown', dependsOn: unknown.end.dependsOn };
  }
  // A rule that makes no difference to where the packet goes still makes one to what is visited.
  const unclear = recorder.steps.flatMap(({ conditions }) => conditions).find(({ result }) => result === 'unknown');
  if (unclear !== undefined) {
    return { kind: 'unknown', dependsOn: `${unclear.what} ${unclear.wanted}` };
  }
  if (outcome?.kind === 'unknown') {
    return { kind: 'unknown', dependsOn: outcome.dependsOn };
  }
  const nameOf = (id: NamespaceId): string => judgeWorld.namespaces[Number(id) - 1]?.name ?? id;
  // The driver closes every socket without a packet once it was looked at, and half-open ones before and after each connect(2).
  forgetSockets();
  const observation: Observation = {
    passages: journeys.flatMap((journey) => joinPassages(judgeWorld, nameOf, journey, recorder.steps, stimulus)),
    received: describeReceived(nameOf, opening ?? journeys, stimulus),
    call: describeCall(stimulus, journeys, outcome, after),
    connections: describeConnections(judgeWorld, world, simulation),
  };
  return { kind: 'known', observation };
}

function applyStimulus(simulation: Simulation, recorder: TraceRecorder, namespace: NamespaceId, stimulus: Stimulus): { readonly journeys: readonly Journey[]; readonly opening?: readonly Journey[]; readonly outcome: Exchange['outcome'] | null; readonly after?: string } {
  switch (stimulus.kind) {
    case 'arrive':
      return { journeys: arrive(simulation, recorder, namespace, stimulus.device, { ...stimulus.packet, checksum: 'unverified' }), outcome: null };
    case 'send':
      return { journeys: send(simulation, recorder, { namespace, owner: stimulus.user, mark: stimulus.mark }, { ...stimulus.packet, checksum: 'unverified' }), outcome: null };
    case 'connect':
      return runConnect(simulation, recorder, namespace, stimulus);
    case 'datagram':
      return runDatagram(simulation, recorder, namespace, stimulus);
  }
}

/** A journey is cut where the packet leaves by a device: each part is one namespace's. */
function joinPassages(world: JudgeWorld, nameOf: (id: NamespaceId) => string, journey: Journey, steps: readonly TraceStep[], stimulus: Stimulus): readonly Passage[] {
  const own = steps.filter((step): step is TraceStep & { readonly place: RulePlace } => step.packet === journey.packet && step.place.kind === 'rule');
  const first = journey.transmissions[0]?.namespace ?? ('namespace' in journey.end ? journey.end.namespace : own[0]?.place.namespace);
  if (first === undefined) {
    return [];
  }
  if (journey.end.kind === 'unreachable' && journey.transmissions.length === 0 && own.length === 0 && (journey.cause !== null || stimulus.kind !== 'arrive')) {
    // There is no way: the packet was never made.
    return [];
  }
  if (journey.cause === null && stimulus.kind === 'arrive' && isRefusedByDevice(journey.sent)) {
    return [];
  }
  const arrives = journey.cause === null && stimulus.kind === 'arrive';
  const hasPorts = journey.sent.transport.kind === 'tcp' || journey.sent.transport.kind === 'udp';
  const family = isIpv4(journey.sent.source) ? 'ipv4' : 'ipv6';
  const passages: { namespace: string; family: Passage['family']; start: Passage['start']; visits: Visit[]; end: Passage['end'] }[] = [
    { namespace: nameOf(first), family, start: { hook: arrives ? 'PREROUTING' : 'OUTPUT', packet: writePacket(journey.sent), device: arrives ? stimulus.device : '' }, visits: [], end: null },
  ];
  for (const [index, { namespace, device, packet }] of journey.transmissions.entries()) {
    const passage = passages[index];
    if (passage === undefined) {
      break;
    }
    passage.end = { hook: 'POSTROUTING', packet: writePacket(packet), device };
    const next = device === 'lo' ? { namespace: nameOf(namespace), name: 'lo' } : findLink(world, nameOf(namespace), device)?.peer;
    if (next !== undefined && !(next.name !== 'lo' && isRefusedByDevice(packet))) {
      passages.push({ namespace: next.namespace, family, start: { hook: 'PREROUTING', packet: writePacket(packet), device: next.name }, visits: [], end: null });
    }
  }
  const last = passages.at(-1);
  if (last !== undefined && (journey.end.kind === 'delivered' || journey.end.kind === 'unclaimed')) {
    last.end = { hook: 'INPUT', packet: writePacket(journey.end.packet), device: last.start.device };
  }
  const refused = last === undefined ? null : whatConntrackRefused(journey, steps);
  if (last !== undefined && refused !== null) {
    last.end = refused;
  }
  if (journey.end.kind === 'left') {
    passages.pop();
  }
  let part = 0;
  let latest: Hook | null = null;
  for (const step of own) {
    while (part < passages.length && !isWithin(passages[part], nameOf(step.place.namespace), step.place.hook, latest)) {
      part += 1;
      latest = null;
    }
    latest = step.place.hook;
    if (step.conditions.every(({ result }) => result === 'matched')) {
      passages[part]?.visits.push(describeVisit(step, hasPorts));
    }
  }
  return passages;
}

/** The kernel's passage ends before conntrack puts the connection into its table: a packet that is dropped there has come as far. */
function whatConntrackRefused({ end }: Journey, steps: readonly TraceStep[]): Passage['end'] {
  const step = end.kind === 'dropped' && end.step !== null ? steps[end.step] : undefined;
  if (end.kind !== 'dropped' || end.refused === undefined || step?.place.kind !== 'conntrack' || (step.place.hook !== 'POSTROUTING' && step.place.hook !== 'INPUT')) {
    return null;
  }
  const { hook } = step.place;
  return { hook, packet: writePacket(end.refused), device: (hook === 'INPUT' ? step.before.inInterface : step.before.outInterface) ?? '' };
}

/** Loopback and multicast addresses where they must not be never get as far as netfilter (net/ipv6/ip6_input.c, ip6_rcv_core). */
function isRefusedByDevice({ source, destination }: PacketDraft): boolean {
  return source === '::1' || destination === '::1' || source.startsWith('ff') || /^ff.[01]:/.test(destination);
}

function isWithin(passage: Passage | undefined, namespace: string, hook: Hook, latest: Hook | null): boolean {
  if (passage?.namespace !== namespace) {
    return false;
  }
  return passage.start.hook === 'OUTPUT'
    ? hook === 'OUTPUT' || hook === 'POSTROUTING'
    : hook !== 'OUTPUT' && !(hook === 'PREROUTING' && latest !== null && latest !== 'PREROUTING');
}

function describeVisit({ place, before, after }: TraceStep & { readonly place: RulePlace }, hasPorts: boolean): Visit {
  const { source, destination } = before;
  return {
    table: place.table,
    chain: place.chain,
    rule: place.rule ?? 'policy',
    markBefore: before.mark,
    markAfter: after.mark,
    ends: hasPorts ? `${source.address}:${source.port} > ${destination.address}:${destination.port}` : `${source.address} > ${destination.address}`,
  };
}

function describeReceived(nameOf: (id: NamespaceId) => string, journeys: readonly Journey[], stimulus: Stimulus): readonly string[] {
  const isAccepted = (namespace: NamespaceId, packet: string): boolean =>
    stimulus.kind === 'connect' &&
    journeys.some(({ sent, end }) => sent.transport.kind === 'tcp' && !sent.transport.flags.includes('SYN') && !sent.transport.flags.includes('RST') && end.kind === 'delivered' && end.socket?.opened === true && end.namespace === namespace && writeEnds(end.packet) === packet);
  return journeys.flatMap(({ sent, end }) => {
    if (end.kind !== 'delivered' || end.socket === null) {
      return [];
    }
    const { info } = end.socket;
    const { packet, originalDestination } = end;
    const local = `${nameOf(end.namespace)} ${info.protocol} ${info.local.address}:${info.local.port}`;
    const { transport } = packet;
    if (transport.kind === 'udp') {
      // What comes back to the client is told by its call.
      return end.socket.opened ? [] : [`${local} from ${packet.source}:${transport.sourcePort}`];
    }
    // Asked once the connection is there: its last ACK may be what conntrack saw of it first.
    const asked = journeys.findLast((journey) => journey.end.kind === 'delivered' && journey.end.namespace === end.namespace && writeEnds(journey.end.packet) === writeEnds(packet));
    const original = asked?.end.kind === 'delivered' ? asked.end.originalDestination : originalDestination;
    const opens = transport.kind === 'tcp' && sent.transport.kind === 'tcp' && sent.transport.flags.includes('SYN') && !sent.transport.flags.includes('ACK');
    return opens && isAccepted(end.namespace, writeEnds(packet))
      ? [`${local} from ${packet.source}:${transport.sourcePort} original ${original === null ? 'none' : `${original.address}:${original.port}`}`]
      : [];
  });
}

function describeCall(stimulus: Stimulus, journeys: readonly Journey[], outcome: Exchange['outcome'] | null, after: string): string | null {
  if (stimulus.kind === 'arrive') {
    return null;
  }
  if (outcome !== null && (stimulus.kind === 'connect' || outcome.kind === 'failed')) {
    return outcome.kind === 'connected' ? 'ok' : outcome.kind === 'failed' && outcome.errno !== 'ETIMEDOUT' ? outcome.errno : 'waits';
  }
  const [first] = journeys;
  // ping_v6_sendmsg does not look at what sending came to (net/ipv6/ping.c).
  const isPing6 = stimulus.kind === 'datagram' && stimulus.protocol === 'icmp' && !isIpv4(stimulus.destination.address);
  if (first === undefined || first.transmissions.length > 0 || (isPing6 && first.end.kind !== 'unreachable')) {
    return `ok${after}`;
  }
  // net/netfilter/core.c, nf_hook_slow: what is dropped on the way out fails with EPERM for who sends it.
  return first.end.kind === 'dropped' ? `${first.end.errno ?? 'EPERM'}${after}` : first.end.kind === 'rejected' ? `EPERM${after}` : first.end.kind === 'unreachable' ? first.end.errno : `ok${after}`;
}

function describeConnections(judgeWorld: JudgeWorld, world: World, simulation: Simulation): readonly ConnectionEntry[] {
  return judgeWorld.namespaces.flatMap(({ name }) => {
    const namespace = world.namespaces.get(namespaceId(judgeWorld, name));
    return namespace === undefined ? [] : simulation.trackerOf(namespace).entries().map((connection) => ({ namespace: name, text: describeConnection(connection) }));
  });
}

function describeConnection(connection: Connection): string {
  const { original, reply, mark, zone, seenReply, assured, tcpState } = connection;
  return writeConnection({ protocol: PROTOCOLS[original.protocol] ?? String(original.protocol), original: describeTuple(original), reply: describeTuple(reply), mark, zone, seenReply, assured, state: tcpState });
}

function describeTuple({ protocol, source, sourcePort, destination, destinationPort }: Tuple): TupleText {
  const isIcmp = protocol === 1 || protocol === 58;
  return { source: `${source.text}:${sourcePort}`, destination: `${destination.text}:${isIcmp ? `${destinationPort >> 8}/${destinationPort & 255}` : destinationPort}` };
}

/** Makes the snapshot that a node with this world and these rules would give. */
export function makeSnapshot({ backend, world, rules }: Pick<JudgeCase, 'backend' | 'world' | 'rules'>): Snapshot {
  return {
    format: SNAPSHOT_FORMAT,
    formatVersion: SNAPSHOT_VERSION,
    takenAt: '2026-01-01T00:00:00.000Z',
    node: { hostname: 'judge', kernelRelease: '', machine: '', kind: 'linux' },
    namespaces: world.namespaces.map((description) => describeNamespace(world, description, backend, rules)),
    pods: [],
    cgroups: [],
    bpf: { programs: [], maps: [], links: [], contents: [] },
    accelerations: [],
    omissions: [],
  };
}

function describeNamespace(world: JudgeWorld, description: JudgeNamespace, backend: JudgeCase['backend'], rules: JudgeCase['rules']): NetworkNamespace {
  const own = rules.find(({ namespace }) => namespace === description.name);
  return {
    id: namespaceId(world, description.name),
    names: [description.name],
    links: [loopback(), ...description.links.map((link, index) => describeLink(world, link, index + 2))],
    routes: describeRoutes(description),
    routingRules: describeRoutingRules(description),
    sysctls: description.sysctls,
    ruleSets: (['ipv4', 'ipv6'] as const).map((family) => ({ family, backend, text: own?.[family] ?? '' })),
    conntrack: [],
    ...(description.ipSets === undefined ? {} : { ipSets: description.ipSets }),
    sockets: description.sockets.map((socket, index): SocketInfo => ({
      protocol: socket.protocol,
      state: socket.protocol === 'tcp' ? 'listen' : 'other',
      local: { address: socket.address, port: socket.port },
      remote: { address: toIpAddress(isIpv4(socket.address) ? '0.0.0.0' : '::'), port: 0 as PortNumber },
      dualStack: false,
      transparent: socket.transparent,
      uid: socket.uid,
      inode: String(index + 1) as Uint64Text,
      cookie: null,
      owner: { pid: index + 1, command: 'judge', cgroup: null, gid: socket.gid },
    })),
  };
}

function loopback(): NetworkLink {
  return {
    index: 1, name: 'lo', kind: 'loopback', up: true, mtu: 65_536, macAddress: '00:00:00:00:00:00', master: null, peer: null,
    addresses: [{ address: toIpAddress('127.0.0.1'), prefixLength: 8, scope: 'host' }, { address: toIpAddress('::1'), prefixLength: 128, scope: 'host' }],
  };
}

function describeLink(world: JudgeWorld, { name, macAddress, peer, addresses }: JudgeLink, index: number): NetworkLink {
  const peerIndex = (world.namespaces.find((entry) => entry.name === peer.namespace)?.links.findIndex((link) => link.name === peer.name) ?? 0) + 2;
  return {
    index, name, kind: 'veth', up: true, mtu: 1500, macAddress, master: null,
    peer: { namespace: namespaceId(world, peer.namespace), index: peerIndex },
    addresses: addresses.map((entry) => ({ ...entry, scope: 'global' })), groups: [],
  };
}

/** The routes that each address brings (net/ipv4/fib_frontend.c, fib_add_ifaddr; net/ipv6/addrconf.c) and those of the description. */
function describeRoutes({ links, routes }: JudgeNamespace): readonly Route[] {
  const derived = links.flatMap(({ name, addresses }) => addresses.flatMap(({ address, prefixLength }): readonly Route[] => {
    const isV4 = isIpv4(address);
    const family = isV4 ? 'ipv4' : 'ipv6';
    if (prefixLength === 32) {
      return [{ family, type: 'local', destination: { address, prefixLength }, gateway: null, device: name, preferredSource: address, table: LOCAL_TABLE, metric: 0, scope: 'host' }];
    }
    const primary = addresses.find((entry) => entry.prefixLength === prefixLength && isIpv4(entry.address) === isV4 && networkOf(entry.address) === networkOf(address))?.address ?? address;
    const isPrimary = primary === address;
    const local: Route = { family, type: 'local', destination: { address, prefixLength: isV4 ? 32 : 128 }, gateway: null, device: name, preferredSource: primary, table: LOCAL_TABLE, metric: 0, scope: 'host' };
    if (!isPrimary) {
      return [local];
    }
    const network = toIpAddress(isV4 ? `${networkOf(address)}.0` : `${networkOf(address)}::`);
    const connected: Route = { family, type: 'unicast', destination: { address: network, prefixLength }, gateway: null, device: name, preferredSource: isV4 ? address : null, table: MAIN_TABLE, metric: isV4 ? 0 : 256, scope: 'link' };
    const broadcast: Route = { family, type: 'broadcast', destination: { address: toIpAddress(isV4 ? `${networkOf(address)}.255` : '::'), prefixLength: 32 }, gateway: null, device: name, preferredSource: address, table: LOCAL_TABLE, metric: 0, scope: 'link' };
    return isV4 ? [local, connected, broadcast] : [local, connected];
  }));
  const multicast = links.map(({ name }): Route => ({
    family: 'ipv6', type: 'multicast', destination: { address: toIpAddress('ff00::'), prefixLength: 8 }, gateway: null, device: name, preferredSource: null, table: LOCAL_TABLE, metric: 256, scope: 'global',
  }));
  const lo: readonly Route[] = [
    { family: 'ipv4', type: 'local', destination: { address: toIpAddress('127.0.0.0'), prefixLength: 8 }, gateway: null, device: 'lo', preferredSource: toIpAddress('127.0.0.1'), table: LOCAL_TABLE, metric: 0, scope: 'host' },
    { family: 'ipv4', type: 'local', destination: { address: toIpAddress('127.0.0.1'), prefixLength: 32 }, gateway: null, device: 'lo', preferredSource: toIpAddress('127.0.0.1'), table: LOCAL_TABLE, metric: 0, scope: 'host' },
    { family: 'ipv4', type: 'broadcast', destination: { address: toIpAddress('127.255.255.255'), prefixLength: 32 }, gateway: null, device: 'lo', preferredSource: toIpAddress('127.0.0.1'), table: LOCAL_TABLE, metric: 0, scope: 'link' },
    { family: 'ipv6', type: 'local', destination: { address: toIpAddress('::1'), prefixLength: 128 }, gateway: null, device: 'lo', preferredSource: null, table: LOCAL_TABLE, metric: 0, scope: 'global' },
  ];
  const own = routes.map(({ type, destination, gateway, device, table }): Route => ({
    family: isIpv4(destination.address) ? 'ipv4' : 'ipv6', type, destination, gateway, device, preferredSource: null, table, metric: isIpv4(destination.address) ? 0 : 1024, scope: 'global',
  }));
  return [...lo, ...derived, ...multicast, ...own];
}

/** The worlds have /24 and /64 networks only, and single addresses. */
function networkOf(address: string): string {
  return isIpv4(toIpAddress(address)) ? address.split('.').slice(0, 3).join('.') : (address.split('::')[0] ?? '');
}

function describeRoutingRules({ routingRules }: JudgeNamespace): readonly RoutingRule[] {
  const lookup = (family: 'ipv4' | 'ipv6', priority: number, table: number): RoutingRule => ({ family, priority, source: null, destination: null, mark: null, inInterface: null, outInterface: null, table, action: 'lookup' });
  const standing = [lookup('ipv4', 0, LOCAL_TABLE), lookup('ipv4', 32_766, MAIN_TABLE), lookup('ipv4', 32_767, 253), lookup('ipv6', 0, LOCAL_TABLE), lookup('ipv6', 32_766, MAIN_TABLE)];
  const own = routingRules.map(({ family, priority, mark, source, inInterface, table }): RoutingRule => ({ family, priority, source, destination: null, mark, inInterface, outInterface: null, table, action: 'lookup' }));
  return [...standing, ...own].toSorted((left, right) => left.priority - right.priority);
}

function findLink(world: JudgeWorld, namespace: string, device: string): JudgeLink | undefined {
  return world.namespaces.find(({ name }) => name === namespace)?.links.find(({ name }) => name === device);
}

export function namespaceId(world: JudgeWorld, name: string): NamespaceId {
  return String(world.namespaces.findIndex((namespace) => namespace.name === name) + 1) as NamespaceId;
}
