import type { Command, OptionDefinitions } from './command.ts';
import { COMMON_OPTIONS } from './commandLine.ts';
import { padText, textWidth, wrapText } from './text/width.ts';

const HELP_WIDTH = 100;

/** Gives the help of the whole program as lines. */
export function formatProgramHelp(commands: readonly Command[]): string[] {
  return [
    'Meshpath shows, explains and safely changes the path that service-mesh traffic takes on a Linux node.',
    '',
    'Usage: meshpath COMMAND [OPTION]…',
    '',
    'Commands:',
    ...formatPairs(commands.map(({ name, summary }) => [name, summary])),
    '',
    'Options of every command:',
    ...formatOptions(COMMON_OPTIONS),
    '',
    'meshpath COMMAND --help tells more of a command; meshpath --version prints the version.',
    'Exit codes: 0 done, 1 failed or not as it should be, 2 wrong usage, 128 + N ended by signal N.',
  ];
}

/** Gives the help of the commands whose names begin with the same words, as lines. */
export function formatGroupHelp(name: string, commands: readonly Command[]): string[] {
  return [
    `Usage: meshpath ${name} COMMAND [OPTION]…`,
    '',
    'Commands:',
    ...formatPairs(commands.map((command) => [command.name, command.summary])),
    '',
    `meshpath ${name} COMMAND --help tells more of a command.`,
  ];
}

/** Gives the help of one command as lines. */
export function formatCommandHelp(command: Command): string[] {
  const own = Object.keys(command.options).length === 0 ? [] : ['', 'Options:', ...formatOptions(command.options)];
  return [
    `Usage: ${`meshpath ${command.name} ${command.usage}`.trimEnd()} [OPTION]…`,
    '',
    ...command.description.flatMap((paragraph, index) => [...(index === 0 ? [] : ['']), ...wrapText(paragraph, HELP_WIDTH)]),
    ...own,
    '',
    'Options of every command:',
    ...formatOptions(COMMON_OPTIONS),
  ];
}

function formatOptions(options: OptionDefinitions): string[] {
  return formatPairs(
    Object.entries(options).map(([name, { short, valueName, description, multiple }]) => {
      const flag = `${short === undefined ? '' : `-${short}, `}--${name}${valueName === undefined ? '' : ` ${valueName}`}`;
      return [flag, multiple === true ? `${description} May be repeated.` : description];
    }),
  );
}

function formatPairs(pairs: readonly (readonly [string, string])[]): string[] {
  const width = Math.max(...pairs.map(([name]) => textWidth(name)));
  return pairs.flatMap(([name, text]) =>
    wrapText(text, HELP_WIDTH - width - 4).map((line, index) => `  ${padText(index === 0 ? name : '', width)}  ${line}`),
  );
}
