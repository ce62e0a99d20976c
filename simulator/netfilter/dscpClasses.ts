import type { ArgumentReader } from './extension.ts';
import { fromText } from './optionArguments.ts';
import { hexText } from './numberText.ts';

/** Classes of DSCP by name (RFC 2474, RFC 2597, RFC 3246). */
const CLASSES: ReadonlyMap<string, number> = new Map([
  ...Array.from({ length: 8 }, (_, index) => [`CS${index}`, index * 8] as const),
  ['BE', 0] as const,
  ...[1, 2, 3, 4].flatMap((major) => [1, 2, 3].map((minor) => [`AF${major}${minor}`, major * 8 + minor * 2] as const)),
  ['EF', 0x2e] as const,
]);

/** Reads the name of a DSCP class; iptables keeps its number. */
export const dscpClass: ArgumentReader = fromText('a DSCP class such as CS0, AF11 or EF', (text) => {
  const value = CLASSES.get(text.toUpperCase());
  return value === undefined ? undefined : { value: { type: 'number', value }, text: hexText(value, 2) };
});
