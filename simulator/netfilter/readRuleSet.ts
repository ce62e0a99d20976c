import type { TableName } from '../../agent/protocol/trace.ts';
import { readRuleBody } from './readRule.ts';
import type { Chain, Counters, ParsedRuleSet, Rule, RuleProblem, Table } from './ruleSet.ts';
import { BUILT_IN_CHAINS, isTableName, UNREADABLE_RULE } from './ruleSet.ts';
import { splitWords } from './words.ts';
import { shorten, SyntaxProblem, WordReader } from './wordReader.ts';
import { writeRule } from './writeRuleSet.ts';

/** The most that is read of a rule set; a real one with 5,000 rules has about 400 kB. */
export const MAX_RULE_SET_CHARACTERS = 32 * 1024 * 1024;
export const MAX_RULE_LINE_CHARACTERS = 16 * 1024;
export const MAX_RULES = 200_000;
export const MAX_CHAINS = 50_000;
const MAX_PROBLEMS = 1_000;
/** XT_EXTENSION_MAXNAMELEN without its NUL (include/uapi/linux/netfilter/x_tables.h). */
const MAX_CHAIN_NAME = 28;

interface OpenChain {
  name: string;
  policy: Chain['policy'];
  counters: Counters | null;
  rules: Rule[];
}

interface OpenTable {
  readonly name: TableName;
  readonly chains: Map<string, OpenChain>;
  readonly rules: PendingRule[];
}

/** A rule that waits until all chains of its table are known. */
interface PendingRule {
  readonly line: number;
  readonly text: string;
  readonly chain: OpenChain;
  /** Where it goes in its chain, from 1; null for the end. */
  readonly position: number | null;
  readonly counters: Counters | null;
  /** Null where the line could not even be split into words. */
  readonly reader: WordReader | null;
}

/**
 * Reads what iptables-save, iptables-save -c or ip6tables-save printed, or what iptables-restore takes with `-A`, `-I`,
 * `-N` and `-P`. Never throws for bad text: each bad line is a problem with line, column and what was expected, the rest
 * is read, and a rule that cannot be read keeps its place and evaluates to unknown. As iptables-restore does, a table
 * that comes again replaces what came before it.
 */
export function readRuleSet(text: string): ParsedRuleSet {
  const reader = new RuleSetReader();
  if (text.length > MAX_RULE_SET_CHARACTERS) {
    reader.report(1, 1, 'The rule set is too long to be read.', `at most ${MAX_RULE_SET_CHARACTERS} characters`);
    return reader.finish();
  }
  let line = 0;
  for (let start = 0; start < text.length; ) {
    const newline = text.indexOf('\n', start);
    const end = newline < 0 ? text.length : newline;
    line += 1;
    reader.readLine(line, text.slice(start, Math.min(end, start + MAX_RULE_LINE_CHARACTERS + 1)));
    start = end + 1;
  }
  reader.endOfText(line);
  return reader.finish();
}

class RuleSetReader {
  readonly #tables = new Map<TableName, Table>();
  readonly #problems: RuleProblem[] = [];
  #open: OpenTable | undefined;
  #rules = 0;
  #chains = 0;

  report(line: number, column: number, message: string, expected: string): void {
    if (this.#problems.length < MAX_PROBLEMS) {
      this.#problems.push({ line, column, message, expected });
    }
  }

  readLine(line: number, text: string): void {
    try {
      this.#readLine(line, text);
    } catch (error) {
      if (!(error instanceof SyntaxProblem)) {
        throw error;
      }
      this.report(line, error.column, error.message, error.expected);
    }
  }

  endOfText(line: number): void {
    if (this.#open !== undefined) {
      this.report(line, 1, `The table ${this.#open.name} is not complete.`, 'COMMIT');
      this.#closeTable();
    }
  }

