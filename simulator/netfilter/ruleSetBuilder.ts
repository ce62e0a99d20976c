import type { TableName } from '../../agent/protocol/trace.ts';
import { checkTable } from './checkTable.ts';
import type { RuleConstraint } from './checkTable.ts';
import { findTargetModule } from './extensionIndex.ts';
import type { ExtensionReading } from './extensionReading.ts';
import { readRuleBody } from './readRule.ts';
import type { AddressFamily, Backend, Chain, Counters, ParsedRuleSet, Rule, RuleBody, RuleProblem, Table, Target } from './ruleSet.ts';
import { BUILT_IN_CHAINS, UNREADABLE_RULE } from './ruleSet.ts';
import type { Word } from './words.ts';
import { utf8Length } from './words.ts';
import type { WordReader } from './wordReader.ts';
import { rejectWord, shorten, SyntaxProblem } from './wordReader.ts';
import { writeRule } from './writeRuleSet.ts';
import { WrittenRule } from './writtenRule.ts';

/** The most rules and chains that are kept. */
export const MAX_RULES = 200_000;
export const MAX_CHAINS = 50_000;
const MAX_PROBLEMS = 1_000;
/** XT_EXTENSION_MAXNAMELEN without its NUL (include/uapi/linux/netfilter/x_tables.h). */
const MAX_CHAIN_NAME = 28;
/** How many rules all deletions, insertions and renamings together may pass: real rule sets stay far below. */
const MAX_WORK = 50_000_000;
const STANDARD_NAMES = new Set(['ACCEPT', 'DROP', 'RETURN', 'QUEUE']);

interface OpenChain {
  name: string;
  policy: Chain['policy'];
  counters: Counters | null;
  rules: Rule[];
  /** Where the text declares it, from 1; 0 where it does not. */
  line: number;
}

interface OpenTable {
  readonly name: TableName;
  readonly chains: Map<string, OpenChain>;
  readonly constraints: Map<Rule, readonly RuleConstraint[]>;
}

/** A line while it is read. */
export interface RuleLine {
  readonly line: number;
  readonly text: string;
  readonly counters: Counters | null;
}

type Command = 'A' | 'I' | 'D' | 'R' | 'N' | 'X' | 'F' | 'P' | 'E' | 'Z' | 'C' | 'L' | 'S';

const LONG_COMMANDS: Readonly<Record<string, Command>> = {
  append: 'A', insert: 'I', delete: 'D', replace: 'R', new: 'N', 'new-chain': 'N', 'delete-chain': 'X', flush: 'F', policy: 'P', 'rename-chain': 'E', zero: 'Z', check: 'C', list: 'L', 'list-rules': 'S',
};

/** Tables while the commands of iptables change them. Problems are collected; no bad text makes it throw. */
export class RuleSetBuilder {
  readonly family: AddressFamily;
  readonly #backend: Backend;
  readonly #tables = new Map<TableName, OpenTable>();
  readonly #problems: RuleProblem[] = [];
  #rules = 0;
  #chains = 0;
  #work = 0;
  #isFull = false;

  constructor(family: AddressFamily, backend: Backend, base?: ParsedRuleSet) {
    this.family = family;
    this.#backend = backend;
    for (const table of base?.tables ?? []) {
      this.#tables.set(table.name, copyTable(table));
    }
  }

  /** True once there is more than is kept: what follows is not read. */
  get isFull(): boolean {
    return this.#isFull;
  }

  report(problem: RuleProblem): void {
    if (this.#problems.length < MAX_PROBLEMS) {
      this.#problems.push(problem);
    }
  }

  /** Runs what may throw a SyntaxProblem, and reports it with its line. */
  attempt(line: number, run: () => void): void {
    try {
      run();
    } catch (error) {
      if (!(error instanceof SyntaxProblem)) {
        throw error;
      }
      this.report({ severity: 'error', line, column: error.column, length: error.length, message: error.message, expected: error.expected, found: error.found });
    }
  }

