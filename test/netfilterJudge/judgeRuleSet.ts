import type { FindingCode } from '../../simulator/netfilter/lintRuleSet.ts';
import { lintRuleSet } from '../../simulator/netfilter/lintRuleSet.ts';
import { readRuleSet } from '../../simulator/netfilter/readRuleSet.ts';
import { buildWorld } from '../../simulator/world/world.ts';
import { compareCase } from './compareCase.ts';
import type { CaseDraft } from './generateCase.ts';
import { makeWorld } from './generateWorld.ts';
import type { Tally } from './judge.ts';
import { addComparison, explainDifference, JudgeBench } from './judge.ts';
import type { Backend, Observation, Prediction, Stimulus } from './judgeCase.ts';
import { loadWhatLoads } from './ruleSetFile.ts';
import type { Flow, RuleTexts } from './ruleSetFlows.ts';
import { flowsFor, worldsFor } from './ruleSetFlows.ts';
import { reachableRules, ruleKey } from './ruleWishes.ts';
import { makeSnapshot, predictCase } from './simulatorRun.ts';

/** The kernel judges the simulator on a rule set that somebody wrote. */

/** Stimuli of a rule set that are judged before its connections are forgotten. */
const FLOWS_PER_BATCH = 50;

/** What judging the rule set of a file came to besides its tally. */
export interface RuleSetReport {
  /** What was changed for the kernel to take it. */
  readonly changes: readonly string[];
  /** The rules that packets can meet, as far as lintRuleSet can tell, and those of them that the kernel's packets met. */
  readonly reachable: ReadonlySet<string>;
  readonly reached: ReadonlySet<string>;
  /** Rules of which lintRuleSet says that they never match, and which the kernel's packets matched. */
  readonly falseAlarms: readonly string[];
}

/** Judges a rule set of a file with flows of what its rules want. */
export async function judgeRuleSet(texts: RuleTexts, backend: Backend, seed: number, flows: number, tally: Tally): Promise<RuleSetReport> {
  const worlds = worldsFor(texts);
  const changes = new Set<string>();
  const visited = new Set<string>();
  const reachable = new Set<string>();
  const dead = new Set<string>();
  for (const [index, choices] of worlds.entries()) {
    const bench = new JudgeBench(makeWorld(choices), backend);
    try {
      const loaded = await loadWhatLoads(bench.network, 'node', texts);
      for (const change of loaded.changes) {
        changes.add(change);
      }
      if (index === 0) {
        classifyRules(loaded, backend, reachable, dead);
      }
      const rules = [{ namespace: 'node', ipv4: loaded.ipv4, ipv6: loaded.ipv6 }];
      const world = buildWorld(makeSnapshot(bench.complete({ rules, stimuli: [] })));
      const before = tally.flows;
      const wanted = Math.ceil(flows / worlds.length);
      for (let batch = 0; tally.flows - before < wanted && batch * FLOWS_PER_BATCH < wanted * 4; batch += 1) {
        const groups = flowsFor(loaded, choices, batch * FLOWS_PER_BATCH, FLOWS_PER_BATCH, seed + index * 101);
        const draft: CaseDraft = { rules, stimuli: groups.flat() };
        const kernel = await bench.observe(draft);
        addVisited(kernel, visited);
        const comparison = compareCase(bench.complete(draft), kernel, openAfterUnknown(groups, predictCase(bench.complete(draft), world)), true);
        addComparison(tally, comparison);
        if (comparison.difference !== null) {
          const found = tally.found.length;
          await explainDifference(bench, draft, comparison.difference, tally);
          if (tally.found.length > found) {
            break;
          }
        }
      }
    } finally {
      bench.dispose();
    }
  }
  return { changes: [...changes], reachable, reached: new Set([...visited].filter((key) => reachable.has(key))), falseAlarms: [...visited].filter((key) => dead.has(key)) };
}

/** What the packets of a flow do once it is not known what one of them did is not known either; nor what others on the same ports do. */
function openAfterUnknown(flows: readonly Flow[], predictions: readonly Prediction[]): readonly Prediction[] {
  const open = new Map<string, string>();
  return flows.flatMap((flow) => flow.map((stimulus) => portsOf(stimulus))).map((ports, index) => {
    const prediction = predictions[index] ?? { kind: 'unknown' as const, dependsOn: 'nothing was predicted' };
    const before = open.get(ports);
    if (prediction.kind === 'unknown') {
      open.set(ports, prediction.dependsOn);
    }
    return before === undefined ? prediction : { kind: 'unknown' as const, dependsOn: before };
  });
}

/** The ports of a packet, or of the packet that it is about, in either direction. */
function portsOf(stimulus: Stimulus): string {
  if (stimulus.kind === 'connect' || stimulus.kind === 'datagram') {
    return [stimulus.port, stimulus.destination.port].toSorted().join();
  }
  const { transport } = stimulus.packet;
  const about = transport.kind === 'icmp' ? (transport.about?.transport ?? transport) : transport;
  return (about.kind === 'icmp' ? [about.identifier ?? 0] : [about.sourcePort ?? 0, about.destinationPort ?? 0].toSorted()).join();
}

const DEAD: ReadonlySet<FindingCode> = new Set(['shadowed', 'after-unconditional', 'contradiction', 'impossible-here', 'unreachable-chain']);

function classifyRules(texts: RuleTexts, backend: Backend, reachable: Set<string>, dead: Set<string>): void {
  for (const family of ['ipv4', 'ipv6'] as const) {
    const ruleSet = readRuleSet(texts[family], { family, backend });
    for (const { code, table, chain, position } of lintRuleSet(ruleSet)) {
      if (DEAD.has(code) && position !== null) {
        dead.add(ruleKey(family, table, chain, position));
      }
    }
    for (const key of reachableRules(ruleSet)) {
      if (!dead.has(key)) {
        reachable.add(key);
      }
    }
  }
}

function addVisited(observations: readonly Observation[], visited: Set<string>): void {
  for (const { namespace, family, visits } of observations.flatMap(({ passages }) => passages)) {
    for (const { table, chain, rule } of namespace === 'node' ? visits : []) {
      if (typeof rule === 'number') {
        visited.add(ruleKey(family, table, chain, rule));
      }
    }
  }
}
