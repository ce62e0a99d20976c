import { prefixTest } from './address.ts';
import { compileExtension } from './compileExtension.ts';
import type { MatchEnvironment } from './matchEnvironment.ts';
import type { NamedLists } from './namedLists.ts';
import type { Packet } from './packet.ts';
import { TCP_FLAG_BITS, writeTcpFlags } from './packet.ts';
import { PROTOCOL, hasPorts, protocolName, protocolNumber } from './protocolNumbers.ts';
import type { MaskedValue, Match, NumberRange, TcpFlag } from './ruleSet.ts';
import { UNREADABLE_RULE } from './ruleSet.ts';
import { instanceOf } from './typedMatches.ts';
import { writeMatch } from './writeRuleSet.ts';

/** How a packet compares with a match. */
export type MatchResult = typeof FAILED | typeof MATCHED | typeof UNKNOWN;
export const FAILED = 0;
export const MATCHED = 1;
export const UNKNOWN = 2;

/** A match made ready to be compared with many packets. */
export interface CompiledMatch {
  readonly match: Match;
  readonly test: (packet: Packet, environment: MatchEnvironment) => MatchResult;
  /** What is compared, in a person's words. */
  readonly what: string;
  readonly wanted: string;
  /** What the packet has there. Asked after the test; changes nothing. */
  readonly actual: (packet: Packet, environment: MatchEnvironment) => string;
  /** Whether the test changes or asks what is remembered from packet to packet: then it must be asked exactly where the kernel asks it. */
  readonly isStateful: boolean;
}

type Test = CompiledMatch['test'];
type Actual = CompiledMatch['actual'];

/** Makes a match ready. Gives null for what compares nothing: a comment, the name of a module. `matches` are all those of its rule: some change what others of their module mean. `lists` says which rules made the lists that it names. */
export function compileMatch(match: Match, matches: readonly Match[], lists?: NamedLists): CompiledMatch | null {
  switch (match.kind) {
    case 'comment':
    case 'module':
    case 'supplementaryGroups':
    case 'addressTypeInterface':
      return null;
    default:
      return compileComparing(match, instanceOf(match, matches), lists);
  }
}

function compileComparing(match: Exclude<Match, { kind: 'comment' | 'module' | 'supplementaryGroups' | 'addressTypeInterface' }>, siblings: readonly Match[], lists: NamedLists | undefined): CompiledMatch {
  switch (match.kind) {
    case 'source':
    case 'destination': {
      const { kind } = match;
      const inPrefix = prefixTest(match.prefix);
      const [yes, no] = results(match.negated);
      return compiled(match, `${kind} address`, kind === 'source' ? (packet) => (inPrefix(packet.source) ? yes : no) : (packet) => (inPrefix(packet.destination) ? yes : no), (packet) => packet[kind].text);
    }
    case 'inInterface':
    case 'outInterface': {
      const { kind } = match;
      const matches = interfaceTest(match.name);
      const [yes, no] = results(match.negated);
      const what = kind === 'inInterface' ? 'arrives by interface' : 'leaves by interface';
      return compiled(match, what, kind === 'inInterface' ? (packet) => (matches(packet.inInterface) ? yes : no) : (packet) => (matches(packet.outInterface) ? yes : no), (packet) => packet[kind] ?? 'none');
    }
    case 'protocol': {
      const number = protocolNumber(match.protocol);
      const [yes, no] = results(match.negated);
      return compiled(match, 'protocol', number === undefined ? () => UNKNOWN : (packet) => (packet.protocol === number ? yes : no), (packet) => protocolName(packet.protocol));
    }
    case 'fragment':
      return decided(match, 'later fragment', (packet) => !packet.hasTransport, (packet) => (packet.hasTransport ? 'no' : 'yes'));
    case 'port':
      return compilePort(match);
    case 'tcpFlags': {
      const mask = flagBits(match.mask);
      const set = flagBits(match.set);
      const [yes, no] = results(match.negated);
      return compiled(match, 'TCP flags', (packet) => (isTransport(packet, PROTOCOL.tcp) ? ((packet.tcpFlags & mask) === set ? yes : no) : FAILED), (packet) => writeTcpFlags(packet.tcpFlags));
    }
    case 'multiport': {
      const inRanges = rangesTest(match.ranges);
      const [yes, no] = results(match.negated);
      const { which } = match;
      const test: Test = (packet) => {
        if (!packet.hasTransport || !hasPorts(packet.protocol)) {
          return FAILED;
        }
        const matched = (which !== 'destination' && inRanges(packet.sourcePort)) || (which !== 'source' && inRanges(packet.destinationPort));
        return matched ? yes : no;
      };
      const actual: Actual = (packet) => (which === 'either' ? `${packet.sourcePort} and ${packet.destinationPort}` : String(which === 'source' ? packet.sourcePort : packet.destinationPort));
      return compiled(match, which === 'either' ? 'source or destination port' : `${which} port`, test, actual);
    }
    case 'owner':
      return compileOwner(match, siblings.some(({ kind }) => kind === 'supplementaryGroups'));
    case 'socketExists':
      return decided(match, 'has a local socket', (packet) => packet.socket !== null, (packet) => (packet.socket === null ? 'no' : 'yes'));
    case 'connectionState':
      return compileConnectionState(match);
    case 'mark': {
      const { mask, value } = match.wanted;
      const [yes, no] = results(match.negated);
      return compiled(match, 'packet mark', (packet) => ((packet.mark & mask) >>> 0 === value ? yes : no), (packet) => hex(packet.mark));
    }
    case 'connectionMark': {
      // Without a connection the match is false whatever it is negated to (net/netfilter/xt_connmark.c).
      const [yes, no] = results(match.negated);
      const test: Test = (packet) => (packet.tracking === null ? FAILED : underMask(match.wanted, packet.tracking.connection.mark) ? yes : no);
      return compiled(match, 'connection mark', test, (packet) => (packet.tracking === null ? 'no connection' : hex(packet.tracking.connection.mark)));
    }
    case 'addressType':
      return compileAddressType(match, siblings);
    case 'tcpOption': {
      const { option } = match;
      const [yes, no] = results(match.negated);
      return compiled(match, 'TCP options', (packet) => (isTransport(packet, PROTOCOL.tcp) ? (packet.tcpOptions.includes(option) ? yes : no) : FAILED), (packet) => packet.tcpOptions.join(',') || 'none');
    }
    case 'extension':
      return compileExtension(match, siblings, lists);
    case 'unknown':
      return {
        match, what: describeUnknown(match.module), wanted: match.words.join(' '),
        test: () => UNKNOWN, actual: () => (match.module === UNREADABLE_RULE ? 'not read' : 'not modelled'), isStateful: false,
      };
  }
}

