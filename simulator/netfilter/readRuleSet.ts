import type { TableName } from '../../agent/protocol/trace.ts';
import type { AddressFamily, Backend, Counters, ParsedRuleSet } from './ruleSet.ts';
import { BUILT_IN_CHAINS, isTableName } from './ruleSet.ts';
import { RuleSetBuilder } from './ruleSetBuilder.ts';
import { splitWords } from './words.ts';
import { shorten, SyntaxProblem, WordReader } from './wordReader.ts';

/** The most that is read of a rule set; a real one with 5,000 rules has about 400 kB. */
export const MAX_RULE_SET_CHARACTERS = 32 * 1024 * 1024;
export const MAX_RULE_LINE_CHARACTERS = 16 * 1024;

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
 * replaces what came before it. Lines may end with CR LF.
 */
export function readRuleSet(text: string, options: RuleSetOptions = {}): ParsedRuleSet {
  const reader = new RestoreReader(options.family ?? options.base?.family ?? guessFamily(text), options);
  if (text.length > MAX_RULE_SET_CHARACTERS) {
    reader.refuseLength();
    return reader.finish(1);
  }
  let line = 0;
  for (let start = text.startsWith('\uFEFF') ? 1 : 0; start < text.length; ) {
    const newline = text.indexOf('\n', start);
    const end = newline < 0 ? text.length : newline;
    line += 1;
    if (reader.isFull) {
      break;
    }
    const last = end > start && text.charCodeAt(end - 1) === 13 ? end - 1 : end;
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
    if (first === undefined || first === '#') {
      return;
    }
    const indent = text.length - trimmed.length;
    if (text.includes('\0')) {
      this.#keepUnreadable(line, text);
      throw new SyntaxProblem(text.indexOf('\0') + 1, 'The line holds a NUL byte.', 'text');
    }
    if (text.length > MAX_RULE_LINE_CHARACTERS) {
      this.#keepUnreadable(line, text.slice(0, MAX_RULE_LINE_CHARACTERS));
      throw new SyntaxProblem(1, 'The line is too long to be read.', `at most ${MAX_RULE_LINE_CHARACTERS} characters`);
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
    const words = splitWords(text, from);
    if ('unfinishedQuoteAt' in words) {
      throw new SyntaxProblem(words.unfinishedQuoteAt, 'A quote is opened and not closed.', 'a closing "');
    }
    const [name, policy, counts] = words;
    if (name === undefined || policy === undefined) {
      throw new SyntaxProblem(text.length + 1, 'The line ends too early.', ':CHAIN POLICY [packets:bytes]');
    }
    const found = counts === undefined ? null : /^\[(\d{1,20}):(\d{1,20})\]$/.exec(counts.text);
    if (counts !== undefined && found === null && counts.text.startsWith('[')) {
      throw new SyntaxProblem(counts, `'${shorten(counts.text)}' is not understood here.`, '[packets:bytes]');
    }
    this.#builder.declareChain(table, line, name, policy, found === null ? null : countersOf(found));
  }

  #readCommand(table: TableName, line: number, text: string): void {
    let from = 0;
    let counters: Counters | null = null;
    const open = text.indexOf('[');
    if (open >= 0 && text.slice(0, open).trim() === '') {
      const found = /^\s*\[(\d{1,20}):(\d{1,20})\]/.exec(text);
      if (found === null) {
        throw new SyntaxProblem(open + 1, 'These are not the counters of a rule.', '[packets:bytes]');
      }
      counters = countersOf(found);
      from = found[0].length;
    }
    const words = splitWords(text, from);
    if ('unfinishedQuoteAt' in words) {
      this.#keepUnreadable(line, text);
      throw new SyntaxProblem(words.unfinishedQuoteAt, 'A quote is opened and not closed.', 'a closing "');
    }
    this.#builder.execute(table, { line, text, counters }, new WordReader(words, text.length + 1));
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
