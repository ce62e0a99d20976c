/**
 * Reads a whole number as strtoul(3) with base 0 does (decimal, 0x hexadecimal, 0 octal), up to `max`; undefined for
 * anything else (libxtables/xtables.c, xtables_strtoui: no sign, nothing after the number).
 */
export function parseNumber(text: string, max = 0xffff_ffff): number | undefined {
  if (text.length < 10 && /^(?:0|[1-9]\d*)$/.test(text)) {
    const number = Number(text);
    return number <= max ? number : undefined;
  }
  const value = parseBigNumber(text, BigInt(max));
  return value === undefined ? undefined : Number(value);
}

/** Like parseNumber, for numbers of up to 64 bits. */
export function parseBigNumber(text: string, max = 0xffff_ffff_ffff_ffffn): bigint | undefined {
  if (!/^(?:0x[0-9a-f]{1,24}|0[0-7]{0,24}|[1-9]\d{0,24})$/i.test(text)) {
    return undefined;
  }
  const value = BigInt(/^0[0-7]+$/.test(text) ? `0o${text}` : text);
  return value <= max ? value : undefined;
}

/** Writes a number as printf's `0x%x`, with at least `digits` digits. */
export function hexText(value: number, digits = 1): string {
  return `0x${value.toString(16).padStart(digits, '0')}`;
}
