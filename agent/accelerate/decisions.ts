import { DECISION_HOOKS, DECISION_REASONS } from '../protocol/acceleration.ts';
import type { DecisionCounters, DecisionEvent, DecisionReason } from '../protocol/acceleration.ts';
import { toUint64Text } from '../protocol/scalars.ts';
import type { Endpoint, IpAddress, PortNumber, Uint64Text } from '../protocol/scalars.ts';
import { decodeEndpoint, LAYOUT, viewOf } from './datapathLayout.ts';

/** The place of the lost events in `counters`: behind all reasons. */
export const EVENTS_LOST_COUNTER = DECISION_REASONS.length;
const COUNTER_BYTES = 8;
const UID_UNKNOWN = 0xffff_ffff;
const NO_ENDPOINT: Endpoint = { address: '0.0.0.0' as IpAddress, port: 0 as PortNumber };

/** Reads a `struct decision_event`; undefined where it is not one, or of a hook or reason that this version does not know. */
export function decodeDecisionEvent(bytes: Uint8Array): DecisionEvent | undefined {
  const { fields } = LAYOUT.decision_event;
  if (bytes.length < LAYOUT.decision_event.bytes) {
    return undefined;
  }
  const view = viewOf(bytes);
  const u64 = (offset: number): Uint64Text => toUint64Text(view.getBigUint64(offset, true));
  const hook = DECISION_HOOKS[view.getUint32(fields.hook, true)];
  const reason = DECISION_REASONS[view.getUint32(fields.reason, true)];
  if (hook === undefined || reason === undefined) {
    return undefined;
  }
  const uid = view.getUint32(fields.uid, true);
  return {
    bootNanoseconds: u64(fields.boot_nanoseconds),
    hook,
    reason,
    errno: view.getUint32(fields.error, true),
    socketCookie: u64(fields.socket_cookie),
    cgroupId: u64(fields.cgroup_id),
    netnsCookie: u64(fields.netns_cookie),
    uid: uid === UID_UNKNOWN ? null : uid,
    local: decodeEndpoint(bytes, fields.local) ?? NO_ENDPOINT,
    remote: decodeEndpoint(bytes, fields.remote) ?? NO_ENDPOINT,
    original: decodeEndpoint(bytes, fields.original),
    bytes: view.getUint32(fields.bytes, true),
  };
}

/** Adds up a value of the per-CPU map `counters`: one number of 64 bits for each possible CPU. */
export function sumCounter(perCpu: Uint8Array): bigint {
  const view = viewOf(perCpu);
  let sum = 0n;
  for (let offset = 0; offset + COUNTER_BYTES <= perCpu.length; offset += COUNTER_BYTES) {
    sum += view.getBigUint64(offset, true);
  }
  return sum;
}

/** Gives the counters of all reasons; `count` gives that at one place of `counters`. */
export function readDecisionCounters(count: (index: number) => bigint): DecisionCounters {
  const entries = DECISION_REASONS.map((reason, index): [DecisionReason, Uint64Text] => [reason, toUint64Text(count(index))]);
  return Object.fromEntries(entries) as Record<DecisionReason, Uint64Text>;
}
