import { inputError, MeshpathError } from '../../agent/protocol/errors.ts';
import type { Snapshot } from '../../agent/protocol/snapshot.ts';
import type { Flow, PathKind } from '../../agent/protocol/trace.ts';
import { explain } from '../../simulator/explain/explain.ts';
import { parseFlowText } from '../../simulator/explain/flowText.ts';
import { EXIT_FAILED, EXIT_OK } from '../command.ts';
import type { Command, CommandContext } from '../command.ts';
import { formatExplanation } from '../explanationText.ts';
import { writeJson, writeLines } from '../output.ts';
import { readSnapshotFile } from '../snapshotFile.ts';
import { escapeText } from '../text/escape.ts';

const PATHS: Readonly<Record<string, readonly PathKind[]>> = { iptables: ['iptables'], sockops: ['sockops'], both: ['iptables', 'sockops'] };

export const explainCommand: Command = {
  name: 'explain',
  summary: 'Explain what happens to a connection: through iptables, and with the eBPF programs.',
  usage: 'FROM TO',
  operands: { min: 2, max: 2 },
  description: [
    'FROM is POD or POD/CONTAINER: the name of a pod or network namespace (host), and the last folder of one of its cgroups. TO is ADDRESS:PORT, POD:PORT or localhost:PORT. Examples: "meshpath explain pod-a pod-b:8080", "meshpath explain pod-a/istio-proxy 10.77.0.12:8080".',
    'Both paths are predicted on a snapshot of the node: step by step, which rule or program took the connection and why, what each side sees, and what it costs. The exit code is 0 where the connection is delivered on every path that is shown, and 1 where it is refused or cannot be said.',
  ],
  options: {
    path: { type: 'string', valueName: 'PATH', description: 'Show the path "iptables", "sockops" or "both" (both).' },
    snapshot: { type: 'string', valueName: 'FILE', description: 'Explain on a snapshot in a file, made by meshpath snapshot.' },
    uid: { type: 'string', valueName: 'N', description: 'The user that connects; found by the sockets of FROM where it is left out.' },
    gid: { type: 'string', valueName: 'N', description: 'The group that connects.' },
    from: { type: 'string', valueName: 'ADDRESS[:PORT]', description: 'What the socket is bound to before it connects.' },
  },
  run: async (context) => {
    const { arguments: args, output } = context;
    const paths = readPaths(args.text('path') ?? 'both');
    const text = flowText(context);
    const snapshot = await readSnapshot(context);
    const object = await context.readObject();
    const explanation = explain(snapshot, parseFlow(snapshot, text), { object });
    if (args.flag('json')) {
      await writeJson(output, explanation);
    } else {
      await writeLines(output, formatExplanation(explanation, { ...output, paths, details: args.flag('verbose') }));
    }
    return paths.every((path) => explanation[path].outcome.result === 'delivered') ? EXIT_OK : EXIT_FAILED;
  },
};

function readPaths(text: string): readonly PathKind[] {
  const paths = Object.hasOwn(PATHS, text) ? PATHS[text] : undefined;
  if (paths === undefined) {
    throw inputError(`There is no path '${escapeText(text.slice(0, 40))}'.`, 'The paths are iptables and sockops.', 'Give --path iptables, --path sockops or --path both.');
  }
  return paths;
}

/** Writes what the command line says in the words of parseFlowText. */
function flowText({ arguments: args }: CommandContext): string {
  const [from = '', to = ''] = args.operands;
  const options = ['uid', 'gid', 'from'].flatMap((name) => {
    const value = args.text(name);
    return value === undefined ? [] : [name, value];
  });
  return [from, '->', to, ...options].join(' ');
}

/** Like parseFlowText, whose remedies tell how to write it where all is one line of text. */
function parseFlow(snapshot: Snapshot, text: string): Flow {
  try {
    return parseFlowText(snapshot, text);
  } catch (error) {
    if (MeshpathError.is(error, 'INPUT_INVALID')) {
      const remedy = 'Run meshpath explain FROM TO, where needed with --uid N, --gid N or --from ADDRESS[:PORT]; meshpath explain --help tells what they are.';
      throw new MeshpathError({ ...error.toJSON(), remedy }, { cause: error });
    }
    throw error;
  }
}

async function readSnapshot({ arguments: args, connect, stop }: CommandContext): Promise<Snapshot> {
  const file = args.text('snapshot');
  if (file === undefined) {
    const node = await connect();
    return node.call('takeSnapshot', {}, { signal: stop });
  }
  if (args.flag('simulated')) {
    throw inputError('There are two nodes to explain on.', '--snapshot and --simulated were both given.', 'Give one of them.');
  }
  return readSnapshotFile(file);
}
