import { Address, prefixTest } from './address.ts';
import type { CompiledMatch, MatchResult } from './compileMatch.ts';
import { FAILED, MATCHED, UNKNOWN } from './compileMatch.ts';
import { EXTENSION_HEADER_MODULES } from './extensionHeaderMatches.ts';
import type { MatchEnvironment } from './matchEnvironment.ts';
import type { NamedLists } from './namedLists.ts';
import type { Packet } from './packet.ts';
import { TCP_FLAG_BITS, isIcmpError } from './packet.ts';
import { PROTOCOL, hasPorts } from './protocolNumbers.ts';
import type { ExtensionOption, Match } from './ruleSet.ts';
import { STATEFUL_MODULES } from './statefulMatches.ts';

/** One option of a match module as a test; undefined for an option that compares nothing by itself. */
type Test = (packet: Packet, environment: MatchEnvironment) => MatchResult;

/** What a module compares, in a person's words, and what a packet has there. */
interface Described {
  readonly what: string;
  readonly test: Test;
  readonly actual?: (packet: Packet, environment: MatchEnvironment) => string;
  readonly isStateful?: boolean;
}

export type ExtensionMatch = Extract<Match, { kind: 'extension' }>;
/** Makes the test of a module of its options; undefined where it is not modelled. `siblings` are all matches of its instance of the module; `lists` says which rules made the lists that it names. */
export type ModuleCompiler = (match: ExtensionMatch, siblings: readonly Match[], lists?: NamedLists) => Described | undefined;

/** Makes a match of another module of iptables ready. What is not modelled compares to unknown. */
export function compileExtension(match: ExtensionMatch, siblings: readonly Match[], lists?: NamedLists): CompiledMatch {
  const compile = Object.hasOwn(MODULES, match.module) ? MODULES[match.module] : Object.hasOwn(STATEFUL_MODULES, match.module) ? STATEFUL_MODULES[match.module] : undefined;
  const described = compile?.(match, siblings, lists);
  const wanted = match.options.map(writeOption).join(' ');
  if (described === undefined) {
    return { match, what: `match ${match.module}`, wanted, test: () => UNKNOWN, actual: () => 'not modelled', isStateful: false };
  }
  const { what, test, actual = (): string => '', isStateful = false } = described;
  return { match, what, wanted, test, actual, isStateful };
}

/** Gives the option of a name, or undefined. */
export function option(match: ExtensionMatch, name: string): ExtensionOption | undefined {
  return match.options.find((candidate) => candidate.name === name);
}

/** Gives the number of an option, or undefined. */
export function numberOf(match: ExtensionMatch, name: string): number | undefined {
  const value = option(match, name)?.value;
  return value?.type === 'number' ? value.value : value?.type === 'bigNumber' ? Number(value.value) : undefined;
}

/** A result turned round where it is negated; what is not known stays so. */
export function decide(holds: boolean | null, negated: boolean): MatchResult {
  return holds === null ? UNKNOWN : holds === negated ? FAILED : MATCHED;
}

function writeOption({ name, negated, text }: ExtensionOption): string {
  return `${negated ? '! ' : ''}${name}${text === null ? '' : ` ${text}`}`;
}

/** A module of which every option must hold. */
function everyOption(what: string, tests: Readonly<Record<string, (option: ExtensionOption) => (packet: Packet, environment: MatchEnvironment) => boolean | null>>, actual?: Described['actual']): ModuleCompiler {
  return (match) => {
    const compiled: Test[] = [];
    for (const one of match.options) {
      const make = Object.hasOwn(tests, one.name) ? tests[one.name] : undefined;
      if (make === undefined) {
        return undefined;
      }
      const holds = make(one);
      compiled.push((packet, environment) => decide(holds(packet, environment), one.negated));
    }
    return { what, test: allOf(compiled), ...(actual === undefined ? {} : { actual }) };
  };
}

/** The first that fails decides; what is not known makes the whole unknown unless another fails. */
function allOf(tests: readonly Test[]): Test {
  return (packet, environment) => {
    let result: MatchResult = MATCHED;
    for (const test of tests) {
      const one = test(packet, environment);
      if (one === FAILED) {
        return FAILED;
      }
      if (one === UNKNOWN) {
        result = UNKNOWN;
      }
    }
    return result;
  };
}

/** A test that fails, negated or not, where the packet is not of the kind that it is about. */
function only(applies: (packet: Packet) => boolean, compile: ModuleCompiler): ModuleCompiler {
  return (match, siblings) => {
    const described = compile(match, siblings);
    return described === undefined ? undefined : { ...described, test: (packet, environment) => (applies(packet) ? described.test(packet, environment) : FAILED) };
  };
}

const isProtocol = (protocol: number) => (packet: Packet): boolean => packet.protocol === protocol && packet.hasTransport;

function inRange(one: ExtensionOption, value: number): boolean | null {
  switch (one.value.type) {
    case 'range':
      return value >= one.value.first && value <= one.value.last;
    case 'number':
      return value === one.value.value;
    default:
      return null;
  }
}

