import type { NetworkLink } from '../../agent/protocol/snapshot.ts';
import type { Decision, Hook } from '../../agent/protocol/trace.ts';
import type { Address } from '../netfilter/address.ts';
import { isMany } from '../netfilter/address.ts';
import { draftOf } from '../netfilter/packet.ts';
import { PROTOCOL } from '../netfilter/protocolNumbers.ts';
import type { Answer } from './answers.ts';
import { ICMP_ERRORS, icmpError, isIpv6LinkLocal, isIpv6Loopback, rejectAnswer } from './answers.ts';
import { isInGroup } from './groups.ts';
import type { HookContext, PacketVerdict, WorldPacket } from './hooks.ts';
import { isHookUsed, runHook } from './hooks.ts';
import type { JourneyEnd, SocketView, Transmission } from './journey.ts';
import { deliverLocally, originalDestination, whatFollows } from './localDelivery.ts';
import { NamespaceEnvironment } from './namespaceEnvironment.ts';
import type { Neighbour } from './neighbours.ts';
import { findNeighbour } from './neighbours.ts';
import type { RouteDecision } from './routing.ts';
import { familyOf, findRoute, findStrictRoute, writeRoute } from './routing.ts';
import type { Simulation } from './simulation.ts';
import type { FoundSocket } from './sockets.ts';
import { describeOwner, hasConnections } from './sockets.ts';
import type { TraceRecorder } from './traceRecorder.ts';
import type { WorldNamespace } from './world.ts';
import { findLink, readSysctl } from './world.ts';

/** More forwarding than this is a circle: what a packet's TTL ends long before. */
const MAX_HOPS = 256;

/** A packet that a namespace sends because of another. */
export interface Emission extends Answer {
  readonly namespace: WorldNamespace;
}

/** What came of one packet. */
export interface WayResult {
  readonly end: JourneyEnd;
  readonly transmissions: readonly Transmission[];
  readonly emissions: readonly Emission[];
  /** Netfilter hooks that it met. */
  readonly hooks: number;
}

/** The way of one packet through the world: OUTPUT, POSTROUTING, over devices, PREROUTING, routing, FORWARD or INPUT, until it is handed to sockets or lost. */
export class PacketWay {
  readonly #simulation: Simulation;
  readonly #recorder: TraceRecorder | null;
  readonly #packet: WorldPacket;
  readonly #transmissions: Transmission[] = [];
  readonly #emissions: Emission[] = [];
  #hooks = 0;
  #environment: NamespaceEnvironment | null = null;

  constructor(simulation: Simulation, recorder: TraceRecorder | null, packet: WorldPacket) {
    this.#simulation = simulation;
    this.#recorder = recorder;
    this.#packet = packet;
  }

  /** Sends the packet from a namespace by a way that its sender has looked up. */
  send(namespace: WorldNamespace, route: RouteDecision): WayResult {
    if (route.kind === 'refuse') {
      return this.#result({ kind: 'unreachable', namespace: namespace.id, errno: route.errno, reason: route.reason, step: this.#routing(namespace, null, { kind: 'refuse', errno: route.errno }, `There is no way: ${route.reason}.`) });
    }
    if (route.kind === 'unknown') {
      return this.#result(this.#unknownRoute(namespace, route.dependsOn));
    }
    const context = this.#context(namespace, route);
    this.#packet.outInterface = route.kind === 'local' ? 'lo' : route.device;
    this.#packet.routeType = route.route.type;
    return this.#result(this.#run(context, 'OUTPUT') ?? this.#leave(context, MAX_HOPS));
  }

  /** Lets the packet arrive at a device. */
  arrive(namespace: WorldNamespace, link: NetworkLink): WayResult {
    return this.#result(this.#receive(namespace, link, MAX_HOPS));
  }

  #result(end: JourneyEnd): WayResult {
    return { end, transmissions: this.#transmissions, emissions: this.#emissions, hooks: this.#hooks };
  }

  #context(namespace: WorldNamespace, route: RouteDecision | null): HookContext {
    const simulation = this.#simulation;
    for (const assumption of namespace.assumptions) {
      simulation.assumptions.add(assumption);
    }
    if (this.#environment?.namespace !== namespace) {
      this.#environment = new NamespaceEnvironment(simulation, namespace);
    }
    return {
      simulation, namespace, rules: familyOf(namespace, this.#packet.source), state: simulation.stateOf(namespace),
      environment: this.#environment, recorder: this.#recorder, route,
    };
  }

