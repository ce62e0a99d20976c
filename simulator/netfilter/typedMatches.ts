import type { ConnectionStateName, ExtensionOption, Match, NumberRange, TcpFlag } from './ruleSet.ts';

/** Gives an instance of a match module as matches of the model: of their own kind where they are compared often, else as an extension. */
export function toMatches(module: string, options: readonly ExtensionOption[]): readonly Match[] {
  const convert = Object.hasOwn(CONVERTERS, module) ? CONVERTERS[module] : undefined;
  if (convert === undefined) {
    return [{ kind: 'extension', module, options, named: false }];
  }
  const matches: Match[] = [{ kind: 'module', module }];
  const rest: ExtensionOption[] = [];
  for (const option of options) {
    const match = convert(option);
    if (match === undefined) {
      rest.push(option);
    } else {
      matches.push(match);
    }
  }
  return rest.length === 0 ? matches : [...matches, { kind: 'extension', module, options: rest, named: true }];
}

/** What iptables-nft makes of a range that begins with the first port and is excluded: the ports behind it (iptables/nft-shared.c, nft_parse_th_port_range). */
function turnRange(match: Match): Match {
  const isTurned = match.kind === 'port' && match.negated && match.range.first === 0 && match.range.last > 0 && match.range.last < 0xffff;
  return isTurned ? { ...match, negated: false, range: { first: match.range.last + 1, last: 0xffff } } : match;
}

/** Gives the matches of the instance of a module that a match belongs to: `-m addrtype … -m addrtype …` are two, and no option of one says anything about the other. */
export function instanceOf(match: Match, matches: readonly Match[]): readonly Match[] {
  const begins = (one: Match): boolean => one.kind === 'module' || (one.kind === 'extension' && !one.named);
  const place = matches.indexOf(match);
  const start = matches.findLastIndex((one, index) => index <= place && begins(one));
  const end = matches.findIndex((one, index) => index > place && begins(one));
  return matches.slice(Math.max(0, start), end < 0 ? matches.length : end);
}

/**
 * Brings tcp and udp into the form of iptables-nft: it keeps no modules for them, but comparisons, of which it makes one
 * module again, the later ones first in it (iptables/nft-shared.c, nft_create_match). A module that says nothing is kept
 * where it is the only one and was given so.
 */
export function mergePortMatches(matches: readonly Match[]): readonly Match[] {
  return matches.some((match) => match.kind === 'module' && (match.module === 'tcp' || match.module === 'udp')) ? ['tcp', 'udp'].reduce(mergeModule, matches).map(turnRange) : matches;
}

function mergeModule(matches: readonly Match[], module: string): readonly Match[] {
  const starts = matches.flatMap((match, index) => (match.kind === 'module' && match.module === module ? [index] : []));
  if (starts.length === 0) {
    return matches;
  }
  if (starts.length === 1 && !matches.some((match) => saysNothing(match))) {
    return matches;
  }
  const blocks = starts.map((start) => {
    const next = matches.findIndex((match, index) => index > start && !isPortMatch(match));
    return matches.slice(start + 1, next < 0 ? matches.length : next);
  });
  const silenced = blocks.map((block) => block.filter((match) => !saysNothing(match)));
  const parts = silenced.flat();
  const order = (match: Match): number => (match.kind === 'port' ? (match.which === 'source' ? 0 : 1) : match.kind === 'tcpOption' ? 2 : 3);
  const wasSilenced = blocks.some((block, index) => block.length > 0 && silenced[index]?.length === 0 && block.some((match) => 'negated' in match && match.negated));
  const merged: Match[] = parts.length === 0 && wasSilenced ? [] : [{ kind: 'module', module }, ...parts.toSorted((left, right) => order(left) - order(right))];
  const first = starts[0] ?? 0;
  const dropped = new Set(starts.flatMap((start, index) => Array.from({ length: (blocks[index]?.length ?? 0) + 1 }, (_, offset) => start + offset)));
  return matches.flatMap((match, index) => (index === first ? merged : dropped.has(index) ? [] : [match]));
}

