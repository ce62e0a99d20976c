import type { Hook, PacketState, Place } from '../../agent/protocol/trace.ts';
import { TCP_FLAG_BITS, isIcmpError } from '../netfilter/packet.ts';
import { PROTOCOL } from '../netfilter/protocolNumbers.ts';
import type { ConnectionTracker, FoundConnection, Zone } from './conntrack.ts';
import { Connection, DEFAULT_ZONE } from './conntrack.ts';
import type { HookContext, PacketVerdict, WorldPacket } from './hooks.ts';
import { areFlagsValid, firstTcpState, nextTcpState } from './tcpState.ts';
import { invertTuple, tupleOf, writeTuple } from './tuple.ts';
import { readSysctl } from './world.ts';

/** Neighbour discovery and multicast listening, which conntrack leaves alone (nf_conntrack_proto_icmpv6.c, noct_valid_new). */
const UNTRACKED_ICMPV6: ReadonlySet<number> = new Set([130, 131, 132, 133, 134, 135, 136, 143]);
/** Types that begin a connection: a question that has an answer (nf_conntrack_proto_icmp.c and _icmpv6.c, valid_new). */
const ASKING_ICMP: ReadonlySet<number> = new Set([8, 13, 15, 17]);
/** All bits of numberedDirections of a connection. */
const BOTH_DIRECTIONS = 3;
const ASKING_ICMPV6: ReadonlySet<number> = new Set([128, 139]);

/** Finds or begins the connection of a packet (net/netfilter/nf_conntrack_core.c, nf_conntrack_in): what has one already keeps it. Always goes on, but for what is not known. */
export function trackPacket(context: HookContext, hook: Hook, packet: WorldPacket): PacketVerdict {
  if (!context.rules.tracksConnections) {
    return ACCEPT;
  }
  const { recorder } = context;
  const before: PacketState | null = recorder === null ? null : packet.state();
  const result = (packet.tracking !== null && packet.zoneRule === null) || packet.untracked ? keptReason(packet) : look(context, packet);
  packet.trackingDone = true;
  if (typeof result !== 'string') {
    const { dependsOn } = result;
    const step = recorder === null || before === null ? null : recorder.add({ place: connectionPlace(context, hook), before, after: before, decision: { kind: 'unknown', dependsOn }, reason: `It is not known ${dependsOn}.` });
    return { kind: 'unknown', step, dependsOn };
  }
  if (recorder !== null && before !== null) {
    const after = packet.state();
    recorder.add({ place: connectionPlace(context, hook), before, after, decision: { kind: 'note', target: after.connection ?? 'NEW' }, reason: result });
  }
  return ACCEPT;
}

/** What conntrack decides that cannot be said. */
interface OpenQuestion {
  readonly dependsOn: string;
}

/** Puts the connection of a first packet into the table, as the last thing that it meets (__nf_conntrack_confirm). */
export function confirmConnection(context: HookContext, hook: Hook, packet: WorldPacket): PacketVerdict {
  const { tracking } = packet;
  if (tracking === null || tracking.connection.confirmed || tracking.isReply) {
    return ACCEPT;
  }
  const { connection } = tracking;
  const { tracker } = context.state;
  const clash = tracker.isTaken(connection.original, connection, false) ? connection.original : tracker.isTaken(connection.reply, connection, true) ? connection.reply : null;
  const state = context.recorder === null ? null : packet.state();
  if (clash !== null) {
    const old = tracker.find(clash, connection.zoneOf(clash === connection.reply))?.connection.tcpState;
    if (old === 'TIME_WAIT' || old === 'CLOSE') {
      // The new connection takes its place where its sequence numbers are beyond the old ones (nf_nat_core.c, nf_nat_used_tuple_harder).
      const dependsOn = `whether the connection takes the place of a closed one of the same tuple ${writeTuple(clash)}`;
      const step = state === null ? null : context.recorder?.add({ place: connectionPlace(context, hook), before: state, after: state, decision: { kind: 'unknown', dependsOn }, reason: `It is not known ${dependsOn}.` }) ?? null;
      return { kind: 'unknown', step, dependsOn };
    }
    const reason = `the tuple ${writeTuple(clash)} belongs to another connection already, and no other could be found`;
    const step = state === null ? null : context.recorder?.add({ place: connectionPlace(context, hook), before: state, after: state, decision: { kind: 'verdict', verdict: 'DROP' }, reason: `The packet is dropped: ${reason}.` }) ?? null;
    return { kind: 'drop', step, reason, isRefused: true };
  }
  tracker.confirm(connection);
  if (state !== null) {
    context.recorder?.add({
      place: connectionPlace(context, hook), before: state, after: state, decision: { kind: 'note', target: 'confirmed' },
      reason: `conntrack keeps the connection: ${writeTuple(connection.original)}; its answers come as ${writeTuple(connection.reply)}.`,
    });
  }
  return ACCEPT;
}

