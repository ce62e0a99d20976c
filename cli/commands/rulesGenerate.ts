import { inputError } from '../../agent/protocol/errors.ts';
import type { OptionValues } from '../../simulator/mesh/meshOptions.ts';
import { MESH_TOOLS } from '../../simulator/mesh/meshTools.ts';
import type { MeshTool } from '../../simulator/mesh/meshTool.ts';
import { EXIT_OK } from '../command.ts';
import type { Command, OptionDefinition } from '../command.ts';
import { writeJson, writeLines } from '../output.ts';

const V6_OPTION: OptionDefinition = { type: 'boolean', description: 'Print what the tool gives ip6tables-restore.' };

/** `meshpath rules generate MESH`, one command for each mesh's own tool. */
export const RULES_GENERATE_COMMANDS: readonly Command[] = MESH_TOOLS.map(createGenerateCommand);

function createGenerateCommand(tool: MeshTool): Command {
  return {
    name: `rules generate ${tool.name}`,
    summary: `Print ${tool.summary.charAt(0).toLowerCase()}${tool.summary.slice(1)}`,
    usage: '',
    operands: { min: 0, max: 0 },
    description: [
      ...tool.description,
      'Printed is what the tool gives iptables-restore --noflush, in its own words; meshpath rules print shows what iptables-save makes of it. What else the tool does is told on standard error.',
    ],
    options: {
      ...Object.fromEntries(tool.options.map(({ name, ...definition }) => [name, definition])),
      v6: V6_OPTION,
    },
    run: async ({ arguments: args, output, note }) => {
      const rules = tool.generate(withIpv6(args, tool, args.flag('v6')));
      if (args.flag('json')) {
        await writeJson(output, { mesh: tool.name, ...rules });
        return EXIT_OK;
      }
      if (args.flag('v6') && rules.ipv6 === '') {
        throw inputError(`There are no IPv6 rules of ${tool.name}.`, 'With these options its tool makes none.', 'Leave --v6 out.');
      }
      if (args.flag('simulate')) {
        await writeLines(output, rules.commands);
      } else {
        await output.write(args.flag('v6') ? rules.ipv6 : rules.ipv4);
      }
      rules.notes.forEach(note);
      rules.setup.map((command) => `The tool also does: ${command}`).forEach(note);
      return EXIT_OK;
    },
  };
}

/** With --v6, the option by which the tool makes IPv6 rules counts as given. */
function withIpv6(values: OptionValues, { ipv6Option }: MeshTool, isWanted: boolean): OptionValues {
  return { ...values, flag: (name) => values.flag(name) || (isWanted && name === ipv6Option) };
}
