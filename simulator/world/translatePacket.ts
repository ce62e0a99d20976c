import type { Hook } from '../../agent/protocol/trace.ts';
import type { Address } from '../netfilter/address.ts';
import type { PacketTracking } from '../netfilter/packet.ts';
import { PROTOCOL, hasPorts } from '../netfilter/protocolNumbers.ts';
import type { NatTarget } from '../netfilter/traverseTable.ts';
import type { Connection } from './conntrack.ts';
import type { HookContext, PacketVerdict, WorldPacket } from './hooks.ts';
import { reroute, runTable, tablesAt } from './hooks.ts';
import type { NatChoice, NatSide } from './nat.ts';
import { NULL_CHOICE, bindConnection } from './nat.ts';
import { addressOfNatTarget, natChoice } from './natChoice.ts';
import type { FoundSocket } from './sockets.ts';
import { hasConnections } from './sockets.ts';
import { connectionPlace } from './trackPacket.ts';
import type { Tuple } from './tuple.ts';
import { endpointsOf, invertKnownTuple, sameEndpoint, writeEndpoint } from './tuple.ts';
import { tablesNamed } from './world.ts';

const ACCEPT: PacketVerdict = { kind: 'accept' };

type Tracking = PacketTracking<Connection>;

/**
 * NAT at one hook (net/netfilter/nf_nat_core.c, nf_nat_inet_fn): the rules are asked once for each connection and each
 * of its two bindings; where no rule decides, the binding is a null binding and is settled as well. Without a table nat
 * nothing happens, and nothing is undone.
 */
export function translatePacket(context: HookContext, hook: Hook, packet: WorldPacket): PacketVerdict {
  const { tracking } = packet;
  if (tracking === null || tablesNamed(context.rules, 'nat').length === 0) {
    return ACCEPT;
  }
  const { source } = packet;
  const verdict = translate(context, hook, packet, tracking);
  if (hook === 'INPUT' && verdict.kind === 'accept') {
    releaseSocket(packet, tracking, source);
  }
  return verdict;
}

/** A socket that was found by what the packet was before NAT of INPUT does not get it, unless it is transparent (nf_nat_proto.c, nf_nat_ipv4_local_in and nf_nat_ipv6_local_in). */
function releaseSocket(packet: WorldPacket, { connection, isReply }: Tracking, before: Address): void {
  const found = packet.assigned as FoundSocket | null;
  if (found?.kind !== 'open' || found.socket.isTransparent === true) {
    return;
  }
  if (!packet.source.equals(before) || (!isReply && hasConnections(packet.protocol) && connection.reply.destinationPort !== found.socket.remote.port)) {
    packet.assigned = null;
  }
}

function translate(context: HookContext, hook: Hook, packet: WorldPacket, tracking: Tracking): PacketVerdict {
  const { connection } = tracking;
  const side: NatSide = hook === 'INPUT' || hook === 'POSTROUTING' ? 'source' : 'destination';
  if (tracking.state === 'RELATED' && (packet.protocol === PROTOCOL.icmp || packet.protocol === PROTOCOL.icmpv6)) {
    return translateError(context, hook, packet, connection, side);
  }
  let ruleStep: number | null = null;
  if (tracking.state !== 'ESTABLISHED' && !(side === 'source' ? connection.sourceBound : connection.destinationBound)) {
    const verdict = bind(context, hook, packet, connection, side);
    if (verdict.kind !== 'settled') {
      return verdict;
    }
    ruleStep = verdict.ruleStep;
  } else if (hook === 'POSTROUTING' && !tracking.isReply && connection.masqueradeDevice !== null && connection.masqueradeDevice !== packet.outInterface) {
    return forgetMasqueraded(context, hook, packet, connection);
  } else if (tracking.state !== 'ESTABLISHED' && context.recorder !== null && tablesAt(context.rules, 'nat', hook).some((table) => table.bases.has(hook))) {
    const state = packet.state();
    context.recorder.add({
      place: connectionPlace(context, hook), before: state, after: state, decision: { kind: 'continue' },
      reason: `nat ${hook} is not asked: the ${side} of this connection was settled before, and NAT decides once for each connection.`,
    });
  }
  return applyBinding(context, hook, packet, connection, side, ruleStep);
}

