import type { TableName } from '../../agent/protocol/trace.ts';
import type { AddressFamily, Backend, Counters, ParsedRuleSet } from './ruleSet.ts';
import { BUILT_IN_CHAINS, isTableName } from './ruleSet.ts';
import { RuleSetBuilder } from './ruleSetBuilder.ts';
import { commandFirst, splitWords } from './words.ts';
import type { Word } from './words.ts';
import { shorten, SyntaxProblem, WordReader } from './wordReader.ts';

/** The most that is read of a rule set; a real one with 5,000 rules has about 400 kB. */
export const MAX_RULE_SET_CHARACTERS = 32 * 1024 * 1024;
export const MAX_RULE_LINE_CHARACTERS = 16 * 1024;
/** What iptables-restore reads as one line (iptables/iptables-restore.c, `char buffer[10240]`, with its end). */
export const MAX_RESTORE_CHARACTERS = 10_238;
/** The most words of a line (iptables/xshared.h, MAX_ARGC, without those that iptables-restore adds). */
const MAX_WORDS = 251;

/** iptables/xshared.c, add_param: `char buffer[1024]`. */
const MAX_WORD_CHARACTERS = 1_023;
const HASH = 35;

/** How a rule set is read. */
export interface RuleSetOptions {
  /** iptables or ip6tables; where it is left out, the addresses, protocols and modules of the text tell. */
  readonly family?: AddressFamily;
  /** Which program's answers are given; nft, the one that Debian installs, where it is left out. */
  readonly backend?: Backend;
  /** Rules that are there before. */
  readonly base?: ParsedRuleSet;
  /** As iptables-restore --noflush: what is there before stays. */
  readonly keep?: boolean;
}

/**
 * Reads what iptables-save, iptables-save -c or ip6tables-save printed, or what iptables-restore takes (iptables/iptables-restore.c).
 * Never throws for bad text: each bad line is a problem with line, column and what was expected, the rest is read, and a
 * rule that cannot be read keeps its place and evaluates to unknown. As iptables-restore does, a table that comes again
 * replaces what came before it. What stands in lines that end with CR LF, after white space or after a byte order mark is
 * read too, though iptables-restore refuses it: that is one problem each.
 */
export function readRuleSet(text: string, options: RuleSetOptions = {}): ParsedRuleSet {
  const reader = new RestoreReader(options.family ?? options.base?.family ?? guessFamily(text), options);
  if (text.length > MAX_RULE_SET_CHARACTERS) {
    reader.refuseLength();
    return reader.finish(1);
  }
  let line = 0;
  if (text.startsWith('\uFEFF')) {
    reader.refuseForm(1, 1, 'The text begins with a byte order mark: iptables-restore refuses it.', 'text without it');
  }
  for (let start = text.startsWith('\uFEFF') ? 1 : 0; start < text.length; ) {
    const newline = text.indexOf('\n', start);
    const end = newline < 0 ? text.length : newline;
    line += 1;
    if (reader.isFull) {
      break;
    }
    const last = end > start && text.charCodeAt(end - 1) === 13 ? end - 1 : end;
    if (last < end && text.charCodeAt(start) !== HASH) {
      reader.refuseReturns(line, last - start + 1);
    }
    reader.readLine(line, text.slice(start, Math.min(last, start + MAX_RULE_LINE_CHARACTERS + 1)));
    start = end + 1;
  }
  return reader.finish(line);
}

