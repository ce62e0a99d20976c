import { ISTIO_PROFILE, MESH_PROFILES } from '../../agent/protocol/acceleration.ts';
import { inputError, MeshpathError } from '../../agent/protocol/errors.ts';
import { DEFAULT_LAB_NAME, LAB_PATHS, LAB_POD_LIMITS, LAB_RUN_LIMITS, LAB_SIDECARS } from '../../agent/protocol/lab.ts';
import type { LabRequest, LabSidecar } from '../../agent/protocol/lab.ts';
import type { Node } from '../../agent/protocol/node.ts';
import { generateInjectedRules } from '../../simulator/mesh/injectedRules.ts';
import { EXIT_FAILED, EXIT_OK } from '../command.ts';
import type { Command, CommandArguments, OptionDefinition } from '../command.ts';
import { parseCount } from '../commandLine.ts';
import { formatLab, formatLabRun, formatLabs } from '../labText.ts';
import { writeJson, writeLines } from '../output.ts';
import { escapeText } from '../text/escape.ts';

const MAX_COMMAND_WORDS = 64;
const DEFAULT_CONNECTIONS = 20;
const DEFAULT_BYTES = 1_024;
const DEFAULT_PARALLEL = 4;

const NAME_OPTION: OptionDefinition = { type: 'string', valueName: 'NAME', description: `Which lab: the only one where there is one, else ${DEFAULT_LAB_NAME}.` };

export const labUpCommand: Command = {
  name: 'lab up',
  summary: 'Make pods with a client, a server and a sidecar each on this machine.',
  usage: '[-- COMMAND [ARGUMENT]…]',
  operands: { min: 0, max: MAX_COMMAND_WORDS },
  description: [
    'Makes network namespaces, veth pairs on a bridge of their own and cgroups, loads the rules of the mesh into each pod, and starts an echo server and a transparent sidecar in each. Needs root, ip and, for the path iptables, iptables-restore. The lab stays until meshpath lab down; so do the programs of a lab of the path ebpf, which are kept for it alone.',
    'Its addresses (10.77.0.0/24) are in its own namespaces only: they cannot meet those of this machine or of another lab.',
    'A COMMAND is a sidecar of your own: it runs in each pod as the user of the mesh, must listen on both ports, and asks SO_ORIGINAL_DST. In its arguments {outbound-port}, {inbound-port} and {passthrough-source} are filled in.',
  ],
  options: {
    name: { type: 'string', valueName: 'NAME', description: `What to call it (${DEFAULT_LAB_NAME}).` },
    pods: { type: 'string', valueName: 'N', description: `How many pods, ${LAB_POD_LIMITS.least} to ${LAB_POD_LIMITS.most} (${LAB_POD_LIMITS.least}).` },
    mesh: { type: 'string', valueName: 'NAME', description: `The mesh: ${MESH_PROFILES.map(({ name }) => name).join(', ')} (${ISTIO_PROFILE.name}).` },
    path: { type: 'string', valueName: 'PATH', description: `What sends traffic to the sidecars: ${LAB_PATHS.join(', ')} (${LAB_PATHS[0]}).` },
    sidecar: { type: 'string', valueName: 'NAME', description: `The sidecar: ${LAB_SIDECARS.join(', ')} (${LAB_SIDECARS[0]}).` },
  },
  run: async ({ arguments: args, output, note, connect, stop }) => {
    const request = readRequest(args);
    const node = await connect();
    const unlisten = node.listen('labProgress', ({ text, done, total }) => {
      note(`[${done}/${total}] ${escapeText(text)}`);
    });
    try {
      const lab = await node.call('bringLabUp', request, { signal: stop });
      if (args.flag('json')) {
        await writeJson(output, lab);
      } else {
        await writeLines(output, formatLab(lab, output));
      }
      return EXIT_OK;
    } finally {
      unlisten();
    }
  },
};

export const labRunCommand: Command = {
  name: 'lab run',
  summary: 'Open connections in a lab and say what every end saw.',
  usage: '',
  operands: { min: 0, max: 0 },
  description: [
    'The client of one pod connects to the echo server of another. Shown are the address that each end sees, the original destination that each sidecar was told, which connections went from socket to socket and why not, latency, and what the programs decided.',
    'The exit code is 0 where every byte of every connection came back right, and 1 where not.',
  ],
  options: {
    name: NAME_OPTION,
    from: { type: 'string', valueName: 'POD', description: 'The pod of the client (pod-a).' },
    to: { type: 'string', valueName: 'POD', description: 'The pod of the server (pod-b).' },
    connections: { type: 'string', valueName: 'N', description: `How many connections, at most ${LAB_RUN_LIMITS.connections} (${DEFAULT_CONNECTIONS}).` },
    bytes: { type: 'string', valueName: 'N', description: `Bytes there and back on each, at most ${LAB_RUN_LIMITS.bytes} (${DEFAULT_BYTES}).` },
    parallel: { type: 'string', valueName: 'N', description: `How many at a time, at most ${LAB_RUN_LIMITS.parallel} (${DEFAULT_PARALLEL}).` },
  },
  run: async ({ arguments: args, output, connect, stop }) => {
    const count = (option: string, most: number, usual: number): number => parseCount(option, args.text(option) ?? String(usual), 1, most);
    const traffic = {
      from: args.text('from') ?? 'pod-a',
      to: args.text('to') ?? 'pod-b',
      connections: count('connections', LAB_RUN_LIMITS.connections, DEFAULT_CONNECTIONS),
      bytes: count('bytes', LAB_RUN_LIMITS.bytes, DEFAULT_BYTES),
      parallel: count('parallel', LAB_RUN_LIMITS.parallel, DEFAULT_PARALLEL),
    };
    const node = await connect();
    const report = await node.call('runInLab', { name: await chooseLab(node, args), ...traffic }, { signal: stop });
    if (args.flag('json')) {
      await writeJson(output, report);
    } else {
      await writeLines(output, formatLabRun(report, output.style, args.flag('verbose')));
    }
    return report.failures.length === 0 ? EXIT_OK : EXIT_FAILED;
  },
};