/** A connection that was masqueraded for one device and now leaves by another has an address that does not lead back: it goes, and the packet with it (nf_nat_core.c, nf_nat_oif_changed). */
function forgetMasqueraded(context: HookContext, hook: Hook, packet: WorldPacket, connection: Connection): PacketVerdict {
  if (connection.confirmed) {
    context.state.tracker.remove(connection);
  }
  const reason = `MASQUERADE took an address for ${connection.masqueradeDevice ?? 'another device'}, and the packet leaves by ${packet.outInterface ?? 'none'}: conntrack forgets the connection`;
  const { recorder } = context;
  const before = recorder === null ? null : packet.state();
  packet.tracking = null;
  const step = recorder === null || before === null ? null : recorder.add({ place: connectionPlace(context, hook), before, after: packet.state(), decision: { kind: 'verdict', verdict: 'DROP' }, reason: `The packet is dropped: ${reason}.` });
  return { kind: 'drop', step, reason };
}

/** A side of a connection is settled: by the rule of a step, or by none. */
type Binding = { readonly kind: 'settled'; readonly ruleStep: number | null } | Exclude<PacketVerdict, { kind: 'accept' }>;

function bind(context: HookContext, hook: Hook, packet: WorldPacket, connection: Connection, side: NatSide): Binding {
  for (const table of tablesAt(context.rules, 'nat', hook)) {
    const verdict = runTable(context, hook, table, packet);
    if (verdict.kind === 'nat') {
      return settle(context, hook, packet, connection, side, verdict);
    }
    if (verdict.kind !== 'accept') {
      return verdict;
    }
  }
  return settleAs(context, connection, side, NULL_CHOICE, null, 'conntrack');
}

/** Settles one side of a connection by a NAT rule. */
function settle(context: HookContext, hook: Hook, packet: WorldPacket, connection: Connection, side: NatSide, verdict: { readonly target: NatTarget; readonly step: number | null }): Binding {
  const { target, step } = verdict;
  const name = target.kind === 'extension' ? target.name : target.kind.toUpperCase();
  const isDestination = target.kind === 'redirect' || target.kind === 'dnat' || name === 'DNAT';
  if (name !== 'NETMAP' && isDestination !== (side === 'destination')) {
    return { kind: 'unknown', step, dependsOn: `${name} in ${hook}, which no kernel loads` };
  }
  const address = addressOfNatTarget(context, hook, packet, target);
  if (address === null) {
    return { kind: 'drop', step, reason: `the interface has no address for ${name}` };
  }
  if (address === 'unchanged') {
    return { kind: 'settled', ruleStep: null };
  }
  if (name === 'MASQUERADE') {
    connection.masqueradeDevice = packet.outInterface;
  }
  const choice = natChoice(target, address, side, packet);
  if (choice === null) {
    return { kind: 'unknown', step, dependsOn: `what '${name}' does to this packet` };
  }
  return settleAs(context, connection, side, choice, step, name);
}

function settleAs(context: HookContext, connection: Connection, side: NatSide, choice: NatChoice, ruleStep: number | null, name: string): Binding {
  // "Can't setup nat info for confirmed ct" (nf_nat_setup_info): only a REJECT's answer about an old connection comes here.
  if (!connection.confirmed) {
    const decision = bindConnection(context.state.tracker, connection, side, choice, context.simulation.random16);
    if (decision.dependsOn !== undefined) {
      return { kind: 'unknown', step: ruleStep, dependsOn: decision.dependsOn };
    }
    if (decision.random) {
      const port = side === 'source' ? decision.tuple.sourcePort : decision.tuple.destinationPort;
      context.simulation.assumptions.add(`${name} in ${context.namespace.title} picks a port at random; here it is ${port}.`);
    }
  }
  return { kind: 'settled', ruleStep };
}

