import { join } from 'node:path';
import { root } from './paths.mjs';
import { run } from './run.mjs';
import { setUp } from './setup.mjs';

// npm run soak -- [--connections N] [--mode M]... [--minutes M] [--seed S]: the long form of test/kernel/stress.test.ts.
await setUp({ test: true, codeServer: false });
// The terminal interrupts the soak itself too; it ends its runs and prints its table.
process.on('SIGINT', () => undefined);
const outcome = await run(process.execPath, ['--import', 'tsx', join(root, 'test/soak/main.ts'), ...process.argv.slice(2)], { show: true });
process.exitCode = outcome.code;