export const labStatusCommand: Command = {
  name: 'lab status',
  summary: 'List the labs of this machine with their pods and processes.',
  usage: '',
  operands: { min: 0, max: 0 },
  description: ['Lists every lab of which anything is there: those that are up, those that a process is making or holds, and what a crash left. The exit code is 1 where something is not as it was made.'],
  options: {},
  run: async ({ arguments: args, output, connect, stop }) => {
    const node = await connect();
    const labs = await node.call('listLabs', {}, { signal: stop });
    if (args.flag('json')) {
      await writeJson(output, labs);
    } else {
      await writeLines(output, formatLabs(labs, output));
    }
    return labs.every(({ problems }) => problems.length === 0) ? EXIT_OK : EXIT_FAILED;
  },
};

export const labDownCommand: Command = {
  name: 'lab down',
  summary: 'Remove a lab with everything that it made, complete or not.',
  usage: '',
  operands: { min: 0, max: 0 },
  description: ['Ends its processes and removes its cgroups, network namespaces and files; what a crash left half-way too. Safe to repeat.'],
  options: { name: NAME_OPTION },
  run: async ({ arguments: args, output, connect, stop }) => {
    const node = await connect();
    const name = await chooseLab(node, args);
    await node.call('takeLabDown', { name }, { signal: stop });
    if (args.flag('json')) {
      await writeJson(output, { removed: name });
    } else {
      await writeLines(output, [`The lab ${escapeText(name)} is removed.`]);
    }
    return EXIT_OK;
  },
};

function readRequest(args: CommandArguments): LabRequest {
  const mesh = args.text('mesh') ?? ISTIO_PROFILE.name;
  const path = readChoice('path', args.text('path') ?? LAB_PATHS[0], LAB_PATHS);
  const rules = generateInjectedRules(mesh);
  if (rules === undefined) {
    throw inputError('There is no such mesh.', `'${escapeText(mesh.slice(0, 40))}' is none of ${MESH_PROFILES.map(({ name }) => name).join(', ')}.`, 'Name one of them with --mesh.');
  }
  return {
    name: args.text('name') ?? DEFAULT_LAB_NAME,
    pods: parseCount('pods', args.text('pods') ?? String(LAB_POD_LIMITS.least), LAB_POD_LIMITS.least, LAB_POD_LIMITS.most),
    profile: mesh,
    path,
    rules: path === 'iptables' ? rules.ipv4 : null,
    sidecar: readSidecar(args),
  };
}

function readSidecar(args: CommandArguments): LabSidecar {
  const name = args.text('sidecar');
  if (args.operands.length === 0) {
    return readChoice('sidecar', name ?? LAB_SIDECARS[0], LAB_SIDECARS);
  }
  if (name !== undefined) {
    throw inputError('A sidecar was given twice.', 'There is --sidecar, and a command.', 'Give one of them.');
  }
  return { command: args.operands };
}

function readChoice<Choice extends string>(option: string, text: string, choices: readonly Choice[]): Choice {
  const choice = choices.find((candidate) => candidate === text);
  if (choice === undefined) {
    throw inputError(`--${option} cannot be that.`, `'${escapeText(text.slice(0, 40))}' is none of ${choices.join(', ')}.`, `Give one of them, as in --${option} ${choices[0] ?? ''}.`);
  }
  return choice;
}

/** Gives the name that was given, or that of the only lab that is up; throws where several could be meant. */
async function chooseLab(node: Node, args: CommandArguments): Promise<string> {
  const given = args.text('name');
  if (given !== undefined) {
    return given;
  }
  const all = await node.call('listLabs', {});
  const up = all.filter(({ state }) => state === 'up');
  // What was left over is meant only where nothing is up.
  const labs = up.length > 0 ? up : all.filter(({ state }) => state === 'left');
  const [only] = labs;
  if (labs.length > 1) {
    throw new MeshpathError({
      code: 'INPUT_INVALID',
      message: 'There are several labs.',
      reason: `They are: ${escapeText(labs.map(({ name }) => name).join(', ').slice(0, 400))}.`,
      remedy: 'Name one of them with --name.',
    });
  }
  return only?.name ?? DEFAULT_LAB_NAME;
}
