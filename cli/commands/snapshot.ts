import { EXIT_OK } from '../command.ts';
import type { Command } from '../command.ts';
import { writeJson } from '../output.ts';
import { writeSnapshotFile } from '../snapshotFile.ts';
import { formatCount } from '../text/count.ts';
import { escapeText } from '../text/escape.ts';

export const snapshotCommand: Command = {
  name: 'snapshot',
  summary: 'Save the whole state of the node that matters to a path as one JSON document.',
  usage: '',
  operands: { min: 0, max: 0 },
  description: [
    'The document can be explained offline with "meshpath explain --snapshot FILE" and attached to a report. It holds addresses, rules, sockets and process names of the node: look at it before you pass it on.',
    'It goes to standard output, or to FILE, which only you can read.',
  ],
  options: {
    output: { type: 'string', short: 'o', valueName: 'FILE', description: 'Write to FILE; one that is there is replaced as a whole.' },
  },
  run: async ({ arguments: args, output, note, connect, stop }) => {
    const node = await connect();
    const snapshot = await node.call('takeSnapshot', {}, { signal: stop });
    const file = args.text('output');
    if (file === undefined) {
      await writeJson(output, snapshot);
    } else {
      await writeSnapshotFile(file, snapshot);
      const contents = [
        formatCount(snapshot.namespaces.length, 'network namespace'),
        formatCount(snapshot.cgroups.length, 'cgroup'),
        formatCount(snapshot.bpf.maps.length, 'map'),
      ];
      note(`Saved ${contents.join(', ')} to ${escapeText(file)}.`);
    }
    for (const { what, reason } of snapshot.omissions) {
      note(`Left out: ${escapeText(what)}: ${escapeText(reason)}`);
    }
    return EXIT_OK;
  },
};
