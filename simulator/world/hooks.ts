import type { Endpoint, IpAddress } from '../../agent/protocol/scalars.ts';
import { toIpAddress } from '../../agent/protocol/ipAddress.ts';
import type { ConntrackTuple } from '../../agent/protocol/snapshot.ts';
import type { Hook, Place, TableName } from '../../agent/protocol/trace.ts';
import type { MatchContext } from '../netfilter/packet.ts';
import type { NumberRange, Table } from '../netfilter/ruleSet.ts';
import { BUILT_IN_CHAINS } from '../netfilter/ruleSet.ts';
import type { NatTarget, PacketNotes, RuleVisit, TableVerdict } from '../netfilter/traverseTable.ts';
import { traverseTable } from '../netfilter/traverseTable.ts';
import type { ConnectionTracker, TrackedConnection } from './conntrack.ts';
import { sameEndpoint, writeEndpoint } from './conntrack.ts';
import type { FlyingPacket } from './flyingPacket.ts';
import type { RouteDecision } from './routing.ts';
import { addressType, lookUpRoute, selectDeviceAddress, writeRoute } from './routing.ts';
import type { TraceRecorder } from './traceRecorder.ts';
import type { WorldNamespace } from './world.ts';
import { findLink, ipv4Addresses, tablesNamed } from './world.ts';

/** How a packet comes out of a hook, or of a whole way. `step` is the step that decided. */
export type PacketVerdict =
  | { readonly kind: 'accept' }
  /** Nobody is told: connect(2) waits until it gives up. */
  | { readonly kind: 'drop'; readonly step: number; readonly reason: string }
  | { readonly kind: 'reject'; readonly step: number; readonly reason: string; readonly errno: string }
  | { readonly kind: 'unknown'; readonly step: number; readonly dependsOn: string };

/** Where a hook runs and what it writes to. */
export interface HookContext {
  readonly namespace: WorldNamespace;
  readonly tracker: ConnectionTracker;
  readonly recorder: TraceRecorder;
  /** The way that a packet made here takes; hooks of OUTPUT may look it up again. */
  route: RouteDecision | null;
  /** Sentences for the trace. */
  readonly assumptions: Set<string>;
}

type Stage = TableName | 'conntrack' | 'confirm';

/** What runs at each hook, by priority: raw -300, conntrack -200, mangle -150, dnat -100, filter 0, security 50, snat 100, confirm last (include/uapi/linux/netfilter_ipv4.h). */
const STAGES: Readonly<Record<Hook, readonly Stage[]>> = {
  PREROUTING: ['raw', 'conntrack', 'mangle', 'nat'],
  INPUT: ['mangle', 'filter', 'security', 'nat', 'confirm'],
  FORWARD: ['mangle', 'filter', 'security'],
  OUTPUT: ['raw', 'conntrack', 'mangle', 'nat', 'filter', 'security'],
  POSTROUTING: ['mangle', 'nat', 'confirm'],
};

/** What connect(2) answers to each answer of REJECT while the socket waits (net/ipv4/icmp.c, icmp_err_convert). */
const REJECT_ERRNO: Readonly<Record<string, string>> = {
  'tcp-reset': 'ECONNREFUSED',
  'icmp-port-unreachable': 'ECONNREFUSED',
  'icmp-proto-unreachable': 'ENOPROTOOPT',
  'icmp-net-unreachable': 'ENETUNREACH',
  'icmp-net-prohibited': 'ENETUNREACH',
  'icmp-host-unreachable': 'EHOSTUNREACH',
  'icmp-host-prohibited': 'EHOSTUNREACH',
  'icmp-admin-prohibited': 'EHOSTUNREACH',
};

/** Says whether anything runs at a hook of a namespace: a hook with nothing costs nothing. */
export function isHookUsed(namespace: WorldNamespace, hook: Hook): boolean {
  return namespace.tracksConnections || STAGES[hook].some((stage) => stage !== 'conntrack' && stage !== 'confirm' && tablesAt(namespace, stage, hook).length > 0);
}

/**
 * Runs one hook of a namespace for a packet: all tables in the order of their priority, conntrack and NAT between them.
 * Changes the packet; writes a step for every rule that was compared.
 */
