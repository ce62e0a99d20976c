import { baseOption, moduleOptions } from './readMatch.ts';
import type { TargetReader } from './readTarget.ts';
import { startTarget } from './readTarget.ts';
import type { Match, Target } from './ruleSet.ts';
import type { Word } from './words.ts';
import type { WordReader } from './wordReader.ts';
import { rejectWord, SyntaxProblem } from './wordReader.ts';

/** What follows `-A CHAIN`. */
export interface RuleBody {
  readonly matches: readonly Match[];
  readonly target: Target;
}

/** The order in which the kernel compares what needs no module (net/ipv4/netfilter/ip_tables.c, ip_packet_match). */
const BASE_ORDER: readonly Match['kind'][] = ['source', 'destination', 'inInterface', 'outInterface', 'protocol', 'fragment'];

/**
 * Reads the matches and the target of a rule, as `iptables -A CHAIN` takes them. Throws a SyntaxProblem. A match module
 * or target that is not known is kept with its words.
 */
export function readRuleBody(reader: WordReader, isChain: (name: string) => boolean): RuleBody {
  const state = new RuleState();
  for (let word = reader.peek(); word !== undefined; word = reader.peek()) {
    if (word.text === '-j' || word.text === '--jump' || word.text === '-g' || word.text === '--goto') {
      reader.take('an option');
      state.setTarget(word, startTarget(reader.take('a target or chain'), word.text === '-g' || word.text === '--goto', isChain));
    } else if (word.text === '-m' || word.text === '--match') {
      reader.take('an option');
      state.startModule(reader.take('the name of a match module').text);
    } else if (word.text === '-c' || word.text === '--set-counters') {
      reader.take('an option');
      reader.take('a packet count');
      reader.take('a byte count');
    } else if (state.target?.takeOption(reader) !== true) {
      readMatchOption(reader, state);
    }
  }
  return { matches: [...sortBase(state.base), ...state.matches], target: state.target?.finish() ?? { kind: 'none' } };
}

/** What is gathered while one rule is read. */
class RuleState {
  readonly base: Match[] = [];
  readonly matches: Match[] = [];
  target: TargetReader | undefined;
  readonly #modules: string[] = [];
  readonly #given = new Set<string>();

  setTarget(word: Word, target: TargetReader): void {
    if (this.target !== undefined) {
      throw new SyntaxProblem(word.column, 'The rule has a second target.', 'one -j or -g in a rule');
    }
    this.target = target;
  }

  startModule(name: string): void {
    this.#modules.push(name);
    this.matches.push(moduleOptions(name) === undefined ? { kind: 'unknown', module: name, words: [] } : { kind: 'module', module: name });
    this.#forgetOptions();
  }

  /** Modules that are open, the last one first; a protocol opens its own when one of its options is met (libxtables, load_proto). */
  openModules(): readonly string[] {
    const protocol = this.base.find((match) => match.kind === 'protocol' && !match.negated);
    const implied = protocol?.kind === 'protocol' && !this.#modules.includes(protocol.protocol) ? [protocol.protocol] : [];
    return [...this.#modules.toReversed(), ...implied];
  }

  isOpen(name: string): boolean {
    return this.#modules.includes(name);
  }

  addBase(word: Word, match: Match): void {
    this.#claim(word, match.kind);
    this.base.push(match);
  }

  /** Adds a match to the block of its module. */
  add(word: Word, module: string, match: Match): void {
    this.#claim(word, `${module} ${describeOption(match)}`);
    const start = this.matches.findLastIndex((candidate) => candidate.kind === 'module' && candidate.module === module);
    const next = this.matches.findIndex((candidate, index) => index > start && (candidate.kind === 'module' || candidate.kind === 'unknown'));
    this.matches.splice(next < 0 ? this.matches.length : next, 0, match);
  }

  addUnknownWords(words: readonly string[]): boolean {
    const last = this.matches.at(-1);
    if (last?.kind !== 'unknown') {
      return false;
    }
    this.matches[this.matches.length - 1] = { ...last, words: [...last.words, ...words] };
    return true;
  }

  #claim(word: Word, what: string): void {
    if (this.#given.has(what)) {
      throw new SyntaxProblem(word.column, `'${word.text}' is given twice.`, 'each option once');
    }
    this.#given.add(what);
  }

  /** A module that is named again is another instance: its options may be given again. */
  #forgetOptions(): void {
    const name = this.#modules.at(-1) ?? '';
    for (const given of this.#given) {
      if (given.startsWith(`${name} `)) {
        this.#given.delete(given);
      }
    }
  }
}

function readMatchOption(reader: WordReader, state: RuleState): void {
  const negatedBefore = reader.takeNegation();
  const option = reader.take('an option');
  const base = baseOption(option.text);
  if (base !== undefined) {
    // Old rule sets write `-s ! ADDRESS`; iptables still takes it (iptables/xshared.c).
    const negated = negatedBefore || reader.takeNegation();
    const match = base(reader, option, negated);
    state.addBase(option, match);
    return;
  }
  for (const module of state.openModules()) {
    const read = moduleOptions(module)?.[option.text];
    if (read !== undefined && Object.hasOwn(moduleOptions(module) ?? {}, option.text)) {
      if (!state.isOpen(module)) {
        state.startModule(module);
      }
      const negated = negatedBefore || reader.takeNegation();
      state.add(option, module, read(reader, option, negated));
      return;
    }
  }
  const words = [...(negatedBefore ? ['!'] : []), option.text];
  while (reader.peek() !== undefined && !beginsOption(reader)) {
    words.push(reader.take('a value').text);
  }
  if (!option.text.startsWith('-') || !keepUnknown(state, words)) {
    rejectWord(option, 'an option of iptables or of a match module named before it');
  }
}

/** Keeps an option that nobody knows: with the unknown module that stands last, or with a known one that has more options than are modelled. */
function keepUnknown(state: RuleState, words: readonly string[]): boolean {
  if (state.addUnknownWords(words)) {
    return true;
  }
  const module = state.openModules()[0];
  if (module === undefined) {
    return false;
  }
  if (!state.isOpen(module)) {
    state.startModule(module);
  }
  if (!state.addUnknownWords(words)) {
    state.matches.push({ kind: 'unknown', module: '', words });
  }
  return true;
}

function beginsOption(reader: WordReader): boolean {
  const word = reader.peek()?.text ?? '';
  if (word === '!') {
    return reader.peekSecond()?.text.startsWith('-') ?? false;
  }
  return word.startsWith('-');
}

/** Drops what always matches and iptables-save does not print, and puts the rest into the kernel's order. */
function sortBase(base: readonly Match[]): Match[] {
  return base
    .filter((match) => !isEmpty(match))
    .toSorted((left, right) => BASE_ORDER.indexOf(left.kind) - BASE_ORDER.indexOf(right.kind));
}

function isEmpty(match: Match): boolean {
  switch (match.kind) {
    case 'source':
    case 'destination':
      return match.prefix.prefixLength === 0 && !match.negated;
    case 'inInterface':
    case 'outInterface':
      return match.name === '+' && !match.negated;
    case 'protocol':
      return match.protocol === 'all';
    default:
      return false;
  }
}

function describeOption(match: Match): string {
  return 'which' in match ? `${match.kind} ${match.which}` : match.kind;
}
