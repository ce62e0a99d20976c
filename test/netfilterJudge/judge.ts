import fc from 'fast-check';
import type { Comparison, Difference } from './compareCase.ts';
import { compareCase } from './compareCase.ts';
import type { Fixture } from './fixtures.ts';
import type { CaseDraft } from './generateCase.ts';
import { caseDraft } from './generateCase.ts';
import { makeWorld, worldChoices } from './generateWorld.ts';
import type { Backend, JudgeCase, JudgeWorld, Observation } from './judgeCase.ts';
import { KernelDriver } from './kernelDriver.ts';
import { KernelNetwork } from './kernelNetwork.ts';
import { findDeclared } from './ledger.ts';
import { shrinkCase } from './shrinkCase.ts';
import { predictCase } from './simulatorRun.ts';

/** The kernel judges the simulator: the same rules and packets before both, step by step. */

/** A difference that no entry of the ledger declares, as small as it gets. */
export interface FoundDifference {
  readonly fixture: Fixture;
  readonly difference: Difference;
}

/** A difference that did not come again. */
export interface VanishedDifference {
  /** `late`: it was gone in the same network, with patience; `remembered`: only in a new one, which knows nothing of other cases; `unsteady`: it was there once more. */
  readonly kind: 'late' | 'remembered' | 'unsteady';
  readonly difference: Difference;
}

/** What a run came to. */
export interface Tally {
  flows: number;
  /** Flows about which the simulator says that they depend on something, with what and how often. */
  undecided: number;
  readonly dependsOn: Map<string, number>;
  readonly declared: Map<string, number>;
  /** Rule sets that iptables did not take. */
  refused: number;
  /** Differences that were not there when the same case was run again. */
  readonly vanished: VanishedDifference[];
  readonly found: FoundDifference[];
}

/** A tally in which nothing has happened. */
export function emptyTally(): Tally {
  return { flows: 0, undecided: 0, dependsOn: new Map(), declared: new Map(), refused: 0, vanished: [], found: [] };
}

/** How many differences a run looks for before it ends. */
const MAX_FOUND = 12;
/** How many cases share a world, which costs more to build than rules to load. */
const CASES_PER_WORLD = 24;
/** How many worlds are judged side by side: while the kernel takes the rules of one, others have their packets. */
const LANES = 4;

/** A world of the kernel with what drives it. */
export class JudgeBench {
  readonly world: JudgeWorld;
  readonly backend: Backend;
  readonly network: KernelNetwork;
  readonly #driver: KernelDriver;

  constructor(world: JudgeWorld, backend: Backend) {
    this.world = world;
    this.backend = backend;
    this.network = new KernelNetwork(world, backend);
    this.#driver = new KernelDriver(this.network);
  }

  /** Asks both and compares. */
  async compare(draft: CaseDraft, isPatient = false): Promise<{ readonly comparison: Comparison; readonly kernel: readonly Observation[] }> {
    const kernel = await this.#driver.run(draft, isPatient);
    return { comparison: compareCase(this.complete(draft), kernel, predictCase(this.complete(draft))), kernel };
  }

  /** Asks the kernel only. */
  observe(draft: CaseDraft, isPatient = false): Promise<readonly Observation[]> {
    return this.#driver.run(draft, isPatient);
  }

  /** Gives a draft with what it is judged in. */
  complete(draft: CaseDraft): JudgeCase {
    return { backend: this.backend, world: this.world, rules: draft.rules, stimuli: draft.stimuli };
  }

  dispose(): void {
    this.#driver.dispose();
    this.network.dispose();
  }
}

/** Judges random cases until `goesOn` says no or enough differences were found; asked before each case. */
export async function judgeRandomCases(backend: Backend, seed: number, tally: Tally, goesOn: () => boolean): Promise<void> {
  const isOver = (): boolean => !goesOn() || tally.found.length >= MAX_FOUND;
  let rounds = 0;
  const judgeWorlds = async (): Promise<void> => {
    while (!isOver()) {
      const worldSeed = seed + rounds * 7_919;
      rounds += 1;
      await judgeRandomWorld(backend, worldSeed, tally, isOver);
    }
  };
  await Promise.all(Array.from({ length: LANES }, judgeWorlds));
}

async function judgeRandomWorld(backend: Backend, seed: number, tally: Tally, isOver: () => boolean): Promise<void> {
  const [choices] = fc.sample(worldChoices, { seed, numRuns: 1 });
  if (choices === undefined) {
    return;
  }
  const bench = new JudgeBench(makeWorld(choices), backend);
  try {
    for (const draft of fc.sample(caseDraft(choices), { seed, numRuns: CASES_PER_WORLD })) {
      if (isOver()) {
        break;
      }
      await judgeCase(bench, draft, tally);
    }
  } finally {
    bench.dispose();
  }
}

