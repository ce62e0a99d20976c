import type { AddressPrefix } from './addressPrefix.ts';
import { findMatchModule, findTargetModule } from './extensionIndex.ts';
import { ExtensionReading } from './extensionReading.ts';
import type { OptionDefinition, RuleSurroundings } from './extension.ts';
import { parseRulePrefix } from './iptablesAddress.ts';
import { parseProtocolNumber, protocolName } from './protocols.ts';
import type { AddressFamily, Backend, Counters, ExtensionOption, Match, RuleBody, Target } from './ruleSet.ts';
import { mergePortMatches, toMatches } from './typedMatches.ts';
import { toTarget } from './typedTargets.ts';
import type { Word } from './words.ts';
import { utf8Length } from './words.ts';
import type { WordReader } from './wordReader.ts';
import { rejectWord, shorten, SyntaxProblem } from './wordReader.ts';

/** A rule that was read: several bodies where it names several addresses. */
export interface RuleReadingResult {
  readonly bodies: readonly RuleBody[];
  /** What `-c` says. */
  readonly counters: Counters | null;
  /** The extensions of the rule, for what the kernel asks of their tables and hooks. */
  readonly extensions: readonly ExtensionReading[];
  /** Extensions that iptables 1.8.9 does not have. */
  readonly unknown: readonly Word[];
  /** False where `-4` or `-6` says that the rule is for the other family: it is left out then. */
  readonly isWanted: boolean;
}

/** What a rule is read for. */
export interface RuleContext {
  readonly family: AddressFamily;
  readonly backend: Backend;
  /** Says whether the table has a chain of this name. */
  readonly isChain: (name: string) => boolean;
  /** Says whether a name is that of a built-in chain of the table. */
  readonly isBuiltIn: (name: string) => boolean;
}

/** IFNAMSIZ without its NUL (include/uapi/linux/if.h). */
const MAX_INTERFACE_NAME = 15;
/** Each `-s` and `-d` may name several addresses; iptables makes a rule for each pair. */
const MAX_ADDRESSES = 1024;
const MAX_BODIES = 4096;

type BaseOption = 'v' | 's' | 'd' | 'i' | 'o' | 'p' | 'f' | 'j' | 'g' | 'm' | 'c' | '4' | '6';

const SHORT_OPTIONS: ReadonlyMap<string, BaseOption> = new Map((['s', 'd', 'i', 'o', 'p', 'f', 'j', 'g', 'm', 'c', '4', '6', 'v'] as const).map((letter) => [`-${letter}`, letter]));

const LONG_OPTIONS: ReadonlyMap<string, BaseOption> = new Map([
  ['source', 's'], ['src', 's'], ['destination', 'd'], ['dst', 'd'], ['in-interface', 'i'], ['out-interface', 'o'], ['protocol', 'p'],
  ['fragments', 'f'], ['jump', 'j'], ['goto', 'g'], ['match', 'm'], ['set-counters', 'c'], ['ipv4', '4'], ['ipv6', '6'], ['verbose', 'v'],
]);

/** Long options that a rule cannot have, but of which it can have the beginning. */
const COMMAND_OPTIONS = ['append', 'delete', 'insert', 'replace', 'list', 'list-rules', 'flush', 'zero', 'new-chain', 'delete-chain', 'rename-chain', 'policy', 'check', 'table', 'verbose', 'numeric', 'exact', 'version', 'help', 'line-numbers', 'modprobe', 'wait', 'wait-interval'];

const STANDARD_TARGETS: Readonly<Record<string, Target>> = { ACCEPT: { kind: 'accept' }, DROP: { kind: 'drop' }, RETURN: { kind: 'return' } };

/**
 * Reads the matches and the target of a rule, as `iptables -A CHAIN` takes them (iptables/xshared.c, do_parse): options
 * in any order, long ones by a beginning that says which, modules loaded by `-m`, and the one of the protocol by one of
 * its options. Throws a SyntaxProblem. A match module or target that 1.8.9 does not have is kept with its words.
 */
export function readRuleBody(reader: WordReader, context: RuleContext): RuleReadingResult {
  const reading = new RuleReading(reader, context);
  return reading.read();
}

interface Addresses {
  readonly kind: 'source' | 'destination';
  readonly negated: boolean;
  readonly prefixes: readonly AddressPrefix[];
}