export function runHook(context: HookContext, hook: Hook, packet: FlyingPacket): PacketVerdict {
  for (const stage of STAGES[hook]) {
    const verdict = runStage(context, hook, stage, packet);
    if (verdict.kind !== 'accept') {
      return verdict;
    }
  }
  return { kind: 'accept' };
}

function runStage(context: HookContext, hook: Hook, stage: Stage, packet: FlyingPacket): PacketVerdict {
  switch (stage) {
    case 'conntrack':
      return trackPacket(context, hook, packet);
    case 'confirm':
      return confirmConnection(context, hook, packet);
    case 'nat':
      return translate(context, hook, packet);
    default: {
      const markBefore = packet.mark;
      for (const table of tablesAt(context.namespace, stage, hook)) {
        const verdict = runTable(context, hook, table, packet);
        if (verdict.kind !== 'accept') {
          return verdict.kind === 'nat' ? natOutsideOfNat(context, verdict.step) : verdict;
        }
      }
      // iptable_mangle.c and nft's chains of type route look up the way again where the mark changed.
      return hook === 'OUTPUT' && stage === 'mangle' && packet.mark !== markBefore ? reroute(context, packet, 'its mark changed in mangle') : { kind: 'accept' };
    }
  }
}

type StageVerdict = PacketVerdict | { readonly kind: 'nat'; readonly target: NatTarget; readonly step: number };

function runTable(context: HookContext, hook: Hook, table: Table, packet: FlyingPacket): StageVerdict {
  const before = packet.state();
  const result = traverseTable(table, hook, packet.view(), matchContext(context.namespace));
  if (result === null) {
    return { kind: 'accept' };
  }
  const { recorder } = context;
  recorder.tablesVisited += 1;
  let step = -1;
  for (const visit of result.visits) {
    recorder.rulesCompared += visit.rule === null ? 0 : 1;
    step = recorder.add({
      place: rulePlace(context.namespace, hook, table.name, visit),
      before: { ...before, mark: visit.before.mark },
      after: { ...before, mark: visit.after.mark },
      conditions: visit.conditions,
      decision: visit.decision,
      reason: visit.reason,
    });
  }
  applyNotes(context, packet, result.notes);
  if (result.verdict.kind === 'reject') {
    context.assumptions.add('The answer of REJECT is taken to reach the one who connects.');
  }
  return toStageVerdict(result.verdict, step, result.visits.at(-1));
}

function toStageVerdict(verdict: TableVerdict, step: number, last: RuleVisit | undefined): StageVerdict {
  const where = last === undefined ? '' : ` ('${last.rule?.text ?? `policy of ${last.chain}`}')`;
  switch (verdict.kind) {
    case 'accept':
      return { kind: 'accept' };
    case 'drop':
      return { kind: 'drop', step, reason: `a rule drops the packet${where}` };
    case 'reject': {
      const errno = Object.hasOwn(REJECT_ERRNO, verdict.with) ? REJECT_ERRNO[verdict.with] : undefined;
      return errno === undefined
        ? { kind: 'unknown', step, dependsOn: `the answer of REJECT ${verdict.with}` }
        : { kind: 'reject', step, errno, reason: `a rule rejects the packet${where}` };
    }
    case 'nat':
      return { kind: 'nat', target: verdict.target, step };
    case 'unknown':
      return { kind: 'unknown', step, dependsOn: verdict.dependsOn };
  }
}

/** NAT targets can be loaded into table nat only, so this is what no kernel has. */
function natOutsideOfNat(context: HookContext, step: number): PacketVerdict {
  return { kind: 'unknown', step, dependsOn: `a NAT rule outside of table nat in ${context.namespace.title}, which no kernel loads` };
}

function applyNotes(context: HookContext, packet: FlyingPacket, notes: PacketNotes): void {
  packet.mark = notes.mark;
  if (notes.untracked && context.namespace.tracksConnections) {
    packet.tracking = { kind: 'untracked' };
  }
  if (packet.tracking?.kind === 'tracked') {
    packet.tracking.connection.mark = notes.connectionMark;
  }
}

