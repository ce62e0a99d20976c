import type { IpAddress } from '../../agent/protocol/scalars.ts';
import type { NetworkLink } from '../../agent/protocol/snapshot.ts';
import type { Decision, Hook } from '../../agent/protocol/trace.ts';
import type { FlyingPacket } from './flyingPacket.ts';
import type { HookContext, PacketVerdict } from './hooks.ts';
import { isHookUsed, runHook } from './hooks.ts';
import { findNeighbour } from './neighbours.ts';
import type { RouteDecision } from './routing.ts';
import { lookUpRoute, writeRoute } from './routing.ts';
import type { Simulation } from './simulation.ts';
import type { TraceRecorder } from './traceRecorder.ts';
import type { WorldNamespace } from './world.ts';
import { ownsAddress, readSysctl } from './world.ts';

/** Where a packet ends. */
export type PacketEnd =
  /** It was handed to the sockets of a namespace. */
  | { readonly kind: 'arrived'; readonly namespace: WorldNamespace; readonly hooks: number }
  | { readonly kind: 'left'; readonly step: number; readonly reason: string }
  | Exclude<PacketVerdict, { kind: 'accept' }>;

/** More forwarding than this is a circle: what a packet's TTL of 64 ends. */
const MAX_HOPS = 64;

/**
 * Sends a packet from a process of a namespace on its whole way: OUTPUT, POSTROUTING, over devices, PREROUTING, routing,
 * FORWARD or INPUT, until it is handed to sockets or lost. `route` is what the sender looked up.
 */
export function sendPacket(simulation: Simulation, recorder: TraceRecorder, namespace: WorldNamespace, packet: FlyingPacket, route: RouteDecision): PacketEnd {
  const way = new PacketWay(simulation, recorder, packet);
  return way.send(namespace, route);
}

type Stop = Exclude<PacketEnd, { kind: 'arrived' }>;

class PacketWay {
  readonly #simulation: Simulation;
  readonly #recorder: TraceRecorder;
  readonly #packet: FlyingPacket;
  #hooks = 0;

  constructor(simulation: Simulation, recorder: TraceRecorder, packet: FlyingPacket) {
    this.#simulation = simulation;
    this.#recorder = recorder;
    this.#packet = packet;
  }

  send(namespace: WorldNamespace, route: RouteDecision): PacketEnd {
    const context = this.#context(namespace, route);
    this.#packet.outInterface = outDevice(route);
    const stopped = this.#run(context, 'OUTPUT');
    return stopped ?? this.#leave(context, MAX_HOPS);
  }

  #context(namespace: WorldNamespace, route: RouteDecision | null): HookContext {
    const { assumptions } = this.#simulation;
    for (const assumption of namespace.assumptions) {
      assumptions.add(assumption);
    }
    return { namespace, tracker: this.#simulation.trackerOf(namespace), recorder: this.#recorder, route, assumptions };
  }

  #run(context: HookContext, hook: Hook): Stop | null {
    if (!isHookUsed(context.namespace, hook)) {
      return null;
    }
    this.#hooks += 1;
    const verdict = runHook(context, hook, this.#packet);
    return verdict.kind === 'accept' ? null : verdict;
  }