function compared(what: string, name: string, read: (packet: Packet) => number): ModuleCompiler {
  return everyOption(
    what,
    {
      [`${name}-eq`]: (one) => (packet) => inRange(one, read(packet)),
      [`${name}-lt`]: (one) => (packet) => (one.value.type === 'number' ? read(packet) < one.value.value : null),
      [`${name}-gt`]: (one) => (packet) => (one.value.type === 'number' ? read(packet) > one.value.value : null),
    },
    (packet) => String(read(packet)),
  );
}

function icmpModule(protocol: number, name: string): ModuleCompiler {
  return only(
    isProtocol(protocol),
    everyOption(
      'ICMP type',
      {
        [name]: (one) => (packet) => {
          const { value } = one;
          return value.type !== 'icmp' ? null : (value.icmpType === 255 && protocol === PROTOCOL.icmp) || (packet.icmpType === value.icmpType && packet.icmpCode >= value.codes.first && packet.icmpCode <= value.codes.last);
        },
      },
      (packet) => `${packet.icmpType}/${packet.icmpCode}`,
    ),
  );
}

function addressRange(side: 'source' | 'destination'): (one: ExtensionOption) => (packet: Packet) => boolean | null {
  return ({ value }) => {
    if (value.type !== 'addresses') {
      return () => null;
    }
    const [first, last] = [Address.of(value.first), Address.of(value.last)];
    return (packet) => packet[side].isIpv4 === first.isIpv4 && packet[side].compare(first) >= 0 && packet[side].compare(last) <= 0;
  };
}

function portsModule(protocol: number): ModuleCompiler {
  return only(isProtocol(protocol), everyOption('ports', { sport: (one) => (packet) => inRange(one, packet.sourcePort), dport: (one) => (packet) => inRange(one, packet.destinationPort) }, (packet) => `${packet.sourcePort} to ${packet.destinationPort}`));
}

/** `-m conntrack` beyond the state (net/netfilter/xt_conntrack.c): without a connection only a state can match. */
const connectionModule: ModuleCompiler = (match, siblings) => {
  const hasState = siblings.some((sibling) => sibling.kind === 'connectionState' && sibling.module === 'conntrack');
  const tests = everyOption('connection', {
    ctproto: (one) => ({ tracking }) => (one.value.type === 'number' ? tracking?.connection.original.protocol === one.value.value : null),
    ctorigsrc: addressOf((connection) => connection.original.source),
    ctorigdst: addressOf((connection) => connection.original.destination),
    ctreplsrc: addressOf((connection) => connection.reply.source),
    ctrepldst: addressOf((connection) => connection.reply.destination),
    ctorigsrcport: (one) => ({ tracking }) => inRange(one, tracking?.connection.original.sourcePort ?? 0),
    ctorigdstport: (one) => ({ tracking }) => inRange(one, tracking?.connection.original.destinationPort ?? 0),
    ctreplsrcport: (one) => ({ tracking }) => inRange(one, tracking?.connection.reply.sourcePort ?? 0),
    ctrepldstport: (one) => ({ tracking }) => inRange(one, tracking?.connection.reply.destinationPort ?? 0),
    ctdir: (one) => ({ tracking }) => one.text === (tracking?.isReply === true ? 'REPLY' : 'ORIGINAL'),
    ctstatus: (one) => ({ tracking }) => {
      const connection = tracking?.connection;
      const has = [connection?.seenReply === true ? 'SEEN_REPLY' : '', connection?.assured === true ? 'ASSURED' : '', connection?.confirmed === true ? 'CONFIRMED' : ''];
      return one.value.type === 'names' ? one.value.names.some((name) => has.includes(name)) : null;
    },
  })(match, siblings);
  return tests === undefined ? undefined : { ...tests, test: (packet, environment) => (packet.tracking === null ? (hasState ? MATCHED : FAILED) : tests.test(packet, environment)) };
};

type TrackedConnection = NonNullable<Packet['tracking']>['connection'];

function addressOf(read: (connection: TrackedConnection) => Address): (one: ExtensionOption) => (packet: Packet) => boolean | null {
  return ({ value }) => {
    const contains = value.type === 'prefix' ? prefixTest(value.prefix) : undefined;
    return ({ tracking }) => (contains === undefined ? null : tracking !== null && contains(read(tracking.connection)));
  };
}

/** Without br_netfilter a packet has no bridge port: only what is negated holds (net/netfilter/xt_physdev.c). */
const bridgePort: ModuleCompiler = (match) => ({ what: 'bridge port', test: (packet) => (packet.isBridged ? UNKNOWN : match.options.every(({ negated }) => negated) ? MATCHED : FAILED), actual: () => 'none' });

const unixCgroup: ModuleCompiler = (match) => {
  const path = option(match, 'path');
  if (path?.value.type !== 'text') {
    return undefined;
  }
  const wanted = path.value.text.startsWith('/') ? path.value.text : `/${path.value.text}`;
  return {
    what: 'cgroup of the socket',
    test: ({ socket }) => (socket === null ? FAILED : decide(socket.cgroup === null ? null : socket.cgroup === wanted || socket.cgroup.startsWith(`${wanted}/`), path.negated)),
    actual: ({ socket }) => socket?.cgroup ?? 'not known',
  };
};

