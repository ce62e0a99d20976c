import { parseAddressPrefix } from './addressPrefix.ts';
import type { ConnectionStateName, Match } from './ruleSet.ts';
import { CONNECTION_STATES } from './ruleSet.ts';
import { readIdRange, readMaskedValue, readPortList, readPortRange, readTcpFlags } from './values.ts';
import type { Word } from './words.ts';
import type { WordReader } from './wordReader.ts';
import { rejectWord } from './wordReader.ts';

type OptionReader = (reader: WordReader, option: Word, negated: boolean) => Match;

const PROTOCOL_NUMBERS: Readonly<Record<string, string>> = {
  '0': 'all', '1': 'icmp', '6': 'tcp', '17': 'udp', '33': 'dccp', '50': 'esp', '51': 'ah', '58': 'ipv6-icmp', '132': 'sctp', '136': 'udplite',
};
const PROTOCOL_NAMES = new Set([...Object.values(PROTOCOL_NUMBERS), 'icmpv6', 'gre', 'igmp', 'ipencap', 'ipv6', 'mh', 'ipcomp', 'ospf', 'vrrp', 'pim', 'l2tp']);

/** The address types of addrtype (libxt_addrtype.c). */
const ADDRESS_TYPES = new Set([
  'UNSPEC', 'UNICAST', 'LOCAL', 'BROADCAST', 'ANYCAST', 'MULTICAST', 'BLACKHOLE', 'UNREACHABLE', 'PROHIBIT', 'THROW', 'NAT', 'XRESOLVE',
]);

/** Options that stand without `-m`: those of struct ipt_ip. */
const BASE_OPTIONS: Readonly<Record<string, OptionReader>> = {
  '-s': (reader, option, negated) => readAddress(reader, option, 'source', negated),
  '-d': (reader, option, negated) => readAddress(reader, option, 'destination', negated),
  '-i': (reader, _, negated) => ({ kind: 'inInterface', negated, name: readInterface(reader) }),
  '-o': (reader, _, negated) => ({ kind: 'outInterface', negated, name: readInterface(reader) }),
  '-p': (reader, _, negated) => ({ kind: 'protocol', negated, protocol: readProtocol(reader) }),
  '-f': (_reader, _option, negated) => ({ kind: 'fragment', negated }),
};

const BASE_SPELLINGS: Readonly<Record<string, string>> = {
  '--source': '-s', '--src': '-s', '--destination': '-d', '--dst': '-d', '--in-interface': '-i', '--out-interface': '-o',
  '--protocol': '-p', '--proto': '-p', '--fragment': '-f',
};

const MARK_OPTIONS = (kind: 'mark' | 'connectionMark'): Readonly<Record<string, OptionReader>> => ({
  '--mark': (reader, _, negated) => ({ kind, negated, wanted: readMaskedValue(reader.take('a mark')) }),
});

/** The options of each module, by the module's name. */
const MODULES: Readonly<Record<string, Readonly<Record<string, OptionReader>>>> = {
  tcp: {
    ...portOptions('tcp'),
    '--tcp-flags': (reader, _, negated) => {
      const mask = readTcpFlags(reader.take('the flags to look at'));
      return { kind: 'tcpFlags', negated, mask, set: readTcpFlags(reader.take('the flags that are set')) };
    },
    '--syn': (_reader, _option, negated) => ({ kind: 'tcpFlags', negated, mask: ['FIN', 'SYN', 'RST', 'ACK'], set: ['SYN'] }),
  },
  udp: portOptions('udp'),
  multiport: {
    ...multiportOptions('source', ['--sports', '--source-ports']),
    ...multiportOptions('destination', ['--dports', '--destination-ports']),
    ...multiportOptions('either', ['--ports']),
  },
  owner: {
    '--uid-owner': (reader, _, negated) => ({ kind: 'owner', which: 'uid', negated, range: readIdRange(reader.take('a user id')) }),
    '--gid-owner': (reader, _, negated) => ({ kind: 'owner', which: 'gid', negated, range: readIdRange(reader.take('a group id')) }),
    '--socket-exists': (_reader, _option, negated) => ({ kind: 'socketExists', negated }),
  },
  conntrack: { '--ctstate': stateOption('conntrack') },
  state: { '--state': stateOption('state') },
  mark: MARK_OPTIONS('mark'),
  connmark: MARK_OPTIONS('connectionMark'),
  addrtype: {
    '--src-type': addressTypeOption('source'),
    '--dst-type': addressTypeOption('destination'),
  },
  comment: { '--comment': (reader) => ({ kind: 'comment', text: reader.take('the comment').text }) },
};

