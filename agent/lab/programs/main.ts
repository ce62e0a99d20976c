import { openConnections } from './client.ts';
import { runProgram } from './program.ts';
import { proxyConnections } from './proxy.ts';
import type { ProgramName } from './reports.ts';
import { serveConnections } from './server.ts';
import { serveSocks } from './socks.ts';

/**
 * What runs in the pods of a lab: one file, whose first argument says which program it is. Each shows on the node under the name of
 * what it plays.
 */
const PROGRAMS: Readonly<Record<ProgramName, () => void>> = {
  server: () => {
    runProgram('web', serveConnections);
  },
  proxy: () => {
    runProgram('envoy', proxyConnections);
  },
  client: () => {
    runProgram('shop', openConnections);
  },
  socks: () => {
    runProgram('socks', serveSocks);
  },
};

const name = process.argv[2] ?? '';
const start = Object.hasOwn(PROGRAMS, name) ? PROGRAMS[name as ProgramName] : undefined;
if (start === undefined) {
  process.stderr.write(`There is no program '${name}' of the lab.\n`);
  process.exitCode = 2;
} else {
  start();
}