const MODULES: Readonly<Record<string, ModuleCompiler>> = {
  icmp: icmpModule(PROTOCOL.icmp, 'icmp-type'),
  icmp6: icmpModule(PROTOCOL.icmpv6, 'icmpv6-type'),
  sctp: portsModule(PROTOCOL.sctp),
  dccp: portsModule(PROTOCOL.dccp),
  iprange: everyOption('address range', { 'src-range': addressRange('source'), 'dst-range': addressRange('destination') }, (packet) => `${packet.source.text} to ${packet.destination.text}`),
  length: everyOption('length', { length: (one) => (packet) => inRange(one, packet.length) }, (packet) => String(packet.length)),
  ttl: compared('TTL', 'ttl', (packet) => packet.ttl),
  hl: compared('hop limit', 'hl', (packet) => packet.ttl),
  dscp: everyOption('DSCP', { dscp: (one) => (packet) => inRange(one, packet.tos >> 2) }, (packet) => `0x${(packet.tos >> 2).toString(16)}`),
  tos: everyOption('type of service', { tos: ({ value }) => (packet) => (value.type === 'masked' ? (packet.tos & value.mask) === value.value : null) }, (packet) => `0x${packet.tos.toString(16)}`),
  ecn: everyOption('ECN', {
    'ecn-tcp-ece': () => (packet) => isProtocol(PROTOCOL.tcp)(packet) && (packet.tcpFlags & TCP_FLAG_BITS.ECE) !== 0,
    'ecn-tcp-cwr': () => (packet) => isProtocol(PROTOCOL.tcp)(packet) && (packet.tcpFlags & TCP_FLAG_BITS.CWR) !== 0,
    'ecn-ip-ect': (one) => (packet) => inRange(one, packet.tos & 3),
  }),
  tcpmss: only(isProtocol(PROTOCOL.tcp), everyOption('MSS', { mss: (one) => (packet) => packet.mss !== null && inRange(one, packet.mss) }, (packet) => String(packet.mss ?? 'none'))),
  // What lo carries has no Ethernet address, and matches neither way (net/netfilter/xt_mac.c).
  mac: only((packet) => packet.inInterface !== 'lo', everyOption('link address', { 'mac-source': ({ value }) => (packet) => (packet.macSource === null || value.type !== 'text' ? null : packet.macSource.toLowerCase() === value.text.toLowerCase()) }, (packet) => packet.macSource ?? 'not known')),
  pkttype: everyOption('kind of address', { 'pkt-type': (one) => (packet) => one.text === packet.packetType }, (packet) => packet.packetType),
  conntrack: connectionModule,
  socket: (match) => {
    const [transparent, anyAddress, restores] = ['transparent', 'nowildcard', 'restore-skmark'].map((name) => option(match, name) !== undefined);
    return {
      what: 'a local socket',
      isStateful: restores === true,
      test: (packet, environment) => {
        if (!hasPorts(packet.protocol)) {
          if (!isIcmpError(packet.protocol, packet.icmpType)) {
            return FAILED;
          }
          if (packet.about === null) {
            return UNKNOWN;
          }
        }
        const found = environment.findSocket(packet);
        if (found === undefined || found === null) {
          return found === null ? UNKNOWN : FAILED;
        }
        if (found.isWildcard && anyAddress !== true) {
          return FAILED;
        }
        if (transparent === true && found.isTransparent !== true) {
          return found.isTransparent === null ? UNKNOWN : FAILED;
        }
        if (restores === true) {
          packet.mark = found.mark;
        }
        return MATCHED;
      },
    };
  },
  rpfilter: (match) => {
    const has = (name: string): boolean => option(match, name) !== undefined;
    const options = { loose: has('loose'), validMark: has('validmark'), acceptLocal: has('accept-local') };
    return { what: 'the way back is the same', test: (packet, environment) => decide(environment.reversePath(packet, options), has('invert')) };
  },
  policy: (match) => ({ what: 'IPsec', test: (_, environment) => { environment.assume('No IPsec policy applies.'); return decide(option(match, 'pol')?.text === 'none', false); }, actual: () => 'none' }),
  helper: everyOption('helper of the connection', { helper: () => () => false }, () => 'none'),
  nfacct: () => ({ what: 'accounting', test: () => MATCHED }),
  physdev: bridgePort,
  cgroup: unixCgroup,
  ...EXTENSION_HEADER_MODULES,
  set: (match) => {
    const set = option(match, 'match-set');
    const { value } = set ?? {};
    if (set === undefined || value?.type !== 'set' || match.options.some(({ name }) => name.startsWith('packets-') || name.startsWith('bytes-'))) {
      return undefined;
    }
    const wantsException = option(match, 'return-nomatch') !== undefined;
    return { what: `set ${value.name}`, test: (packet, environment) => decide(environment.testSet(value.name, packet, value.directions, wantsException), set.negated), actual: (packet) => value.directions.map((direction) => packet[direction === 'src' ? 'source' : 'destination'].text).join(',') };
  },
};