/** Gives the reader of an option that needs no module, or undefined. */
export function baseOption(word: string): OptionReader | undefined {
  return ownValue(BASE_OPTIONS, ownValue(BASE_SPELLINGS, word) ?? word);
}

/** Gives the options of a match module, or undefined for one that is not known. */
export function moduleOptions(name: string): Readonly<Record<string, OptionReader>> | undefined {
  return ownValue(MODULES, name);
}

/** Gives the value of an own property: rule text must not reach what every object inherits. */
export function ownValue<Value>(record: Readonly<Record<string, Value>>, key: string): Value | undefined {
  return Object.hasOwn(record, key) ? record[key] : undefined;
}

function portOptions(module: 'tcp' | 'udp'): Record<string, OptionReader> {
  const option = (which: 'source' | 'destination'): OptionReader => (reader, _, negated) => {
    const word = reader.take('a port');
    return { kind: 'port', module, which, negated, range: readPortRange(word, word.text, ':') };
  };
  return {
    '--sport': option('source'),
    '--source-port': option('source'),
    '--dport': option('destination'),
    '--destination-port': option('destination'),
  };
}

function multiportOptions(which: 'source' | 'destination' | 'either', names: readonly string[]): Record<string, OptionReader> {
  return Object.fromEntries(
    names.map((name): [string, OptionReader] => [
      name,
      (reader, _, negated) => ({ kind: 'multiport', which, negated, ranges: readPortList(reader.take('ports')) }),
    ]),
  );
}

function stateOption(module: 'conntrack' | 'state'): OptionReader {
  return (reader, _, negated) => {
    const word = reader.take('connection states');
    const named = new Set(word.text.split(',', CONNECTION_STATES.length + 1));
    const allowed: readonly ConnectionStateName[] = module === 'state' ? CONNECTION_STATES.slice(0, 5) : CONNECTION_STATES;
    const states = allowed.filter((state) => named.has(state));
    return states.length === named.size ? { kind: 'connectionState', module, negated, states } : rejectWord(word, `a comma list of ${allowed.join(', ')}`);
  };
}

function addressTypeOption(which: 'source' | 'destination'): OptionReader {
  return (reader, _, negated) => {
    const word = reader.take('an address type');
    const types = word.text.split(',', ADDRESS_TYPES.size + 1);
    return types.every((type) => ADDRESS_TYPES.has(type))
      ? { kind: 'addressType', which, negated, types }
      : rejectWord(word, `a comma list of ${[...ADDRESS_TYPES].join(', ')}`);
  };
}

function readAddress(reader: WordReader, option: Word, kind: 'source' | 'destination', negated: boolean): Match {
  const word = reader.take(`an address after ${option.text}`);
  const prefix = parseAddressPrefix(word.text);
  return prefix === undefined ? rejectWord(word, 'an address or a network such as 10.0.0.0/8') : { kind, negated, prefix };
}

function readInterface(reader: WordReader): string {
  const word = reader.take('a network interface');
  // IFNAMSIZ is 16 with the final NUL (include/uapi/linux/if.h).
  return word.text !== '' && word.text.length <= 15 ? word.text : rejectWord(word, 'the name of an interface, at most 15 characters');
}

function readProtocol(reader: WordReader): string {
  const word = reader.take('a protocol');
  const name = word.text.toLowerCase();
  const known = ownValue(PROTOCOL_NUMBERS, name);
  if (known !== undefined) {
    return known;
  }
  if (name === 'icmpv6') {
    return 'ipv6-icmp';
  }
  return PROTOCOL_NAMES.has(name) || (/^\d{1,3}$/.test(name) && Number(name) <= 255) ? name : rejectWord(word, 'a protocol such as tcp or udp');
}
