import { EXIT_FAILED, EXIT_OK } from '../command.ts';
import type { Command } from '../command.ts';
import { writeJson, writeLines } from '../output.ts';
import { escapeText } from '../text/escape.ts';

export const cleanCommand: Command = {
  name: 'clean',
  summary: 'Remove what Meshpath left on the node: kept acceleration, remains of labs, agents that do not run.',
  usage: '[--dry-run]',
  operands: { min: 0, max: 0 },
  description: [
    'Turns off acceleration that is kept (of whatever version) and removes its pins, what labs left that nobody has any more, and cached files of agents that no process runs from. Established connections go on over plain TCP.',
    'What belongs to others, to a living agent, or to a lab that is up is not touched. With --dry-run nothing is removed.',
  ],
  options: {
    'dry-run': { type: 'boolean', description: 'Only list what would be removed.' },
  },
  run: async ({ arguments: args, output, connect, stop }) => {
    const node = await connect();
    const isDryRun = args.flag('dry-run');
    const report = await node.call('cleanNode', { isDryRun }, { signal: stop });
    const isDone = report.items.every(({ problem }) => problem === null);
    if (args.flag('json')) {
      await writeJson(output, report);
    } else if (report.items.length === 0) {
      await writeLines(output, ['There is nothing to clean up.']);
    } else {
      const { style } = output;
      await writeLines(
        output,
        report.items.flatMap(({ where, what, isRemoved, problem }) => [
          `${isRemoved ? style.good('removed') : style.warning(problem === null ? 'would be removed' : 'not removed')}  ${escapeText(where)}  ${escapeText(what)}`,
          ...(problem === null ? [] : [`  ${escapeText(`${problem.message} ${problem.reason} ${problem.remedy}`)}`]),
        ]),
      );
    }
    return isDone ? EXIT_OK : EXIT_FAILED;
  },
};
