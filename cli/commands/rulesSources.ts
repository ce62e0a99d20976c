import { inputError } from '../../agent/protocol/errors.ts';
import { parsePacketFlow } from '../../simulator/explain/packetFlowText.ts';
import { partitionSources } from '../../simulator/explain/sourcePartition.ts';
import type { PartitionQuestion, SourceRange } from '../../simulator/explain/sourcePartition.ts';
import { DESCRIBED_NAMESPACE } from '../../simulator/world/describedWorld.ts';
import { buildWorld } from '../../simulator/world/world.ts';
import { EXIT_FAILED, EXIT_OK } from '../command.ts';
import type { Command, OptionDefinitions } from '../command.ts';
import { writeJson, writeLines } from '../output.ts';
import { readRulesWorld, RULES_WORLD_OPTIONS } from '../rulesWorld.ts';
import { escapeText } from '../text/escape.ts';
import { formatTable } from '../text/table.ts';

const OPTIONS: OptionDefinitions = {
  ...Object.fromEntries(Object.entries(RULES_WORLD_OPTIONS).filter(([name]) => name !== 'flow')),
  to: { type: 'string', valueName: 'END', description: 'What is reached: "tcp 10.1.0.3:22", with "in eth0" for one device only.' },
};

export const rulesSourcesCommand: Command = {
  name: 'rules sources',
  summary: 'Say from which addresses a port is reached.',
  usage: 'FILE --to END',
  operands: { min: 1, max: 1 },
  description: [
    'Cuts all source addresses into ranges that fare alike under the rules in FILE (- is standard input), and says for each whether the first packet of a connection from there reaches END, is blocked, or what it depends on. Nothing is sampled: ranges end wherever a rule, a set, a route or an address of the machine does. Without --world END is an address of the device that packets arrive at (eth0).',
  ],
  options: OPTIONS,
  run: async ({ arguments: args, output, note }) => {
    const [path = ''] = args.operands;
    const { question, text } = readQuestion(args.text('to'));
    const parsed = parsePacketFlow(text, DESCRIBED_NAMESPACE);
    // A world that is made for this has no network but that of the destination.
    const flow = { ...parsed, flow: { ...parsed.flow, source: { ...parsed.flow.source, address: parsed.flow.destination.address } }, text };
    const { snapshot, isWhole } = await readRulesWorld({ arguments: args, note }, path, [flow]);
    const ranges = partitionSources(buildWorld(snapshot), question(args.text('world') !== undefined));
    if (args.flag('json')) {
      await writeJson(output, ranges);
    } else {
      await writeLines(output, formatTable([{ title: 'device' }, { title: 'from' }, { title: 'to' }, { title: 'result' }, { title: 'why' }], ranges.map(formatRange), output));
    }
    return isWhole ? EXIT_OK : EXIT_FAILED;
  },
};

/** Reads `PROTOCOL ADDRESS:PORT [in DEVICE]`; the flow stands for it where a world has to be made. */
function readQuestion(to: string | undefined): { readonly question: (hasWorld: boolean) => PartitionQuestion; readonly text: string } {
  const match = /^\s*(tcp|udp)\s+(\S+)(?:\s+in\s+(\S+))?\s*$/i.exec(to ?? '');
  const [, protocol = '', end = '', device] = match ?? [];
  if (match === null) {
    throw inputError('It is not said what is reached.', to === undefined ? 'There is no --to.' : `'${escapeText(to.slice(0, 80))}' is no end.`, 'Give --to "tcp ADDRESS:PORT" or --to "udp ADDRESS:PORT in DEVICE".');
  }
  const text = `${protocol} ${end.startsWith('[') ? '[2001:db8::1]' : '192.0.2.1'}:40000 > ${end} in ${device ?? 'eth0'}`;
  const { flow } = parsePacketFlow(text, DESCRIBED_NAMESPACE);
  return {
    text,
    question: (hasWorld) => ({
      namespace: DESCRIBED_NAMESPACE,
      protocol: flow.protocol === 'udp' ? 'udp' : 'tcp',
      destination: flow.destination,
      devices: device === undefined && hasWorld ? [] : [device ?? 'eth0'],
    }),
  };
}

function formatRange({ device, first, last, result, reason, rule }: SourceRange): string[] {
  const place = rule === null ? '' : ` ${rule.table} ${rule.rule === null ? `policy of ${rule.chain}` : rule.text}`;
  return [device, first, last === first ? '' : last, result, `${reason}${place}`];
}