  #run(context: HookContext, hook: Hook): JourneyEnd | null {
    if (!isHookUsed(context.rules, hook)) {
      return null;
    }
    if (this.#packet.hidesTransport) {
      return this.#unknownRoute(context.namespace, whatFollows(this.#packet));
    }
    this.#hooks += 1;
    const verdict = runHook(context, hook, this.#packet);
    return verdict.kind === 'accept' ? null : this.#stop(context, verdict);
  }

  #stop(context: HookContext, verdict: Exclude<PacketVerdict, { kind: 'accept' }>): JourneyEnd {
    const namespace = context.namespace.id;
    switch (verdict.kind) {
      case 'drop':
        return { kind: 'dropped', namespace, reason: verdict.reason, step: verdict.step, ...(verdict.errno === undefined ? {} : { errno: verdict.errno }), ...(verdict.isRefused === true ? { refused: draftOf(this.#packet) } : {}) };
      case 'unknown':
        return { kind: 'unknown', dependsOn: verdict.dependsOn, step: verdict.step };
      case 'reject': {
        const answer = rejectAnswer(context.namespace, this.#packet, verdict.with, verdict.hook === 'INPUT' || context.route?.kind === 'local');
        if (answer === undefined) {
          return { kind: 'unknown', dependsOn: `the answer of REJECT ${verdict.with}`, step: verdict.step };
        }
        this.#emit(context.namespace, answer);
        return { kind: 'rejected', namespace, with: verdict.with, reason: verdict.reason, step: verdict.step };
      }
    }
  }

  #emit(namespace: WorldNamespace, answer: Answer | null): void {
    if (answer !== null) {
      this.#emissions.push({ namespace, ...answer });
    }
  }

  #emitError(namespace: WorldNamespace, kind: keyof typeof ICMP_ERRORS): void {
    this.#emit(namespace, icmpError(namespace, this.#packet, ICMP_ERRORS[kind][this.#packet.isIpv4 ? 'ipv4' : 'ipv6'], null));
  }

  /** POSTROUTING and the device. */
  #leave(context: HookContext, hopsLeft: number): JourneyEnd {
    const { namespace, route } = context;
    const packet = this.#packet;
    if (route === null || route.kind === 'refuse' || route.kind === 'unknown') {
      throw new RangeError('a packet leaves only by a route');
    }
    const device = route.kind === 'local' ? 'lo' : route.device;
    packet.outInterface = device;
    packet.routeType = route.route.type;
    // net/ipv4/route.c, __mkroute_output (rt_iif); net/ipv6/ip6_input.c, ip6_rcv_core.
    packet.socketDevice = route.kind === 'local' ? route.route.device : null;
    const stopped = this.#run(context, 'POSTROUTING');
    if (stopped !== null) {
      return stopped;
    }
    if (this.#recorder !== null) {
      this.#transmissions.push({ namespace: namespace.id, device, packet: draftOf(packet) });
    }
    if (route.kind === 'many') {
      const dependsOn = `who takes what is sent to ${packet.destination.text}, which stands for many`;
      return { kind: 'unknown', step: this.#device(namespace, device, { kind: 'unknown', dependsOn }, `It is not modelled ${dependsOn}.`), dependsOn };
    }
    const neighbour = findNeighbour(this.#simulation.world, namespace, device, route.kind === 'local' ? packet.destination : route.nextHop);
    return this.#meet(namespace, device, neighbour, hopsLeft);
  }

  #meet(namespace: WorldNamespace, device: string, neighbour: Neighbour, hopsLeft: number): JourneyEnd {
    switch (neighbour.kind) {
      case 'unknown':
        return { kind: 'unknown', step: this.#device(namespace, device, { kind: 'unknown', dependsOn: neighbour.dependsOn }, `It is not known ${neighbour.dependsOn}.`), dependsOn: neighbour.dependsOn };
      case 'nobody': {
        this.#emitError(namespace, 'hostUnreachable');
        const step = this.#device(namespace, device, { kind: 'refuse', errno: 'EHOSTUNREACH' }, `Nobody answers for the next hop: ${neighbour.reason}.`);
        return { kind: 'unreachable', namespace: namespace.id, step, errno: 'EHOSTUNREACH', reason: neighbour.reason };
      }
      case 'leaves': {
        const reason = `it leaves the node by ${neighbour.device} of ${neighbour.namespace.title}`;
        const step = this.#device(namespace, device, { kind: 'route', device: neighbour.device, local: false }, `The packet goes on outside of this node: ${reason}.`);
        return { kind: 'left', namespace: neighbour.namespace.id, device: neighbour.device, packet: draftOf(this.#packet), step };
      }
      case 'arrives':
        break;
    }
    if (neighbour.assumption !== null) {
      this.#simulation.assumptions.add(neighbour.assumption);
    }
    return neighbour.link.kind === 'loopback' ? this.#loopBack(namespace, neighbour.link) : this.#cross(namespace, device, neighbour, hopsLeft);
  }

  /** lo gives the packet back with its connection, its mark and its route; only the socket is forgotten (drivers/net/loopback.c). */
  #loopBack(namespace: WorldNamespace, link: NetworkLink): JourneyEnd {
    const packet = this.#packet;
    this.#device(namespace, link.name, { kind: 'route', device: link.name, local: true }, `${link.name} hands the packet back to the same namespace: it goes up the stack again.`);
    packet.socket = null;
    packet.inInterface = link.name;
    packet.outInterface = null;
    packet.macSource = '00:00:00:00:00:00';
    const context = this.#context(namespace, null);
    const before = packet.destination;
    const stopped = this.#run(context, 'PREROUTING');
    if (stopped !== null) {
      return stopped;
    }
    // The route of the sender is dropped with the old destination (net/netfilter/nf_nat_proto.c, nf_nat_ipv4_pre_routing).
    return packet.destination.equals(before) ? this.#deliver(context) : this.#routeIn(context, link, MAX_HOPS);
  }

  /** A veth pair: another namespace forgets connection, mark and socket (net/core/skbuff.c, skb_scrub_packet). */
  #cross(from: WorldNamespace, device: string, to: Extract<Neighbour, { kind: 'arrives' }>, hopsLeft: number): JourneyEnd {
    const packet = this.#packet;
    if (this.#recorder !== null) {
      const over = to.bridge === null ? '' : ` over the bridge ${to.bridge.link.name} of ${to.bridge.namespace.title}`;
      this.#device(from, device, { kind: 'route', device, local: false }, `The packet leaves ${from.title} by ${device} and arrives${over} at ${to.link.name} of ${to.namespace.title}.`);
    }
    this.#forget(from !== to.namespace);
    packet.macSource = findLink(from, device)?.macAddress ?? null;
    packet.outInterface = null;
    if (to.bridge !== null) {
      const stopped = this.#crossBridge(to.bridge.namespace, to.bridge.link);
      if (stopped !== null) {
        return stopped;
      }
    }
    return this.#receive(to.namespace, to.link, hopsLeft - 1);
  }

  #forget(otherNamespace: boolean): void {
    const packet = this.#packet;
    packet.tracking = null;
    packet.untracked = false;
    packet.isAttached = false;
    packet.trackingDone = false;
    packet.zoneRule = null;
    packet.socket = null;
    packet.assigned = null;
    if (otherNamespace) {
      packet.mark = 0;
    }
  }

  /** With br_netfilter, what a bridge passes from port to port meets iptables of its namespace (net/bridge/br_netfilter_hooks.c). */
  #crossBridge(namespace: WorldNamespace, bridge: NetworkLink): JourneyEnd | null {
    const packet = this.#packet;
    if (readSysctl(namespace, `net.bridge.bridge-nf-call-${packet.isIpv4 ? 'iptables' : 'ip6tables'}`) !== 1) {
      return null;
    }
    const context = this.#context(namespace, null);
    const before = packet.destination;
    packet.isBridged = true;
    for (const [hook, inInterface, outInterface] of [
      ['PREROUTING', bridge.name, null],
      ['FORWARD', bridge.name, bridge.name],
      ['POSTROUTING', null, bridge.name],
    ] as const) {
      packet.inInterface = inInterface;
      packet.outInterface = outInterface;
      const stopped = this.#run(context, hook);
      if (stopped !== null) {
        return stopped;
      }
      if (!packet.destination.equals(before)) {
        const dependsOn = `where ${bridge.name} of ${namespace.title} sends a packet whose destination was changed while it was bridged`;
        return { kind: 'unknown', step: this.#device(namespace, bridge.name, { kind: 'unknown', dependsOn }, `It is not modelled ${dependsOn}.`), dependsOn };
      }
    }
    packet.isBridged = false;
    this.#forget(true);
    packet.outInterface = null;
    return null;
  }

  /** net/ipv4/ip_input.c, ip_rcv; net/ipv6/ip6_input.c, ip6_rcv_core. */
  #receive(namespace: WorldNamespace, link: NetworkLink, hopsLeft: number): JourneyEnd {
    const packet = this.#packet;
    packet.inInterface = link.name;
    packet.socketDevice = link.name;
    packet.outInterface = null;
    const context = this.#context(namespace, null);
    packet.packetType = packetTypeOf(context, packet.destination, link.name);
    packet.routeType = 'local';
    if (!link.up) {
      return { kind: 'dropped', namespace: namespace.id, reason: `the device ${link.name} is down`, step: this.#device(namespace, link.name, { kind: 'verdict', verdict: 'DROP' }, `The packet is dropped: ${link.name} is down.`) };
    }
    if (!packet.isIpv4) {
      const loopback = [packet.source, packet.destination].find(isIpv6Loopback);
      if (loopback !== undefined && link.kind !== 'loopback') {
        return this.#martian(namespace, `${loopback.text} must not come from outside`);
      }
      if (isMany(packet.source)) {
        return this.#martian(namespace, `its source ${packet.source.text} is multicast`);
      }
      const scope = isMany(packet.destination) ? (packet.destination.w0 >>> 16) & 15 : null;
      if (scope === 0 || (scope === 1 && link.kind !== 'loopback')) {
        return this.#martian(namespace, `what is sent to ${packet.destination.text} must not come over a wire (RFC 4291, 2.7)`);
      }
    }
    return this.#run(context, 'PREROUTING') ?? this.#routeIn(context, link, hopsLeft);
  }

  /** The routing decision for a packet that came in: to sockets here, or on (net/ipv4/route.c, ip_route_input_slow; net/ipv6/route.c, ip6_route_input). */
  #routeIn(context: HookContext, link: NetworkLink, hopsLeft: number): JourneyEnd {
    const { namespace } = context;
    const packet = this.#packet;
    if (isMany(packet.destination)) {
      return this.#takeForMany(context, link);
    }
    const stopped = packet.isIpv4 ? this.#checkAddresses(namespace, link) : null;
    if (stopped !== null) {
      return stopped;
    }
    this.#demultiplexEarly(context);
    // Packets to ::1 and to link-local addresses take only routes of the device that they came by (net/ipv6/route.c, rt6_need_strict).
    const route: RouteDecision = (isIpv6Loopback(packet.destination) || isIpv6LinkLocal(packet.destination)) && link.kind !== 'loopback'
      ? findStrictRoute(namespace, { destination: packet.destination, source: packet.source, mark: packet.mark, inInterface: link.name }, link.name)
      : findRoute(namespace, { destination: packet.destination, source: packet.source, mark: packet.mark, inInterface: link.name });
    if (route.kind === 'unknown') {
      return this.#unknownRoute(namespace, route.dependsOn);
    }
    const forwarding = forwards(namespace, link, packet.isIpv4);
    if (route.kind === 'refuse') {
      return this.#refuse(namespace, route, forwarding);
    }
    const isLocal = route.kind === 'local' || route.kind === 'many';
    if (!isLocal && forwarding !== true) {
      if (forwarding === null) {
        return this.#unknownRoute(namespace, `whether ${namespace.title} forwards packets (net.${packet.isIpv4 ? 'ipv4.ip_forward' : 'ipv6.conf.all.forwarding'})`);
      }
      const reason = `${namespace.title} does not forward packets (net.${packet.isIpv4 ? 'ipv4.ip_forward' : 'ipv6.conf.all.forwarding'} is 0), and ${packet.destination.text} is not its own address`;
      return { kind: 'dropped', namespace: namespace.id, reason, step: this.#routing(namespace, null, { kind: 'verdict', verdict: 'DROP' }, `The packet is dropped: ${reason}.`) };
    }
    if (packet.isIpv4) {
      const martian = this.#checkSource(namespace, link, route.kind === 'many' ? null : packet.destination, route.kind === 'unicast' ? route.device : 'lo');
      if (martian !== null) {
        return martian;
      }
    }
    if (route.kind === 'local') {
      packet.routeType = 'local';
      this.#routing(namespace, route, { kind: 'route', device: 'lo', local: true }, `${packet.destination.text} belongs to ${namespace.title}: the packet goes to its sockets.`);
      return this.#deliver(context);
    }
    if (route.kind === 'many') {
      return this.#deliverToMany(context, link);
    }
    return this.#forward(context, link, route, hopsLeft);
  }

  /** What goes to a group that this namespace is in, or to everybody on the link, goes to its sockets; none of it is forwarded (net/ipv4/route.c, ip_route_input_rcu; net/ipv6/ip6_input.c, ip6_mc_input). */
  #takeForMany(context: HookContext, link: NetworkLink): JourneyEnd {
    const { namespace } = context;
    const { source, destination, isIpv4, protocol } = this.#packet;
    const isBroadcast = isIpv4 && destination.w0 === -1;
    if (!isIpv4) {
      const route = findStrictRoute(namespace, { destination, source, mark: this.#packet.mark, inInterface: link.name }, link.name);
      if (route.kind === 'unknown') {
        return this.#unknownRoute(namespace, route.dependsOn);
      }
      if (route.kind === 'refuse') {
        return this.#refuse(namespace, route, forwards(namespace, link, false));
      }
    } else if (source.w0 === 0) {
      if (!isBroadcast && destination.w0 >>> 8 !== 0xe0_0000 && protocol !== PROTOCOL.igmp) {
        return this.#martian(namespace, `${source.text} is no address of a host (martian)`);
      }
    } else {
      const stopped = this.#checkAddresses(namespace, link) ?? this.#checkSource(namespace, link, null, 'lo');
      if (stopped !== null) {
        return stopped;
      }
    }
    const isTaken = isBroadcast || isInGroup(namespace, link, destination);
    if (isTaken === null) {
      return this.#unknownRoute(namespace, `whether a program of ${namespace.title} has joined the group ${destination.text} at ${link.name}`);
    }
    if (!isTaken) {
      const reason = `nobody in ${namespace.title} has joined the group ${destination.text} at ${link.name}`;
      return { kind: 'dropped', namespace: namespace.id, reason, step: this.#routing(namespace, null, { kind: 'verdict', verdict: 'DROP' }, `The packet is dropped: ${reason}.`) };
    }
    return this.#deliverToMany(context, link);
  }

  #deliverToMany(context: HookContext, link: NetworkLink): JourneyEnd {
    this.#packet.routeType = this.#packet.isIpv4 && !isMany(this.#packet.destination) ? 'broadcast' : 'multicast';
    this.#routing(context.namespace, null, { kind: 'route', device: link.name, local: true }, `${this.#packet.destination.text} stands for many: the packet goes to the sockets here that want it.`);
    return this.#deliver(context);
  }

  /**
   * The socket of a connection is found before routing (net/ipv4/ip_input.c, ip_rcv_finish_core; net/ipv6/ip6_input.c), so that it
   * takes the packet whatever its source becomes in INPUT.
   */
  #demultiplexEarly({ namespace, state }: HookContext): void {
    const packet = this.#packet;
    if (packet.assigned !== null || packet.packetType !== 'unicast' || !hasConnections(packet.protocol) || !packet.hasTransport) {
      return;
    }
    const isOff = ['ip', packet.protocol === PROTOCOL.tcp ? 'tcp' : 'udp'].some((name) => readSysctl(namespace, `net.ipv4.${name}_early_demux`) === 0);
    const socket = isOff ? undefined : state.sockets.connectedBy(packet.inInterface, packet.protocol, { address: packet.destination, port: packet.destinationPort }, { address: packet.source, port: packet.sourcePort });
    if (socket !== undefined) {
      packet.assigned = { kind: 'open', socket } satisfies FoundSocket;
    }
  }

  /** net/ipv4/ip_forward.c, ip_forward; net/ipv6/ip6_output.c, ip6_forward. */
  #forward(context: HookContext, link: NetworkLink, route: Extract<RouteDecision, { kind: 'unicast' }>, hopsLeft: number): JourneyEnd {
    const { namespace } = context;
    const packet = this.#packet;
    const drop = (reason: string): JourneyEnd => ({ kind: 'dropped', namespace: namespace.id, reason, step: this.#routing(namespace, route, { kind: 'verdict', verdict: 'DROP' }, `The packet is dropped: ${reason}.`) });
    if (packet.assigned !== null) {
      return drop('a socket here has it already, by TPROXY or as a packet of its connection, but routing does not deliver it here (for TPROXY: a rule for its mark and a local route)');
    }
    if (packet.packetType !== 'unicast') {
      return drop(`what is sent to ${packet.packetType} is not forwarded`);
    }
    if (!packet.isIpv4 && (isIpv6Loopback(packet.source) || (packet.source.w0 | packet.source.w1 | packet.source.w2 | packet.source.w3) === 0)) {
      return drop(`a packet from ${packet.source.text} is not forwarded`);
    }
    if (isIpv6LinkLocal(packet.source) && route.device !== link.name && packet.ttl > 1) {
      this.#emitError(namespace, 'notNeighbour');
      return drop(`a packet from ${packet.source.text}, an address of one link, is not forwarded`);
    }
    if (packet.ttl <= 1 || hopsLeft <= 0) {
      this.#emitError(namespace, 'timeExceeded');
      return drop(packet.ttl <= 1 ? `its ${packet.isIpv4 ? 'TTL' : 'hop limit'} is used up` : 'it goes round in a circle');
    }
    const place = writeRoute(route.route);
    packet.ttl -= 1;
    // net/ipv6/ip6_output.c, skb_forward_csum.
    packet.summed = null;
    this.#routing(namespace, route, { kind: 'route', device: route.device, local: false }, `${namespace.title} forwards the packet by ${route.device} (${place}).`);
    if (route.device === link.name && packet.isIpv4) {
      this.#redirect(namespace, link, route);
    }
    context.route = route;
    packet.outInterface = route.device;
    return this.#run(context, 'FORWARD') ?? this.#leave(context, hopsLeft);
  }

  /** A router tells a neighbour of a shorter way (net/ipv4/route.c, ip_rt_send_redirect). */
  #redirect(namespace: WorldNamespace, link: NetworkLink, route: Extract<RouteDecision, { kind: 'unicast' }>): void {
    const on = maxOf(readSysctl(namespace, 'net.ipv4.conf.all.send_redirects'), readSysctl(namespace, `net.ipv4.conf.${link.name}.send_redirects`));
    const back = findRoute(namespace, { destination: this.#packet.source, source: null, mark: 0, inInterface: 'lo' });
    if (on === 1 && back.kind === 'unicast' && back.route.gateway === null && back.device === link.name) {
      this.#simulation.assumptions.add(`${namespace.title} tells ${this.#packet.source.text} of the shorter way to ${route.nextHop.text} by an ICMP redirect, which is not followed here.`);
    }
  }

  /** No way in: who is told, and whether (net/ipv4/route.c, ip_error; net/ipv6/route.c, ip6_pkt_drop). */
  #refuse(namespace: WorldNamespace, route: Extract<RouteDecision, { kind: 'refuse' }>, forwarding: boolean | null): JourneyEnd {
    const { isIpv4 } = this.#packet;
    const step = this.#routing(namespace, null, { kind: 'verdict', verdict: 'DROP' }, `The packet is dropped: ${route.reason}.`);
    if (!isIpv4 || forwarding === true) {
      switch (route.errno) {
        case 'ENETUNREACH':
          this.#emitError(namespace, 'netUnreachable');
          break;
        case 'EHOSTUNREACH':
          this.#emitError(namespace, isIpv4 ? 'hostUnreachable' : 'netUnreachable');
          break;
        case 'EACCES':
          this.#emitError(namespace, 'prohibited');
      }
    }
    return { kind: 'dropped', namespace: namespace.id, reason: route.reason, step };
  }

  #deliver(context: HookContext): JourneyEnd {
    const { namespace } = context;
    const packet = this.#packet;
    const stopped = this.#run(context, 'INPUT');
    if (stopped !== null) {
      return stopped;
    }
    const delivery = deliverLocally(context, packet);
    if (delivery.dependsOn !== undefined) {
      const { dependsOn } = delivery;
      return { kind: 'unknown', step: this.#socket(namespace, namespace.title, { kind: 'unknown', dependsOn }, `It is not known ${dependsOn}.`), dependsOn };
    }
    for (const answer of delivery.answers) {
      this.#emit(namespace, answer);
    }
    const description = this.#recorder === null ? '' : delivery.taker?.kind === 'socket' ? describeFound(namespace, delivery.taker.found) : namespace.title;
    const step = this.#recorder === null ? null : this.#socket(namespace, description, delivery.taker === null ? { kind: 'refuse', errno: 'ECONNREFUSED' } : { kind: 'deliver', socket: description }, capitalize(`${delivery.reason}${delivery.reason.endsWith('.') ? '' : '.'}`));
    const draft = draftOf(packet);
    if (delivery.taker === null) {
      return { kind: 'unclaimed', namespace: namespace.id, packet: draft, reason: delivery.reason, step };
    }
    const socket = delivery.taker.kind === 'socket' ? viewOf(delivery.taker.found) : null;
    const original = socket === null ? null : originalDestination(context, packet.protocol, { address: packet.destination, port: packet.destinationPort }, { address: packet.source, port: packet.sourcePort });
    return { kind: 'delivered', namespace: namespace.id, socket, packet: draft, originalDestination: original, step };
  }

  /** Addresses that must not come from outside (net/ipv4/route.c, ip_route_input_slow). */
  #checkAddresses(namespace: WorldNamespace, link: NetworkLink): JourneyEnd | null {
    const { source, destination } = this.#packet;
    if (isMany(source)) {
      return this.#martian(namespace, `its source ${source.text} stands for many (martian)`);
    }
    if (destination.w0 === -1 || (source.w0 === 0 && destination.w0 === 0)) {
      return null;
    }
    const nowhere = [source, destination].find((address) => address.w0 === 0);
    if (nowhere !== undefined) {
      return this.#martian(namespace, `${nowhere.text} is no address of a host (martian)`);
    }
    const loopback = [source, destination].find((address) => address.w0 >>> 24 === 127);
    const routed = maxOf(readSysctl(namespace, 'net.ipv4.conf.all.route_localnet'), readSysctl(namespace, `net.ipv4.conf.${link.name}.route_localnet`));
    // What comes over lo is asked only where its destination has changed: otherwise it has its route already.
    if (loopback !== undefined && routed !== 1) {
      return this.#martian(namespace, `${loopback.text} must not come from outside (martian; net.ipv4.conf.${link.name}.route_localnet is off)`);
    }
    return null;
  }

  /** The reverse path, looked up as if the answer came by the device that the packet leaves by (net/ipv4/fib_frontend.c, fib_validate_source). */
  #checkSource(namespace: WorldNamespace, link: NetworkLink, towards: Address | null, leavesBy: string): JourneyEnd | null {
    const packet = this.#packet;
    const setting = (name: string): number | null => maxOf(readSysctl(namespace, `net.ipv4.conf.all.${name}`), readSysctl(namespace, `net.ipv4.conf.${link.name}.${name}`));
    if (packet.source.w0 === 0) {
      return null;
    }
    const filter = setting('rp_filter');
    const acceptsLocal = setting('accept_local') === 1;
    const { routes } = namespace.ipv4;
    if (filter === null) {
      return this.#unknownRoute(namespace, `whether ${namespace.title} checks the reverse path (net.ipv4.conf.${link.name}.rp_filter)`);
    }
    if (filter === 0 && (acceptsLocal || !(routes.hasCustomLocalRoutes || routes.hasCustomRules))) {
      return acceptsLocal || !namespace.ownAddresses.has(packet.source.text) ? null : this.#ownSource(namespace);
    }
    const back = findRoute(namespace, { destination: packet.source, source: towards, mark: setting('src_valid_mark') === 1 ? packet.mark : 0, inInterface: leavesBy });
    if (back.kind === 'unknown') {
      return this.#unknownRoute(namespace, back.dependsOn);
    }
    const wrongWay = (): JourneyEnd => this.#martian(namespace, `the way back to ${packet.source.text} is not by ${link.name} (net.ipv4.conf.${link.name}.rp_filter is ${filter})`);
    if (back.kind === 'refuse') {
      return filter === 0 ? null : wrongWay();
    }
    if (back.kind !== 'unicast' && !(back.kind === 'local' && acceptsLocal)) {
      return this.#ownSource(namespace);
    }
    const device = back.kind === 'unicast' ? back.device : link.kind === 'loopback' ? link.name : (back.route.device ?? '');
    if (device === link.name || filter !== 1) {
      return device === link.name || filter === 0 || link.addresses.some(({ address }) => !address.includes(':')) ? null : wrongWay();
    }
    return wrongWay();
  }

  #ownSource(namespace: WorldNamespace): JourneyEnd {
    return this.#martian(namespace, `its source ${this.#packet.source.text} is an address of ${namespace.title} itself (martian)`);
  }