  /** POSTROUTING and the device. */
  #leave(context: HookContext, hopsLeft: number): PacketEnd {
    const { namespace, route } = context;
    if (route === null || route.kind === 'refuse' || route.kind === 'unknown') {
      throw new RangeError('a packet leaves only by a route');
    }
    const packet = this.#packet;
    const device = route.kind === 'local' ? 'lo' : route.device;
    packet.outInterface = device;
    const stopped = this.#run(context, 'POSTROUTING');
    if (stopped !== null) {
      return stopped;
    }
    const neighbour = findNeighbour(this.#simulation.world, namespace, device, route.kind === 'local' ? packet.destination.address : route.nextHop);
    switch (neighbour.kind) {
      case 'unknown':
        return { kind: 'unknown', step: this.#device(namespace, device, { kind: 'unknown', dependsOn: neighbour.dependsOn }, `It is not known ${neighbour.dependsOn}.`), dependsOn: neighbour.dependsOn };
      case 'nobody': {
        const step = this.#device(namespace, device, { kind: 'refuse', errno: 'EHOSTUNREACH' }, `Nobody answers for the next hop: ${neighbour.reason}.`);
        return { kind: 'reject', step, errno: 'EHOSTUNREACH', reason: neighbour.reason };
      }
      case 'leaves': {
        const reason = `it leaves the node by ${neighbour.device} of ${neighbour.namespace.title}`;
        return { kind: 'left', step: this.#device(namespace, device, { kind: 'route', device: neighbour.device, local: false }, `The packet goes on outside of this node: ${reason}.`), reason };
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
  #loopBack(namespace: WorldNamespace, link: NetworkLink): PacketEnd {
    const packet = this.#packet;
    this.#device(namespace, link.name, { kind: 'route', device: link.name, local: true }, `${link.name} hands the packet back to the same namespace: it goes up the stack again.`);
    packet.owner = { kind: 'none' };
    packet.inInterface = link.name;
    packet.outInterface = null;
    const context = this.#context(namespace, null);
    const before = packet.destination.address;
    const stopped = this.#run(context, 'PREROUTING');
    if (stopped !== null) {
      return stopped;
    }
    if (packet.destination.address !== before) {
      // The route of the sender is dropped with the old destination (net/netfilter/nf_nat_proto.c, nf_nat_ipv4_pre_routing).
      return this.#routeIn(context, link, MAX_HOPS);
    }
    return this.#deliver(context);
  }

  /** A veth pair: another namespace forgets connection, mark and socket (net/core/skbuff.c, skb_scrub_packet). */
  #cross(from: WorldNamespace, device: string, to: Extract<ReturnType<typeof findNeighbour>, { kind: 'arrives' }>, hopsLeft: number): PacketEnd {
    const packet = this.#packet;
    const over = to.bridge === null ? '' : ` over the bridge ${to.bridge.link.name} of ${to.bridge.namespace.title}`;
    this.#device(from, device, { kind: 'route', device, local: false }, `The packet leaves ${from.title} by ${device} and arrives${over} at ${to.link.name} of ${to.namespace.title}.`);
    packet.tracking = null;
    packet.owner = { kind: 'none' };
    if (from !== to.namespace) {
      packet.mark = 0;
    }
    packet.outInterface = null;
    if (to.bridge !== null) {
      const stopped = this.#crossBridge(to.bridge.namespace, to.bridge.link);
      if (stopped !== null) {
        return stopped;
      }
    }
    packet.inInterface = to.link.name;
    const context = this.#context(to.namespace, null);
    const stopped = this.#run(context, 'PREROUTING');
    return stopped ?? this.#routeIn(context, to.link, hopsLeft - 1);
  }

  /** With br_netfilter, what a bridge passes from port to port meets iptables of its namespace (net/bridge/br_netfilter_hooks.c). */
  #crossBridge(namespace: WorldNamespace, bridge: NetworkLink): Stop | null {
    if (readSysctl(namespace, 'net.bridge.bridge-nf-call-iptables') !== 1) {
      return null;
    }
    const packet = this.#packet;
    const context = this.#context(namespace, null);
    const before = packet.destination.address;
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
      if (packet.destination.address !== before) {
        const dependsOn = `where ${bridge.name} of ${namespace.title} sends a packet whose destination was changed while it was bridged`;
        return { kind: 'unknown', step: this.#device(namespace, bridge.name, { kind: 'unknown', dependsOn }, `It is not modelled ${dependsOn}.`), dependsOn };
      }
    }
    packet.tracking = null;
    packet.mark = 0;
    packet.outInterface = null;
    return null;
  }

  /** The routing decision for a packet that came in: to sockets, on to another device, or nowhere (net/ipv4/route.c, ip_route_input_slow). */
  #routeIn(context: HookContext, link: NetworkLink, hopsLeft: number): PacketEnd {
    const packet = this.#packet;
    const { namespace } = context;
    const refused = this.#checkAddresses(namespace, link);
    if (refused !== null) {
      return refused;
    }
    const route = lookUpRoute(namespace, { destination: packet.destination.address, source: packet.source.address, mark: packet.mark, inInterface: link.name });
    if (route.kind === 'unknown') {
      return this.#unknownRoute(namespace, route.dependsOn);
    }
    if (route.kind === 'refuse') {
      const silent = route.errno === 'EINVAL' || forwards(namespace, link) !== true;
      const step = this.#routing(namespace, null, { kind: 'verdict', verdict: 'DROP' }, `The packet is dropped: ${route.reason}.`);
      const errno = route.errno === 'EACCES' ? 'EHOSTUNREACH' : route.errno;
      return silent ? { kind: 'drop', step, reason: route.reason } : { kind: 'reject', step, errno, reason: route.reason };
    }
    if (route.kind === 'local') {
      this.#routing(namespace, route, { kind: 'route', device: 'lo', local: true }, `${packet.destination.address} is an address of ${namespace.title}: the packet goes to its sockets.`);
      return this.#deliver(context);
    }
    return this.#forward(context, link, route, hopsLeft);
  }

  #forward(context: HookContext, link: NetworkLink, route: Extract<RouteDecision, { kind: 'unicast' }>, hopsLeft: number): PacketEnd {
    const { namespace } = context;
    const forwarding = forwards(namespace, link);
    if (forwarding === null) {
      return this.#unknownRoute(namespace, `whether ${namespace.title} forwards packets (net.ipv4.ip_forward)`);
    }
    if (!forwarding || hopsLeft <= 0) {
      const reason = forwarding ? 'it has been forwarded in a circle' : `${namespace.title} does not forward packets (net.ipv4.ip_forward is 0)`;
      return { kind: 'drop', step: this.#routing(namespace, route, { kind: 'verdict', verdict: 'DROP' }, `The packet is dropped: ${reason}.`), reason };
    }
    this.#routing(namespace, route, { kind: 'route', device: route.device, local: false }, `${this.#packet.destination.address} is not an address of ${namespace.title}: the packet is forwarded by ${route.device}.`);
    context.route = route;
    this.#packet.outInterface = route.device;
    const stopped = this.#run(context, 'FORWARD');
    return stopped ?? this.#leave(context, hopsLeft);
  }

  #deliver(context: HookContext): PacketEnd {
    const stopped = this.#run(context, 'INPUT');
    return stopped ?? { kind: 'arrived', namespace: context.namespace, hooks: this.#hooks };
  }

  /** Addresses that must not come from outside, and the reverse path (net/ipv4/fib_frontend.c, fib_validate_source). */
  #checkAddresses(namespace: WorldNamespace, link: NetworkLink): Stop | null {
    const { source, destination } = this.#packet;
    const setting = (name: string): number | null => maxOf(readSysctl(namespace, `net.ipv4.conf.all.${name}`), readSysctl(namespace, `net.ipv4.conf.${link.name}.${name}`));
    if (link.kind === 'loopback') {
      return null;
    }
    const loopback = [source.address, destination.address].find((address) => address.startsWith('127.'));
    if (loopback !== undefined && setting('route_localnet') !== 1) {
      return this.#martian(namespace, `${loopback} must not come from outside (martian; net.ipv4.conf.${link.name}.route_localnet is off)`);
    }
    if (ownsAddress(namespace, source.address) && setting('accept_local') !== 1) {
      return this.#martian(namespace, `its source ${source.address} is an address of ${namespace.title} itself (martian)`);
    }
    return this.#checkReversePath(namespace, link, setting('rp_filter'), source.address);
  }

