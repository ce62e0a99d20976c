import { EXIT_OK } from '../command.ts';
import type { Command } from '../command.ts';
import { formatConnections } from '../connectionTable.ts';
import { writeJson, writeLines } from '../output.ts';

export const connectionsCommand: Command = {
  name: 'connections',
  summary: 'List TCP connections with whether each is accelerated, and if not, why not.',
  usage: '',
  operands: { min: 0, max: 0 },
  description: [
    'Lists the open TCP connections that have an end in an accelerated pod: accelerated, partly (one direction), not, or unknown, each with its reason, its processes and the bytes that each end sent past TCP and through it.',
    'Why a connection was left alone when it was opened is told to the agent that turned acceleration on; to others it is unknown, as every list says.',
  ],
  options: {
    all: { type: 'boolean', description: 'List the connections of all pods and of the host too.' },
  },
  run: async ({ arguments: args, output, note, connect, stop }) => {
    const node = await connect();
    const list = await node.call('listConnections', { scope: args.flag('all') ? 'all' : 'accelerated-pods' }, { signal: stop });
    if (args.flag('json')) {
      await writeJson(output, list);
      return EXIT_OK;
    }
    await writeLines(output, formatConnections(list, output));
    for (const { what, reason } of list.omissions) {
      note(`Not seen: ${what}. ${reason}`);
    }
    return EXIT_OK;
  },
};
