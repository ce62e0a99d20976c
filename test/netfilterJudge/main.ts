import { parseArgs } from 'node:util';
import { missingForKernel } from '../requirements.ts';
import { writeFixture } from './fixtures.ts';
import type { Backend } from './judgeCase.ts';
import { describeDifference, describeTally, emptyTally, judgeRandomCases } from './judge.ts';

/** npm run fuzz:netfilter -- [--minutes M] [--seed S] [--backend nft|legacy] [--record]: random cases for as long as told. */

const BACKENDS: readonly Backend[] = ['nft', 'legacy'];
/** How long one backend is judged before the other has its turn. */
const TURN_MILLISECONDS = 20_000;

async function main(): Promise<number> {
  const { values } = parseArgs({ options: { minutes: { type: 'string', default: '5' }, seed: { type: 'string' }, backend: { type: 'string' }, record: { type: 'boolean', default: false } } });
  const minutes = Number(values.minutes);
  const seed = values.seed === undefined ? Math.floor(Math.random() * 2 ** 31) : Number(values.seed);
  const backends = BACKENDS.filter((backend) => values.backend === undefined || values.backend === backend);
  if (!Number.isFinite(minutes) || minutes <= 0 || !Number.isInteger(seed) || backends.length === 0) {
    console.error('fuzz:netfilter -- [--minutes M] [--seed S] [--backend nft|legacy] [--record]');
    return 2;
  }
  const missing = missingForKernel();
  if (missing !== false) {
    console.error(`fuzz:netfilter ${missing}`);
    return 2;
  }
  console.log(`seed ${seed} (to do the same again: npm run fuzz:netfilter -- --seed ${seed})`);
  const started = performance.now();
  const end = started + minutes * 60_000;
  const tally = emptyTally();
  for (let turn = 0; performance.now() < end && tally.found.length === 0; turn += 1) {
    const backend = backends[turn % backends.length];
    if (backend === undefined) {
      break;
    }
    const turnEnd = Math.min(end, performance.now() + TURN_MILLISECONDS);
    await judgeRandomCases(backend, seed + turn * 1_000_003, tally, () => performance.now() < turnEnd);
    console.log(`${backend}: ${describeTally(tally).split('\n')[0] ?? ''}`);
  }
  const seconds = (performance.now() - started) / 1_000;
  console.log(`${describeTally(tally)}\n  ${Math.round(tally.flows / seconds)} flows a second`);
  for (const found of tally.found) {
    console.log(describeDifference(found));
    if (values.record) {
      console.log(`  recorded as ${writeFixture(found.fixture)}`);
    }
  }
  return tally.found.length === 0 ? 0 : 1;
}

process.exitCode = await main();