  /** Gives a table to change; `flush` empties it before, as iptables-restore does: that of legacy leaves its policies. */
  openTable(name: TableName, flush: boolean): TableName {
    const known = this.#tables.get(name);
    if (flush || known === undefined) {
      const kept = this.#backend === 'legacy' && known !== undefined ? [...known.chains.values()].filter((chain) => isBuiltIn(name, chain.name)) : [];
      this.#tables.set(name, { name, chains: new Map(kept.map((chain) => [chain.name, { ...chain, rules: [] }])), constraints: new Map() });
    }
    return name;
  }

  /** What the kernel refuses of a table as a whole. To be called where a table is committed. */
  commit(name: TableName): void {
    const table = this.#tables.get(name);
    if (table !== undefined) {
      for (const problem of checkTable(table, table.constraints, this.#backend)) {
        this.report(problem);
      }
    }
  }

  finish(): ParsedRuleSet {
    const tables = [...this.#tables.values()].map(({ name, chains }): Table => ({ name, chains }));
    return { tables, family: this.family, problems: this.#problems.toSorted((left, right) => left.line - right.line || left.column - right.column) };
  }

  /** `:CHAIN POLICY [packets:bytes]` of iptables-restore. */
  declareChain(tableName: TableName, line: number, name: Word, policy: Word, counters: Counters | null): void {
    const table = this.#table(tableName);
    const builtIn = isBuiltIn(tableName, name.text);
    const existing = table.chains.get(name.text);
    if (builtIn) {
      const chain = existing ?? this.#addChain(table, name, line);
      if (policy.text !== '-') {
        chain.policy = readPolicy(policy);
      }
      chain.counters = counters;
      chain.line = line;
      return;
    }
    if (this.#backend === 'legacy') {
      if (existing !== undefined) {
        throw new SyntaxProblem(name, `The chain ${shorten(name.text)} is there already.`, 'each chain once');
      }
      if (policy.text !== '-') {
        throw new SyntaxProblem(policy, `Only the built-in chains of ${tableName} have a policy.`, '-');
      }
    }
    const chain = existing ?? this.#addChain(table, name, line);
    chain.rules = [];
    chain.counters = counters;
  }

  /** Reads one command, such as `-A INPUT -j ACCEPT`, and does what it says. Throws a SyntaxProblem. */
  execute(tableName: TableName, line: RuleLine, reader: WordReader): void {
    const table = this.#table(tableName);
    const { command, attached, word } = readCommand(reader);
    const takeName = (): Word => attached ?? reader.take('the name of a chain');
    switch (command) {
      case 'A':
        this.#append(table, line, takeName(), reader);
        return;
      case 'I':
        this.#insert(table, line, takeName(), reader);
        return;
      case 'D':
      case 'C':
        this.#delete(table, takeName(), reader, command === 'C');
        return;
      case 'R':
        this.#replace(table, line, takeName(), reader);
        return;
      case 'N':
        this.#newChain(table, line.line, takeName());
        break;
      case 'X':
        this.#deleteChains(table, word, attached ?? takeOptional(reader));
        break;
      case 'F':
        this.#flush(table, attached ?? takeOptional(reader));
        break;
      case 'P':
        this.#setPolicy(table, takeName(), reader.take('ACCEPT or DROP'));
        if (reader.peek()?.text === '-c') {
          reader.take('-c');
          readRuleCounter(reader);
          readRuleCounter(reader);
        }
        break;
      case 'E':
        this.#rename(table, takeName(), reader.take('the new name of the chain'));
        break;
      case 'Z':
        this.#zero(table, attached ?? takeOptional(reader), takeOptional(reader));
        break;
      case 'L':
      case 'S':
        // They only show; what follows them says how.
        return;
    }
    const rest = reader.peek();
    if (rest !== undefined && !/^-(?:v+|n|-verbose|-numeric)$/.test(rest.text)) {
      rejectWord(rest, 'nothing more');
    }
  }

  /** Keeps the place of a rule that cannot be read: it evaluates to unknown. */
  keepUnreadable(tableName: TableName, { line, text, counters }: RuleLine): void {
    const name = /^\s*(?:\[\d+:\d+\]\s*)?(?:-A\s*|--append\s+)(\S{1,28})\s/.exec(text.slice(0, 200))?.[1];
    const table = this.#table(tableName);
    const chain = name === undefined ? undefined : (table.chains.get(name) ?? this.#implyChain(table, name));
    if (chain !== undefined && this.#rules < MAX_RULES) {
      this.#rules += 1;
      chain.rules.push(unreadableRule(line, text, counters));
    }
  }

  #table(name: TableName): OpenTable {
    const table = this.#tables.get(name) ?? { name, chains: new Map<string, OpenChain>(), constraints: new Map<Rule, readonly RuleConstraint[]>() };
    this.#tables.set(name, table);
    return table;
  }

  #append(table: OpenTable, line: RuleLine, name: Word, reader: WordReader): void {
    const chain = this.#findChain(table, name);
    try {
      chain.rules.push(...this.#readRules(table, line, name, reader));
    } catch (error) {
      if (error instanceof SyntaxProblem) {
        chain.rules.push(unreadableRule(line.line, line.text, line.counters));
      }
      throw error;
    }
  }

  #insert(table: OpenTable, line: RuleLine, name: Word, reader: WordReader): void {
    const chain = this.#findChain(table, name);
    const next = reader.peek();
    const position = next !== undefined && !isOption(next) ? readRuleNumber(reader.take('a rule number')) : 1;
    const rules = this.#readRules(table, line, name, reader);
    if (position > chain.rules.length + 1) {
      throw new SyntaxProblem(next ?? name, `There is no place ${position} in ${chain.name}.`, `a number from 1 to ${chain.rules.length + 1}`);
    }
    // Moving what stands behind is cheap, but not free.
    this.#spend((chain.rules.length - position + 1) >> 4, name);
    // Several addresses make several rules, each put at the same place.
    for (const rule of rules) {
      chain.rules.splice(position - 1, 0, rule);
    }
  }

  #delete(table: OpenTable, name: Word, reader: WordReader, checkOnly: boolean): void {
    const chain = this.#findChain(table, name);
    const next = reader.peek();
    if (!checkOnly && next !== undefined && !isOption(next)) {
      const position = readRuleNumber(reader.take('a rule number'));
      if (position > chain.rules.length) {
        throw new SyntaxProblem(next, `The chain ${chain.name} has no rule ${position}.`, `a number from 1 to ${chain.rules.length}`);
      }
      this.#remove(table, chain, position - 1);
      return;
    }
    const { bodies } = readRuleBody(reader, { family: this.family, backend: this.#backend, isChain: (candidate) => table.chains.has(candidate), isBuiltIn: (candidate) => isBuiltIn(table.name, candidate) });
    for (const body of bodies) {
      const text = writeRule(chain.name, body, this.family);
      this.#spend(chain.rules.length, name);
      const index = chain.rules.findIndex((rule) => rule.text === text);
      if (index < 0) {
        throw new SyntaxProblem(name, `The chain ${chain.name} has no such rule.`, 'a rule that is in the chain');
      }
      if (!checkOnly) {
        this.#remove(table, chain, index);
      }
    }
  }

  #remove(table: OpenTable, chain: OpenChain, index: number): void {
    for (const rule of chain.rules.splice(index, 1)) {
      table.constraints.delete(rule);
      this.#rules -= 1;
    }
  }

  #replace(table: OpenTable, line: RuleLine, name: Word, reader: WordReader): void {
    const chain = this.#findChain(table, name);
    const number = reader.take('a rule number');
    const position = readRuleNumber(number);
    const [rule, ...more] = this.#readRules(table, line, name, reader);
    if (rule === undefined || more.length > 0) {
      throw new SyntaxProblem(name, 'A rule can be replaced by one rule only.', 'one address');
    }
    if (position > chain.rules.length) {
      throw new SyntaxProblem(number, `The chain ${chain.name} has no rule ${position}.`, `a number from 1 to ${chain.rules.length}`);
    }
    this.#remove(table, chain, position - 1);
    chain.rules.splice(position - 1, 0, rule);
  }

  #readRules(table: OpenTable, { line, text, counters }: RuleLine, name: Word, reader: WordReader): Rule[] {
    this.#countRules(1, name);
    const reading = readRuleBody(reader, { family: this.family, backend: this.#backend, isChain: (candidate) => table.chains.has(candidate) || isBuiltIn(table.name, candidate), isBuiltIn: (candidate) => isBuiltIn(table.name, candidate) });
    this.#countRules(reading.bodies.length - 1, name);
    checkInterfaces(name, reading.bodies[0]);
    checkVerdict(table.name, name, reading.bodies[0]);
    for (const word of reading.unknown) {
      this.#reportUnknown(line, word, reading.bodies[0]?.target);
    }
    const column = text.length - text.trimStart().length + 1;
    const length = text.trimEnd().length - column + 1;
    const constraints = reading.extensions.filter(({ extension }) => extension.tables !== undefined || extension.hooks !== undefined || extension.name === 'policy' || extension.name === 'TCPMSS' || extension.name === 'addrtype' || extension.name === 'physdev');
    return reading.bodies.map((body) => {
      const rule = new WrittenRule(name.text, this.family, body, { counters: reading.counters ?? counters, line, column, length });
      if (constraints.length > 0) {
        table.constraints.set(rule, constraints.map(toConstraint));
      }
      return rule;
    });
  }

  /** A name that iptables 1.8.9 does not know: a target without options is most likely a chain that is missing. */
  #reportUnknown(line: number, word: Word, target: Target | undefined): void {
    const isTarget = target?.kind === 'unknown' && target.name === word.text;
    if (isTarget && (target.words.length === 0 || (word.text === 'QUEUE' && this.#backend === 'legacy'))) {
      if (word.text !== 'QUEUE' || this.#backend === 'nft') {
        throw new SyntaxProblem(word, `There is no chain and no target ${shorten(word.text)}.`, 'a chain that is declared before, or a target of iptables');
      }
      return;
    }
    this.report({
      severity: 'warning', line, column: word.column, length: word.length, found: shorten(word.text),
      message: `iptables 1.8.9 has no ${isTarget ? 'target' : 'match'} ${shorten(word.text)}; it is kept as it is written, and what it does is not known.`,
      expected: `a ${isTarget ? 'target' : 'match'} of iptables 1.8.9`,
    });
  }

  #newChain(table: OpenTable, line: number, name: Word): void {
    if (table.chains.has(name.text) || isBuiltIn(table.name, name.text)) {
      throw new SyntaxProblem(name, `The chain ${shorten(name.text)} is there already.`, 'another name');
    }
    checkChainName(name);
    if (findTargetModule(name.text, this.family) !== undefined) {
      throw new SyntaxProblem(name, `${shorten(name.text)} is a target of iptables.`, 'another name');
    }
    this.#addChain(table, name, line);
  }

  #deleteChains(table: OpenTable, command: Word, name: Word | undefined): void {
    const doomed = name === undefined ? [...table.chains.values()].filter((chain) => !isBuiltIn(table.name, chain.name)) : [this.#findChain(table, name)];
    this.#spend(countRules(table), command);
    const targets = new Set([...table.chains.values()].flatMap((chain) => chain.rules.map(({ target }) => (target.kind === 'chain' ? target.name : ''))));
    for (const chain of doomed) {
      if (isBuiltIn(table.name, chain.name)) {
        throw new SyntaxProblem(name ?? command, `${chain.name} is a built-in chain.`, 'a chain of the rule set');
      }
      if (chain.rules.length > 0 || targets.has(chain.name)) {
        throw new SyntaxProblem(name ?? command, `The chain ${chain.name} ${chain.rules.length > 0 ? 'has rules' : 'is jumped to'}.`, 'a chain that is empty and that no rule jumps to');
      }
    }
    for (const chain of doomed) {
      table.chains.delete(chain.name);
      this.#chains -= 1;
    }
  }

  #flush(table: OpenTable, name: Word | undefined): void {
    for (const chain of name === undefined ? table.chains.values() : [this.#findChain(table, name)]) {
      for (const rule of chain.rules) {
        table.constraints.delete(rule);
      }
      this.#rules -= chain.rules.length;
      chain.rules = [];
    }
  }

  #setPolicy(table: OpenTable, name: Word, policy: Word): void {
    if (!isBuiltIn(table.name, name.text)) {
      throw new SyntaxProblem(name, `${shorten(name.text)} is no built-in chain of ${table.name}.`, BUILT_IN_CHAINS[table.name].join(', '));
    }
    const chain = this.#findChain(table, name);
    const verdict = readPolicy(policy);
    if (table.name === 'nat' && verdict === 'DROP') {
      throw new SyntaxProblem(policy, 'iptables refuses DROP in the table nat.', 'ACCEPT');
    }
    chain.policy = verdict;
  }

  #rename(table: OpenTable, from: Word, to: Word): void {
    const chain = table.chains.get(from.text);
    if (chain === undefined || isBuiltIn(table.name, from.text)) {
      throw new SyntaxProblem(from, `There is no chain ${shorten(from.text)} to rename.`, 'a chain of the rule set');
    }
    if (table.chains.has(to.text) || isBuiltIn(table.name, to.text)) {
      throw new SyntaxProblem(to, `The chain ${shorten(to.text)} is there already.`, 'another name');
    }
    checkChainName(to);
    this.#spend(countRules(table), from);
    table.chains.delete(from.text);
    chain.name = to.text;
    table.chains.set(to.text, chain);
    for (const other of table.chains.values()) {
      other.rules = other.rules.map((rule) => {
        const isTarget = rule.target.kind === 'chain' && rule.target.name === from.text;
        if (!isTarget && other !== chain) {
          return rule;
        }
        const target: Target = rule.target.kind === 'chain' && isTarget ? { ...rule.target, name: to.text } : rule.target;
        const renamed: Rule = isUnreadable(rule) ? rule : new WrittenRule(other.name, this.family, { matches: rule.matches, target }, rule);
        const constraints = table.constraints.get(rule);
        table.constraints.delete(rule);
        if (constraints !== undefined) {
          table.constraints.set(renamed, constraints);
        }
        return renamed;
      });
    }
  }