async function judgeCase(bench: JudgeBench, draft: CaseDraft, tally: Tally): Promise<void> {
  let comparison: Comparison;
  try {
    ({ comparison } = await bench.compare(draft));
  } catch (error) {
    if (isRefusal(error)) {
      tally.refused += 1;
      return;
    }
    throw error;
  }
  addComparison(tally, comparison);
  if (comparison.difference !== null) {
    await explainDifference(bench, draft, comparison.difference, tally);
  }
}

/** Adds what comparing a case came to. */
export function addComparison(tally: Tally, { agreed, undecided, dependsOn }: Comparison): void {
  tally.flows += agreed;
  tally.undecided += undecided;
  for (const reason of dependsOn) {
    tally.dependsOn.set(reason, (tally.dependsOn.get(reason) ?? 0) + 1);
  }
}

/** Runs a case that differed again, with patience, in its network and in a new one; makes it smaller and asks the ledger. */
export async function explainDifference(used: JudgeBench, draft: CaseDraft, first: Difference, tally: Tally): Promise<void> {
  const again = (await used.compare(draft, true)).comparison.difference;
  if (again === null) {
    tally.vanished.push({ kind: 'late', difference: first });
    return;
  }
  const bench = new JudgeBench(used.world, used.backend);
  try {
    const confirmed = (await bench.compare(draft, true)).comparison.difference;
    if (confirmed === null) {
      tally.vanished.push({ kind: 'remembered', difference: again });
      return;
    }
    const cut = { ...draft, stimuli: draft.stimuli.slice(0, confirmed.stimulus + 1) };
    const smaller = await shrinkCase(cut, async (some) => (await tryComparison(bench, some)) !== null);
    const ofSmaller = await bench.compare(smaller, true);
    // What differs only while nobody waits says little: then the whole case does.
    const [smallest, last] = ofSmaller.comparison.difference === null ? [cut, await bench.compare(cut, true)] : [smaller, ofSmaller];
    const { difference } = last.comparison;
    if (difference === null) {
      tally.vanished.push({ kind: 'unsteady', difference: confirmed });
      return;
    }
    const declared = findDeclared(bench.complete(smallest), difference);
    if (declared !== undefined) {
      tally.declared.set(declared, (tally.declared.get(declared) ?? 0) + 1);
      return;
    }
    tally.found.push({ difference, fixture: { title: `${difference.aspect}: ${difference.kernel.split('\n')[0] ?? ''}`, judged: bench.complete(smallest), kernel: last.kernel } });
  } finally {
    bench.dispose();
  }
}

async function tryComparison(bench: JudgeBench, draft: CaseDraft): Promise<Difference | null> {
  try {
    return (await bench.compare(draft)).comparison.difference;
  } catch (error) {
    if (isRefusal(error)) {
      return null;
    }
    throw error;
  }
}

/** Whether it is iptables that would not take the rules. */
export function isRefusal(error: unknown): boolean {
  return error instanceof Error && /^ip6?tables-\w+-restore: /.test(error.message);
}

/** Writes a difference for people. */
export function describeDifference({ difference, fixture }: FoundDifference): string {
  const { backend, rules, stimuli } = fixture.judged;
  return [
    `backend ${backend}, stimulus ${difference.stimulus + 1} of ${stimuli.length}, ${difference.aspect}:`,
    ...rules.flatMap(({ namespace, ipv4, ipv6 }) => [
      ...(ipv4 === '' ? [] : [`  ${namespace} IPv4: ${ipv4.trim().replaceAll('\n', '\n    ')}`]),
      ...(ipv6 === '' ? [] : [`  ${namespace} IPv6: ${ipv6.trim().replaceAll('\n', '\n    ')}`]),
    ]),
    ...stimuli.map((stimulus) => `  does: ${JSON.stringify(stimulus)}`),
    `  kernel:    ${difference.kernel.replaceAll('\n', '\n             ')}`,
    `  simulator: ${difference.simulator.replaceAll('\n', '\n             ')}`,
  ].join('\n');
}

/** Writes a tally for people. */
export function describeTally(tally: Tally): string {
  const list = (map: ReadonlyMap<string, number>): string => [...map].toSorted(([, left], [, right]) => right - left).map(([name, count]) => `\n    ${count} × ${name}`).join('');
  return [
    `${tally.flows} flows agree, ${tally.found.length} differences, ${tally.undecided} not decided, ${tally.refused} rule sets refused by iptables, ${tally.vanished.length} differences that did not come again`,
    ...(tally.dependsOn.size === 0 ? [] : [`  depends on:${list(tally.dependsOn)}`]),
    ...tally.vanished.map(({ kind, difference: { aspect, kernel, simulator } }) => `  did not come again (${kind}), ${aspect}: kernel ${oneLine(kernel)}; simulator ${oneLine(simulator)}`),
    ...(tally.declared.size === 0 ? [] : [`  in the ledger:${list(tally.declared)}`]),
  ].join('\n');
}

function oneLine(text: string): string {
  return text.replaceAll('\n', ' | ');
}
