import type { Hook, PacketState, Place, TableName } from '../../agent/protocol/trace.ts';
import type { CompiledTable } from '../netfilter/compileTable.ts';
import type { Packet as NetfilterPacket } from '../netfilter/packet.ts';
import { BUILT_IN_CHAINS } from '../netfilter/ruleSet.ts';
import type { NatTarget, RuleVisit, TableVerdict } from '../netfilter/traverseTable.ts';
import { traverseTable } from '../netfilter/traverseTable.ts';
import type { Connection } from './conntrack.ts';
import { connectionPlace, confirmConnection, trackPacket } from './trackPacket.ts';
import { translatePacket } from './translatePacket.ts';
import type { NamespaceEnvironment } from './namespaceEnvironment.ts';
import type { RouteDecision } from './routing.ts';
import { findOutputRoute, writeRoute } from './routing.ts';
import type { NamespaceState, Simulation } from './simulation.ts';
import type { TraceRecorder } from './traceRecorder.ts';
import type { FamilyRules, WorldNamespace } from './world.ts';
import { tablesNamed } from './world.ts';

/** A packet in the simulated world. */
export type WorldPacket = NetfilterPacket<Connection>;

/** How a packet comes out of a hook. `step` is the step of the trace that decided; null where no trace is kept. */
export type PacketVerdict =
  | { readonly kind: 'accept' }
  /** Nobody is told. `isRefused`: every rule let it pass, and conntrack could not keep its connection. */
  | { readonly kind: 'drop'; readonly step: number | null; readonly reason: string; readonly errno?: string; readonly isRefused?: true }
  /** A rule of REJECT: its sender is told by another packet. */
  | { readonly kind: 'reject'; readonly step: number | null; readonly reason: string; readonly with: string; readonly hook: Hook }
  | { readonly kind: 'unknown'; readonly step: number | null; readonly dependsOn: string };

/** Where a hook runs and what it writes to. */
export interface HookContext {
  readonly simulation: Simulation;
  readonly namespace: WorldNamespace;
  /** Of the family of the packet. */
  readonly rules: FamilyRules;
  readonly state: NamespaceState;
  readonly environment: NamespaceEnvironment;
  readonly recorder: TraceRecorder | null;
  /** The way that a packet takes; hooks of OUTPUT may look it up again. */
  route: RouteDecision | null;
}

type Stage = TableName | 'defragment' | 'conntrack' | 'confirm';

/** What runs at each hook, by priority: defragmenting -400, raw -300, conntrack -200, mangle -150, dnat -100, filter 0, security 50, snat 100, confirm last (include/uapi/linux/netfilter_ipv4.h). */
const STAGES: Readonly<Record<Hook, readonly Stage[]>> = {
  PREROUTING: ['defragment', 'raw', 'conntrack', 'mangle', 'nat'],
  INPUT: ['mangle', 'filter', 'security', 'nat', 'confirm'],
  FORWARD: ['mangle', 'filter', 'security'],
  OUTPUT: ['defragment', 'raw', 'conntrack', 'mangle', 'nat', 'filter', 'security'],
  POSTROUTING: ['mangle', 'nat', 'confirm'],
};

const NFT_INPUT: readonly Stage[] = ['mangle', 'filter', 'nat', 'security', 'confirm'];

const ACCEPT: PacketVerdict = { kind: 'accept' };

/** Says whether anything runs at a hook of a namespace for a family: a hook with nothing costs nothing. */
export function isHookUsed(rules: FamilyRules, hook: Hook): boolean {
  return rules.tracksConnections || STAGES[hook].some((stage) => isTable(stage) && tablesAt(rules, stage, hook).length > 0);
}

/**
 * Runs one hook of a namespace for a packet: all tables in the order of their priority, conntrack and NAT between them.
 * Changes the packet; writes a step for every rule that was compared.
 */
export function runHook(context: HookContext, hook: Hook, packet: WorldPacket): PacketVerdict {
  context.environment.hook = hook;
  for (const stage of hook === 'INPUT' && context.rules.asksSecurityLast ? NFT_INPUT : STAGES[hook]) {
    const verdict = runStage(context, hook, stage, packet);
    if (verdict.kind !== 'accept') {
      return verdict;
    }
  }
  return ACCEPT;
}

function runStage(context: HookContext, hook: Hook, stage: Stage, packet: WorldPacket): PacketVerdict {
  switch (stage) {
    case 'defragment':
      return holdFragment(context, hook, packet);
    case 'conntrack':
      return trackPacket(context, hook, packet);
    case 'confirm':
      return confirmConnection(context, hook, packet);
    case 'nat':
      return context.rules.tracksConnections ? translatePacket(context, hook, packet) : ACCEPT;
    default: {
      const tables = tablesAt(context.rules, stage, hook);
      if (tables.length === 0) {
        return ACCEPT;
      }
      const { mark, tos } = packet;
      for (const table of tables) {
        const verdict = runTable(context, hook, table, packet);
        if (verdict.kind !== 'accept') {
          return verdict.kind === 'nat' ? natOutsideOfNat(context, verdict.step) : verdict;
        }
      }
      // iptable_mangle.c and nft's chains of type route look up the way again where the mark or the type of service changed.
      const changed = packet.mark !== mark ? 'its mark' : packet.tos !== tos && packet.isIpv4 ? 'its type of service' : null;
      return hook === 'OUTPUT' && stage === 'mangle' && changed !== null ? reroute(context, packet, `${changed} changed in mangle`) : ACCEPT;
    }
  }
}