  #zero(table: OpenTable, name: Word | undefined, number: Word | undefined): void {
    const none: Counters = { packets: 0n, bytes: 0n };
    const position = number === undefined ? undefined : readRuleNumber(number);
    for (const chain of name === undefined ? table.chains.values() : [this.#findChain(table, name)]) {
      if (position !== undefined && position > chain.rules.length) {
        throw new SyntaxProblem(number ?? 1, `The chain ${chain.name} has no rule ${position}.`, `a number from 1 to ${chain.rules.length}`);
      }
      this.#spend(chain.rules.length, name ?? 1);
      chain.counters = position === undefined && chain.counters !== null ? none : chain.counters;
      chain.rules = chain.rules.map((rule, index) => {
        if (rule.counters === null || (position !== undefined && index + 1 !== position)) {
          return rule;
        }
        const zeroed: Rule = isUnreadable(rule) ? { ...rule, counters: none } : new WrittenRule(chain.name, this.family, rule, { ...rule, counters: none });
        const constraints = table.constraints.get(rule);
        table.constraints.delete(rule);
        if (constraints !== undefined) {
          table.constraints.set(zeroed, constraints);
        }
        return zeroed;
      });
    }
  }

  #findChain(table: OpenTable, name: Word): OpenChain {
    const chain = table.chains.get(name.text) ?? this.#implyChain(table, name.text);
    if (chain === undefined) {
      throw new SyntaxProblem(name, `The table ${table.name} has no chain ${shorten(name.text)}.`, 'a chain that was declared before');
    }
    return chain;
  }

  /** Built-in chains are there without being declared. */
  #implyChain(table: OpenTable, name: string): OpenChain | undefined {
    if (!isBuiltIn(table.name, name)) {
      return undefined;
    }
    const chain: OpenChain = { name, policy: 'ACCEPT', counters: null, rules: [], line: 0 };
    table.chains.set(name, chain);
    return chain;
  }

  #addChain(table: OpenTable, name: Word, line: number): OpenChain {
    const builtIn = isBuiltIn(table.name, name.text);
    if (!builtIn) {
      if (this.#chains >= MAX_CHAINS) {
        this.#isFull = true;
        throw new SyntaxProblem(name, 'There are more chains than are read.', `at most ${MAX_CHAINS} chains`);
      }
      checkDeclaredName(name, this.#backend);
      this.#chains += 1;
    }
    const chain: OpenChain = { name: name.text, policy: builtIn ? 'ACCEPT' : null, counters: null, rules: [], line };
    table.chains.set(name.text, chain);
    return chain;
  }

  #countRules(count: number, place: Word): void {
    this.#rules += count;
    if (this.#rules > MAX_RULES) {
      this.#isFull = true;
      throw new SyntaxProblem(place, 'There are more rules than are read.', `at most ${MAX_RULES} rules`);
    }
  }

  #spend(work: number, place: Word | number): void {
    this.#work += work;
    if (this.#work > MAX_WORK) {
      this.#isFull = true;
      throw new SyntaxProblem(place, 'The changes to the rule set are more than are followed.', 'fewer insertions, deletions and renamings');
    }
  }
}

