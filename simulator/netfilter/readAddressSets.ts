import type { AddressSet, AddressSets, SetDimension, SetEntry, SetPart, SetProblem } from './addressSet.ts';
import { maskAddress } from './addressPrefix.ts';
import { ipv4Number } from './addressSet.ts';
import { parseRuleAddress, parseRulePrefix } from './iptablesAddress.ts';
import { ICMP_TYPES, ICMPV6_TYPES } from './icmpTypes.ts';
import { parsePort } from './optionArguments.ts';
import { parseNumber } from './numberText.ts';
import { parseProtocolNumber } from './protocols.ts';
import type { AddressFamily } from './ruleSet.ts';
import { MAX_RULE_LINE_CHARACTERS, MAX_RULE_SET_CHARACTERS } from './readRuleSet.ts';
import type { Word } from './words.ts';
import { splitWords } from './words.ts';
import { rejectWord, shorten, SyntaxProblem, WordReader } from './wordReader.ts';

/** The most entries that are kept of all sets together. */
export const MAX_SET_ENTRIES = 500_000;
const MAX_SETS = 10_000;
const MAX_PROBLEMS = 1_000;
/** IPSET_MAXNAMELEN without its NUL (include/uapi/linux/netfilter/ipset/ip_set.h). */
const MAX_NAME = 31;

/** The types of ipset 7 with their dimensions (ipset(8)). */
const TYPES: Readonly<Record<string, readonly SetDimension[]>> = {
  'bitmap:ip': ['ip'], 'bitmap:ip,mac': ['ip', 'mac'], 'bitmap:port': ['port'],
  'hash:ip': ['ip'], 'hash:mac': ['mac'], 'hash:ip,mac': ['ip', 'mac'], 'hash:net': ['net'], 'hash:net,net': ['net', 'net'],
  'hash:ip,port': ['ip', 'port'], 'hash:net,port': ['net', 'port'], 'hash:ip,port,ip': ['ip', 'port', 'ip'], 'hash:ip,port,net': ['ip', 'port', 'net'],
  'hash:net,port,net': ['net', 'port', 'net'], 'hash:ip,mark': ['ip', 'mark'], 'hash:net,iface': ['net', 'iface'], 'list:set': ['set'],
};

/** Options of `create` and `add` that have a value, which says nothing about membership. */
const VALUED_OPTIONS = new Set(['timeout', 'hashsize', 'maxelem', 'netmask', 'bitmask', 'markmask', 'range', 'size', 'bucketsize', 'initval', 'packets', 'bytes', 'comment', 'skbmark', 'skbprio', 'skbqueue', 'before', 'after']);
const FLAGS = new Set(['counters', 'comment', 'skbinfo', 'forceadd', 'wildcard', 'nomatch', '-exist', '-!']);

interface OpenSet extends AddressSet {
  readonly entries: SetEntry[];
}

/**
 * Reads what `ipset save` printed or `ipset restore` takes (ipset(8)): create, add, del, flush, destroy, swap and rename.
 * Never throws for bad text: each bad line is a problem, the rest is read.
 */
export function readAddressSets(text: string): AddressSets {
  const reader = new SetReader();
  let line = 0;
  for (const lineText of text.slice(0, MAX_RULE_SET_CHARACTERS).split('\n')) {
    line += 1;
    reader.readLine(line, lineText.endsWith('\r') ? lineText.slice(0, -1) : lineText);
  }
  return reader.finish();
}

class SetReader {
  readonly #sets = new Map<string, OpenSet>();
  readonly #problems: SetProblem[] = [];
  #entries = 0;