/** Guesses the family of rules by the first thing that only one of the two programs takes. */
export function guessFamily(text: string): AddressFamily {
  const hint = /(?:^|\s)(?:-[sd]|--(?:src|dst|source|destination|to-source|to-destination|on-ip|to|gateway|src-range|dst-range))[ \t]+(?:\[?[0-9a-f]*:[0-9a-f:.]*:|[0-9a-f]*::|\d+\.\d+\.)|ipv6-icmp|icmpv6|icmp6|(?:^|\s)--hl-|(?:^|\s)-p icmp(?:\s|$)|--icmp-type|--reject-with icmp-/im.exec(text)?.[0];
  return hint !== undefined && /::|:[0-9a-f:]*:|v6|icmp6|--hl/i.test(hint) ? 'ipv6' : 'ipv4';
}

class RestoreReader {
  readonly #builder: RuleSetBuilder;
  readonly #keep: boolean;
  #table: TableName | undefined;
  #hasReturns = false;

  constructor(family: AddressFamily, { backend = 'nft', base, keep = false }: RuleSetOptions) {
    this.#builder = new RuleSetBuilder(family, backend, base);
    this.#keep = keep;
  }

  /** True once there is more than is kept. */
  get isFull(): boolean {
    return this.#builder.isFull;
  }

  refuseLength(): void {
    this.#builder.attempt(1, () => {
      throw new SyntaxProblem(1, 'The rule set is too long to be read.', `at most ${MAX_RULE_SET_CHARACTERS} characters`);
    });
  }

  /** What iptables-restore refuses of the form of a line that is read nonetheless. */
  refuseForm(line: number, column: number, message: string, expected: string): void {
    this.#builder.attempt(line, () => {
      throw new SyntaxProblem(column, message, expected);
    });
  }

  /** Told once: it is the same for every line. */
  refuseReturns(line: number, column: number): void {
    if (!this.#hasReturns) {
      this.#hasReturns = true;
      this.refuseForm(line, column, 'The line ends with CR LF: iptables-restore refuses it.', 'lines that end with LF alone');
    }
  }

  readLine(line: number, text: string): void {
    this.#builder.attempt(line, () => {
      this.#readLine(line, text);
    });
  }

  finish(lastLine: number): ParsedRuleSet {
    if (this.#table !== undefined && !this.isFull) {
      this.#builder.attempt(Math.max(1, lastLine), () => {
        this.#refuseUnfinished(1);
      });
    }
    return this.#builder.finish();
  }

  #readLine(line: number, text: string): void {
    const trimmed = text.trimStart();
    const first = trimmed[0];
    const indent = text.length - trimmed.length;
    if (indent > 0 && first !== undefined && '#*:C'.includes(first) && (first !== 'C' || trimmed.startsWith('COMMIT'))) {
      this.refuseForm(line, 1, 'White space stands before what has to begin its line.', first === '#' ? 'a comment that begins its line' : 'a line without white space before it');
    }
    if (first === undefined || first === '#') {
      if (text.length > MAX_RESTORE_CHARACTERS) {
        this.refuseForm(line, MAX_RESTORE_CHARACTERS + 1, 'The comment is longer than iptables-restore reads at once: what is behind is another line to it.', `at most ${MAX_RESTORE_CHARACTERS} characters`);
      }
      return;
    }
    if (text.includes('\0')) {
      this.#keepUnreadable(line, text);
      throw new SyntaxProblem(text.indexOf('\0') + 1, 'The line holds a NUL byte.', 'text');
    }
    if (text.length > MAX_RESTORE_CHARACTERS) {
      this.#keepUnreadable(line, text.slice(0, MAX_RESTORE_CHARACTERS));
      throw new SyntaxProblem(1, 'The line is longer than iptables-restore reads.', `at most ${MAX_RESTORE_CHARACTERS} characters`);
    }
    if (first === '*') {
      this.#openTable(indent + 1, trimmed.slice(1).trim());
      return;
    }
    const table = this.#table;
    if (table === undefined) {
      throw new SyntaxProblem(indent + 1, `'${shorten(trimmed.trimEnd())}' stands outside of a table.`, 'a table such as *nat');
    }
    if (trimmed.startsWith('COMMIT') && trimmed.trimEnd() === 'COMMIT') {
      this.#table = undefined;
      this.#builder.commit(table);
      if (trimmed.length > 'COMMIT'.length) {
        throw new SyntaxProblem(indent + 'COMMIT'.length + 1, 'White space stands behind COMMIT.', 'COMMIT alone');
      }
    } else if (first === ':') {
      this.#readChain(table, line, text, indent + 1);
    } else {
      this.#readCommand(table, line, text);
    }
  }

  #openTable(column: number, name: string): void {
    const unfinished = this.#table;
    if (isTableName(name)) {
      this.#table = name;
      this.#builder.openTable(name, !this.#keep);
    } else {
      this.#table = undefined;
    }
    if (unfinished !== undefined) {
      this.#builder.commit(unfinished);
      throw new SyntaxProblem(column, `The table ${unfinished} is not complete.`, 'COMMIT');
    }
    if (this.#table === undefined) {
      throw new SyntaxProblem(column, `'${shorten(name)}' is not a table of iptables.`, Object.keys(BUILT_IN_CHAINS).join(', '));
    }
  }

  #refuseUnfinished(column: number): void {
    const table = this.#table;
    if (table !== undefined) {
      this.#builder.commit(table);
      throw new SyntaxProblem(column, `The table ${table} is not complete.`, 'COMMIT');
    }
  }

  #readChain(table: TableName, line: number, text: string, from: number): void {
    // Quotes mean nothing here (iptables/iptables-restore.c takes it apart with strtok).
    const [name, policy, counts] = [...text.slice(from).matchAll(/[^ \t]+/g)].map((found): Word => ({ text: found[0], column: from + found.index + 1, length: found[0].length }));
    if (name === undefined || policy === undefined) {
      throw new SyntaxProblem(text.length + 1, 'The line ends too early.', ':CHAIN POLICY [packets:bytes]');
    }
    // Without --counters nobody looks at them.
    const found = counts === undefined ? null : /^\[(\d{1,20}):(\d{1,20})\]$/.exec(counts.text);
    this.#builder.declareChain(table, line, name, policy, found === null ? null : countersOf(found));
  }

  #readCommand(table: TableName, line: number, text: string): void {
    let from = 0;
    let counters: Counters | null = null;
    const open = text.indexOf('[');
    if (open >= 0 && text.slice(0, open).trim() === '') {
      const found = /^\s*\[[^\]:]+:[^\]]*\]/.exec(text)?.[0];
      if (found === undefined) {
        throw new SyntaxProblem(open + 1, 'These are not the counters of a rule.', '[packets:bytes]');
      }
      const numbers = /\[(\d{1,20}):(\d{1,20})\]$/.exec(found);
      counters = numbers === null ? null : countersOf(numbers);
      from = found.length;
    }
    const words = splitWords(text, from);
    if ('unfinishedQuoteAt' in words) {
      this.#keepUnreadable(line, text);
      throw new SyntaxProblem(words.unfinishedQuoteAt, 'A quote is opened and not closed.', 'a closing "');
    }
    const beyond = words[MAX_WORDS] ?? words.find((word) => word.text.length > MAX_WORD_CHARACTERS);
    if (beyond !== undefined) {
      this.#keepUnreadable(line, text);
      throw new SyntaxProblem(beyond, 'The line has more or longer words than iptables-restore takes.', `at most ${MAX_WORDS} words of ${MAX_WORD_CHARACTERS} characters`);
    }
    this.#builder.execute(table, { line, text, counters }, new WordReader(commandFirst(words), text.length + 1));
  }

  #keepUnreadable(line: number, text: string): void {
    if (this.#table !== undefined) {
      this.#builder.keepUnreadable(this.#table, { line, text, counters: null });
    }
  }
}

function countersOf(found: RegExpExecArray): Counters {
  return { packets: BigInt(found[1] ?? 0), bytes: BigInt(found[2] ?? 0) };
}
