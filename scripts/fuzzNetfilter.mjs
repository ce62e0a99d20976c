import { join } from 'node:path';
import { root } from './paths.mjs';
import { run } from './run.mjs';
import { setUp } from './setup.mjs';

// npm run fuzz:netfilter -- [--minutes M | --rules FILE …] [--seed S] [--backend nft|legacy] [--record]: the long form of test/kernel/netfilterJudge.test.ts.
await setUp({ test: true, codeServer: false });
const outcome = await run(process.execPath, ['--import', 'tsx', join(root, 'test/netfilterJudge/main.ts'), ...process.argv.slice(2)], { show: true });
process.exitCode = outcome.code;