  #martian(namespace: WorldNamespace, reason: string): JourneyEnd {
    return { kind: 'dropped', namespace: namespace.id, reason, step: this.#routing(namespace, null, { kind: 'verdict', verdict: 'DROP' }, `The packet is dropped: ${reason}.`) };
  }

  #unknownRoute(namespace: WorldNamespace, dependsOn: string): JourneyEnd {
    return { kind: 'unknown', step: this.#routing(namespace, null, { kind: 'unknown', dependsOn }, `It is not known ${dependsOn}.`), dependsOn };
  }

  #routing(namespace: WorldNamespace, route: Extract<RouteDecision, { kind: 'local' | 'unicast' }> | null, decision: Decision, reason: string): number | null {
    if (this.#recorder === null) {
      return null;
    }
    const state = this.#packet.state();
    const place = { kind: 'routing', namespace: namespace.id, table: route?.route.table ?? null, route: route === null ? null : writeRoute(route.route) } as const;
    return this.#recorder.add({ place, before: state, after: state, decision, reason });
  }

  #device(namespace: WorldNamespace, device: string, decision: Decision, reason: string): number | null {
    if (this.#recorder === null) {
      return null;
    }
    const state = this.#packet.state();
    return this.#recorder.add({ place: { kind: 'device', namespace: namespace.id, device }, before: state, after: state, decision, reason });
  }

  #socket(namespace: WorldNamespace, description: string, decision: Decision, reason: string): number | null {
    if (this.#recorder === null) {
      return null;
    }
    const state = this.#packet.state();
    const phase = this.#recorder.enterPhase('accept');
    const step = this.#recorder.add({ place: { kind: 'socket', namespace: namespace.id, description }, before: state, after: state, decision, reason });
    this.#recorder.enterPhase(phase);
    return step;
  }
}

