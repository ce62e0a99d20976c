import type { Condition } from '../../agent/protocol/trace.ts';
import { prefixContains } from './addressPrefix.ts';
import type { MatchContext, Packet } from './packet.ts';
import type { MaskedValue, Match, NumberRange } from './ruleSet.ts';
import { writeMatch } from './writeRuleSet.ts';

type Known = 'matched' | 'failed';

/**
 * Compares a packet with one match of a rule, as the kernel does. Gives null for what compares nothing (a comment, the
 * name of a module). What cannot be told is `unknown`, never matched or failed.
 */
export function compareMatch(match: Match, packet: Packet, context: MatchContext): Condition | null {
  switch (match.kind) {
    case 'source':
    case 'destination':
      return {
        what: match.kind === 'source' ? 'source address' : 'destination address',
        wanted: wantedText(match),
        actual: packet[match.kind].address,
        result: decide(prefixContains(match.prefix, packet[match.kind].address), match.negated),
      };
    case 'inInterface':
    case 'outInterface': {
      const actual = packet[match.kind];
      return {
        what: match.kind === 'inInterface' ? 'arrives by interface' : 'leaves by interface',
        wanted: wantedText(match),
        actual: actual ?? 'none',
        result: decide(interfaceMatches(match.name, actual ?? ''), match.negated),
      };
    }
    case 'protocol':
      return condition('protocol', match, 'tcp', decide(match.protocol === 'tcp', match.negated));
    case 'fragment':
      return condition('later fragment', match, 'no', decide(false, match.negated));
    case 'port': {
      const port = packet[match.which].port;
      // The rule can only be loaded together with -p of its own protocol, so another protocol has failed before.
      return condition(`${match.which} port`, match, String(port), decide(match.module === 'tcp' && inRange(match.range, port), match.negated));
    }
    case 'tcpFlags': {
      const set = match.mask.filter((flag) => packet.flags.includes(flag));
      const same = set.length === match.set.length && set.every((flag) => match.set.includes(flag));
      return condition('TCP flags', match, packet.flags.join(','), decide(same, match.negated));
    }
    case 'multiport': {
      const ports = match.which === 'either' ? [packet.source.port, packet.destination.port] : [packet[match.which].port];
      const matched = match.ranges.some((range) => ports.some((port) => inRange(range, port)));
      return condition(match.which === 'either' ? 'source or destination port' : `${match.which} port`, match, ports.join(' and '), decide(matched, match.negated));
    }
    case 'owner':
      return compareOwner(match, packet);
    case 'socketExists':
      return condition('has a local socket', match, packet.owner.kind === 'socket' ? 'yes' : 'no', decide(packet.owner.kind === 'socket', match.negated));
    case 'connectionState':
      return compareConnectionState(match, packet);
    case 'mark':
      return condition('packet mark', match, hex(packet.mark), decide(underMask(match.wanted, packet.mark), match.negated));
    case 'connectionMark': {
      // Without a connection the match is false whatever it is negated to (net/netfilter/xt_connmark.c).
      const mark = packet.connection?.mark;
      return mark === undefined
        ? condition('connection mark', match, 'no connection', 'failed')
        : condition('connection mark', match, hex(mark), decide(underMask(match.wanted, mark), match.negated));
    }
    case 'addressType': {
      const type = context.addressType(packet[match.which].address);
      return condition(`type of the ${match.which} address`, match, type ?? 'not known', type === null ? 'unknown' : decide(match.types.includes(type), match.negated));
    }
    case 'comment':
    case 'module':
      return null;
    case 'unknown':
      return {
        what: match.module === '' ? 'an option that is not modelled' : `match ${match.module}`,
        wanted: match.words.join(' '),
        actual: 'not modelled',
        result: 'unknown',
      };
  }
}

/**
 * Compares all matches of a rule in the kernel's order, up to the first that fails: the kernel looks no further. The
 * rule as a whole is unknown where none failed and one is unknown.
 */
export function compareMatches(matches: readonly Match[], packet: Packet, context: MatchContext): { readonly conditions: readonly Condition[]; readonly result: Condition['result'] } {
  const conditions: Condition[] = [];
  let result: Condition['result'] = 'matched';
  for (const match of matches) {
    const compared = compareMatch(match, packet, context);
    if (compared === null) {
      continue;
    }
    conditions.push(compared);
    if (compared.result === 'failed') {
      return { conditions, result: 'failed' };
    }
    if (compared.result === 'unknown') {
      result = 'unknown';
    }
  }
  return { conditions, result };
}

/** `-m owner`: a packet without a socket file matches only what is negated (net/netfilter/xt_owner.c, owner_mt). */
function compareOwner(match: Extract<Match, { kind: 'owner' }>, packet: Packet): Condition {
  const what = match.which === 'uid' ? 'owner of the socket' : 'group of the socket';
  if (packet.owner.kind === 'none') {
    return condition(what, match, 'no local socket', match.negated ? 'matched' : 'failed');
  }
  const id = packet.owner[match.which];
  if (id === null) {
    return condition(what, match, 'not known', 'unknown');
  }
  return condition(what, match, String(id), decide(inRange(match.range, id), match.negated));
}

/** `-m conntrack --ctstate` (net/netfilter/xt_conntrack.c): a packet without a connection counts as INVALID. */
function compareConnectionState(match: Extract<Match, { kind: 'connectionState' }>, packet: Packet): Condition {
  const { connection } = packet;
  const states = [
    connection?.state ?? 'INVALID',
    ...(connection?.sourceTranslated === true ? ['SNAT'] : []),
    ...(connection?.destinationTranslated === true ? ['DNAT'] : []),
  ];
  const matched = match.states.some((state) => states.includes(state));
  return condition('connection state', match, states.join(','), decide(matched, match.negated));
}

function condition(what: string, match: Match, actual: string, result: Condition['result']): Condition {
  return { what, wanted: wantedText(match), actual, result };
}

/** What a match wants, without the name of its option: `! 127.0.0.1/32`. */
function wantedText(match: Match): string {
  return writeMatch(match).replace(/^(! )?(?:--?[a-z-]+)\s*/, '$1').trim();
}

function decide(equal: boolean, negated: boolean): Known {
  return equal === negated ? 'failed' : 'matched';
}

/** A name with `+` at its end stands for every name that begins so (net/ipv4/netfilter/ip_tables.c, ifname_compare). */
function interfaceMatches(wanted: string, actual: string): boolean {
  return wanted.endsWith('+') ? actual.startsWith(wanted.slice(0, -1)) : actual === wanted;
}

function inRange(range: NumberRange, value: number): boolean {
  return value >= range.first && value <= range.last;
}

function underMask(wanted: MaskedValue, actual: number): boolean {
  return (actual & wanted.mask) >>> 0 === wanted.value;
}

function hex(value: number): string {
  return `0x${value.toString(16)}`;
}
