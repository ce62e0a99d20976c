import type { ArgumentReader } from './extension.ts';
import { fromText } from './optionArguments.ts';
import { hexText, parseNumber } from './numberText.ts';

/** XT_U32_MAXSIZE (include/uapi/linux/netfilter/xt_u32.h): tests, steps of a location and values each. */
const MAX_PARTS = 10;

/** Reads `LOCATION=VALUE[:VALUE][,…][&&…]` and gives it in the form that iptables-save prints (libxt_u32.c). */
export const u32Tests: ArgumentReader = fromText('tests such as 0x6&0xff=0x1 or 12>>26&0x3c@0=1:5', (text) => {
  const tests = text.split('&&', MAX_PARTS + 2).map(readTest);
  if (tests.length > MAX_PARTS + 1 || tests.includes(undefined)) {
    return undefined;
  }
  const printed = tests.join('&&');
  return { value: { type: 'text', text: printed }, text: `"${printed}"` };
});

function readTest(text: string): string | undefined {
  const equals = text.indexOf('=');
  if (equals < 0) {
    return undefined;
  }
  const location = text.slice(0, equals).split(/(&|<<|>>|@)/, MAX_PARTS * 2 + 2).map((part) => part.trim());
  const values = text.slice(equals + 1).split(',', MAX_PARTS + 1);
  const steps = location.map((part, index) => (index % 2 === 0 ? numberText(part) : part));
  const ranges = values.map(rangeText);
  if (steps.length > MAX_PARTS * 2 || ranges.length > MAX_PARTS || steps.includes(undefined) || ranges.includes(undefined)) {
    return undefined;
  }
  return `${steps.join('')}=${ranges.join(',')}`;
}

function rangeText(text: string): string | undefined {
  const [first = '', last, ...rest] = text.split(':').map((part) => numberText(part.trim()));
  if (first === '' || rest.length > 0 || (text.includes(':') && last === undefined)) {
    return undefined;
  }
  return last === undefined || last === first ? first : `${first}:${last}`;
}

function numberText(text: string): string | undefined {
  const value = parseNumber(text);
  return value === undefined ? undefined : hexText(value);
}
