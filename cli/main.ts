import { constants } from 'node:os';
import { join } from 'node:path';
import { AGENT_VERSION } from '../agent/version.ts';
import { EXIT_OK } from './command.ts';
import { COMMANDS } from './commands.ts';
import { connectNode, readProgramObject } from './connectNode.ts';
import { createOutput } from './output.ts';
import { runMeshpath } from './run.ts';
import { chooseStyle } from './text/style.ts';

/** The signals that end `meshpath` in good order; the second one ends it at once. */
const STOP_SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
const LONG_MILLISECONDS = 2 ** 30;

/** The folder of the build: that of the bundle, or the one beside this module's. */
const buildFolder = typeof __dirname === 'string' ? __dirname : join(import.meta.dirname, '../dist');
const agentFolder = join(buildFolder, 'agent');

void main();

async function main(): Promise<void> {
  const stop = new AbortController();
  const ending = { readerGone: false, signalCode: EXIT_OK };
  for (const signal of STOP_SIGNALS) {
    process.on(signal, () => {
      const code = 128 + constants.signals[signal];
      if (stop.signal.aborted) {
        process.exit(code);
      }
      ending.signalCode = code;
      stop.abort();
    });
  }
  const output = createOutput(process.stdout, chooseStyle(process.stdout.isTTY, process.env), () => {
    ending.readerGone = true;
    stop.abort();
  });
  // Whoever closed standard error does not want to know.
  process.stderr.on('error', () => undefined);
  // Signals and what libbpf polls do not keep Node.js from ending; a command that waits for them must not end before.
  setInterval(() => undefined, LONG_MILLISECONDS);
  const code = await runMeshpath(process.argv.slice(2), {
    commands: COMMANDS,
    output,
    note: (line) => process.stderr.write(`${line}\n`),
    errorStyle: chooseStyle(process.stderr.isTTY, process.env),
    stop: stop.signal,
    connect: (kind) => connectNode(kind, { agentFolder, version: AGENT_VERSION }),
    readObject: () => readProgramObject(agentFolder),
    version: AGENT_VERSION,
  });
  await output.write('');
  process.exit(chooseExitCode(code, ending));
}

/** A command that failed because it was stopped ends as the signal says; one whose reader has gone did all that was wanted. */
function chooseExitCode(code: number, ending: { readonly readerGone: boolean; readonly signalCode: number }): number {
  if (code === EXIT_OK || ending.readerGone) {
    return EXIT_OK;
  }
  return ending.signalCode === EXIT_OK ? code : ending.signalCode;
}
