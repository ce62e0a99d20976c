import { Address } from '../netfilter/address.ts';
import { PROTOCOL, hasPorts } from '../netfilter/protocolNumbers.ts';
import type { Connection, ConnectionTracker } from './conntrack.ts';
import type { Tuple } from './tuple.ts';
import { invertKnownTuple, sameTuple, writeTuple } from './tuple.ts';

/** What NAT may change a side of a connection to (struct nf_nat_range2). */
export interface NatChoice {
  /** Null keeps the address. */
  readonly addresses: { readonly first: Address; readonly last: Address } | null;
  /** Null keeps the port. For ICMP it is the identifier. */
  readonly ports: { readonly first: number; readonly last: number } | null;
  /** `--random` and `--random-fully`: the port is always picked at random. */
  readonly random: boolean;
  readonly persistent: boolean;
  /** `--to-destination ADDRESS:FIRST-LAST/BASE`: ports are shifted from BASE to FIRST; null without. */
  readonly basePort: number | null;
}

export type NatSide = 'source' | 'destination';

/** What was chosen; `random` where the kernel would have picked the port at random among many. */
export interface NatDecision {
  readonly tuple: Tuple;
  readonly random: boolean;
  /** Where it is not known whether the tuple can be had: what that depends on. Nothing is settled then. */
  readonly dependsOn?: string;
}

/** A choice that changes nothing: what a connection gets that no rule translates. Its port may change all the same, where it is taken. */
export const NULL_CHOICE: NatChoice = { addresses: null, ports: null, random: false, persistent: false, basePort: null };

/** NF_NAT_MAX_ATTEMPTS. */
const MAX_ATTEMPTS = 128;
/** With so few attempts left, closed connections give way (NF_NAT_HARDER_THRESH). */
const HARDER_ATTEMPTS = 32;

/**
 * Settles one side of a connection that is not in the table yet (net/netfilter/nf_nat_core.c, nf_nat_setup_info): changes its
 * reply tuple. `random` gives numbers of 16 bits. Gives what was decided.
 */
export function bindConnection(tracker: ConnectionTracker, connection: Connection, side: NatSide, choice: NatChoice, random: () => number): NatDecision {
  const current = invertKnownTuple(connection.reply);
  const decision = chooseTuple(tracker, connection, current, side, choice, random);
  if (decision.dependsOn !== undefined) {
    return decision;
  }
  if (!sameTuple(decision.tuple, current)) {
    connection.reply = invertKnownTuple(decision.tuple);
    if (side === 'source') {
      connection.sourceTranslated = true;
    } else {
      connection.destinationTranslated = true;
    }
  }
  if (side === 'source') {
    connection.sourceBound = true;
  } else {
    connection.destinationBound = true;
  }
  return decision;
}

/** nf_nat_core.c, get_unique_tuple. */
function chooseTuple(tracker: ConnectionTracker, connection: Connection, current: Tuple, side: NatSide, choice: NatChoice, random: () => number): NatDecision {
  const isUsed = (tuple: Tuple): boolean => tracker.isTaken(invertKnownTuple(tuple), connection, true);
  if (side === 'source' && !choice.random) {
    if (inChoice(current, choice)) {
      if (!isUsed(current)) {
        return { tuple: current, random: false };
      }
    } else {
      const mapped = mappedBefore(tracker, connection, current, choice);
      if (mapped !== undefined && !isUsed(mapped)) {
        return { tuple: mapped, random: false };
      }
    }
  }
  const tuple = choice.addresses === null ? current : withAddress(current, side, chooseAddress(current, choice.addresses, choice.persistent, connection.zone));
  if (!choice.random) {
    if (choice.ports === null) {
      if (!isUsed(tuple)) {
        return { tuple, random: false };
      }
    } else if (choice.basePort === null && portInRange(tuple, side, choice.ports) && (choice.ports.first === choice.ports.last || !isUsed(tuple))) {
      return { tuple, random: false };
    }
  }
  return choosePort(tuple, side, choice, { isUsed, mayGiveWay: (candidate) => mayGiveWay(tracker, connection, candidate) }, random);
}

/** What is asked of a tuple that NAT tries. */
interface TupleTests {
  readonly isUsed: (tuple: Tuple) => boolean;
  readonly mayGiveWay: (tuple: Tuple) => boolean;
}

