import { Address, maskWords } from './address.ts';
import type { CompiledRule } from './compileTable.ts';
import type { Packet } from './packet.ts';
import { protocolNumber } from './protocolNumbers.ts';

/** Chains with fewer rules are walked from rule to rule: that is as quick. */
export const LEAST_INDEXED_RULES = 12;

/** Which property of a packet a group of rules is found by. */
type Dimension = 'source' | 'destination' | 'sourcePort' | 'destinationPort' | 'inInterface' | 'outInterface' | 'protocol';

/** Rules that want one exact value of a dimension (of addresses: one network of this length). Positions are in ascending order. */
interface Group {
  readonly dimension: Dimension;
  readonly prefixLength: number;
  readonly mask: readonly [number, number, number, number];
  readonly positions: Map<number | string, number[]>;
}

/**
 * Finds the rules of a chain that a packet may match without looking at the others. Each rule is filed under the rarest exact
 * value that it wants; rules that want none are candidates for every packet. What is left out would have failed on a
 * condition that changes nothing, so that verdicts and counters are those of a walk from rule to rule.
 */
export class ChainIndex {
  readonly #groups: readonly Group[];
  readonly #always: readonly number[];

  constructor(rules: readonly CompiledRule[]) {
    const groups = new Map<string, Group>();
    const always: number[] = [];
    for (const [position, rule] of rules.entries()) {
      const key = indexKey(rule);
      if (key === undefined) {
        always.push(position);
        continue;
      }
      const name = `${key.dimension} ${key.prefixLength}`;
      const group = groups.get(name) ?? { dimension: key.dimension, prefixLength: key.prefixLength, mask: maskWords(key.prefixLength), positions: new Map<number | string, number[]>() };
      groups.set(name, group);
      const positions = group.positions.get(key.value);
      if (positions === undefined) {
        group.positions.set(key.value, [position]);
      } else {
        positions.push(position);
      }
    }
    this.#groups = [...groups.values()];
    this.#always = always;
  }

  /** Gives the positions of the rules that a packet may match, in ascending order. */
  candidates(packet: Packet): readonly number[] {
    let found: readonly number[] = this.#always;
    for (const group of this.#groups) {
      const positions = group.positions.get(valueOf(packet, group));
      if (positions === undefined) {
        continue;
      }
      found = found.length === 0 ? positions : mergeSorted(found, positions);
    }
    return found;
  }
}

function mergeSorted(left: readonly number[], right: readonly number[]): readonly number[] {
  const merged: number[] = new Array<number>(left.length + right.length);
  let leftAt = 0;
  let rightAt = 0;
  for (let index = 0; index < merged.length; index += 1) {
    const fromLeft = left[leftAt] ?? Infinity;
    const fromRight = right[rightAt] ?? Infinity;
    if (fromLeft < fromRight) {
      merged[index] = fromLeft;
      leftAt += 1;
    } else {
      merged[index] = fromRight;
      rightAt += 1;
    }
  }
  return merged;
}

interface Key {
  readonly dimension: Dimension;
  readonly prefixLength: number;
  readonly value: number | string;
}

/** The most telling exact condition of a rule; none that comes after one that remembers packets, which must be asked in its turn. */
function indexKey(rule: CompiledRule): Key | undefined {
  let best: Key | undefined;
  let bestRank = 0;
  for (const compiled of rule.matches) {
    if (compiled.isStateful) {
      break;
    }
    const key = keyOf(compiled.match);
    const rank = key === undefined ? 0 : rankOf(key);
    if (rank > bestRank) {
      best = key;
      bestRank = rank;
    }
  }
  return best;
}

function keyOf(match: CompiledRule['matches'][number]['match']): Key | undefined {
  if ('negated' in match && match.negated) {
    return undefined;
  }
  switch (match.kind) {
    case 'source':
    case 'destination':
      return match.prefix.prefixLength === 0 || 'mask' in match.prefix
        ? undefined
        : { dimension: match.kind, prefixLength: match.prefix.prefixLength, value: addressKey(Address.of(match.prefix.address), maskWords(match.prefix.prefixLength)) };
    case 'port':
      return match.range.first === match.range.last ? { dimension: match.which === 'source' ? 'sourcePort' : 'destinationPort', prefixLength: 0, value: match.range.first } : undefined;
    case 'inInterface':
    case 'outInterface':
      return match.name.endsWith('+') ? undefined : { dimension: match.kind, prefixLength: 0, value: match.name };
    case 'protocol': {
      const number = protocolNumber(match.protocol);
      return number === undefined ? undefined : { dimension: 'protocol', prefixLength: 0, value: number };
    }
    default:
      return undefined;
  }
}

/** Addresses of hosts tell most, the protocol least. */
function rankOf(key: Key): number {
  switch (key.dimension) {
    case 'source':
    case 'destination':
      return key.prefixLength + 8;
    case 'sourcePort':
    case 'destinationPort':
      return 20;
    case 'inInterface':
    case 'outInterface':
      return 10;
    case 'protocol':
      return 1;
  }
}

function valueOf(packet: Packet, group: Group): number | string {
  switch (group.dimension) {
    case 'source':
    case 'destination':
      return addressKey(packet[group.dimension], group.mask);
    case 'sourcePort':
      return packet.sourcePort;
    case 'destinationPort':
      return packet.destinationPort;
    case 'inInterface':
    case 'outInterface':
      return packet[group.dimension] ?? '';
    case 'protocol':
      return packet.protocol;
  }
}

function addressKey(address: Address, mask: Group['mask']): number | string {
  return address.isIpv4 ? address.w0 & mask[0] : `${address.w0 & mask[0]} ${address.w1 & mask[1]} ${address.w2 & mask[2]} ${address.w3 & mask[3]}`;
}