/** net/netfilter/nf_conntrack_core.c, nf_conntrack_in: what has a connection already keeps it. */
function trackPacket(context: HookContext, hook: Hook, packet: FlyingPacket): PacketVerdict {
  const { namespace, tracker } = context;
  if (!namespace.tracksConnections) {
    return { kind: 'accept' };
  }
  const before = packet.state();
  const place: Place = { kind: 'conntrack', namespace: namespace.id, hook };
  const note = (target: string, reason: string): void => {
    context.recorder.add({ place, before, after: packet.state(), decision: { kind: 'note', target }, reason });
  };
  if (packet.tracking?.kind === 'untracked') {
    note('UNTRACKED', 'The packet was marked NOTRACK before: conntrack leaves it alone, and so does nat.');
    return { kind: 'accept' };
  }
  if (packet.tracking !== null) {
    note(before.connection ?? 'NEW', 'The packet came back over lo and still carries its connection: conntrack does not look it up again, and nat is not asked again.');
    return { kind: 'accept' };
  }
  const found = tracker.find(packet.tuple());
  if (found !== undefined) {
    if (found.direction === 'reply') {
      found.connection.seenReply = true;
    }
    const state = found.connection.seenReply ? 'ESTABLISHED' : 'NEW';
    packet.tracking = { kind: 'tracked', ...found, state };
    note(state, `conntrack knows the connection of this packet (${found.direction} direction): ${state}.`);
  } else if (packet.flags.includes('SYN') && !packet.flags.includes('ACK')) {
    packet.tracking = { kind: 'tracked', connection: tracker.begin(packet.tuple()), direction: 'original', state: 'NEW' };
    note('NEW', 'conntrack has not seen this connection before: NEW.');
  } else {
    packet.tracking = { kind: 'invalid' };
    note('INVALID', 'conntrack knows no connection that this packet answers: INVALID.');
  }
  return { kind: 'accept' };
}

function confirmConnection(context: HookContext, hook: Hook, packet: FlyingPacket): PacketVerdict {
  const { tracking } = packet;
  if (tracking?.kind !== 'tracked' || tracking.connection.confirmed) {
    return { kind: 'accept' };
  }
  const { connection } = tracking;
  context.tracker.confirm(connection);
  const state = packet.state();
  context.recorder.add({
    place: { kind: 'conntrack', namespace: context.namespace.id, hook },
    before: state,
    after: state,
    decision: { kind: 'note', target: 'confirmed' },
    reason: `conntrack keeps the connection: ${writeTuple(connection.original)}; its answers come as ${writeTuple(connection.reply)}.`,
  });
  return { kind: 'accept' };
}

/**
 * NAT at one hook (net/netfilter/nf_nat_core.c, nf_nat_inet_fn): the rules are asked once for each connection and each
 * of its two bindings; where no rule decides, the binding is a null binding and is settled as well.
 */
function translate(context: HookContext, hook: Hook, packet: FlyingPacket): PacketVerdict {
  const { tracking } = packet;
  const tables = tablesAt(context.namespace, 'nat', hook);
  const active = tablesNamed(context.namespace, 'nat').length > 0;
  if (tracking?.kind !== 'tracked' || !active) {
    return { kind: 'accept' };
  }
  const { connection } = tracking;
  const side = hook === 'INPUT' || hook === 'POSTROUTING' ? 'source' : 'destination';
  const bound = side === 'source' ? connection.sourceBound : connection.destinationBound;
  let ruleStep: number | null = null;
  if (tracking.state === 'NEW' && tracking.direction === 'original' && !bound) {
    const verdict = bind(context, hook, tables, packet, connection, side);
    if (verdict.kind !== 'settled') {
      return verdict;
    }
    ruleStep = verdict.ruleStep;
  } else if (tracking.state === 'NEW' && tables.length > 0) {
    const state = packet.state();
    context.recorder.add({
      place: { kind: 'conntrack', namespace: context.namespace.id, hook },
      before: state,
      after: state,
      decision: { kind: 'continue' },
      reason: `nat ${hook} is not asked: the ${side} of this connection was settled before, and NAT decides once for each connection.`,
    });
  }
  return applyBinding(context, hook, packet, connection, side, ruleStep);
}

/** A side of a connection is settled: by the rule of a step, or by none. */
type Binding = { readonly kind: 'settled'; readonly ruleStep: number | null } | Exclude<PacketVerdict, { kind: 'accept' }>;