  finish(): ParsedRuleSet {
    return { tables: [...this.#tables.values()], problems: this.#problems };
  }

  #readLine(line: number, text: string): void {
    const trimmed = text.trimStart();
    if (trimmed.trimEnd() === '' || trimmed.startsWith('#')) {
      return;
    }
    if (text.includes('\0')) {
      throw new SyntaxProblem(text.indexOf('\0') + 1, 'The line holds a NUL byte.', 'text');
    }
    const indent = text.length - trimmed.length;
    if (trimmed.startsWith('*')) {
      this.#openTable(line, indent + 1, trimmed.slice(1).trim());
      return;
    }
    const table = this.#open;
    if (table === undefined) {
      throw new SyntaxProblem(indent + 1, `'${shorten(trimmed)}' stands outside of a table.`, 'a table such as *nat');
    }
    if (trimmed.trimEnd() === 'COMMIT') {
      this.#closeTable();
    } else if (trimmed.startsWith(':')) {
      this.#readChain(table, text, indent);
    } else {
      this.#readCommand(table, line, text);
    }
  }

  #openTable(line: number, column: number, name: string): void {
    if (this.#open !== undefined) {
      this.report(line, column, `The table ${this.#open.name} is not complete.`, 'COMMIT');
      this.#closeTable();
    }
    if (!isTableName(name)) {
      throw new SyntaxProblem(column, `'${shorten(name)}' is not a table of iptables.`, Object.keys(BUILT_IN_CHAINS).join(', '));
    }
    this.#open = { name, chains: new Map(), rules: [] };
  }

  #readChain(table: OpenTable, text: string, indent: number): void {
    const match = /^\s*:\s*(\S+)\s+(\S+)(?:\s+\[(\d{1,20}):(\d{1,20})\])?\s*$/.exec(text);
    if (match === null) {
      throw new SyntaxProblem(indent + 1, 'This is not the line of a chain.', ':CHAIN POLICY [packets:bytes]');
    }
    const [, name = '', policy = '', packets, bytes] = match;
    const counters = packets === undefined || bytes === undefined ? null : { packets: BigInt(packets), bytes: BigInt(bytes) };
    if (isBuiltIn(table.name, name)) {
      if (policy !== 'ACCEPT' && policy !== 'DROP') {
        throw new SyntaxProblem(indent + 1, `'${shorten(policy)}' is not a policy.`, 'ACCEPT or DROP');
      }
      table.chains.set(name, { name, policy, counters, rules: [] });
    } else if (policy !== '-') {
      throw new SyntaxProblem(indent + 1, `${shorten(name)} is no built-in chain of ${table.name} and has no policy.`, '-');
    } else {
      this.#addChain(table, name, indent + 2, counters);
    }
  }

  #addChain(table: OpenTable, name: string, column: number, counters: Counters | null): OpenChain {
    if (name.length > MAX_CHAIN_NAME || name.startsWith('-') || name.startsWith('!') || /\s/.test(name)) {
      throw new SyntaxProblem(column, `'${shorten(name)}' cannot be the name of a chain.`, `at most ${MAX_CHAIN_NAME} characters that do not begin with - or !`);
    }
    this.#chains += 1;
    if (this.#chains > MAX_CHAINS) {
      throw new SyntaxProblem(column, 'There are more chains than are read.', `at most ${MAX_CHAINS} chains`);
    }
    const chain: OpenChain = { name, policy: null, counters, rules: [] };
    table.chains.set(name, chain);
    return chain;
  }

  #readCommand(table: OpenTable, line: number, text: string): void {
    if (text.length > MAX_RULE_LINE_CHARACTERS) {
      this.#keepUnreadable(table, line, text);
      throw new SyntaxProblem(1, 'The line is too long to be read.', `at most ${MAX_RULE_LINE_CHARACTERS} characters`);
    }
    const counterText = /^\s*\[(\d{1,20}):(\d{1,20})\]/.exec(text);
    const counters = counterText === null ? null : { packets: BigInt(counterText[1] ?? '0'), bytes: BigInt(counterText[2] ?? '0') };
    const blank = ' '.repeat(counterText?.[0].length ?? 0);
    const words = splitWords(blank + text.slice(blank.length));
    if ('unfinishedQuoteAt' in words) {
      this.#keepUnreadable(table, line, text);
      throw new SyntaxProblem(words.unfinishedQuoteAt, 'A quote is not closed.', 'a second "');
    }
    const reader = new WordReader(words, text.length + 1);
    const command = reader.take('a command');
    switch (command.text) {
      case '-A':
      case '--append':
        this.#addRule(table, { line, text, counters }, reader, false);
        return;
      case '-I':
      case '--insert':
        this.#addRule(table, { line, text, counters }, reader, true);
        return;
      case '-N':
      case '--new-chain': {
        const name = reader.take('the name of a chain');
        this.#addChain(table, name.text, name.column, null);
        return;
      }
      case '-P':
      case '--policy':
        setPolicy(table, reader);
        return;
      default:
        throw new SyntaxProblem(command.column, `'${shorten(command.text)}' is not understood here.`, '-A, -I, -N, -P, :CHAIN, COMMIT or a comment');
    }
  }

  #addRule(table: OpenTable, rule: Pick<PendingRule, 'line' | 'text' | 'counters'>, reader: WordReader, insert: boolean): void {
    const name = reader.take('the name of a chain');
    this.#rules += 1;
    if (this.#rules > MAX_RULES) {
      throw new SyntaxProblem(name.column, 'There are more rules than are read.', `at most ${MAX_RULES} rules`);
    }
    const chain = table.chains.get(name.text) ?? this.#implyChain(table, name.text);
    if (chain === undefined) {
      throw new SyntaxProblem(name.column, `The table ${table.name} has no chain ${shorten(name.text)}.`, 'a chain that was declared before');
    }
    let position: number | null = null;
    if (insert) {
      const next = reader.peek();
      position = 1;
      if (next !== undefined && /^\d{1,9}$/.test(next.text)) {
        position = Number(reader.take('a rule number').text);
      }
    }
    table.rules.push({ ...rule, reader, chain, position });
  }

  /** Built-in chains are there without being declared. */
  #implyChain(table: OpenTable, name: string): OpenChain | undefined {
    if (!isBuiltIn(table.name, name)) {
      return undefined;
    }
    const chain: OpenChain = { name, policy: 'ACCEPT', counters: null, rules: [] };
    table.chains.set(name, chain);
    return chain;
  }

  /** Keeps the place of a rule that cannot even be split into words, where its chain can be told. */
  #keepUnreadable(table: OpenTable, line: number, text: string): void {
    const name = /^\s*(?:\[\d+:\d+\]\s*)?-A\s+(\S{1,28})\s/.exec(text)?.[1];
    const chain = name === undefined ? undefined : (table.chains.get(name) ?? this.#implyChain(table, name));
    if (chain !== undefined) {
      table.rules.push({ line, text, chain, position: null, counters: null, reader: null });
    }
  }

  #closeTable(): void {
    const table = this.#open;
    this.#open = undefined;
    if (table === undefined) {
      return;
    }
    for (const pending of table.rules) {
      const rule = this.#readRule(table, pending);
      const rules = pending.chain.rules;
      if (pending.position !== null && (pending.position < 1 || pending.position > rules.length + 1)) {
        this.report(pending.line, 1, `There is no place ${pending.position} in ${pending.chain.name}.`, `a number from 1 to ${rules.length + 1}`);
      } else {
        rules.splice(pending.position === null ? rules.length : pending.position - 1, 0, rule);
      }
    }
    this.#tables.set(table.name, { name: table.name, chains: table.chains });
  }

  #readRule(table: OpenTable, pending: PendingRule): Rule {
    const { line, counters, chain, reader } = pending;
    if (reader === null) {
      return unreadableRule(line, pending.text);
    }
    try {
      const body = readRuleBody(reader, (name) => table.chains.has(name));
      if (body.target.kind === 'chain' && !table.chains.has(body.target.name)) {
        throw new SyntaxProblem(1, `The table ${table.name} has no chain ${shorten(body.target.name)}.`, 'a chain that is declared');
      }
      return { ...body, counters, line, text: writeRule(chain.name, body) };
    } catch (error) {
      if (!(error instanceof SyntaxProblem)) {
        throw error;
      }
      this.report(line, error.column, error.message, error.expected);
      return { ...unreadableRule(line, pending.text), counters };
    }
  }
}

