import { parseArgs } from 'node:util';
import { missingForKernel } from '../requirements.ts';
import { writeFixture } from './fixtures.ts';
import type { Backend } from './judgeCase.ts';
import type { Tally } from './judge.ts';
import { describeDifference, describeTally, emptyTally, judgeRandomCases } from './judge.ts';
import { judgeRuleSet } from './judgeRuleSet.ts';
import { readRuleSetFile, readRuleSetText } from './ruleSetFile.ts';

/**
 * npm run fuzz:netfilter -- [--minutes M] [--seed S] [--backend nft|legacy] [--record]: random cases for as long as told.
 * npm run fuzz:netfilter -- --rules FILE [--rules6 FILE] [--flows N] [--unmet] …: the rules of files, with flows of what they want; --unmet lists the rules that no flow met.
 */

const BACKENDS: readonly Backend[] = ['nft', 'legacy'];
/** How long one backend is judged before the other has its turn. */
const TURN_MILLISECONDS = 20_000;

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      minutes: { type: 'string', default: '5' }, seed: { type: 'string' }, backend: { type: 'string' }, record: { type: 'boolean', default: false },
      rules: { type: 'string' }, rules6: { type: 'string' }, flows: { type: 'string', default: '200' }, unmet: { type: 'boolean', default: false },
    },
  });
  const minutes = Number(values.minutes);
  const flows = Number(values.flows);
  const seed = values.seed === undefined ? Math.floor(Math.random() * 2 ** 31) : Number(values.seed);
  const backends = BACKENDS.filter((backend) => values.backend === undefined || values.backend === backend);
  if (!Number.isFinite(minutes) || minutes <= 0 || !Number.isInteger(seed) || !Number.isInteger(flows) || flows <= 0 || backends.length === 0) {
    console.error('fuzz:netfilter -- [--minutes M | --rules FILE [--rules6 FILE] [--flows N] [--unmet]] [--seed S] [--backend nft|legacy] [--record]');
    return 2;
  }
  const missing = missingForKernel();
  if (missing !== false) {
    console.error(`fuzz:netfilter ${missing}`);
    return 2;
  }
  console.log(`seed ${seed} (to do the same again: npm run fuzz:netfilter -- --seed ${seed})`);
  const tally = emptyTally();
  const started = performance.now();
  const isSound = values.rules === undefined && values.rules6 === undefined ? await judgeAtRandom(backends, seed, minutes, tally) : await judgeFiles(values, backends, seed, flows, tally);
  const seconds = (performance.now() - started) / 1_000;
  console.log(`${describeTally(tally)}\n  ${Math.round(tally.flows / seconds)} flows a second`);
  for (const found of tally.found) {
    console.log(describeDifference(found));
    if (values.record) {
      console.log(`  recorded as ${writeFixture(found.fixture)}`);
    }
  }
  return isSound && tally.found.length === 0 ? 0 : 1;
}

async function judgeAtRandom(backends: readonly Backend[], seed: number, minutes: number, tally: Tally): Promise<boolean> {
  const end = performance.now() + minutes * 60_000;
  for (let turn = 0; performance.now() < end && tally.found.length === 0; turn += 1) {
    const backend = backends[turn % backends.length];
    if (backend === undefined) {
      break;
    }
    const turnEnd = Math.min(end, performance.now() + TURN_MILLISECONDS);
    await judgeRandomCases(backend, seed + turn * 1_000_003, tally, () => performance.now() < turnEnd);
    console.log(`${backend}: ${describeTally(tally).split('\n')[0] ?? ''}`);
  }
  return true;
}

/** A file with `--rules6` has its IPv6 rules there; else those of both families may be in one, as istio-iptables prints them. */
async function judgeFiles({ rules, rules6, unmet }: { readonly rules?: string | undefined; readonly rules6?: string | undefined; readonly unmet: boolean }, backends: readonly Backend[], seed: number, flows: number, tally: Tally): Promise<boolean> {
  const texts = rules6 === undefined ? readRuleSetFile(rules ?? '') : { ipv4: rules === undefined ? '' : readRuleSetText(rules), ipv6: readRuleSetText(rules6) };
  const wrong: string[] = [];
  for (const backend of backends) {
    const { changes, reachable, reached, falseAlarms } = await judgeRuleSet(texts, backend, seed, flows, tally);
    for (const change of changes) {
      console.log(`changed for the kernel: ${change}`);
    }
    wrong.push(...falseAlarms.map((key) => `the lint says that ${key} never matches, but it did`));
    console.log(`${backend}: ${tally.flows} flows agree, ${reached.size} of ${reachable.size} rules met`);
    for (const key of unmet ? reachable : []) {
      if (!reached.has(key)) {
        console.log(`  not met: ${key}`);
      }
    }
  }
  for (const line of wrong) {
    console.log(line);
  }
  return wrong.length === 0;
}

process.exitCode = await main();
