import type { ArgumentReader } from './extension.ts';
import { fromText } from './optionArguments.ts';
import { parseNumber } from './numberText.ts';

/** XT_BPF_MAX_NUM_INSTR (include/uapi/linux/netfilter/xt_bpf.h). */
const MAX_INSTRUCTIONS = 64;

/** Reads `COUNT,CODE JT JF K,…`, a classic BPF program as tcpdump -ddd prints it (libxt_bpf.c). */
export const bytecode: ArgumentReader = fromText('classic BPF instructions such as "1,6 0 0 1"', (text) => {
  const [count = '', ...instructions] = text.trim().split(/\s*,\s*/, MAX_INSTRUCTIONS + 2);
  const fields = instructions.map((instruction) => instruction.split(/\s+/).map((field, index) => parseNumber(field, [0xffff, 0xff, 0xff][index] ?? 0xffff_ffff)));
  if (parseNumber(count) !== fields.length || fields.length === 0 || fields.length > MAX_INSTRUCTIONS || fields.some((instruction) => instruction.length !== 4 || instruction.includes(undefined))) {
    return undefined;
  }
  const numbers = fields.flat().map((field) => field ?? 0);
  return { value: { type: 'numbers', numbers }, text: `"${fields.length},${fields.map((instruction) => instruction.join(' ')).join(',')}"` };
});