/** nf_nat_core.c, nf_nat_used_tuple_harder: a closed TCP connection goes where the new one's sequence numbers are beyond its own, which nobody knows here. */
function mayGiveWay(tracker: ConnectionTracker, connection: Connection, tuple: Tuple): boolean {
  if (tuple.protocol !== PROTOCOL.tcp || connection.tcpState !== 'SYN_SENT') {
    return false;
  }
  const found = tracker.find(invertKnownTuple(tuple), connection.zoneOf(true));
  return found?.isReply === true && found.connection.sourceTranslated && (found.connection.tcpState === 'TIME_WAIT' || found.connection.tcpState === 'CLOSE');
}

/** in_range: whether a tuple needs no change of its source. */
function inChoice(tuple: Tuple, choice: NatChoice): boolean {
  const { addresses, ports } = choice;
  if (addresses !== null && (tuple.source.compare(addresses.first) < 0 || tuple.source.compare(addresses.last) > 0)) {
    return false;
  }
  return ports === null || portInRange(tuple, 'source', ports);
}

/** l4proto_in_range. */
function portInRange(tuple: Tuple, side: NatSide, ports: { readonly first: number; readonly last: number }): boolean {
  if (isIcmp(tuple)) {
    return tuple.sourcePort >= ports.first && tuple.sourcePort <= ports.last;
  }
  if (!hasPorts(tuple.protocol) && tuple.protocol !== PROTOCOL.gre) {
    return true;
  }
  const port = side === 'source' ? tuple.sourcePort : tuple.destinationPort;
  return port >= ports.first && port <= ports.last;
}

/** find_appropriate_src: what the same source was mapped to before, if that fits. */
function mappedBefore(tracker: ConnectionTracker, connection: Connection, current: Tuple, choice: NatChoice): Tuple | undefined {
  for (const other of tracker.fromSource(current, connection.zoneOf(false))) {
    const mapped = invertKnownTuple(other.reply);
    const candidate: Tuple = { ...current, source: mapped.source, sourcePort: mapped.sourcePort };
    if (inChoice(candidate, choice)) {
      return candidate;
    }
  }
  return undefined;
}

/** nf_nat_l4proto_unique_tuple: the port. */
function choosePort(tuple: Tuple, side: NatSide, choice: NatChoice, { isUsed, mayGiveWay }: TupleTests, random: () => number): NatDecision {
  const icmp = isIcmp(tuple);
  if (!icmp && !hasPorts(tuple.protocol)) {
    return { tuple, random: false };
  }
  const key = icmp || side === 'source' ? 'sourcePort' : 'destinationPort';
  const range = portRange(tuple[key], icmp, side, choice);
  if (range === null) {
    return { tuple, random: false };
  }
  const { first, size } = range;
  const isRandom = choice.basePort === null && (choice.random || side === 'source');
  let offset = choice.basePort !== null ? (tuple[key] - choice.basePort) & 0xffff : isRandom ? random() : 0;
  let attempts = Math.min(size, MAX_ATTEMPTS);
  for (;;) {
    let candidate = tuple;
    for (let index = 0; index < attempts; index += 1, offset = (offset + 1) & 0xffff) {
      candidate = { ...tuple, [key]: first + (offset % size) };
      if (!isUsed(candidate)) {
        return { tuple: candidate, random: isRandom && size > 1 };
      }
      if (attempts - index <= HARDER_ATTEMPTS && mayGiveWay(candidate)) {
        return { tuple: candidate, random: false, dependsOn: `whether the connection takes the place of a closed one of the same tuple ${writeTuple(invertKnownTuple(candidate))}` };
      }
    }
    if (attempts >= size || attempts < 16) {
      return { tuple: candidate, random: isRandom && size > 1 };
    }
    attempts = Math.floor(attempts / 2);
    offset = random();
  }
}

function portRange(port: number, icmp: boolean, side: NatSide, choice: NatChoice): { readonly first: number; readonly size: number } | null {
  if (choice.ports !== null) {
    const first = Math.min(choice.ports.first, choice.ports.last);
    return { first, size: Math.max(choice.ports.first, choice.ports.last) - first + 1 };
  }
  if (icmp) {
    return { first: 0, size: 65_536 };
  }
  if (side === 'destination') {
    return null;
  }
  if (port < 512) {
    return { first: 1, size: 511 };
  }
  return port < 1024 ? { first: 600, size: 424 } : { first: 1024, size: 64_512 };
}

