import type { Btf } from '../../agent/protocol/btf.ts';
import { decodeValue } from '../../agent/protocol/btfValues.ts';
import type { DecodedField, DecodedValue } from '../../agent/protocol/mapEntries.ts';
import { toHexText } from '../../agent/protocol/scalars.ts';
import type { Condition, SourceLine } from '../../agent/protocol/trace.ts';
import type { HelperCall } from './helpers.ts';
import type { ProgramRun } from './loadedObject.ts';

/** Maps whose look-ups say nothing about a connection. */
const COUNTERS = 'counters';
const SILENT_MAPS = new Set([COUNTERS, 'control', 'events']);
const REDIRECT = 'bpf_msg_redirect_hash';

/** Gives what a program looked up or changed as conditions: keys are decoded by the BTF of the object. */
export function describeCalls(run: ProgramRun<unknown>, btf: Btf | null): Condition[] {
  return run.calls.flatMap((call) => describeCall(call, btf) ?? []);
}

/**
 * Gives the source line that decided: the one that wrote to the context (a rewrite, an answer), else the last that
 * changed a map or sent a message elsewhere, else the last question that was asked before the decision was counted.
 * Null where the object has no line information.
 */
export function decidingLine(run: ProgramRun<unknown>): SourceLine | null {
  const effect = run.calls.findLast(hasEffect);
  if (run.contextWrite !== null) {
    return run.contextWrite;
  }
  if (effect !== undefined) {
    return run.lines[effect.lineCount - 1] ?? null;
  }
  const counted = run.calls.find((call) => call.map?.definition.name === COUNTERS);
  const asked = run.lines.slice(0, counted?.lineCount ?? run.lines.length);
  return asked.findLast((line) => /\bif \(/.test(line.text)) ?? asked.at(-1) ?? null;
}

/** Gives the names of the maps that a program changed. */
export function changedMaps(run: ProgramRun<unknown>): readonly string[] {
  return [...new Set(run.calls.flatMap((call) => (hasEffect(call) && call.map !== null && call.helper !== REDIRECT ? [call.map.definition.name] : [])))];
}

function hasEffect({ helper, map, result }: HelperCall): boolean {
  if (map === null || SILENT_MAPS.has(map.definition.name)) {
    return false;
  }
  return helper === REDIRECT ? result === 1n : helper !== 'bpf_map_lookup_elem' && result === 0n;
}

/** Writes a decoded value in one line, endpoints as `address:port`, zero parts of a key left out. */
function writeDecoded(value: DecodedValue): string {
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
    case REDIRECT:
      return { what: `socket in the map ${name}`, wanted: decoded, actual: result === 0n ? 'no established socket' : 'found', result: result === 0n ? 'failed' : 'matched' };
    default:
      return { what: `${helper} on the map ${name}`, wanted: decoded, actual: result === 0n ? 'done' : `errno ${-result}`, result: result === 0n ? 'matched' : 'failed' };
  }
}
