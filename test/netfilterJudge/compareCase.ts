import type { JudgeCase, Observation, Passage, Prediction, Visit } from './judgeCase.ts';

/** Where kernel and simulator first differ, in as few lines as tell it. */
export interface Difference {
  /** Which stimulus, from 0. */
  readonly stimulus: number;
  /** What differs: `rules` visited, `mark`s, `ends` of packets, who `received`, the `call`, `connections`. */
  readonly aspect: 'passage' | 'rules' | 'mark' | 'ends' | 'received' | 'call' | 'connections';
  readonly kernel: string;
  readonly simulator: string;
}

/** What comparing a case came to. */
export interface Comparison {
  /** Stimuli about which both said the same. */
  readonly agreed: number;
  /** Stimuli that were not compared: the simulator says that they depend on something, or they follow on such a one. */
  readonly undecided: number;
  /** What they depend on, each once. */
  readonly dependsOn: readonly string[];
  readonly difference: Difference | null;
}

/**
 * Compares stimulus by stimulus, up to the first difference: what comes after it has other connections to begin with. For
 * the same reason it goes on behind what is not known only where stimuli have nothing to do with each other.
 */
export function compareCase(
  judged: Pick<JudgeCase, 'rules' | 'stimuli' | 'world'>,
  observations: readonly Observation[],
  predictions: readonly Prediction[],
  areIndependent = false,
): Comparison {
  const quiet = emptyChains(judged);
  const hide = hideChance(judged);
  const dependsOn = new Set<string>();
  let agreed = 0;
  for (const [index, observation] of observations.entries()) {
    const prediction = predictions[index];
    if (prediction?.kind !== 'known') {
      dependsOn.add(prediction?.dependsOn ?? 'nothing was predicted');
      if (areIndependent) {
        continue;
      }
      break;
    }
    const before = predictions[index - 1];
    const [kernel, simulator] = [hide(observation), hide(prediction.observation)];
    const difference = compareObservations(quiet, kernel, simulator) ??
      compareConnections([hide(observations[index - 1]), kernel], [hide(before?.kind === 'known' ? before.observation : undefined), simulator], before?.kind === 'unknown');
    if (difference !== null) {
      return { agreed, undecided: observations.length - agreed - 1, dependsOn: [...dependsOn], difference: { stimulus: index, ...difference } };
    }
    agreed += 1;
  }
  return { agreed, undecided: observations.length - agreed, dependsOn: [...dependsOn], difference: null };
}

type FoundDifference = Omit<Difference, 'stimulus'>;

function compareObservations(quiet: ChainFilter, kernel: Observation, simulator: Observation): FoundDifference | null {
  return (
    comparePassages(quiet, kernel.passages, simulator.passages) ??
    compareLists('call', [kernel.call ?? ''], [simulator.call ?? '']) ??
    compareLists('received', kernel.received, simulator.received)
  );
}

type BeforeAndAfter = readonly [Observation | undefined, Observation];

/** What a stimulus changed in the tables of connections; `isOpen`: where they began is not known. */
function compareConnections(kernel: BeforeAndAfter, simulator: BeforeAndAfter, isOpen: boolean): FoundDifference | null {
  return isOpen ? null : compareLists('connections', describeChanges(kernel), describeChanges(simulator));
}

function describeChanges([before, after]: BeforeAndAfter): readonly string[] {
  const describe = (observation: Observation | undefined): readonly string[] => (observation?.connections ?? []).map(({ namespace, text }) => `${namespace}: ${text}`);
  const [old, now] = [describe(before), describe(after)];
  return [...subtract(now, old), ...subtract(old, now).map((text) => `no longer ${text}`)];
}

function comparePassages(quiet: ChainFilter, kernel: readonly Passage[], simulator: readonly Passage[]): FoundDifference | null {
  const ways = compareLists('passage', kernel.map(describePassage), simulator.map(describePassage));
  if (ways !== null) {
    return ways;
  }
  const left = kernel.toSorted(byDescription);
  const right = simulator.toSorted(byDescription);
  for (const [index, passage] of left.entries()) {
    const other = right[index];
    if (other !== undefined) {
      const difference = compareVisits(quiet, passage, other);
      if (difference !== null) {
        return difference;
      }
    }
  }
  return null;
}

function byDescription(left: Passage, right: Passage): number {
  const [a, b] = [describePassage(left), describePassage(right)];
  return a < b ? -1 : a > b ? 1 : 0;
}

function describePassage({ namespace, start, end }: Passage): string {
  const last = end === null ? 'ends there' : `${end.hook} ${end.device} ${end.packet === start.packet ? '' : `as ${end.packet}`}`;
  return `${namespace} ${start.hook} ${start.device} ${start.packet} → ${last}`.trimEnd();
}

