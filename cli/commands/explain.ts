import { inputError, MeshpathError } from '../../agent/protocol/errors.ts';
import type { Snapshot } from '../../agent/protocol/snapshot.ts';
import type { Flow, PathKind } from '../../agent/protocol/trace.ts';
import { explain } from '../../simulator/explain/explain.ts';
import { explainFlow } from '../../simulator/explain/explainRules.ts';
import { parseFlowText } from '../../simulator/explain/flowText.ts';
import { buildWorld } from '../../simulator/world/world.ts';
import { EXIT_FAILED, EXIT_OK } from '../command.ts';
import type { Command, CommandContext } from '../command.ts';
import { formatExplanation, formatList } from '../explanationText.ts';
import { formatFlowExplanation } from '../flowText.ts';
import { writeJson, writeLines } from '../output.ts';
import { readFlows, readRulesWorld, RULES_WORLD_OPTIONS } from '../rulesWorld.ts';
import { readSnapshotFile } from '../snapshotFile.ts';
import { escapeText } from '../text/escape.ts';

const PATHS: Readonly<Record<string, readonly PathKind[]>> = { iptables: ['iptables'], sockops: ['sockops'], both: ['iptables', 'sockops'] };

/** The options that ask for rules in files, and those that only go with a node. */
const RULES_OPTION_NAMES = ['rules', ...Object.keys(RULES_WORLD_OPTIONS), 'all'];
const NODE_OPTION_NAMES = ['path', 'snapshot', 'uid', 'gid', 'from', 'simulated'];

export const explainCommand: Command = {
  name: 'explain',
  summary: 'Explain what happens to a connection: through iptables, and with the eBPF programs.',
  usage: '(FROM TO | --rules FILE --flow FLOW)',
  operands: { min: 0, max: 2 },
  description: [
    'FROM is POD or POD/CONTAINER: the name of a pod or network namespace (host), and the last folder of one of its cgroups. TO is ADDRESS:PORT, POD:PORT or localhost:PORT. Examples: "meshpath explain pod-a pod-b:8080", "meshpath explain pod-a/istio-proxy 10.77.0.12:8080".',
    'Both paths are predicted on a snapshot of the node: step by step, which rule or program took the connection and why, what each side sees, and what it costs. The exit code is 0 where the connection is delivered on every path that is shown, and 1 where it is refused or cannot be said.',
    'With --rules no node is needed: a FLOW meets the rules in a file, packet by packet. It is written PROTOCOL SOURCE:PORT > DESTINATION:PORT, then "in eth0" for what arrives there, "in eth0 out eth1" for what is forwarded, or "out uid 1000 gid 1000" for what a local process sends. Protocols are tcp, udp, icmp, icmpv6, sctp or a number; IPv6 with a port is [fd00::1]:80. With flags, type, code, ttl, tos or length it is one packet: "tcp 10.1.0.2:4000 > 10.1.0.3:80 in eth0 flags ACK ttl 1".',
  ],
  options: {
    path: { type: 'string', valueName: 'PATH', description: 'Show the path "iptables", "sockops" or "both" (both).' },
    snapshot: { type: 'string', valueName: 'FILE', description: 'Explain on a snapshot in a file, made by meshpath snapshot.' },
    uid: { type: 'string', valueName: 'N', description: 'The user that connects; found by the sockets of FROM where it is left out.' },
    gid: { type: 'string', valueName: 'N', description: 'The group that connects.' },
    from: { type: 'string', valueName: 'ADDRESS[:PORT]', description: 'What the socket is bound to before it connects.' },
    rules: { type: 'string', valueName: 'FILE', description: 'The rules that flows meet, as iptables-save prints them; - is standard input.' },
    ...RULES_WORLD_OPTIONS,
    all: { type: 'boolean', description: 'With --rules: every step of every packet with every condition.' },
  },
  run: async (context) => {
    const { arguments: args, output } = context;
    if (RULES_OPTION_NAMES.some((name) => args.text(name) !== undefined)) {
      return explainOnRules(context);
    }
    checkPlaces(args.operands);
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

/** Explains flows on rules in files. The exit code is 0 where all of them are delivered, and all rules could be read. */
async function explainOnRules(context: CommandContext): Promise<number> {
  const { arguments: args, output } = context;
  const unwanted = [...NODE_OPTION_NAMES.filter((name) => args.text(name) !== undefined).map((name) => `--${name}`), ...args.operands.map((operand) => `'${escapeText(operand.slice(0, 40))}'`)];
  const path = args.text('rules') ?? null;
  if (unwanted.length > 0 || (path === null && args.text('rules6') === undefined)) {
    const reason = unwanted.length > 0 ? `${unwanted.join(', ')} belongs to explaining on a node.` : 'Flows meet the rules of --rules, --rules6 or both.';
    throw inputError('It is not clear what to explain.', reason, 'Run meshpath explain --rules FILE --flow FLOW, or meshpath explain FROM TO.');
  }
  const { snapshot, flows, assumptions, isWhole } = await readRulesWorld(context, path, readFlows(args));
  const world = buildWorld(snapshot);
  const explanations = flows.map((flow) => ({ text: flow.text, explanation: explainFlow(world, flow) }));
  if (args.flag('json')) {
    await writeJson(output, { world: { namespaces: snapshot.namespaces, assumptions }, flows: explanations.map(({ text, explanation }) => ({ text, ...explanation })) });
  } else {
    const options = { ...output, all: args.flag('all') || args.flag('verbose') };
    const lines = explanations.flatMap(({ text, explanation }, index) => [...(index === 0 ? [] : ['']), ...formatFlowExplanation(text, explanation, options)]);
    await writeLines(output, [...lines, ...formatList('The world, since --world was not given:', assumptions, output)]);
  }
  return isWhole && explanations.every(({ explanation }) => explanation.outcome.result === 'delivered') ? EXIT_OK : EXIT_FAILED;
}

function checkPlaces(operands: readonly string[]): void {
  if (operands.length < 2) {
    throw inputError('meshpath explain needs more to go on.', 'Its usage is: meshpath explain FROM TO, or meshpath explain --rules FILE --flow FLOW', 'Run meshpath explain --help to see what can be given.');
  }
}

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