  #checkReversePath(namespace: WorldNamespace, link: NetworkLink, filter: number | null, source: IpAddress): Stop | null {
    if (filter === 0) {
      return null;
    }
    const back = lookUpRoute(namespace, { destination: source, source: this.#packet.destination.address, mark: 0, inInterface: link.name });
    if (back.kind === 'unicast' && (back.device === link.name || filter === 2)) {
      return null;
    }
    if (filter === null) {
      return this.#unknownRoute(namespace, `whether ${namespace.title} checks the reverse path (net.ipv4.conf.${link.name}.rp_filter)`);
    }
    return this.#martian(namespace, `the way back to ${source} is not by ${link.name} (net.ipv4.conf.${link.name}.rp_filter is ${filter})`);
  }

  #martian(namespace: WorldNamespace, reason: string): Stop {
    return { kind: 'drop', step: this.#routing(namespace, null, { kind: 'verdict', verdict: 'DROP' }, `The packet is dropped: ${reason}.`), reason };
  }

  #unknownRoute(namespace: WorldNamespace, dependsOn: string): Stop {
    return { kind: 'unknown', step: this.#routing(namespace, null, { kind: 'unknown', dependsOn }, `It is not known ${dependsOn}.`), dependsOn };
  }

  #routing(namespace: WorldNamespace, route: Extract<RouteDecision, { kind: 'local' | 'unicast' }> | null, decision: Decision, reason: string): number {
    const state = this.#packet.state();
    const place = { kind: 'routing', namespace: namespace.id, table: route?.route.table ?? null, route: route === null ? null : writeRoute(route.route) } as const;
    return this.#recorder.add({ place, before: state, after: state, decision, reason });
  }

  #device(namespace: WorldNamespace, device: string, decision: Decision, reason: string): number {
    const state = this.#packet.state();
    return this.#recorder.add({ place: { kind: 'device', namespace: namespace.id, device }, before: state, after: state, decision, reason });
  }
}

function outDevice(route: RouteDecision): string | null {
  return route.kind === 'local' ? 'lo' : route.kind === 'unicast' ? route.device : null;
}

/** Whether a namespace forwards what comes in by a link; null where the snapshot does not tell. */
function forwards(namespace: WorldNamespace, link: NetworkLink): boolean | null {
  const value = readSysctl(namespace, `net.ipv4.conf.${link.name}.forwarding`) ?? readSysctl(namespace, 'net.ipv4.ip_forward');
  return value === null ? null : value !== 0;
}

function maxOf(left: number | null, right: number | null): number | null {
  return left === null && right === null ? null : Math.max(left ?? 0, right ?? 0);
}