/** What a link layer would have sent a packet as, by where it goes. */
function packetTypeOf(context: HookContext, destination: Address, device: string): WorldPacket['packetType'] {
  if (!destination.isIpv4) {
    return destination.w0 >>> 24 === 0xff ? 'multicast' : 'unicast';
  }
  if (destination.w0 >>> 28 === 0xe) {
    return 'multicast';
  }
  return destination.w0 !== 0 && context.environment.addressType(destination, device) === 'BROADCAST' ? 'broadcast' : 'unicast';
}

/** Whether a namespace forwards what comes in by a link; null where the snapshot does not tell. */
function forwards(namespace: WorldNamespace, link: NetworkLink, isIpv4: boolean): boolean | null {
  const value = isIpv4 ? (readSysctl(namespace, `net.ipv4.conf.${link.name}.forwarding`) ?? readSysctl(namespace, 'net.ipv4.ip_forward')) : readSysctl(namespace, 'net.ipv6.conf.all.forwarding');
  return value === null ? null : value !== 0;
}

function maxOf(left: number | null, right: number | null): number | null {
  return left === null && right === null ? null : Math.max(left ?? 0, right ?? 0);
}

function describeFound(namespace: WorldNamespace, found: FoundSocket): string {
  return describeOwner(namespace, found.kind === 'listener' ? found.info : found.socket.info);
}

function viewOf(found: FoundSocket): SocketView {
  return found.kind === 'listener' ? { info: found.info, opened: false } : { info: found.socket.info, opened: found.socket.opened };
}

function capitalize(text: string): string {
  return `${text.charAt(0).toUpperCase()}${text.slice(1)}`;
}
