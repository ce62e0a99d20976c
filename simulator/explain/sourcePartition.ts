import { MeshpathError } from '../../agent/protocol/errors.ts';
import { formatIpAddress, ipAddressBytes, isIpv4, parseIpAddress } from '../../agent/protocol/ipAddress.ts';
import type { Endpoint, IpAddress, NamespaceId, PortNumber } from '../../agent/protocol/scalars.ts';
import { toPortNumber } from '../../agent/protocol/scalars.ts';
import type { PacketFlow, RulePlace, TraceStep } from '../../agent/protocol/trace.ts';
import type { PacketDraft } from '../netfilter/packetDraft.ts';
import type { Match, NumberRange, Rule } from '../netfilter/ruleSet.ts';
import { arrive } from '../world/network.ts';
import { readRuleSet } from '../netfilter/readRuleSet.ts';
import { Simulation } from '../world/simulation.ts';
import { TraceRecorder } from '../world/traceRecorder.ts';
import type { World } from '../world/world.ts';
import { describeEnd } from './explainRules.ts';

/** How many packets one partition may try. */
export const MAX_TRIED_PACKETS = 200_000;

/** What is asked: who reaches this. */
export interface PartitionQuestion {
  readonly namespace: NamespaceId;
  readonly protocol: 'tcp' | 'udp';
  readonly destination: Endpoint;
  /** The devices at which packets may arrive; all but loopback where it is empty. */
  readonly devices: readonly string[];
}

/** A range of sources at one device that all fare alike. */
export interface SourceRange {
  readonly device: string;
  readonly first: IpAddress;
  readonly last: IpAddress;
  readonly result: 'reaches' | 'blocked' | 'depends';
  /** Why, one sentence. Names in it are untrusted text. */
  readonly reason: string;
  /** The rule, or the policy, that decided; null where it was none. */
  readonly rule: RulePlace | null;
}

/**
 * Says for every source address at every device whether the first packet of a connection from there gets to a destination:
 * a socket of this machine, or on by another device. Every range is tried with one packet, and that is enough: the ranges
 * are cut at every address that a rule, an IP set, a route or the world names, and tried with ports on both sides of every
 * port that a rule compares, so that no comparison differs within one. What compares anything else than addresses, ports,
 * devices, protocol, state and marks (a rate, chance, time, payload) makes the range depend on it where it is asked.
 * Throws a MeshpathError LIMIT_EXCEEDED where there are too many ranges.
 */
export function partitionSources(world: World, question: PartitionQuestion): readonly SourceRange[] {
  const namespace = world.namespaces.get(question.namespace);
  if (namespace === undefined) {
    throw new RangeError(`there is no network namespace ${question.namespace}`);
  }
  const family = isIpv4(question.destination.address) ? 'ipv4' : 'ipv6';
  const rules = namespace.state.ruleSets.filter((ruleSet) => ruleSet.family === family).map(({ text, backend }) => readRuleSet(text, { family, backend }));
  const constants = new Constants(family === 'ipv4' ? 4 : 16);
  const byPlace = new Map<string, Rule>();
  for (const table of rules.flatMap(({ tables }) => tables)) {
    for (const chain of table.chains.values()) {
      chain.rules.forEach((rule, index) => {
        byPlace.set(placeKey(table.name, chain.name, index + 1), rule);
        constants.addValue(rule.matches);
        constants.addValue(rule.target);
        constants.addSourcePorts(rule.matches);
      });
    }
  }
  const { links, routes, routingRules, conntrack, sockets, ipSets } = namespace.state;
  [links, routes, routingRules, conntrack, sockets].forEach((value) => {
    constants.addValue(value);
  });
  [...conntrack.flatMap(({ original, reply }) => [original.source.port, reply.destination.port]), ...sockets.map(({ remote }) => remote.port)].forEach((port) => {
    constants.addPorts({ first: port, last: port });
  });
  constants.addText(ipSets ?? '');
  constants.addReserved();
  const starts = constants.starts();
  const ports = constants.ports();
  const devices = question.devices.length > 0 ? question.devices : links.filter(({ kind }) => kind !== 'loopback').map(({ name }) => name);
  if (starts.length * ports.length * devices.length > MAX_TRIED_PACKETS) {
    throw new MeshpathError({
      code: 'LIMIT_EXCEEDED',
      message: 'There are too many ranges of sources to try.',
      reason: `${starts.length} addresses, ${ports.length} ports and ${devices.length} devices make more than ${MAX_TRIED_PACKETS} packets.`,
      remedy: 'Ask for one device, or about a rule set with the tables that matter.',
    });
  }
  return devices.flatMap((device) => {
    const ranges = starts.map((start, index): SourceRange => {
      const first = constants.format(start);
      const last = constants.format((starts[index + 1] ?? constants.end) - 1n);
      if (isIpv4(first) !== (family === 'ipv4')) {
        // net/ipv6/ip6_input.c, ip6_rcv_core.
        return { device, first, last, result: 'blocked', reason: 'IPv6 packets from IPv4-mapped addresses are dropped.', rule: null };
      }
      return { device, first, last, ...tryPorts(world, { ...question, source: first, device, ports, byPlace }) };
    });
    return mergeRanges(ranges);
  });
}