/** The place of a step that conntrack makes. */
export function connectionPlace(context: HookContext, hook: Hook): Place {
  return { kind: 'conntrack', namespace: context.namespace.id, hook };
}

const ACCEPT: PacketVerdict = { kind: 'accept' };

function keptReason(packet: WorldPacket): string {
  return packet.untracked
    ? 'A rule said NOTRACK: conntrack leaves the packet alone.'
    : packet.inInterface === null
      ? 'The packet is about a connection that conntrack knows, and carries it from where it was made: it is RELATED.'
      : 'The packet came back over lo and still carries its connection: conntrack does not look it up again, and nat is not asked again.';
}

/** Looks the packet up; gives a sentence on what was found. */
function look(context: HookContext, packet: WorldPacket): string | OpenQuestion {
  const { tracker } = context.state;
  const zone = packet.zoneRule ?? DEFAULT_ZONE;
  // The template that CT attached has done its work.
  packet.zoneRule = null;
  packet.tracking = null;
  if (packet.protocol === PROTOCOL.icmpv6 && UNTRACKED_ICMPV6.has(packet.icmpType)) {
    packet.untracked = true;
    return 'conntrack leaves neighbour discovery and multicast listening alone: UNTRACKED.';
  }
  if (isIcmpError(packet.protocol, packet.icmpType)) {
    return lookRelated(tracker, packet, zone);
  }
  packet.isAttached = false;
  if (packet.protocol === PROTOCOL.tcp && !areFlagsValid(packet.tcpFlags)) {
    return 'No TCP sends these flags together: INVALID.';
  }
  if (packet.protocol === PROTOCOL.udp && !packet.isIpv4 && packet.inInterface !== null && packet.checksum !== 'verified' && readSysctl(context.namespace, 'net.netfilter.nf_conntrack_checksum') !== 0) {
    // What conntrack sums up has the header in it, and nobody corrects it later (net/netfilter/utils.c, nf_ip6_checksum).
    packet.summed ??= packet.summedFields;
  }
  // A packet of the original direction is found in one zone, an answer in the other (nf_ct_zone_equal).
  const tuple = tupleOf(packet);
  for (let tries = 0; tries < 2; tries += 1) {
    const found = tracker.findInZone(tuple, zone);
    if (found === undefined) {
      break;
    }
    const result = update(tracker, packet, found);
    if (result !== null) {
      return result;
    }
  }
  const reply = invertTuple(tuple);
  if (reply === undefined || !beginsConnection(context, packet)) {
    return 'conntrack knows no connection that this packet could belong to, and it begins none: INVALID.';
  }
  const connection = new Connection(tuple, reply, zone, false);
  if (packet.protocol === PROTOCOL.tcp) {
    connection.tcpState = firstTcpState(packet.tcpFlags, true) ?? null;
  }
  count(connection, packet, false);
  packet.tracking = { connection, isReply: false, state: 'NEW' };
  return 'conntrack has not seen this connection before: NEW.';
}

/** What a packet of a known connection does to it; null where the connection is over and the packet begins another. */
function update(tracker: ConnectionTracker, packet: WorldPacket, found: FoundConnection): string | OpenQuestion | null {
  const { connection, isReply } = found;
  const state = isReply || connection.seenReply ? 'ESTABLISHED' : 'NEW';
  if (packet.protocol === PROTOCOL.tcp && connection.tcpState !== null) {
    if ((packet.tcpFlags & TCP_FLAG_BITS.RST) !== 0 && (isCraftedNumber(packet) || packet.acknowledgesCrafted) && connection.numberedDirections === BOTH_DIRECTIONS) {
      return { dependsOn: `whether the sequence number of a reset fits into the connection ${writeTuple(connection.original)}` };
    }
    const effect = updateTcp(tracker, packet, connection, isReply);
    if (effect === 'reopens') {
      return null;
    }
    if (effect === 'invalid') {
      return `${packet.summary()} does not belong into a connection in state ${connection.tcpState}: INVALID.`;
    }
  }
  if (packet.protocol === PROTOCOL.gre && connection.seenReply) {
    // nf_conntrack_proto_gre.c, nf_conntrack_gre_packet; protocols without a tracker of their own are never assured.
    connection.assured = true;
  }
  if (isReply && connection.confirmed) {
    connection.seenReply = true;
  }
  count(connection, packet, isReply);
  packet.tracking = { connection, isReply, state };
  return `conntrack knows the connection of this packet (${isReply ? 'reply' : 'original'} direction): ${state}.`;
}