  finish(): AddressSets {
    return { sets: this.#sets, problems: this.#problems };
  }

  readLine(line: number, text: string): void {
    try {
      this.#readLine(text);
    } catch (error) {
      if (!(error instanceof SyntaxProblem)) {
        throw error;
      }
      if (this.#problems.length < MAX_PROBLEMS) {
        this.#problems.push({ line, column: error.column, message: error.message, expected: error.expected });
      }
    }
  }

  #readLine(text: string): void {
    if (/^\s*(?:#|$|COMMIT\s*$)/.test(text)) {
      return;
    }
    if (text.length > MAX_RULE_LINE_CHARACTERS || text.includes('\0')) {
      throw new SyntaxProblem(1, 'The line cannot be read.', `text of at most ${MAX_RULE_LINE_CHARACTERS} characters`);
    }
    const words = splitWords(text);
    if ('unfinishedQuoteAt' in words) {
      throw new SyntaxProblem(words.unfinishedQuoteAt, 'A quote is opened and not closed.', 'a closing "');
    }
    const reader = new WordReader(words.filter(({ text: word }) => word !== '-exist' && word !== '-!' && word !== '--exist'), text.length + 1);
    const command = reader.take('a command');
    switch (command.text) {
      case 'create':
      case 'new':
      case '-N':
        this.#create(reader);
        return;
      case 'add':
      case '-A':
        this.#add(this.#find(reader.take('the name of a set')), reader);
        return;
      case 'del':
      case '-D':
        this.#remove(this.#find(reader.take('the name of a set')), reader);
        return;
      case 'flush':
      case '-F':
      case 'destroy':
      case '-X':
        this.#clear(command.text === 'destroy' || command.text === '-X', reader.peek());
        return;
      case 'rename':
      case '-E':
      case 'swap':
      case '-W':
        this.#exchange(this.#find(reader.take('the name of a set')), reader.take('the other name'), command.text === 'swap' || command.text === '-W');
        return;
      default:
        rejectWord(command, 'create, add, del, flush, destroy, rename or swap');
    }
  }

  #create(reader: WordReader): void {
    const name = reader.take('the name of a set');
    const type = reader.take('the type of the set');
    const dimensions = Object.hasOwn(TYPES, type.text) ? TYPES[type.text] : undefined;
    if (dimensions === undefined) {
      return rejectWord(type, Object.keys(TYPES).join(', '));
    }
    if (name.text.length === 0 || name.text.length > MAX_NAME || this.#sets.size >= MAX_SETS) {
      throw new SyntaxProblem(name, 'This set cannot be kept.', `at most ${MAX_SETS} sets with names of 1 to ${MAX_NAME} characters`);
    }
    let family: AddressFamily = 'ipv4';
    let netmask: number | undefined;
    let range: string | undefined;
    for (let word = reader.peek(); word !== undefined; word = reader.peek()) {
      reader.take('an option');
      if (word.text === 'family') {
        const value = reader.take('inet or inet6');
        family = value.text === 'inet6' || value.text === '-6' ? 'ipv6' : value.text === 'inet' ? 'ipv4' : rejectWord(value, 'inet or inet6');
      } else if (word.text === 'netmask') {
        const value = reader.take('the length of a prefix');
        netmask = parseNumber(value.text, family === 'ipv4' ? 32 : 128) ?? rejectWord(value, 'the length of a prefix');
      } else if (word.text === 'range') {
        range = reader.take('a range').text;
      } else {
        takeOption(word, reader);
      }
    }
    const set: OpenSet = { name: name.text, type: type.text, dimensions, family, entries: [], ...(netmask === undefined ? {} : { netmask }) };
    const bounds = range === undefined || !type.text.startsWith('bitmap:') ? undefined : readParts(range, dimensions[0] ?? 'ip', set);
    this.#sets.set(name.text, bounds === undefined ? set : { ...set, bounds });
  }

  #add(set: OpenSet, reader: WordReader): void {
    const word = reader.take('an entry');
    const entries = readEntry(word, set);
    let isException = false;
    let isWildcard = false;
    for (let option = reader.peek(); option !== undefined; option = reader.peek()) {
      reader.take('an option');
      isException ||= option.text === 'nomatch';
      isWildcard ||= option.text === 'wildcard';
      takeOption(option, reader, true);
    }
    this.#entries += entries.length;
    if (this.#entries > MAX_SET_ENTRIES) {
      throw new SyntaxProblem(word, 'There are more entries than are kept.', `at most ${MAX_SET_ENTRIES} entries`);
    }
    for (const parts of entries) {
      set.entries.push({ parts: isWildcard ? parts.map((part) => (part.kind === 'interface' ? { ...part, isWildcard } : part)) : parts, isException });
    }
  }

  #remove(set: OpenSet, reader: WordReader): void {
    const word = reader.take('an entry');
    for (const parts of readEntry(word, set)) {
      const wanted = JSON.stringify(parts);
      const index = set.entries.findIndex((entry) => JSON.stringify(entry.parts) === wanted);
      if (index < 0) {
        throw new SyntaxProblem(word, `The set ${set.name} has no such entry.`, 'an entry of the set');
      }
      set.entries.splice(index, 1);
      this.#entries -= 1;
    }
  }

  #clear(isDestroyed: boolean, name: Word | undefined): void {
    for (const set of name === undefined ? [...this.#sets.values()] : [this.#find(name)]) {
      this.#entries -= set.entries.length;
      set.entries.length = 0;
      if (isDestroyed) {
        this.#sets.delete(set.name);
      }
    }
  }

  #exchange(set: OpenSet, other: Word, isSwap: boolean): void {
    const second = this.#sets.get(other.text);
    if (isSwap !== (second !== undefined)) {
      throw new SyntaxProblem(other, isSwap ? `There is no set ${shorten(other.text)}.` : `The set ${shorten(other.text)} is there already.`, isSwap ? 'a set that was created' : 'another name');
    }
    this.#sets.delete(set.name);
    this.#sets.set(other.text, { ...set, name: other.text });
    if (second !== undefined) {
      this.#sets.set(set.name, { ...second, name: set.name });
    }
  }

  #find(name: Word): OpenSet {
    const set = this.#sets.get(name.text);
    if (set === undefined) {
      throw new SyntaxProblem(name, `There is no set ${shorten(name.text)}.`, 'a set that was created before');
    }
    return set;
  }
}