/** A match module that is not known: its words are kept. */
interface UnknownModule {
  readonly name: Word;
  readonly words: string[];
}

type Module = ExtensionReading | UnknownModule;

class RuleReading {
  readonly #reader: WordReader;
  readonly #context: RuleContext;
  readonly #given = new Map<BaseOption, Word>();
  readonly #modules: Module[] = [];
  /** Modules and the target in the order in which they were named: the newest gets an option first. */
  readonly #open: Module[] = [];
  #source: Addresses | undefined;
  #destination: Addresses | undefined;
  readonly #base: Match[] = [];
  #protocol: { readonly name: string; readonly negated: boolean } | undefined;
  #target: Target | Module | undefined;
  #targetWord: Word | undefined;
  #isGoto = false;
  #counters: Counters | null = null;
  #isWanted = true;
  #didLoadProtocol = false;

  constructor(reader: WordReader, context: RuleContext) {
    this.#reader = reader;
    this.#context = context;
  }

  read(): RuleReadingResult {
    const reader = this.#reader;
    for (let word = reader.peek(); word !== undefined; word = reader.peek()) {
      let negation: Word | undefined;
      if (word.text === '!') {
        negation = reader.take('!');
        word = reader.take('an option after !');
        if (word.text === '!') {
          throw new SyntaxProblem(word, 'There are two ! after each other.', 'one !');
        }
      } else {
        reader.take('an option');
      }
      this.#readOption(word, negation);
      if (!this.#isWanted) {
        break;
      }
    }
    return this.#finish();
  }