function describeUnknown(module: string): string {
  switch (module) {
    case '':
      return 'an option that is not modelled';
    case UNREADABLE_RULE:
      return 'what could not be read';
    default:
      return `match ${module}`;
  }
}

function compilePort(match: Extract<Match, { kind: 'port' }>): CompiledMatch {
  const number = PROTOCOL[match.module];
  const { first, last } = match.range;
  const [yes, no] = results(match.negated);
  // The rule can only be loaded together with -p of its own protocol; a later fragment has no ports and never matches (xt_tcpudp.c).
  const test: Test =
    match.which === 'source'
      ? (packet) => (isTransport(packet, number) ? (packet.sourcePort >= first && packet.sourcePort <= last ? yes : no) : FAILED)
      : (packet) => (isTransport(packet, number) ? (packet.destinationPort >= first && packet.destinationPort <= last ? yes : no) : FAILED);
  return compiled(match, `${match.which} port`, test, (packet) => String(match.which === 'source' ? packet.sourcePort : packet.destinationPort));
}

/** `-m owner`: a packet without a socket file matches only what is negated (net/netfilter/xt_owner.c, owner_mt). */
function compileOwner(match: Extract<Match, { kind: 'owner' }>, supplementary: boolean): CompiledMatch {
  const { which, range } = match;
  const [yes, no] = results(match.negated);
  const test: Test = ({ socket }) => {
    if (socket?.hasFile !== true) {
      return no;
    }
    const id = socket[which];
    if (id !== null && id >= range.first && id <= range.last) {
      return yes;
    }
    // Which other groups the creator has is not known.
    return id === null || (supplementary && which === 'gid') ? UNKNOWN : no;
  };
  const actual: Actual = ({ socket }) => (socket?.hasFile === true ? String(socket[which] ?? 'not known') : 'no local socket');
  return compiled(match, which === 'uid' ? 'owner of the socket' : 'group of the socket', test, actual);
}

