import { EXIT_OK } from '../command.ts';
import type { Command } from '../command.ts';
import { formatPrograms } from '../kernelObjectTables.ts';
import { writeJson, writeLines } from '../output.ts';

export const programsCommand: Command = {
  name: 'programs',
  summary: 'List the BPF programs of the node.',
  usage: '',
  operands: { min: 0, max: 0 },
  description: ['Lists all BPF programs of the node, not only those of Meshpath, with who holds them. Runs are counted only while kernel.bpf_stats_enabled is 1.'],
  options: {},
  run: async ({ arguments: args, output, connect, stop }) => {
    const node = await connect();
    const programs = await node.call('listPrograms', {}, { signal: stop });
    if (args.flag('json')) {
      await writeJson(output, programs);
    } else {
      await writeLines(output, programs.length === 0 ? ['There are no BPF programs.'] : formatPrograms(programs, output));
    }
    return EXIT_OK;
  },
};
