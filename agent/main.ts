import { join } from 'node:path';

import { createJsonLog } from './logger.ts';
import { serve } from './server.ts';
import { createAgentService } from './service.ts';
import { AGENT_VERSION } from './version.ts';

/**
 * The agent as a program: JSON-RPC on standard input and output, a log of JSON lines on standard error. It ends when its input
 * ends, its output breaks, or a signal arrives, and leaves nothing attached.
 */

const STOP_SIGNALS = ['SIGTERM', 'SIGHUP', 'SIGINT'] as const;
/** How long ending may take before the kernel is left to clean up: links and maps go away with their descriptors. */
const STOP_MILLISECONDS = 10_000;

const log = createJsonLog(process.stderr);
const stop = new AbortController();
for (const signal of STOP_SIGNALS) {
  process.on(signal, () => stop.abort());
}
const giveUp = (error: unknown): void => {
  log('error', 'The agent met an error that it did not expect.', { reason: error instanceof Error ? (error.stack ?? error.message) : String(error) });
  process.exitCode = 1;
  stop.abort();
};
process.on('uncaughtException', giveUp);
process.on('unhandledRejection', giveUp);
stop.signal.addEventListener('abort', () => {
  setTimeout(() => process.exit(1), STOP_MILLISECONDS).unref();
});

const folder = typeof __dirname === 'string' ? __dirname : join(import.meta.dirname, '../dist/agent');
serve(process.stdin, process.stdout, createAgentService({ objectPath: join(folder, 'meshpath.bpf.o'), agentVersion: AGENT_VERSION }), { log, stop: stop.signal }).then(
  () => process.exit(),
  (error: unknown) => {
    giveUp(error);
    process.exit();
  },
);