function unreadableRule(line: number, text: string): Rule {
  const shown = text.trim().slice(0, MAX_RULE_LINE_CHARACTERS);
  return { matches: [{ kind: 'unknown', module: UNREADABLE_RULE, words: [] }], target: { kind: 'unknown', name: UNREADABLE_RULE, words: [] }, counters: null, line, text: shown };
}

function setPolicy(table: OpenTable, reader: WordReader): void {
  const name = reader.take('the name of a built-in chain');
  const policy = reader.take('ACCEPT or DROP');
  if (!isBuiltIn(table.name, name.text)) {
    throw new SyntaxProblem(name.column, `${shorten(name.text)} is no built-in chain of ${table.name}.`, BUILT_IN_CHAINS[table.name].join(', '));
  }
  if (policy.text !== 'ACCEPT' && policy.text !== 'DROP') {
    throw new SyntaxProblem(policy.column, `'${shorten(policy.text)}' is not a policy.`, 'ACCEPT or DROP');
  }
  const chain = table.chains.get(name.text) ?? { name: name.text, policy: null, counters: null, rules: [] };
  chain.policy = policy.text;
  table.chains.set(name.text, chain);
}

function isBuiltIn(table: TableName, chain: string): boolean {
  return (BUILT_IN_CHAINS[table] as readonly string[]).includes(chain);
}