/** Takes an option with its value. `comment` has one where an entry is added, and none where a set is created. */
function takeOption(word: Word, reader: WordReader, isEntry = false): void {
  if (VALUED_OPTIONS.has(word.text) && (word.text !== 'comment' || isEntry)) {
    reader.take(`the value of ${word.text}`);
  } else if (!FLAGS.has(word.text)) {
    rejectWord(word, 'an option of ipset');
  }
}

/** Reads an entry; ranges of addresses and of ports make no more than one part each. */
function readEntry(word: Word, set: AddressSet): readonly (readonly SetPart[])[] {
  const texts = word.text.split(',', set.dimensions.length + 1);
  if (texts.length !== set.dimensions.length && !(set.type === 'bitmap:ip,mac' && texts.length === 1)) {
    return rejectWord(word, `${set.dimensions.length} parts with commas between, as ${set.type} has`);
  }
  return combine(texts.map((text, index) => readParts(text, set.dimensions[index] ?? 'ip', set) ?? rejectWord(word, `an entry of ${set.type}`)));
}

function readParts(text: string, dimension: SetDimension, set: AddressSet): readonly SetPart[] | undefined {
  switch (dimension) {
    case 'ip':
    case 'net':
      return readAddress(text, set);
    case 'port':
      return readPorts(text, set);
    case 'mac':
      return /^[0-9a-f]{2}(?::[0-9a-f]{2}){5}$/i.test(text) ? [{ kind: 'mac', mac: text.toLowerCase() }] : undefined;
    case 'mark': {
      const mark = parseNumber(text);
      return mark === undefined ? undefined : [{ kind: 'mark', mark }];
    }
    case 'iface': {
      const isBridgePort = text.startsWith('physdev:');
      const name = isBridgePort ? text.slice('physdev:'.length) : text;
      return name.length > 0 && name.length <= 15 ? [{ kind: 'interface', name, isBridgePort }] : undefined;
    }
    case 'set':
      return [{ kind: 'set', name: text }];
  }
}

function readAddress(text: string, { family, netmask }: AddressSet): readonly SetPart[] | undefined {
  const dash = text.indexOf('-');
  if (dash < 0) {
    const prefix = parseRulePrefix(text, family);
    return prefix?.mask !== undefined || prefix === undefined ? undefined : [{ kind: 'prefix', prefix: netmask === undefined || prefix.prefixLength <= netmask ? prefix : { address: maskAddress(prefix.address, netmask), prefixLength: netmask } }];
  }
  const first = parseRuleAddress(text.slice(0, dash), family);
  const last = parseRuleAddress(text.slice(dash + 1), family);
  const ordered = first !== undefined && last !== undefined && family === 'ipv4' && (ipv4Number(first) ?? 0) <= (ipv4Number(last) ?? 0);
  return ordered ? [{ kind: 'addresses', first, last }] : undefined;
}

/** `[protocol:]port[-port]`; without a protocol it is tcp. ICMP has a type and a code, or a name, in the place of the port. */
function readPorts(text: string, set: AddressSet): readonly SetPart[] | undefined {
  const colon = text.indexOf(':');
  const protocol = set.type === 'bitmap:port' ? null : colon < 0 ? 6 : parseProtocolNumber(text.slice(0, colon).toLowerCase());
  const portText = text.slice(colon + 1);
  if (protocol === undefined) {
    return undefined;
  }
  if (protocol === 1 || protocol === 58) {
    const named = (protocol === 1 ? ICMP_TYPES : ICMPV6_TYPES).find(([name]) => name === portText);
    const [type, code] = named === undefined ? portText.split('/').map((part) => parseNumber(part, 255)) : [named[1], named[2] ?? 0];
    return type === undefined || code === undefined ? undefined : [{ kind: 'ports', protocol, range: { first: type * 256 + code, last: type * 256 + code } }];
  }
  const whole = parsePort(portText);
  const dash = portText.indexOf('-');
  const first = whole ?? parsePort(portText.slice(0, dash));
  const last = whole ?? (dash < 0 ? undefined : parsePort(portText.slice(dash + 1)));
  return first === undefined || last === undefined || first > last ? undefined : [{ kind: 'ports', protocol, range: { first, last } }];
}

function combine(parts: readonly (readonly SetPart[])[]): readonly (readonly SetPart[])[] {
  return parts.reduce<readonly (readonly SetPart[])[]>((all, next) => all.flatMap((entry) => next.map((part) => [...entry, part])), [[]]);
}