/** nf_nat_packet: puts the binding onto the packet, turned round for answers. */
function applyBinding(context: HookContext, hook: Hook, packet: WorldPacket, connection: Connection, side: NatSide, ruleStep: number | null): PacketVerdict {
  const isReply = packet.tracking?.isReply === true;
  const isTranslated = (side === 'source') !== isReply ? connection.sourceTranslated : connection.destinationTranslated;
  if (isTranslated) {
    rewrite(context, hook, packet, connection, side, isReply, ruleStep);
  }
  if (hook !== 'OUTPUT') {
    return ACCEPT;
  }
  // nf_nat_ipv4_local_fn: the way is looked up again for every packet whose destination is another's than it was sent to.
  const [sent, wanted] = isReply ? [connection.reply.destination, connection.original.source] : [connection.original.destination, connection.reply.source];
  return sent.equals(wanted) ? ACCEPT : reroute(context, packet, 'its destination changed in nat');
}

function rewrite(context: HookContext, hook: Hook, packet: WorldPacket, connection: Connection, side: NatSide, isReply: boolean, ruleStep: number | null): void {
  const { recorder } = context;
  const before = recorder === null ? null : packet.state();
  const target = invertKnownTuple(isReply ? connection.original : connection.reply);
  setSide(packet, side, target);
  if (recorder === null || before === null) {
    return;
  }
  const after = packet.state();
  if (sameEndpoint(before[side], after[side])) {
    return;
  }
  const wanted = writeEndpoint(endpointsOf(target)[side]);
  if (ruleStep !== null) {
    const moved = side === 'destination' ? 'goes to' : 'comes from';
    const reason = `${ruleTarget(context, ruleStep)} in ${hook}: the packet now ${moved} ${wanted} (was ${writeEndpoint(before[side])}); nat is not asked for its ${side} again in this connection.`;
    recorder.amend(ruleStep, { after, reason });
    return;
  }
  recorder.add({
    place: connectionPlace(context, hook), before, after, decision: { kind: 'rewrite', target: `${side} ${wanted}` },
    reason: isReply ? `NAT is undone for the answer: its ${side} becomes ${wanted}.` : `The connection was translated before: its ${side} becomes ${wanted}.`,
  });
}

/** nf_nat_proto.c, nf_nat_icmp_reply_translation: both the error and the packet inside of it are translated. */
function translateError(context: HookContext, hook: Hook, packet: WorldPacket, connection: Connection, side: NatSide): PacketVerdict {
  const isReply = packet.tracking?.isReply === true;
  const isTranslated = (side === 'source') !== isReply ? connection.sourceTranslated : connection.destinationTranslated;
  const { about } = packet;
  if (!isTranslated || about === null) {
    return ACCEPT;
  }
  const { recorder } = context;
  const before = recorder === null ? null : packet.state();
  const inner = isReply ? connection.original : connection.reply;
  setSide(about, side === 'source' ? 'destination' : 'source', inner);
  const target = invertKnownTuple(inner);
  if (side === 'source') {
    packet.source = target.source;
  } else {
    packet.destination = target.destination;
  }
  if (recorder !== null && before !== null) {
    recorder.add({
      place: connectionPlace(context, hook), before, after: packet.state(), decision: { kind: 'rewrite', target: `${side} ${packet[side].text}` },
      reason: `NAT is undone for the error and for the packet that it is about: its ${side} becomes ${packet[side].text}.`,
    });
  }
  return hook === 'OUTPUT' && side === 'destination' ? reroute(context, packet, 'its destination changed in nat') : ACCEPT;
}

/** Gives one side of a packet the address and port of that side of a tuple. */
function setSide(packet: { source: Address; destination: Address; sourcePort: number; destinationPort: number; icmpId: number; readonly protocol: number }, side: NatSide, tuple: Tuple): void {
  if (side === 'source') {
    packet.source = tuple.source;
  } else {
    packet.destination = tuple.destination;
  }
  if (packet.protocol === PROTOCOL.icmp || packet.protocol === PROTOCOL.icmpv6) {
    packet.icmpId = tuple.sourcePort;
  } else if (hasPorts(packet.protocol)) {
    if (side === 'source') {
      packet.sourcePort = tuple.sourcePort;
    } else {
      packet.destinationPort = tuple.destinationPort;
    }
  }
}

/** The target of the rule that a step is about: `REDIRECT --to-ports 15006`. */
function ruleTarget(context: HookContext, step: number): string {
  const decision = context.recorder?.steps[step]?.decision;
  return decision?.kind === 'rewrite' ? decision.target : 'NAT';
}