function compareVisits(quiet: ChainFilter, kernel: Passage, simulator: Passage): FoundDifference | null {
  const keeps = (visit: Visit): boolean => visit.rule !== 'return' && !(visit.rule === 'policy' && quiet(kernel, visit));
  const left = kernel.visits.filter(keeps);
  const right = simulator.visits.filter(keeps);
  const where = `${kernel.namespace} ${kernel.start.hook} ${kernel.start.packet}`;
  const rules = compareLists('rules', left.map(describeVisit), right.map(describeVisit), true);
  if (rules !== null) {
    return { ...rules, kernel: `${where}: ${rules.kernel}`, simulator: `${where}: ${rules.simulator}` };
  }
  for (const [index, visit] of left.entries()) {
    const other = right[index];
    if (other === undefined) {
      break;
    }
    const place = `${where}: ${describeVisit(visit)}`;
    for (const key of ['markBefore', 'markAfter', 'ends'] as const) {
      if (visit[key] !== null && other[key] !== null && visit[key] !== other[key]) {
        return { aspect: key === 'ends' ? 'ends' : 'mark', kernel: `${place}: ${key} ${visit[key]}`, simulator: `${place}: ${key} ${other[key]}` };
      }
    }
  }
  return null;
}

function describeVisit({ table, chain, rule }: Visit): string {
  return `${table} ${chain} ${rule}`;
}

/** Compares lists of texts; `isOrdered`: in their order. Only what one of them has and the other has not is told. */
function compareLists(aspect: Difference['aspect'], kernel: readonly string[], simulator: readonly string[], isOrdered = false): FoundDifference | null {
  if (isOrdered) {
    return kernel.join('\n') === simulator.join('\n') ? null : { aspect, kernel: kernel.join(', ') || 'nothing', simulator: simulator.join(', ') || 'nothing' };
  }
  const onlyKernel = subtract(kernel, simulator);
  const onlySimulator = subtract(simulator, kernel);
  return onlyKernel.length === 0 && onlySimulator.length === 0 ? null : { aspect, kernel: onlyKernel.join('\n') || 'nothing', simulator: onlySimulator.join('\n') || 'nothing' };
}

function subtract(from: readonly string[], what: readonly string[]): readonly string[] {
  const rest = [...what];
  return from.filter((text) => {
    const index = rest.indexOf(text);
    if (index >= 0) {
      rest.splice(index, 1);
    }
    return index < 0;
  });
}

/** Ports and ICMP identifiers as stimuli and sockets have them, and as rules of NAT and TPROXY give them. */
const NAMED_PORT = /"(?:port|sourcePort|destinationPort|identifier)":(\d+)|--(?:to-ports|on-port) (\d+)|--to-(?:source|destination) \S*(?:\.\d+|\]):(\d+)/g;
/** Ranges that source NAT draws a port from, however they are named elsewhere. */
const DRAWN_PORTS = /-j (?:MASQUERADE --to-ports |SNAT --to-source \S*:)(\d+)-(\d+)/g;
/** The port behind an address, or the identifier, as writePacket and writeConnection write them. */
const WRITTEN_PORT = /((?:\.\d{1,3}|::[0-9a-f]{0,4}|\]):| id )(\d{1,5})(?=["\s>)]|$)/g;

/**
 * Where NAT has to take another port or ICMP identifier, the kernel picks one by chance (nf_nat_core.c, nf_nat_l4proto_unique_tuple): ports that
 * nothing in the case names are not told apart.
 */
function hideChance(judged: Pick<JudgeCase, 'rules' | 'stimuli' | 'world'>): <Seen extends Observation | undefined>(observation: Seen) => Seen {
  const text = JSON.stringify(judged);
  const drawn = [...text.matchAll(DRAWN_PORTS)].map(([, first, last]) => ({ first: Number(first), last: Number(last) }));
  const given = [...text.matchAll(NAMED_PORT)].map(([, first, second, third]) => first ?? second ?? third ?? '');
  const named = new Set(['0', ...given.filter((port) => !drawn.some(({ first, last }) => Number(port) >= first && Number(port) <= last))]);
  return <Seen extends Observation | undefined>(observation: Seen) =>
    observation === undefined
      ? observation
      : (JSON.parse(JSON.stringify(observation).replaceAll(WRITTEN_PORT, (text, before: string, port: string) => (named.has(port) ? text : `${before}*`))) as Seen);
}

/** Says whether the policy of a chain is of no account. */
type ChainFilter = (passage: Passage, visit: Visit) => boolean;

/**
 * Chains without rules whose policy is ACCEPT are of no account: whether a backend has made them at all depends on what
 * was loaded before.
 */
function emptyChains({ rules }: Pick<JudgeCase, 'rules'>): ChainFilter {
  const counted = new Set<string>();
  for (const { namespace, ipv4, ipv6 } of rules) {
    for (const [family, text] of [['ipv4', ipv4], ['ipv6', ipv6]] as const) {
      let table = '';
      for (const line of text.split('\n')) {
        table = /^\*\s*(\w+)/.exec(line)?.[1] ?? table;
        const chain = /^(?:\[\d+:\d+\] ?)?-[AI] (\S+)/.exec(line)?.[1] ?? /^:(\S+) DROP/.exec(line)?.[1];
        if (chain !== undefined) {
          counted.add(`${namespace} ${family} ${table} ${chain}`);
        }
      }
    }
  }
  return ({ namespace, family }, { table, chain }) => !counted.has(`${namespace} ${family} ${table} ${chain}`);
}