/** Reads a command: `-A`, `-ANAME`, `--append`, or the beginning of a long one that says which. */
function readCommand(reader: WordReader): { readonly command: Command; readonly attached: Word | undefined; readonly word: Word } {
  const word = reader.take('a command');
  const expected = '-A, -I, -D, -R, -N, -X, -F, -P, -E, -Z, :CHAIN, COMMIT or a comment';
  const short = /^-([AIDRNXFPEZCLS])(.*)$/s.exec(word.text);
  if (short !== null) {
    const [, letter = '', rest = ''] = short;
    const attached = rest === '' ? undefined : { text: rest, column: word.column + 2, length: Math.max(0, word.length - 2) };
    return { command: letter as Command, attached, word };
  }
  const name = word.text.startsWith('--') ? word.text.slice(2) : '';
  const exact = Object.hasOwn(LONG_COMMANDS, name) ? LONG_COMMANDS[name] : undefined;
  const beginning = name === '' ? [] : Object.entries(LONG_COMMANDS).filter(([long]) => long.startsWith(name));
  const command = exact ?? (new Set(beginning.map(([, letter]) => letter)).size === 1 ? beginning[0]?.[1] : undefined);
  if (command === undefined) {
    throw new SyntaxProblem(word, `'${shorten(word.text)}' is not understood here.`, expected);
  }
  return { command, attached: undefined, word };
}