  #readOption(word: Word, negation: Word | undefined): void {
    const { text } = word;
    const short = SHORT_OPTIONS.get(text);
    if (short !== undefined) {
      this.#readBase(short, word, this.#reader, negation);
      return;
    }
    if (!text.startsWith('--') || text.length < 3) {
      this.#readStray(word, negation);
      return;
    }
    const equals = text.indexOf('=');
    const name = equals < 0 ? text.slice(2) : text.slice(2, equals);
    const reader = equals < 0 ? this.#reader : this.#attachedReader(word, equals);
    const base = LONG_OPTIONS.get(name);
    if (base !== undefined) {
      this.#readBase(base, word, reader, negation);
      return;
    }
    if (!this.#readExtensionOption(name, word, reader, negation)) {
      this.#readStray(word, negation);
    }
  }

  /** `--option=value`: the value is a word of its own. */
  #attachedReader(word: Word, equals: number): WordReader {
    const value: Word = { text: word.text.slice(equals + 1), column: word.column + equals + 1, length: Math.max(0, word.length - equals - 1) };
    let isTaken = false;
    const rest = this.#reader;
    const peek = (): Word | undefined => (isTaken ? rest.peek() : value);
    return {
      peek,
      peekSecond: () => (isTaken ? rest.peekSecond() : rest.peek()),
      take: (expected: string) => {
        if (isTaken) {
          return rest.take(expected);
        }
        isTaken = true;
        return value;
      },
    } as WordReader;
  }

  #readExtensionOption(name: string, word: Word, reader: WordReader, negation: Word | undefined): boolean {
    const found = this.#findExact(name) ?? this.#findByBeginning(name, word);
    if (found === 'base') {
      return true;
    }
    if (found !== undefined) {
      found.module.take(found.option, word, negation !== undefined, reader, this.#context.family);
      return true;
    }
    if (this.#loadProtocolModule(name, word)) {
      return this.#readExtensionOption(name, word, reader, negation);
    }
    return false;
  }

  #findExact(name: string): { readonly module: ExtensionReading; readonly option: OptionDefinition } | undefined {
    for (let index = this.#open.length - 1; index >= 0; index -= 1) {
      const module = this.#open[index];
      const option = module instanceof ExtensionReading ? module.find(name) : undefined;
      if (module instanceof ExtensionReading && option !== undefined) {
        return { module, option };
      }
    }
    return undefined;
  }

  /** A beginning is enough where it is of one option only (getopt_long(3)); base options are read at once. */
  #findByBeginning(name: string, word: Word): { readonly module: ExtensionReading; readonly option: OptionDefinition } | 'base' | undefined {
    const base = new Set([...LONG_OPTIONS].filter(([long]) => long.startsWith(name)).map(([, option]) => option));
    const found = new Map<OptionDefinition, ExtensionReading>();
    for (const module of this.#open.toReversed()) {
      if (module instanceof ExtensionReading) {
        for (const option of module.findBeginning(name)) {
          if (![...found.keys()].some((other) => other === option)) {
            found.set(option, module);
          }
        }
      }
    }
    if (base.size + found.size > 1 || (base.size === 1 && this.#protocolHasBeginning(name))) {
      throw new SyntaxProblem(word, `'${shorten(word.text)}' is the beginning of more than one option.`, 'a longer beginning of the option');
    }
    const [onlyBase] = base;
    if (onlyBase !== undefined) {
      this.#readBase(onlyBase, word, this.#reader, undefined);
      return 'base';
    }
    const [only] = found;
    return only === undefined ? undefined : { option: only[0], module: only[1] };
  }

  /** The command options stand in the same table: `--d` is the beginning of `--delete` too. */
  #protocolHasBeginning(name: string): boolean {
    return COMMAND_OPTIONS.some((option) => option.startsWith(name));
  }

  /** The module of the protocol is loaded by the first option that nobody else has (libxtables, load_proto). */
  #loadProtocolModule(name: string, word: Word): boolean {
    const protocol = this.#protocol;
    if (protocol === undefined || this.#didLoadProtocol) {
      return false;
    }
    const index = findMatchModule(protocol.name, this.#context.family);
    const hasOption = index !== undefined && [...index.spellings.keys()].some((spelling) => spelling.startsWith(name));
    if (!hasOption || this.#modules.some((module) => module instanceof ExtensionReading && module.extension === index.extension)) {
      return false;
    }
    this.#didLoadProtocol = true;
    this.#openModule(new ExtensionReading(word, index));
    return true;
  }

  #openModule(module: Module): void {
    this.#modules.push(module);
    this.#open.push(module);
  }

  /** What no known extension takes: with an extension that is not known it is kept, else it is an error. */
  #readStray(word: Word, negation: Word | undefined): void {
    const last = this.#open.at(-1);
    if (last === undefined || last instanceof ExtensionReading || !word.text.startsWith('-')) {
      const isOption = word.text.startsWith('-');
      throw new SyntaxProblem(word, isOption ? `There is no option '${shorten(word.text)}' here.` : `'${shorten(word.text)}' is not understood here.`, 'an option of iptables or of a match module named before it');
    }
    last.words.push(...(negation === undefined ? [] : ['!']), word.text);
    for (let next = this.#reader.peek(); next !== undefined && !this.#beginsOption(next); next = this.#reader.peek()) {
      last.words.push(this.#reader.take('a value').text);
    }
  }

  #beginsOption(word: Word): boolean {
    return word.text === '!' ? (this.#reader.peekSecond()?.text.startsWith('-') ?? false) : word.text.startsWith('-');
  }

  #readBase(option: BaseOption, word: Word, reader: WordReader, negation: Word | undefined): void {
    const earlier = this.#given.get(option === 'g' ? 'j' : option);
    if (earlier !== undefined && option !== 'm' && option !== '4' && option !== '6' && option !== 'v') {
      throw new SyntaxProblem(word, `'${word.text}' is given twice.`, 'each option once');
    }
    this.#given.set(option === 'g' ? 'j' : option, word);
    if (negation !== undefined && !'sdiopf'.includes(option)) {
      throw new SyntaxProblem(negation, `There cannot be a ! before ${word.text}.`, word.text);
    }
    const negated = negation !== undefined;
    switch (option) {
      case 's':
        this.#source = this.#readAddresses('source', word, reader, negated);
        return;
      case 'd':
        this.#destination = this.#readAddresses('destination', word, reader, negated);
        return;
      case 'i':
      case 'o':
        this.#base.push({ kind: option === 'i' ? 'inInterface' : 'outInterface', negated, name: readInterface(reader) });
        return;
      case 'p':
        this.#readProtocol(reader, negated);
        return;
      case 'f':
        if (this.#context.family === 'ipv6') {
          throw new SyntaxProblem(word, 'ip6tables has no -f.', '-m frag');
        }
        this.#base.push({ kind: 'fragment', negated });
        return;
      case 'j':
      case 'g':
        this.#isGoto = option === 'g';
        this.#readTarget(reader.take('a target or chain'));
        return;
      case 'm':
        this.#readModule(reader.take('the name of a match module'));
        return;
      case 'c':
        this.#counters = readCounters(reader);
        return;
      case 'v':
        // It says how much is shown.
        return;
      case '4':
      case '6':
        this.#isWanted = (option === '4') === (this.#context.family === 'ipv4');
        return;
    }
  }

  #readAddresses(kind: Addresses['kind'], option: Word, reader: WordReader, negated: boolean): Addresses {
    const word = reader.take(`an address after ${option.text}`);
    const texts = word.text.split(',', MAX_ADDRESSES + 1).map((text) => text.trim());
    if (texts.length > MAX_ADDRESSES) {
      throw new SyntaxProblem(word, 'There are too many addresses.', `at most ${MAX_ADDRESSES} addresses`);
    }
    if (negated && texts.length > 1) {
      throw new SyntaxProblem(word, 'There cannot be a ! before several addresses.', 'one address');
    }
    const { family } = this.#context;
    if (negated && this.#context.backend === 'nft' && /\/0+$/.test(word.text)) {
      throw new SyntaxProblem(word, 'No packet has none of all addresses: nft refuses the rule.', 'a network with a length');
    }
    const prefixes = texts.map((text) => parseRulePrefix(text, family) ?? rejectWord(word, describeAddress(text, family)));
    return { kind, negated, prefixes };
  }

  #readProtocol(reader: WordReader, negated: boolean): void {
    const word = reader.take('a protocol');
    const number = parseProtocolNumber(word.text.toLowerCase()) ?? rejectWord(word, 'a protocol such as tcp or udp');
    if (number === 0 && negated) {
      throw new SyntaxProblem(word, 'No packet has none of all protocols.', 'a protocol such as tcp or udp');
    }
    const name = protocolName(number);
    this.#protocol = { name, negated };
    if (number !== 0) {
      this.#base.push({ kind: 'protocol', negated, protocol: name });
    }
  }

  #readTarget(word: Word): void {
    const { isChain, isBuiltIn, family } = this.#context;
    this.#targetWord = word;
    if (this.#isGoto || isChain(word.text)) {
      if (!isChain(word.text) || isBuiltIn(word.text)) {
        throw new SyntaxProblem(word, `There is no chain ${shorten(word.text)} that can be gone to.`, 'a chain that is declared; built-in chains cannot be jumped to');
      }
      this.#target = { kind: 'chain', name: word.text, goto: this.#isGoto };
      return;
    }
    if (word.text === '' || word.text.length > 28) {
      throw new SyntaxProblem(word, 'This cannot be the name of a target.', 'a name of 1 to 28 characters');
    }
    const standard = Object.hasOwn(STANDARD_TARGETS, word.text) ? STANDARD_TARGETS[word.text] : undefined;
    if (standard !== undefined) {
      this.#target = standard;
      return;
    }
    const index = findTargetModule(word.text, family);
    if (index === undefined && findTargetModule(word.text, otherFamily(family)) !== undefined) {
      throw new SyntaxProblem(word, `The target ${word.text} is of ${programName(otherFamily(family))}.`, `a target of ${programName(family)}`);
    }
    const module: Module = index === undefined ? { name: word, words: [] } : new ExtensionReading(word, index);
    this.#target = module;
    this.#open.push(module);
  }

  #readModule(word: Word): void {
    const { family } = this.#context;
    const index = findMatchModule(word.text, family);
    if (index === undefined && findMatchModule(word.text, otherFamily(family)) !== undefined) {
      throw new SyntaxProblem(word, `The match ${word.text} is of ${programName(otherFamily(family))}.`, `a match of ${programName(family)}`);
    }
    if (index === undefined && (word.text === '' || word.text.length > 28 || word.text.startsWith('-'))) {
      throw new SyntaxProblem(word, 'This cannot be the name of a match module.', 'the name of a match module');
    }
    this.#openModule(index === undefined ? { name: word, words: [] } : new ExtensionReading(word, index));
  }

  #finish(): RuleReadingResult {
    const { family, backend } = this.#context;
    const extensions: ExtensionReading[] = [];
    const finished: { readonly module: ExtensionReading; readonly options: readonly ExtensionOption[] }[] = [];
    const moduleMatches: Match[] = [];
    for (const module of this.#modules) {
      if (module instanceof ExtensionReading) {
        const options = module.finish(family);
        extensions.push(module);
        finished.push({ module, options });
        moduleMatches.push(...toMatches(module.extension.name, options));
      } else {
        moduleMatches.push({ kind: 'unknown', module: module.name.text, words: module.words });
      }
    }
    let target: Target = { kind: 'none' };
    if (this.#target instanceof ExtensionReading) {
      const options = this.#target.finish(family);
      extensions.push(this.#target);
      finished.push({ module: this.#target, options });
      target = toTarget(this.#target.extension.name, options, backend);
    } else if (this.#target !== undefined) {
      target = 'kind' in this.#target ? this.#target : { kind: 'unknown', name: this.#target.name.text, words: this.#target.words };
    }
    const surroundings: RuleSurroundings = { family, backend, protocol: this.#protocol?.name ?? null, protocolNegated: this.#protocol?.negated ?? false, matches: moduleMatches };
    for (const { module, options } of finished) {
      module.check(surroundings, options);
    }
    return {
      bodies: this.#isWanted ? this.#bodies(backend === 'nft' ? mergePortMatches(moduleMatches) : moduleMatches, target) : [],
      counters: this.#counters,
      extensions,
      unknown: this.#open.flatMap((module) => (module instanceof ExtensionReading ? [] : [module.name])),
      isWanted: this.#isWanted,
    };
  }

  #bodies(moduleMatches: readonly Match[], target: Target): readonly RuleBody[] {
    const rest = [...sortBase(this.#base, this.#context.backend), ...moduleMatches];
    const sources = addressMatches(this.#source);
    const destinations = addressMatches(this.#destination);
    if (sources.length * destinations.length > MAX_BODIES) {
      throw new SyntaxProblem(this.#targetWord ?? 1, 'The addresses make too many rules.', `at most ${MAX_BODIES} rules of one line`);
    }
    return sources.flatMap((source) => destinations.map((destination) => ({ matches: [...source, ...destination, ...rest], target })));
  }
}

/** The matches that each of the addresses makes; one that holds every address makes none. */
function addressMatches(addresses: Addresses | undefined): readonly (readonly Match[])[] {
  if (addresses === undefined) {
    return [[]];
  }
  const { kind, negated, prefixes } = addresses;
  return prefixes.map((prefix) => (prefix.prefixLength === 0 && prefix.mask === undefined && !negated ? [] : [{ kind, negated, prefix }]));
}

/** The order in which the kernel compares what needs no module (net/ipv4/netfilter/ip_tables.c, ip_packet_match). */
const BASE_ORDER: readonly Match['kind'][] = ['inInterface', 'outInterface', 'protocol', 'fragment'];

function sortBase(base: readonly Match[], backend: Backend): Match[] {
  return base
    .filter((match) => !((match.kind === 'inInterface' || match.kind === 'outInterface') && match.name === '+' && (backend === 'legacy' || !match.negated)))
    .toSorted((left, right) => BASE_ORDER.indexOf(left.kind) - BASE_ORDER.indexOf(right.kind));
}

function readInterface(reader: WordReader): string {
  const word = reader.take('a network interface');
  const length = utf8Length(word.text);
  return length > 0 && length <= MAX_INTERFACE_NAME ? word.text : rejectWord(word, `the name of an interface, at most ${MAX_INTERFACE_NAME} bytes`);
}

/** `-c PACKETS BYTES` or `-c PACKETS,BYTES`. */
function readCounters(reader: WordReader): Counters {
  const word = reader.take('a packet count');
  const [packets = '', bytes] = word.text.split(',', 2);
  const bytesText = bytes ?? reader.take('a byte count').text;
  if (!/^\d{1,19}$/.test(packets) || !/^\d{1,19}$/.test(bytesText)) {
    return rejectWord(word, 'counts of packets and bytes');
  }
  return { packets: BigInt(packets), bytes: BigInt(bytesText) };
}

function describeAddress(text: string, family: AddressFamily): string {
  if (family === 'ipv4' && text.includes(':')) {
    return 'an IPv4 address: this is a rule set of iptables, not of ip6tables';
  }
  if (family === 'ipv6' && /^[\d./]+$/.test(text)) {
    return 'an IPv6 address: this is a rule set of ip6tables, not of iptables';
  }
  return 'an address or a network such as 10.0.0.0/8; host names are not looked up';
}

function otherFamily(family: AddressFamily): AddressFamily {
  return family === 'ipv4' ? 'ipv6' : 'ipv4';
}

function programName(family: AddressFamily): string {
  return family === 'ipv4' ? 'iptables' : 'ip6tables';
}