interface Trial extends PartitionQuestion {
  readonly source: IpAddress;
  readonly device: string;
  readonly ports: readonly PortNumber[];
  readonly byPlace: ReadonlyMap<string, Rule>;
}

type Verdict = Pick<SourceRange, 'result' | 'reason' | 'rule'>;

/** Source ports that fare differently make the answer depend on the port. */
function tryPorts(world: World, trial: Trial): Verdict {
  const verdicts = trial.ports.map((port) => tryPacket(world, trial, port));
  const [first] = verdicts;
  if (first === undefined) {
    throw new RangeError('there is always a port to try');
  }
  const other = verdicts.find(({ result }) => result !== first.result);
  return other === undefined ? first : { result: 'depends', reason: 'It depends on the source port.', rule: first.result === 'reaches' ? other.rule : first.rule };
}

function tryPacket(world: World, { protocol, destination, source, device, namespace, byPlace }: Trial, port: PortNumber): Verdict {
  const recorder = new TraceRecorder();
  const packet: PacketDraft = {
    source,
    destination: destination.address,
    transport: protocol === 'tcp' ? { kind: 'tcp', sourcePort: port, destinationPort: destination.port, flags: ['SYN'] } : { kind: 'udp', sourcePort: port, destinationPort: destination.port },
  };
  const [journey] = arrive(new Simulation(world), recorder, namespace, device, packet);
  if (journey === undefined) {
    throw new RangeError('a packet has a journey');
  }
  const steps = recorder.steps.filter((step) => step.packet === undefined || step.packet === journey.packet);
  const rule = decidingRule(steps);
  const impure = findImpure(steps, byPlace);
  if (impure !== null && journey.end.kind !== 'unknown') {
    return { result: 'depends', reason: `It depends on more than addresses and ports: ${impure.text}`, rule: impure };
  }
  const reason = describeEnd(journey.end);
  switch (journey.end.kind) {
    case 'delivered':
    case 'left':
      return { result: 'reaches', reason, rule };
    case 'unknown':
      return { result: 'depends', reason, rule };
    default:
      return { result: 'blocked', reason, rule };
  }
}

/** The last rule or policy that gave a verdict. */
function decidingRule(steps: readonly TraceStep[]): RulePlace | null {
  const step = steps.findLast(({ place, decision }) => place.kind === 'rule' && (decision.kind === 'verdict' || decision.kind === 'rewrite' || decision.kind === 'unknown'));
  return step?.place.kind === 'rule' ? step.place : null;
}