function takeOptional(reader: WordReader): Word | undefined {
  const next = reader.peek();
  return next === undefined || isOption(next) ? undefined : reader.take('a name');
}

function isOption(word: Word): boolean {
  return word.text.startsWith('-') || word.text === '!';
}

function readRuleCounter(reader: WordReader): void {
  const word = reader.take('a number of packets or bytes');
  if (!/^\d{1,20}$/.test(word.text)) {
    rejectWord(word, 'a number of packets or bytes');
  }
}

function readRuleNumber(word: Word): number {
  const number = /^\d{1,9}$/.test(word.text) ? Number(word.text) : 0;
  return number > 0 ? number : rejectWord(word, 'the number of a rule, from 1');
}

function readPolicy(policy: Word): 'ACCEPT' | 'DROP' {
  return policy.text === 'ACCEPT' || policy.text === 'DROP' ? policy.text : rejectWord(policy, 'ACCEPT or DROP');
}

/** iptables-legacy-restore takes names that the command line does not. */
function checkDeclaredName(name: Word, backend: Backend): void {
  if (backend === 'nft') {
    checkChainName(name);
  } else if (name.text.length === 0 || name.text.length > MAX_CHAIN_NAME || STANDARD_NAMES.has(name.text)) {
    throw new SyntaxProblem(name, 'This cannot be the name of a chain.', `a name of 1 to ${MAX_CHAIN_NAME} characters that is no verdict`);
  }
}

