import { EXIT_OK } from '../command.ts';
import type { Command } from '../command.ts';
import { toCgroupPath } from '../cgroupPath.ts';
import { formatCgroups } from '../kernelObjectTables.ts';
import { writeJson, writeLines } from '../output.ts';

export const cgroupsCommand: Command = {
  name: 'cgroups',
  summary: 'List the cgroups of the node and the programs that run for each.',
  usage: '[PATH]',
  operands: { min: 0, max: 1 },
  description: [
    'Lists the cgroups at and below PATH (all of them where it is left out) with the programs that run for their processes, in the order in which they run, also those attached to a cgroup above.',
    'PATH is relative to the cgroup2 mount, or absolute below the mount point.',
  ],
  options: {
    attached: { type: 'boolean', description: 'Only cgroups for which a program runs.' },
  },
  run: async ({ arguments: args, output, connect, stop }) => {
    const below = await toCgroupPath(args.operands[0] ?? '/');
    const node = await connect();
    const all = await node.call('listCgroups', { below }, { signal: stop });
    const cgroups = args.flag('attached') ? all.filter(({ attachments }) => attachments.length > 0) : all;
    if (args.flag('json')) {
      await writeJson(output, cgroups);
    } else {
      await writeLines(output, cgroups.length === 0 ? ['There are no such cgroups.'] : formatCgroups(cgroups, output));
    }
    return EXIT_OK;
  },
};
