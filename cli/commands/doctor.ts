import { EXIT_FAILED, EXIT_OK } from '../command.ts';
import type { Command } from '../command.ts';
import { formatDoctorReport } from '../doctorText.ts';
import { writeJson, writeLines } from '../output.ts';

export const doctorCommand: Command = {
  name: 'doctor',
  summary: 'Say whether acceleration is safe on this node, and why not.',
  usage: '',
  operands: { min: 0, max: 0 },
  description: [
    'Checks the kernel, its BTF, cgroup2, capabilities, libbpf, other owners of the hooks and leftovers; then tries how the programs behave on this kernel, on sockets of its own in a network namespace and cgroups of its own. Says who is affected by what is not right, and what to do. Nothing is left behind.',
    'The exit code is 0 where the verdict is "safe", and 1 where it is "safe with limits" or "not on this node".',
  ],
  options: {},
  run: async ({ arguments: args, output, connect, stop }) => {
    const node = await connect();
    const report = await node.call('runDoctor', {}, { signal: stop });
    if (args.flag('json')) {
      await writeJson(output, report);
    } else {
      await writeLines(output, formatDoctorReport(report, output));
    }
    return report.verdict === 'safe' ? EXIT_OK : EXIT_FAILED;
  },
};
