import { join } from 'node:path';
import { build } from './build.mjs';
import { root } from './paths.mjs';
import { run } from './run.mjs';
import { setUp } from './setup.mjs';

// npm run bench -- [--json FILE] [--only NAME]: measures what is delivered, so it builds minified first.
await setUp({ test: true, codeServer: true });
await build({ minify: true, watch: false });
const outcome = await run(process.execPath, ['--import', 'tsx', join(root, 'test/bench/main.ts'), ...process.argv.slice(2)], { show: true });
process.exitCode = outcome.code;