/** nf_conntrack_proto_tcp.c, nf_conntrack_tcp_packet. */
function updateTcp(tracker: ConnectionTracker, packet: WorldPacket, connection: Connection, isReply: boolean): 'belongs' | 'reopens' | 'invalid' {
  const old = connection.tcpState;
  if (old === null) {
    return 'belongs';
  }
  const next = nextTcpState(old, isReply, packet.tcpFlags);
  if (next === 'ignore') {
    return 'belongs';
  }
  if (next === 'invalid') {
    return 'invalid';
  }
  if (next === 'SYN_SENT' && (old === 'TIME_WAIT' || old === 'CLOSE') && connection.closing) {
    tracker.remove(connection);
    return 'reopens';
  }
  const isReset = (packet.tcpFlags & TCP_FLAG_BITS.RST) !== 0;
  if (isReset && !connection.seenReply) {
    // "If only reply is a RST, we can consider ourselves not to have an established connection": the entry goes at once.
    connection.tcpState = next;
    if (connection.confirmed) {
      tracker.remove(connection);
    }
    return 'belongs';
  }
  connection.tcpState = next;
  connection.closing ||= isReset || (packet.tcpFlags & TCP_FLAG_BITS.FIN) !== 0;
  if (connection.seenReply && !connection.assured && (old === 'SYN_RECV' || old === 'ESTABLISHED') && next === 'ESTABLISHED') {
    connection.assured = true;
  }
  return 'belongs';
}

/**
 * nf_conntrack_core.c, nf_conntrack_inet_error: an error belongs to the connection of the packet that it is about. Where there is none,
 * what was attached to it stays, over lo as well.
 */
function lookRelated(tracker: ConnectionTracker, packet: WorldPacket, zone: Zone): string {
  const { about } = packet;
  const inverted = about === null ? undefined : invertTuple(tupleOf(about));
  const found = inverted === undefined ? undefined : tracker.findInZone(inverted, zone);
  if (found === undefined) {
    return 'conntrack knows no connection that this error could be about: INVALID.';
  }
  const { connection, isReply } = found;
  const expected = isReply ? connection.reply.destination : connection.original.destination;
  if (!expected.equals(packet.destination)) {
    return `The error is about a connection of ${expected.text}, and goes to another address: INVALID.`;
  }
  packet.tracking = { connection, isReply, state: 'RELATED' };
  packet.isAttached = false;
  return 'The error is about a connection that conntrack knows: RELATED.';
}

function beginsConnection(context: HookContext, packet: WorldPacket): boolean {
  switch (packet.protocol) {
    case PROTOCOL.tcp:
      return firstTcpState(packet.tcpFlags, readSysctl(context.namespace, 'net.netfilter.nf_conntrack_tcp_loose') !== 0) !== undefined;
    case PROTOCOL.icmp:
      return ASKING_ICMP.has(packet.icmpType);
    case PROTOCOL.icmpv6:
      return ASKING_ICMPV6.has(packet.icmpType);
    default:
      return true;
  }
}

/** Whether somebody wrote the sequence number, or the one that it answers. */
function isCraftedNumber(packet: WorldPacket): boolean {
  return packet.isCrafted || packet.answersCrafted;
}

function count(connection: Connection, packet: WorldPacket, isReply: boolean): void {
  const direction = isReply ? 1 : 0;
  if (!isCraftedNumber(packet) && (packet.tcpFlags & TCP_FLAG_BITS.RST) === 0) {
    connection.numberedDirections |= 1 << direction;
  }
  connection.packets[direction] += 1;
  connection.bytes[direction] += packet.length;
}
