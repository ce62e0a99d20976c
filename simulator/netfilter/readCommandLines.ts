import type { AddressFamily, Backend, ParsedRuleSet } from './ruleSet.ts';
import { BUILT_IN_CHAINS, isTableName } from './ruleSet.ts';
import { MAX_RULE_LINE_CHARACTERS, MAX_RULE_SET_CHARACTERS } from './readRuleSet.ts';
import { RuleSetBuilder } from './ruleSetBuilder.ts';
import type { ShellCommand } from './shellWords.ts';
import { splitShellLine } from './shellWords.ts';
import { commandFirst } from './words.ts';
import type { Word } from './words.ts';
import { shorten, SyntaxProblem, WordReader } from './wordReader.ts';

/** The rule sets that command lines make. */
export interface CommandLineRules {
  readonly ipv4: ParsedRuleSet;
  readonly ipv6: ParsedRuleSet;
}

const PROGRAM = /^(?:.*\/)?(ip6?tables)(?:-(?:legacy|nft))?$/;
/** Programs that run the one that follows them. */
const RUNNERS = new Set(['sudo', 'doas', 'exec', 'command', 'env', 'nice', 'time', 'then', 'do', 'else', '{', '(', '!']);

/**
 * Reads lines of a shell script or a log that call iptables and ip6tables (`sudo /sbin/iptables -w 5 -t nat -A …`), and
 * changes rule sets as they would. Lines that call something else are left out. What is wrong with a line is a problem of
 * the rule set that it is for; nothing is run, and variables are not expanded.
 */
export function readCommandLines(text: string, options: { readonly backend?: Backend; readonly base?: Partial<CommandLineRules> } = {}): CommandLineRules {
  const { backend = 'nft', base = {} } = options;
  const builders: Readonly<Record<AddressFamily, RuleSetBuilder>> = {
    ipv4: new RuleSetBuilder('ipv4', backend, base.ipv4),
    ipv6: new RuleSetBuilder('ipv6', backend, base.ipv6),
  };
  for (const { line, text: command } of joinLines(text.slice(0, MAX_RULE_SET_CHARACTERS))) {
    readLine(line, command, builders);
  }
  for (const builder of Object.values(builders)) {
    for (const table of Object.keys(BUILT_IN_CHAINS)) {
      if (isTableName(table)) {
        builder.commit(table);
      }
    }
  }
  return { ipv4: builders.ipv4.finish(), ipv6: builders.ipv6.finish() };
}

/** Lines, with those that end with a backslash put together; the number is that of the first. */
function* joinLines(text: string): Generator<{ readonly line: number; readonly text: string }> {
  const lines = text.split('\n');
  for (let index = 0; index < lines.length; index += 1) {
    const first = index;
    let joined = lines[index] ?? '';
    while (/(?:^|[^\\])(?:\\\\)*\\\r?$/.test(joined) && index + 1 < lines.length && joined.length <= MAX_RULE_LINE_CHARACTERS) {
      index += 1;
      joined = `${joined.replace(/\\\r?$/, ' ')}${lines[index] ?? ''}`;
    }
    yield { line: first + 1, text: joined };
  }
}

function readLine(line: number, text: string, builders: Readonly<Record<AddressFamily, RuleSetBuilder>>): void {
  const mentioned = /ip6?tables/.exec(text)?.[0];
  const builder = builders[mentioned === 'ip6tables' ? 'ipv6' : 'ipv4'];
  if (mentioned === undefined || builder.isFull) {
    return;
  }
  builder.attempt(line, () => {
    if (text.length > MAX_RULE_LINE_CHARACTERS) {
      throw new SyntaxProblem(1, 'The line is too long to be read.', `at most ${MAX_RULE_LINE_CHARACTERS} characters`);
    }
    const commands = splitShellLine(text);
    if ('unfinishedQuoteAt' in commands) {
      throw new SyntaxProblem(commands.unfinishedQuoteAt, 'A quote is opened and not closed.', 'a closing quote');
    }
    for (const command of commands) {
      readCommand(line, text, command, builders);
    }
  });
}

function readCommand(line: number, text: string, command: ShellCommand, builders: Readonly<Record<AddressFamily, RuleSetBuilder>>): void {
  const start = findProgram(command);
  const program = PROGRAM.exec(command[start]?.text ?? '')?.[1];
  if (program === undefined) {
    return;
  }
  const { table, words, family } = takeProgramOptions(command.slice(start + 1), program === 'iptables' ? 'ipv4' : 'ipv6');
  const builder = builders[family];
  builder.attempt(line, () => {
    const tableName = table?.text ?? 'filter';
    if (!isTableName(tableName)) {
      throw new SyntaxProblem(table ?? 1, `'${shorten(tableName)}' is not a table of iptables.`, Object.keys(BUILT_IN_CHAINS).join(', '));
    }
    if (words.length > 0) {
      builder.execute(tableName, { line, text, counters: null }, new WordReader(words, text.length + 1));
    }
  });
}

/** The place of the program behind `sudo`, settings of variables and the like. */
function findProgram(command: ShellCommand): number {
  let index = 0;
  while (index < command.length) {
    const text = command[index]?.text ?? '';
    const isBefore = RUNNERS.has(text.replace(/^.*\//, '')) || /^\w+=/.test(text) || (index > 0 && text.startsWith('-') && RUNNERS.has(command[0]?.text.replace(/^.*\//, '') ?? ''));
    if (!isBefore) {
      return index;
    }
    index += 1;
  }
  return index;
}

/** Takes `-t`, `-w`, `-W`, `-4` and `-6` out of the words, wherever they stand, and puts the command first, as getopt_long(3) lets one write it. */
function takeProgramOptions(words: readonly Word[], program: AddressFamily): { readonly table: Word | undefined; readonly words: readonly Word[]; readonly family: AddressFamily } {
  const rest: Word[] = [];
  let table: Word | undefined;
  let family = program;
  for (let index = 0; index < words.length; index += 1) {
    const word = words[index];
    const next = words[index + 1];
    if (word === undefined) {
      break;
    }
    if (word.text === '-t' || word.text === '--table') {
      table = next;
      index += 1;
    } else if (word.text.startsWith('--table=')) {
      table = { ...word, text: word.text.slice('--table='.length) };
    } else if (/^(?:-w|-W|--wait|--wait-interval)$/.test(word.text)) {
      index += next !== undefined && /^\d+$/.test(next.text) ? 1 : 0;
    } else if (/^(?:-[wW]\d+|--wait(?:-interval)?=\d+|-n|--numeric|-x|--exact|--line-numbers)$/.test(word.text)) {
      continue;
    } else if (word.text === '-6' || word.text === '--ipv6' || word.text === '-4' || word.text === '--ipv4') {
      family = word.text.endsWith('6') ? 'ipv6' : 'ipv4';
    } else {
      rest.push(word);
    }
  }
  return { table, words: commandFirst(rest), family };
}
