import type { DecisionReason } from '../../agent/protocol/acceleration.ts';
import type { Btf } from '../../agent/protocol/btf.ts';
import { decodeValue } from '../../agent/protocol/btfValues.ts';
import type { DecodedField, DecodedValue } from '../../agent/protocol/mapEntries.ts';
import { toHexText } from '../../agent/protocol/scalars.ts';
import type { Condition, SourceLine } from '../../agent/protocol/trace.ts';
import type { HelperCall } from './helpers.ts';
import type { ProgramRun } from './loadedObject.ts';

/** Maps whose look-ups say nothing about a connection. */
const SILENT_MAPS = new Set(['counters', 'control', 'events']);

/** Gives what a program looked up or changed as conditions: keys are decoded by the BTF of the object. */
export function describeCalls(run: ProgramRun<unknown>, btf: Btf | null): Condition[] {
  return run.calls.flatMap((call) => describeCall(call, btf) ?? []);
}

/**
 * Gives the source line that decided for `reason`: of the lines that ran, the last that names the reason, else the last
 * that asks a question, else the last of all. Null where the object has no line information.
 */
export function decidingLine(run: ProgramRun<unknown>, reason: DecisionReason | null): SourceLine | null {
  const named = reason === null ? undefined : new RegExp(`\\bDECISION_${reason.toUpperCase()}\\b`);
  const byName = named === undefined ? undefined : run.lines.findLast((line) => named.test(line.text));
  return byName ?? run.lines.findLast((line) => /^(\} else )?if \(/.test(line.text)) ?? run.lines.at(-1) ?? null;
}

/** Writes a decoded value in one line, endpoints as `address:port`, zero parts of a key left out. */
export function writeDecoded(value: DecodedValue): string {
  switch (value.kind) {
    case 'struct':
      return writeFields(value.fields);
    case 'array':
      return `[${value.elements.map(writeDecoded).join(', ')}]`;
    case 'enum':
      return value.name ?? String(value.value);
    default:
      return String(value.value);
  }
}

function writeFields(fields: readonly DecodedField[]): string {
  return fields
    .filter((field) => field.name !== 'reserved')
    .map((field) => `${field.name} ${writeDecoded(field.value)}`)
    .join(', ');
}

function describeCall(call: HelperCall, btf: Btf | null): Condition | undefined {
  const { helper, map, key, result } = call;
  if (map === null || key === null || SILENT_MAPS.has(map.definition.name)) {
    return undefined;
  }
  const { name, keyType } = map.definition;
  const decoded = btf === null || keyType === 0 ? toHexText(key) : writeDecoded(decodeValue(btf, keyType, key));
  switch (helper) {
    case 'bpf_map_lookup_elem':
      return { what: `entry in the map ${name}`, wanted: decoded, actual: result === 0n ? 'no entry' : 'found', result: result === 0n ? 'failed' : 'matched' };
    case 'bpf_msg_redirect_hash':
      return { what: `socket in the map ${name}`, wanted: decoded, actual: result === 0n ? 'no established socket' : 'found', result: result === 0n ? 'failed' : 'matched' };
    default:
      return { what: `${helper} on the map ${name}`, wanted: decoded, actual: result === 0n ? 'done' : `errno ${-result}`, result: result === 0n ? 'matched' : 'failed' };
  }
}