function isPortMatch(match: Match): boolean {
  return match.kind === 'port' || match.kind === 'tcpOption' || match.kind === 'tcpFlags';
}

function saysNothing(match: Match): boolean {
  return (match.kind === 'port' && match.range.first === 0 && match.range.last === 0xffff) || (match.kind === 'tcpFlags' && match.mask.length === 0);
}

type Converter = (option: ExtensionOption) => Match | undefined;

const SYN_MASK: readonly TcpFlag[] = ['FIN', 'SYN', 'RST', 'ACK'];

const CONVERTERS: Readonly<Record<string, Converter>> = {
  tcp: (option) => {
    const { negated } = option;
    switch (option.name) {
      case 'sport':
      case 'dport':
        return portMatch('tcp', option);
      case 'tcp-option':
        return { kind: 'tcpOption', negated, option: numberOf(option) };
      case 'syn':
        return { kind: 'tcpFlags', negated, mask: SYN_MASK, set: ['SYN'] };
      default:
        return flagsMatch(option);
    }
  },
  udp: (option) => portMatch('udp', option),
  multiport: (option) => ({
    kind: 'multiport',
    which: option.name === 'sports' ? 'source' : option.name === 'dports' ? 'destination' : 'either',
    negated: option.negated,
    ranges: namesOf(option).map(parseRange),
  }),
  owner: (option) => {
    switch (option.name) {
      case 'socket-exists':
        return { kind: 'socketExists', negated: option.negated };
      case 'suppl-groups':
        return { kind: 'supplementaryGroups' };
      default:
        return { kind: 'owner', which: option.name === 'uid-owner' ? 'uid' : 'gid', negated: option.negated, range: rangeOf(option) };
    }
  },
  conntrack: (option) => (option.name === 'ctstate' ? { kind: 'connectionState', module: 'conntrack', negated: option.negated, states: namesOf(option) as readonly ConnectionStateName[] } : undefined),
  state: (option) => ({ kind: 'connectionState', module: 'state', negated: option.negated, states: namesOf(option) as readonly ConnectionStateName[] }),
  mark: (option) => markMatch('mark', option),
  connmark: (option) => markMatch('connectionMark', option),
  addrtype: (option) => {
    switch (option.name) {
      case 'limit-iface-in':
        return { kind: 'addressTypeInterface', which: 'in' };
      case 'limit-iface-out':
        return { kind: 'addressTypeInterface', which: 'out' };
      default:
        return { kind: 'addressType', which: option.name === 'src-type' ? 'source' : 'destination', negated: option.negated, types: namesOf(option) };
    }
  },
  comment: (option) => ({ kind: 'comment', text: option.value.type === 'text' ? option.value.text : '' }),
};

/** A range of all ports is not kept by tcp and udp (libxt_tcp.c, tcp_save); the kernel compares it and it always fits. */
function portMatch(module: 'tcp' | 'udp', option: ExtensionOption): Match {
  return { kind: 'port', module, which: option.name === 'sport' ? 'source' : 'destination', negated: option.negated, range: rangeOf(option) };
}

function flagsMatch(option: ExtensionOption): Match {
  const names = namesOf(option);
  const split = names.indexOf('/');
  return { kind: 'tcpFlags', negated: option.negated, mask: names.slice(0, split) as readonly TcpFlag[], set: names.slice(split + 1) as readonly TcpFlag[] };
}

function markMatch(kind: 'mark' | 'connectionMark', { negated, value }: ExtensionOption): Match {
  return { kind, negated, wanted: value.type === 'masked' ? { value: value.value, mask: value.mask } : { value: 0, mask: 0 } };
}

function numberOf({ value }: ExtensionOption): number {
  return value.type === 'number' ? value.value : 0;
}

function namesOf({ value }: ExtensionOption): readonly string[] {
  return value.type === 'names' ? value.names : [];
}

function rangeOf({ value }: ExtensionOption): NumberRange {
  return value.type === 'range' ? { first: value.first, last: value.last } : { first: 0, last: 0 };
}

function parseRange(text: string): NumberRange {
  const [first = 0, last = first] = text.split(':').map(Number);
  return { first, last };
}