function bind(context: HookContext, hook: Hook, tables: readonly Table[], packet: FlyingPacket, connection: TrackedConnection, side: 'source' | 'destination'): Binding {
  for (const table of tables) {
    const verdict = runTable(context, hook, table, packet);
    if (verdict.kind === 'nat') {
      return settle(context, hook, packet, connection, side, verdict);
    }
    if (verdict.kind !== 'accept') {
      return verdict;
    }
  }
  return settleAs(context, connection, side, side === 'source' ? connection.reply.destination : connection.reply.source, null);
}

/** Settles one side of a connection by a NAT rule. */
function settle(context: HookContext, hook: Hook, packet: FlyingPacket, connection: TrackedConnection, side: 'source' | 'destination', verdict: { readonly target: NatTarget; readonly step: number }): Binding {
  const { target, step } = verdict;
  if ((target.kind === 'redirect' || target.kind === 'dnat') !== (side === 'destination')) {
    return { kind: 'unknown', step, dependsOn: `${target.kind.toUpperCase()} in ${hook}, which no kernel loads` };
  }
  const now = packet[side];
  const address = natAddress(context, hook, packet, target);
  if (address === null) {
    return { kind: 'drop', step, reason: `the interface has no address for ${target.kind.toUpperCase()}` };
  }
  const ports = target.kind === 'redirect' || target.kind === 'masquerade' ? target.ports : target.to.ports;
  const port = choosePort(ports, now.port);
  if (address === 'unknown' || port === null) {
    return { kind: 'unknown', step, dependsOn: `which ${port === null ? 'port' : 'address'} of its range ${target.kind.toUpperCase()} picks` };
  }
  if (target.options.some((option) => option.startsWith('--random'))) {
    context.assumptions.add(`${target.kind.toUpperCase()} ${target.options.join(' ')} picks ports at random; here a port is kept where it can be.`);
  }
  return settleAs(context, connection, side, { address, port }, step);
}

function settleAs(context: HookContext, connection: TrackedConnection, side: 'source' | 'destination', to: Endpoint, ruleStep: number | null): Binding {
  const reply: ConntrackTuple = side === 'source' ? { ...connection.reply, destination: to } : { ...connection.reply, source: to };
  if (context.tracker.isTaken(reply)) {
    const step = ruleStep ?? context.recorder.steps.length - 1;
    return { kind: 'unknown', step, dependsOn: `which source port conntrack picks: answers as ${writeTuple(reply)} belong to another connection already` };
  }
  connection.reply = reply;
  if (side === 'source') {
    connection.sourceBound = true;
  } else {
    connection.destinationBound = true;
  }
  return { kind: 'settled', ruleStep };
}

function natAddress(context: HookContext, hook: Hook, packet: FlyingPacket, target: NatTarget): IpAddress | 'unknown' | null {
  const { namespace } = context;
  switch (target.kind) {
    case 'redirect': {
      // net/netfilter/nf_nat_redirect.c: 127.0.0.1 for what is made here, else the first address of the device.
      if (hook === 'OUTPUT') {
        return toIpAddress('127.0.0.1');
      }
      const link = findLink(namespace, packet.inInterface ?? '');
      return link === undefined ? null : (ipv4Addresses(link)[0] ?? null);
    }
    case 'masquerade': {
      const nextHop = context.route?.kind === 'unicast' ? context.route.nextHop : packet.destination.address;
      return selectDeviceAddress(namespace, packet.outInterface ?? '', nextHop);
    }
    case 'dnat':
    case 'snat': {
      const { addresses } = target.to;
      if (addresses === null) {
        return packet[target.kind === 'dnat' ? 'destination' : 'source'].address;
      }
      return addresses.first === addresses.last ? addresses.first : 'unknown';
    }
  }
}

function choosePort(range: NumberRange | null, now: Endpoint['port']): Endpoint['port'] | null {
  if (range === null || (now >= range.first && now <= range.last)) {
    return now;
  }
  return range.first === range.last ? (range.first as Endpoint['port']) : null;
}