/** iptables/xshared.c, assert_valid_chain_name. */
function checkChainName(name: Word): void {
  const bytes = utf8Length(name.text);
  if (bytes === 0 || bytes > MAX_CHAIN_NAME || /^[-!]|[\s]/.test(name.text) || STANDARD_NAMES.has(name.text)) {
    throw new SyntaxProblem(name, 'This cannot be the name of a chain.', `a name of 1 to ${MAX_CHAIN_NAME} characters without white space that begins with neither - nor ! and is no verdict`);
  }
}

/** iptables/xshared.c, do_parse: what is to be dropped is dropped elsewhere. */
function checkVerdict(table: TableName, chain: Word, body: RuleBody | undefined): void {
  if (table === 'nat' && body?.target.kind === 'drop') {
    throw new SyntaxProblem(chain, 'iptables refuses DROP in the table nat.', 'DROP in another table, such as raw or filter');
  }
}

/** Packets have no interface to leave by before routing, and none that they came by once they are made here (iptables/xshared.c, generic_opt_check). */
function checkInterfaces(chain: Word, body: RuleBody | undefined): void {
  const kind = chain.text === 'OUTPUT' || chain.text === 'POSTROUTING' ? 'inInterface' : chain.text === 'INPUT' || chain.text === 'PREROUTING' ? 'outInterface' : undefined;
  if (kind !== undefined && body?.matches.some((match) => match.kind === kind) === true) {
    throw new SyntaxProblem(chain, `Rules of ${chain.text} cannot have ${kind === 'inInterface' ? '-i' : '-o'}.`, `a rule without ${kind === 'inInterface' ? '-i' : '-o'}`);
  }
}

function toConstraint(reading: ExtensionReading): RuleConstraint {
  return { extension: reading.extension, place: reading.name, options: reading.names() };
}

function isBuiltIn(table: TableName, chain: string): boolean {
  return (BUILT_IN_CHAINS[table] as readonly string[]).includes(chain);
}

function isUnreadable(rule: Rule): boolean {
  return rule.target.kind === 'unknown' && rule.target.name === UNREADABLE_RULE;
}

function countRules(table: OpenTable): number {
  let count = 0;
  for (const chain of table.chains.values()) {
    count += chain.rules.length;
  }
  return count;
}

function unreadableRule(line: number, text: string, counters: Counters | null): Rule {
  const shown = text.trim();
  return {
    matches: [{ kind: 'unknown', module: UNREADABLE_RULE, words: [] }],
    target: { kind: 'unknown', name: UNREADABLE_RULE, words: [] },
    counters, line, column: text.length - text.trimStart().length + 1, length: shown.length, text: shown,
  };
}

function copyTable(table: Table): OpenTable {
  const chains = [...table.chains.values()].map((chain): [string, OpenChain] => [chain.name, { ...chain, rules: [...chain.rules] }]);
  return { name: table.name, chains: new Map(chains), constraints: new Map() };
}