/** find_best_ips_proto: the address of a range, by a hash of source and destination, so that a client keeps its address. */
function chooseAddress(tuple: Tuple, range: { readonly first: Address; readonly last: Address }, persistent: boolean, zone: number): Address {
  if (range.first.equals(range.last)) {
    return range.first;
  }
  const isIpv4 = tuple.source.isIpv4;
  const words = (address: Address): number[] => [address.w0, address.w1, address.w2, address.w3];
  const destination = words(tuple.destination);
  const [least, greatest] = [words(range.first), words(range.last)];
  const last = isIpv4 ? 0 : 3;
  let hash = hashWords(words(tuple.source).map(swapBytes), persistent ? 0 : swapBytes(destination[last] ?? 0) ^ zone);
  const chosen = [0, 0, 0, 0];
  let isFull = false;
  for (let index = 0; index <= last; index += 1) {
    const low = isFull ? 0 : (least[index] ?? 0) >>> 0;
    const distance = isFull ? 0xffff_ffff : (((greatest[index] ?? 0) >>> 0) - low + 1) >>> 0;
    const scaled = Number((BigInt(hash) * BigInt(distance)) >> 32n);
    const word = (low + scaled) | 0;
    chosen[index] = word;
    if (word !== ((greatest[index] ?? 0) | 0)) {
      isFull = true;
    }
    if (!persistent) {
      hash = (hash ^ swapBytes(destination[index] ?? 0)) >>> 0;
    }
  }
  const [w0 = 0, w1 = 0, w2 = 0, w3 = 0] = chosen;
  return isIpv4 ? Address.ofIpv4(w0) : Address.ofIpv6(w0, w1, w2, w3);
}

function withAddress(tuple: Tuple, side: NatSide, address: Address): Tuple {
  return side === 'source' ? { ...tuple, source: address } : { ...tuple, destination: address };
}

function isIcmp(tuple: Tuple): boolean {
  return tuple.protocol === PROTOCOL.icmp || tuple.protocol === PROTOCOL.icmpv6;
}

/** The kernel hashes addresses as they lie in memory, which on little-endian machines turns their bytes round. */
function swapBytes(word: number): number {
  return ((word << 24) | ((word & 0xff00) << 8) | ((word >>> 8) & 0xff00) | (word >>> 24)) >>> 0;
}

const GOLDEN_RATIO = 0xdeadbeef;

/** Bob Jenkins' lookup3 over four words (include/linux/jhash.h, jhash2). */
function hashWords(words: readonly number[], seed: number): number {
  const start = (GOLDEN_RATIO + (words.length << 2) + seed) | 0;
  let [a, b, c] = [start, start, start];
  const rotate = (value: number, bits: number): number => (value << bits) | (value >>> (32 - bits));
  let index = 0;
  for (; words.length - index > 3; index += 3) {
    a = (a + (words[index] ?? 0)) | 0;
    b = (b + (words[index + 1] ?? 0)) | 0;
    c = (c + (words[index + 2] ?? 0)) | 0;
    a = (a - c) | 0; a ^= rotate(c, 4); c = (c + b) | 0;
    b = (b - a) | 0; b ^= rotate(a, 6); a = (a + c) | 0;
    c = (c - b) | 0; c ^= rotate(b, 8); b = (b + a) | 0;
    a = (a - c) | 0; a ^= rotate(c, 16); c = (c + b) | 0;
    b = (b - a) | 0; b ^= rotate(a, 19); a = (a + c) | 0;
    c = (c - b) | 0; c ^= rotate(b, 4); b = (b + a) | 0;
  }
  const rest = words.length - index;
  c = rest === 3 ? (c + (words[index + 2] ?? 0)) | 0 : c;
  b = rest >= 2 ? (b + (words[index + 1] ?? 0)) | 0 : b;
  a = rest >= 1 ? (a + (words[index] ?? 0)) | 0 : a;
  if (rest > 0) {
    c ^= b; c = (c - rotate(b, 14)) | 0;
    a ^= c; a = (a - rotate(c, 11)) | 0;
    b ^= a; b = (b - rotate(a, 25)) | 0;
    c ^= b; c = (c - rotate(b, 16)) | 0;
    a ^= c; a = (a - rotate(c, 4)) | 0;
    b ^= a; b = (b - rotate(a, 14)) | 0;
    c ^= b; c = (c - rotate(b, 24)) | 0;
  }
  return c >>> 0;
}
