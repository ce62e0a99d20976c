import { EXIT_OK } from '../command.ts';
import type { Command } from '../command.ts';
import { formatLinks } from '../kernelObjectTables.ts';
import { writeJson, writeLines } from '../output.ts';

export const linksCommand: Command = {
  name: 'links',
  summary: 'List the BPF links of the node.',
  usage: '',
  operands: { min: 0, max: 0 },
  description: ['Lists all BPF links: which program is attached to what. Attachments without a link are shown by "meshpath cgroups".'],
  options: {},
  run: async ({ arguments: args, output, connect, stop }) => {
    const node = await connect();
    const links = await node.call('listLinks', {}, { signal: stop });
    if (args.flag('json')) {
      await writeJson(output, links);
    } else if (links.length === 0) {
      await writeLines(output, ['There are no BPF links.']);
    } else {
      await writeLines(output, formatLinks(links, await node.call('listPrograms', {}, { signal: stop }), output));
    }
    return EXIT_OK;
  },
};