/** Matches whose result is the same for every packet of a range, by kind. */
const PURE_MATCHES: ReadonlySet<string> = new Set([
  'source', 'destination', 'inInterface', 'outInterface', 'protocol', 'fragment', 'port', 'tcpFlags', 'tcpOption', 'multiport', 'owner', 'supplementaryGroups', 'socketExists',
  'connectionState', 'mark', 'connectionMark', 'addressType', 'addressTypeInterface', 'comment', 'module',
]);
/** The same for those that are known by their module. */
const PURE_MODULES: ReadonlySet<string> = new Set(['iprange', 'icmp', 'icmp6', 'conntrack', 'length', 'ttl', 'hl', 'dscp', 'tos', 'ecn', 'physdev', 'rpfilter', 'devgroup', 'sctp', 'dccp', 'esp', 'ah', 'tcpmss']);
/** Matches that compare nothing. */
const SILENT_MATCHES: ReadonlySet<string> = new Set(['comment', 'module', 'supplementaryGroups']);

function isPure(match: Match): boolean {
  // A mask with holes cuts the addresses into more ranges than can be tried.
  const hasHoles = (match.kind === 'source' || match.kind === 'destination') && 'mask' in match.prefix;
  return !hasHoles && match.kind !== 'unknown' && (PURE_MATCHES.has(match.kind) || ('module' in match && PURE_MODULES.has(match.module)) || isSetOfAddresses(match));
}

/** A set in which the source's address is looked up, but not its port. */
function isSetOfAddresses(match: Match): boolean {
  return match.kind === 'extension' && match.module === 'set' && match.options.every(({ value }) => value.type === 'flag' || (value.type === 'set' && !value.directions.slice(1).includes('src')));
}

/** Finds a rule that was asked something which the range does not settle. */
function findImpure(steps: readonly TraceStep[], byPlace: ReadonlyMap<string, Rule>): RulePlace | null {
  for (const { place, conditions, decision } of steps) {
    const rule = place.kind === 'rule' ? byPlace.get(placeKey(place.table, place.chain, place.rule)) : undefined;
    if (place.kind !== 'rule' || rule === undefined) {
      continue;
    }
    if (decision.kind === 'rewrite' && choosesAddress(rule)) {
      return place;
    }
    const comparing = rule.matches.filter(({ kind }) => !SILENT_MATCHES.has(kind));
    const firstImpure = comparing.findIndex((match) => !isPure(match));
    // A comparison before it that failed settles the rule.
    const failed = conditions.findIndex(({ result }) => result === 'failed');
    if (firstImpure >= 0 && !(failed >= 0 && failed < firstImpure)) {
      return place;
    }
  }
  return null;
}

/** NAT to one of several addresses picks by a hash of the ends. */
function choosesAddress({ target }: Rule): boolean {
  return (target.kind === 'dnat' || target.kind === 'snat') && target.to.addresses !== null && target.to.addresses.first !== target.to.addresses.last;
}

function mergeRanges(ranges: readonly SourceRange[]): readonly SourceRange[] {
  const merged: SourceRange[] = [];
  for (const range of ranges) {
    const last = merged.at(-1);
    if (last?.result === range.result && isSameReason(last, range) && sameRule(last.rule, range.rule)) {
      merged[merged.length - 1] = { ...last, last: range.last };
    } else {
      merged.push(range);
    }
  }
  return merged;
}

/** Reasons may name the one address that was tried. */
function isSameReason(left: SourceRange, right: SourceRange): boolean {
  return left.reason.replaceAll(`${left.first} `, '') === right.reason.replaceAll(`${right.first} `, '');
}

function sameRule(left: RulePlace | null, right: RulePlace | null): boolean {
  const key = (place: RulePlace | null): string | null => (place === null ? null : `${place.hook} ${placeKey(place.table, place.chain, place.rule)}`);
  return key(left) === key(right);
}

function placeKey(table: string, chain: string, rule: number | null): string {
  return `${table} ${chain} ${rule ?? 'policy'}`;
}

/** ::ffff:0:0/96 */
const MAPPED_START = 0xffff_0000_0000n;
const MAPPED_END = 0x1_0000_0000_0000n;

/** Every address and port at which a comparison may turn out differently. */
class Constants {
  readonly #starts = new Set<bigint>([0n]);
  readonly #ports = new Set<number>();
  readonly #length: 4 | 16;
  /** One more than the last address. */
  readonly end: bigint;

  constructor(length: 4 | 16) {
    this.#length = length;
    this.end = 1n << BigInt(length * 8);
  }

