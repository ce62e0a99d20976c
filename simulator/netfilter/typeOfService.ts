import type { ArgumentReader } from './extension.ts';
import { fromText, parseMasked } from './optionArguments.ts';
import { hexText } from './numberText.ts';

/** Names of the type of service (RFC 1349), in the order in which iptables looks for the beginning of one. */
const NAMES: readonly (readonly [string, number])[] = [['Minimize-Delay', 0x10], ['Maximize-Throughput', 8], ['Maximize-Reliability', 4], ['Minimize-Cost', 2], ['Normal-Service', 0]];

/** Reads `VALUE[/MASK]` or a name, whose mask is `namedMask` (libxtables/xtoptions.c, xtopt_parse_tosmask). */
export function typeOfService(namedMask: number): ArgumentReader {
  return fromText('a type of service such as 0x10/0x3f or Minimize-Delay', (text) => {
    const name = /^[0-9]/.test(text) ? undefined : NAMES.find(([known]) => known.toLowerCase() === text.toLowerCase());
    const masked = name === undefined ? parseMasked(text, 0xff) : { value: name[1], mask: namedMask };
    return masked === undefined ? undefined : { value: { type: 'masked', ...masked }, text: `${hexText(masked.value, 2)}/${hexText(masked.mask, 2)}` };
  });
}
