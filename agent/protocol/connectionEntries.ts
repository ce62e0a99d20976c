import { DECISION_REASONS } from './acceleration.ts';
import type { DecisionReason } from './acceleration.ts';
import type { DecodedValue, MapEntry } from './mapEntries.ts';
import { toUint64Text } from './scalars.ts';
import type { Endpoint, Uint64Text } from './scalars.ts';

/** What one side of a connection does with its messages. */
export interface ConnectionSide {
  /** "0" where it is not known yet. */
  readonly cookie: Uint64Text;
  /** Whether its socket is in the sockhash. */
  readonly isEnrolled: boolean;
  /** What its last message met; null where it sent none. */
  readonly messages: DecisionReason | null;
  readonly redirectedBytes: Uint64Text;
}

/** An entry of the map `connections` with what a list of connections needs of it. */
export interface ConnectionEntry {
  readonly connecting: ConnectionSide;
  readonly accepting: ConnectionSide;
  readonly source: Endpoint;
  readonly destination: Endpoint;
  readonly original: Endpoint | null;
  readonly openedBootNanoseconds: Uint64Text;
  readonly isSwitchedOff: boolean;
}

/** Gives the ids of the cgroups of pods whose messages are not redirected any more, by the entries of the map `stopped_pods`. */
export function readStoppedPods(entries: readonly MapEntry[]): ReadonlySet<bigint> {
  return new Set(entries.flatMap(({ key }) => (key.decoded === null ? [] : (readNumber(key.decoded) ?? []))));
}

/**
 * Reads an entry of the map `connections` as BTF decoded it; undefined where it is of another form. `stoppedPods` is what the
 * map `stopped_pods` beside it says.
 */
export function readConnectionEntry({ key, values }: MapEntry, stoppedPods: ReadonlySet<bigint> = new Set()): ConnectionEntry | undefined {
  const value = values[0]?.decoded;
  if (key.decoded === null || value === null || value === undefined) {
    return undefined;
  }
  const source = readEndpoint(fieldOf(key.decoded, 'source'), fieldOf(key.decoded, 'source_port'));
  const destination = readEndpoint(fieldOf(key.decoded, 'destination'), fieldOf(key.decoded, 'destination_port'));
  const connecting = readSide(value, 'connecting');
  const accepting = readSide(value, 'accepting');
  const opened = readNumber(fieldOf(value, 'opened_boot_nanoseconds'));
  if (source === null || destination === null || connecting === undefined || accepting === undefined || opened === undefined) {
    return undefined;
  }
  const original = fieldOf(value, 'original');
  const isRewritten = readNumber(fieldOf(value, 'is_rewritten')) === 1n;
  return {
    connecting,
    accepting,
    source,
    destination,
    original: isRewritten && original !== undefined ? readEndpoint(fieldOf(original, 'address'), fieldOf(original, 'port')) : null,
    openedBootNanoseconds: toUint64Text(opened),
    isSwitchedOff:
      readNumber(fieldOf(value, 'is_switched_off')) === 1n ||
      (['connecting_cgroup_id', 'accepting_cgroup_id'] as const).some((name) => stoppedPods.has(readNumber(fieldOf(value, name)) ?? 0n)),
  };
}

function readSide(value: DecodedValue, side: 'connecting' | 'accepting'): ConnectionSide | undefined {
  const cookie = readNumber(fieldOf(value, `${side}_cookie`));
  const redirected = readNumber(fieldOf(value, `redirected_by_${side}`));
  const messages = readNumber(fieldOf(value, `${side}_messages`));
  if (cookie === undefined || redirected === undefined || messages === undefined) {
    return undefined;
  }
  return {
    cookie: toUint64Text(cookie),
    isEnrolled: readNumber(fieldOf(value, `is_${side}_enrolled`)) === 1n,
    messages: messages === 0n ? null : (DECISION_REASONS[Number(messages)] ?? null),
    redirectedBytes: toUint64Text(redirected),
  };
}

function fieldOf(value: DecodedValue, name: string): DecodedValue | undefined {
  return value.kind === 'struct' ? value.fields.find((field) => field.name === name)?.value : undefined;
}

function readNumber(value: DecodedValue | undefined): bigint | undefined {
  switch (value?.kind) {
    case 'number':
    case 'enum':
      return BigInt(value.value);
    case 'boolean':
      return value.value ? 1n : 0n;
    case 'wide':
      return /^\d{1,20}$/.test(value.value) ? BigInt(value.value) : undefined;
    default:
      return undefined;
  }
}

function readEndpoint(address: DecodedValue | undefined, port: DecodedValue | undefined): Endpoint | null {
  return address?.kind === 'address' && port?.kind === 'port' ? { address: address.value, port: port.value } : null;
}
