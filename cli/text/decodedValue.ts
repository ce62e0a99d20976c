import type { DecodedValue, TypedBytes } from '../../agent/protocol/mapEntries.ts';

/** One scalar of a decoded value with the path of field names that leads to it. */
interface DecodedScalar {
  readonly path: string;
  readonly text: string;
}

/** Gives a key or value as scalars: one a field of a struct, nested fields as `outer.inner`; raw bytes where there is no BTF. */
export function flattenBytes(typed: TypedBytes): DecodedScalar[] {
  return typed.decoded === null ? [{ path: '', text: formatBytes(typed.bytes) }] : flattenValue(typed.decoded, '');
}

/** Gives a decoded value as one line; text in it is untrusted. */
export function formatValue(value: DecodedValue): string {
  switch (value.kind) {
    case 'number':
    case 'wide':
    case 'boolean':
    case 'address':
    case 'port':
      return String(value.value);
    case 'text':
      return JSON.stringify(value.value);
    case 'enum':
      return value.name ?? String(value.value);
    case 'bytes':
      return formatBytes(value.value);
    case 'struct':
      return `{${value.fields.map((field) => `${field.name}: ${formatValue(field.value)}`).join(', ')}}`;
    case 'array': {
      const elements = value.elements.map(formatValue);
      return `[${[...elements, ...(value.omitted > 0 ? [`… ${value.omitted} more`] : [])].join(', ')}]`;
    }
  }
}

/** Gives a number that can be added up, undefined for what is none. */
export function countOf(value: DecodedValue | null): bigint | undefined {
  if (value?.kind === 'number' && Number.isInteger(value.value)) {
    return BigInt(value.value);
  }
  return value?.kind === 'wide' && /^-?\d{1,40}$/.test(value.value) ? BigInt(value.value) : undefined;
}

function flattenValue(value: DecodedValue, path: string): DecodedScalar[] {
  if (value.kind !== 'struct') {
    return [{ path, text: formatValue(value) }];
  }
  return value.fields.flatMap((field) => flattenValue(field.value, path === '' ? field.name : `${path}.${field.name}`));
}

function formatBytes(hex: string): string {
  return hex === '' ? '' : `0x${hex}`;
}