/** `-m conntrack --ctstate` (net/netfilter/xt_conntrack.c): a packet without a connection counts as INVALID. */
function compileConnectionState(match: Extract<Match, { kind: 'connectionState' }>): CompiledMatch {
  const wanted = new Set<string>(match.states);
  const [yes, no] = results(match.negated);
  const test: Test = (packet) => {
    if (wanted.has(packet.connectionState ?? 'INVALID')) {
      return yes;
    }
    const connection = packet.tracking?.connection;
    const translated = connection !== undefined && ((wanted.has('SNAT') && connection.sourceTranslated) || (wanted.has('DNAT') && connection.destinationTranslated));
    return translated ? yes : no;
  };
  const actual: Actual = (packet) => {
    const connection = packet.tracking?.connection;
    return [packet.connectionState ?? 'INVALID', ...(connection?.sourceTranslated === true ? ['SNAT'] : []), ...(connection?.destinationTranslated === true ? ['DNAT'] : [])].join(',');
  };
  return compiled(match, 'connection state', test, actual);
}

/** net/netfilter/xt_addrtype.c: IPv4 has one type of those named; of IPv6 every property that is named must hold. */
function compileAddressType(match: Extract<Match, { kind: 'addressType' }>, siblings: readonly Match[]): CompiledMatch {
  const { which, types } = match;
  const [yes, no] = results(match.negated);
  const limit = siblings.find((sibling) => sibling.kind === 'addressTypeInterface');
  const deviceOf = (packet: Packet): string | null => (limit === undefined ? null : packet[limit.which === 'in' ? 'inInterface' : 'outInterface']);
  // PROHIBIT is asked for as well, and is what no lookup gives (match_lookup_rt6).
  const lookedUp = types.filter((type) => type === 'LOCAL' || type === 'ANYCAST' || type === 'UNREACHABLE' || type === 'PROHIBIT');
  const test: Test = (packet, environment) => {
    const address = packet[which];
    if (!address.isIpv4) {
      const isMulticast = address.w0 >>> 24 === 0xff;
      const isAny = (address.w0 | address.w1 | address.w2 | address.w3) === 0;
      if ((types.includes('MULTICAST') && !isMulticast) || (types.includes('UNICAST') && (isMulticast || isAny)) || (types.includes('UNSPEC') && !isAny)) {
        return no;
      }
      if (lookedUp.length === 0) {
        return yes;
      }
    }
    const type = environment.addressType(address, deviceOf(packet));
    return type === null ? UNKNOWN : (address.isIpv4 ? types : lookedUp).includes(type) ? yes : no;
  };
  return compiled(match, `type of the ${which} address`, test, (packet, environment) => environment.addressType(packet[which], deviceOf(packet)) ?? 'not known');
}

/** Gives the results of a comparison that holds and of one that does not, turned round where the match is negated. */
export function results(negated: boolean): readonly [MatchResult, MatchResult] {
  return negated ? [FAILED, MATCHED] : [MATCHED, FAILED];
}

/** Puts a compiled match together. */
export function compiled(match: Match, what: string, test: Test, actual: Actual, isStateful = false): CompiledMatch {
  return { match, what, wanted: wantedText(match), test, actual, isStateful };
}

function decided(match: Extract<Match, { negated: boolean }>, what: string, holds: (packet: Packet) => boolean, actual: Actual): CompiledMatch {
  const [yes, no] = results(match.negated);
  return compiled(match, what, (packet) => (holds(packet) ? yes : no), actual);
}

/** What a match wants, without the name of its option: `! 127.0.0.1/32`. */
function wantedText(match: Match): string {
  return writeMatch(match).replace(/^(! )?(?:--?[a-z-]+)\s*/, '$1').trim();
}

/** A name with `+` at its end stands for every name that begins so (net/ipv4/netfilter/ip_tables.c, ifname_compare). */
function interfaceTest(wanted: string): (name: string | null) => boolean {
  if (wanted.endsWith('+')) {
    const start = wanted.slice(0, -1);
    return (name) => (name ?? '').startsWith(start);
  }
  return (name) => name === wanted;
}

function rangesTest(ranges: readonly NumberRange[]): (value: number) => boolean {
  return (value) => ranges.some((range) => value >= range.first && value <= range.last);
}

function isTransport(packet: Packet, protocol: number): boolean {
  return packet.protocol === protocol && packet.fragmentOffset === 0;
}

function flagBits(flags: readonly TcpFlag[]): number {
  return flags.reduce((bits, flag) => bits | TCP_FLAG_BITS[flag], 0);
}

function underMask(wanted: MaskedValue, actual: number): boolean {
  return (actual & wanted.mask) >>> 0 === wanted.value;
}

function hex(value: number): string {
  return `0x${value.toString(16)}`;
}