/** nf_nat_packet: puts the binding onto the packet, turned round for answers. */
function applyBinding(context: HookContext, hook: Hook, packet: FlyingPacket, connection: TrackedConnection, side: 'source' | 'destination', ruleStep: number | null): PacketVerdict {
  const { tracking } = packet;
  const isReply = tracking?.kind === 'tracked' && tracking.direction === 'reply';
  const other = isReply ? connection.original : connection.reply;
  const wanted = side === 'destination' ? other.source : other.destination;
  if (sameEndpoint(packet[side], wanted)) {
    return { kind: 'accept' };
  }
  const before = packet.state();
  const addressChanges = packet[side].address !== wanted.address;
  packet[side] = wanted;
  const after = packet.state();
  if (ruleStep !== null) {
    const target = connectionTarget(context, ruleStep);
    const moved = side === 'destination' ? 'goes to' : 'comes from';
    const reason = `${target} in ${hook}: the packet now ${moved} ${writeEndpoint(wanted)} (was ${writeEndpoint(before[side])}); nat is not asked for its ${side} again in this connection.`;
    context.recorder.amend(ruleStep, { after, reason });
  } else {
    context.recorder.add({
      place: { kind: 'conntrack', namespace: context.namespace.id, hook },
      before,
      after,
      decision: { kind: 'rewrite', target: `${side} ${writeEndpoint(wanted)}` },
      reason: isReply
        ? `NAT is undone for the answer: its ${side} becomes ${writeEndpoint(wanted)}.`
        : `The connection was translated before: its ${side} becomes ${writeEndpoint(wanted)}.`,
    });
  }
  return hook === 'OUTPUT' && addressChanges ? reroute(context, packet, 'its destination changed in nat') : { kind: 'accept' };
}

/** The target of the rule that a step is about: `REDIRECT --to-ports 15006`. */
function connectionTarget(context: HookContext, step: number): string {
  const decision = context.recorder.steps[step]?.decision;
  return decision?.kind === 'rewrite' ? decision.target : 'NAT';
}

/**
 * Looks up the way again (net/ipv4/netfilter.c, ip_route_me_harder). The tables that are still to come at this hook go
 * on seeing the device of the first look-up: the state of a hook is made once.
 */
function reroute(context: HookContext, packet: FlyingPacket, why: string): PacketVerdict {
  const { namespace, recorder } = context;
  const route = lookUpRoute(namespace, { destination: packet.destination.address, source: packet.source.address, mark: packet.mark, inInterface: 'lo' });
  const state = packet.state();
  if (route.kind === 'refuse' || route.kind === 'unknown') {
    const step = recorder.add({
      place: { kind: 'routing', namespace: namespace.id, table: null, route: null },
      before: state,
      after: state,
      decision: route.kind === 'refuse' ? { kind: 'verdict', verdict: 'DROP' } : { kind: 'unknown', dependsOn: route.dependsOn },
      reason: `The way is looked up again because ${why}: ${route.kind === 'refuse' ? route.reason : route.dependsOn}.`,
    });
    return route.kind === 'refuse' ? { kind: 'drop', step, reason: route.reason } : { kind: 'unknown', step, dependsOn: route.dependsOn };
  }
  context.route = route;
  const device = route.kind === 'local' ? 'lo' : route.device;
  recorder.add({
    place: { kind: 'routing', namespace: namespace.id, table: route.route.table, route: writeRoute(route.route) },
    before: state,
    after: state,
    decision: { kind: 'route', device, local: route.kind === 'local' },
    reason: `The way is looked up again because ${why}: it now leaves by ${device}. The tables still to come at OUTPUT go on seeing ${packet.outInterface ?? 'none'}.`,
  });
  return { kind: 'accept' };
}

function tablesAt(namespace: WorldNamespace, name: TableName, hook: Hook): readonly Table[] {
  return BUILT_IN_CHAINS[name].includes(hook) ? tablesNamed(namespace, name).filter((table) => table.chains.has(hook)) : [];
}

function matchContext(namespace: WorldNamespace): MatchContext {
  return { addressType: (address) => addressType(namespace, address) };
}

function rulePlace(namespace: WorldNamespace, hook: Hook, table: TableName, visit: RuleVisit): Place {
  return {
    kind: 'rule',
    namespace: namespace.id,
    hook,
    table,
    chain: visit.chain,
    rule: visit.position,
    text: visit.rule?.text ?? `:${visit.chain} ${visit.decision.kind === 'verdict' ? visit.decision.verdict : ''}`,
    line: visit.rule?.line ?? null,
  };
}

function writeTuple({ source, destination }: ConntrackTuple): string {
  return `${writeEndpoint(source)} → ${writeEndpoint(destination)}`;
}