  /** Takes all addresses, networks and ranges of numbers that are anywhere in a value. */
  addValue(value: unknown): void {
    if (typeof value === 'string') {
      this.addText(value);
      return;
    }
    if (typeof value !== 'object' || value === null) {
      return;
    }
    const members = value as Readonly<Record<string, unknown>>;
    const { address, prefixLength } = members;
    if (typeof address === 'string' && typeof prefixLength === 'number') {
      this.#addNetwork(address, prefixLength);
    }
    Object.values(members).forEach((member) => {
      this.addValue(member);
    });
  }

  /** Takes the source ports that matches compare. */
  addSourcePorts(matches: readonly Match[]): void {
    for (const match of matches) {
      if (match.kind === 'port' && match.which === 'source') {
        this.addPorts(match.range);
      } else if (match.kind === 'multiport' && match.which !== 'destination') {
        match.ranges.forEach((range) => {
          this.addPorts(range);
        });
      } else if (match.kind === 'extension') {
        for (const { name, value } of match.options) {
          if (value.type === 'range' && /s(?:rc|ource-?)?port/.test(name)) {
            this.addPorts(value);
          }
        }
      }
    }
  }

  addPorts({ first, last }: NumberRange): void {
    this.#ports.add(first).add(last + 1);
  }

  /** Takes all addresses, networks and ranges of addresses in a text. */
  addText(text: string): void {
    for (const [word] of text.matchAll(/[0-9a-f.:]+(?:\/\d{1,3})?/gi)) {
      const [address = '', length] = word.split('/');
      this.#addNetwork(address, length === undefined ? this.#length * 8 : Number(length));
    }
  }

  /** Takes networks that the kernel treats in ways of their own (RFC 6890; net/ipv4/route.c, martian sources). */
  addReserved(): void {
    const networks = this.#length === 4 ? ['0.0.0.0/8', '127.0.0.0/8', '169.254.0.0/16', '224.0.0.0/4', '240.0.0.0/4', '255.255.255.255'] : ['::', '::1', '::/96', 'fe80::/10', 'fc00::/7', 'ff00::/8'];
    networks.forEach((network) => {
      this.addText(network);
    });
    if (this.#length === 16) {
      // IPv4-mapped addresses (RFC 4291, 2.5.5.2), which are written as IPv4.
      this.#starts.add(MAPPED_START).add(MAPPED_END);
    }
  }

  starts(): readonly bigint[] {
    return [...this.#starts].filter((start) => start < this.end).toSorted((left, right) => (left < right ? -1 : left > right ? 1 : 0));
  }

  /** One port of each range between ports that are compared; a usual one where none is. */
  ports(): readonly PortNumber[] {
    const edges = [...this.#ports].filter((port) => port > 0 && port <= 65_535).toSorted((left, right) => left - right);
    return edges.length === 0 ? [toPortNumber(40_000)] : [1, ...edges].map(toPortNumber);
  }

  format(value: bigint): IpAddress {
    return formatIpAddress(Uint8Array.from({ length: this.#length }, (_, index) => Number((value >> BigInt((this.#length - 1 - index) * 8)) & 0xffn)));
  }

  #addNetwork(text: string, prefixLength: number): void {
    const address = parseIpAddress(text);
    if (address === undefined || ipAddressBytes(address).length !== this.#length || prefixLength < 0 || prefixLength > this.#length * 8) {
      return;
    }
    const value = ipAddressBytes(address).reduce((sum, byte) => (sum << 8n) | BigInt(byte), 0n);
    const size = 1n << BigInt(this.#length * 8 - prefixLength);
    const start = value - (value % size);
    this.#starts.add(start).add(start + size);
    this.#starts.add(value).add(value + 1n);
  }
}

/** The flow that a range stands for, for showing it step by step. */
export function flowOfRange({ namespace, protocol, destination }: PartitionQuestion, { device, first }: SourceRange): PacketFlow {
  return { protocol, from: { kind: 'arrival', namespace, device, macAddress: null }, source: { address: first, port: toPortNumber(40_000) }, destination };
}