export type StageVerdict = PacketVerdict | { readonly kind: 'nat'; readonly target: NatTarget; readonly step: number | null };

/** Sends a packet through one table at a hook. */
export function runTable(context: HookContext, hook: Hook, table: CompiledTable, packet: WorldPacket): StageVerdict {
  const { recorder } = context;
  const visits: RuleVisit[] | null = recorder === null ? null : [];
  const verdict = traverseTable(table, hook, packet, context.environment, { visits, counters: context.state.countersOf(table) });
  if (verdict === null) {
    return ACCEPT;
  }
  let step: number | null = null;
  if (recorder !== null && visits !== null) {
    recorder.tablesVisited += 1;
    for (const visit of visits) {
      recorder.rulesCompared += visit.rule === null ? 0 : 1;
      const { before, after, conditions, decision, reason } = visit;
      step = recorder.add({ place: rulePlace(context.namespace, hook, table.table.name, visit), before, after, conditions, decision, reason });
    }
  }
  return toStageVerdict(verdict, step, visits?.at(-1), hook);
}

function toStageVerdict(verdict: TableVerdict, step: number | null, last: RuleVisit | undefined, hook: Hook): StageVerdict {
  switch (verdict.kind) {
    case 'accept':
      return ACCEPT;
    case 'drop':
      return { kind: 'drop', step, reason: `a rule drops the packet${whichRule(last)}` };
    case 'reject':
      return { kind: 'reject', step, with: verdict.with, hook, reason: `a rule rejects the packet${whichRule(last)}` };
    case 'nat':
      return { kind: 'nat', target: verdict.target, step };
    case 'unknown':
      return { kind: 'unknown', step, dependsOn: verdict.dependsOn };
  }
}

function whichRule(last: RuleVisit | undefined): string {
  return last === undefined ? '' : ` ('${last.rule?.text ?? `policy of ${last.chain}`}')`;
}

/** NAT targets can be loaded into table nat only, so this is what no kernel has. */
function natOutsideOfNat(context: HookContext, step: number | null): PacketVerdict {
  return { kind: 'unknown', step, dependsOn: `a NAT rule outside of table nat in ${context.namespace.title}, which no kernel loads` };
}

/** net/ipv4/netfilter/nf_defrag_ipv4.c: a fragment waits for the others, and they go on as one packet. */
function holdFragment(context: HookContext, hook: Hook, packet: WorldPacket): PacketVerdict {
  if (!context.rules.collectsFragments || (packet.fragmentOffset === 0 && !packet.moreFragments)) {
    return ACCEPT;
  }
  const reason = 'fragments are kept here until all of them have come, and then go on as one packet; this one is alone';
  const state = context.recorder === null ? null : packet.state();
  const step = state === null ? null : context.recorder?.add({ place: connectionPlace(context, hook), before: state, after: state, decision: { kind: 'verdict', verdict: 'STOLEN' }, reason: `${capitalize(reason)}.` }) ?? null;
  return { kind: 'drop', step, reason };
}

/**
 * Looks up the way again (net/ipv4/netfilter.c, ip_route_me_harder). The tables that are still to come at this hook go
 * on seeing the device of the first look-up: the state of a hook is made once.
 */
export function reroute(context: HookContext, packet: WorldPacket, why: string): PacketVerdict {
  const { namespace, recorder } = context;
  const route = findOutputRoute(namespace, { destination: packet.destination, source: packet.source, mark: packet.mark, inInterface: 'lo', outInterface: packet.socket?.device ?? null }, true);
  const before: PacketState | null = recorder === null ? null : packet.state();
  if (route.kind === 'refuse' || route.kind === 'unknown') {
    const reason = route.kind === 'refuse' ? route.reason : route.dependsOn;
    const step =
      recorder === null || before === null
        ? null
        : recorder.add({
            place: { kind: 'routing', namespace: namespace.id, table: null, route: null }, before, after: before,
            decision: route.kind === 'refuse' ? { kind: 'verdict', verdict: 'DROP' } : { kind: 'unknown', dependsOn: reason }, reason: `The way is looked up again because ${why}: ${reason}.`,
          });
    return route.kind === 'refuse' ? { kind: 'drop', step, reason, errno: route.errno } : { kind: 'unknown', step, dependsOn: reason };
  }
  context.route = route;
  if (recorder !== null && before !== null) {
    const device = route.kind === 'local' ? 'lo' : route.device;
    recorder.add({
      place: { kind: 'routing', namespace: namespace.id, table: route.route.table, route: writeRoute(route.route) }, before, after: before,
      decision: { kind: 'route', device, local: route.kind === 'local' },
      reason: `The way is looked up again because ${why}: it now leaves by ${device}. The tables still to come at OUTPUT go on seeing ${packet.outInterface ?? 'none'}.`,
    });
  }
  return ACCEPT;
}

/** The tables of a name that have a chain at a hook. */
export function tablesAt(rules: FamilyRules, name: TableName, hook: Hook): readonly CompiledTable[] {
  const tables = tablesNamed(rules, name);
  return tables.length === 0 || !BUILT_IN_CHAINS[name].includes(hook) ? NO_TABLES : tables;
}

const NO_TABLES: readonly CompiledTable[] = [];

function isTable(stage: Stage): stage is TableName {
  return stage !== 'conntrack' && stage !== 'confirm' && stage !== 'defragment';
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

function capitalize(text: string): string {
  return `${text.charAt(0).toUpperCase()}${text.slice(1)}`;
}
