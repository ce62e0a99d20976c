import { parseHexText } from '../../agent/protocol/scalars.ts';
import { decodeInstructions } from '../../simulator/bpf/instructions.ts';
import { runProgram } from '../../simulator/bpf/machine.ts';
import { AddressSpace } from '../../simulator/bpf/memory.ts';
import type { Bench, Sample } from './bench.ts';

/** mov r0, 0; mov r1, 300000; then 300,000 times: add r0, r1; sub r1, 1; jne r1, 0, -3; then exit. */
const loop = 'b700000000000000 b7010000e0930400 0f10000000000000 1701000001000000 5501fdff00000000 9500000000000000';
const loopSum = 45_000_150_000n;

/** How fast the virtual machine of the simulator runs BPF instructions. */
export const benches: readonly Bench[] = [
  {
    name: 'BPF instructions of the simulator',
    unit: '1/s',
    runs: 7,
    skip: false,
    measure: (): Promise<Sample> => {
      const instructions = decodeInstructions(parseHexText(loop.replaceAll(' ', '')));
      const started = performance.now();
      const result = runProgram({ instructions, memory: new AddressSpace(), helpers: new Map(), arguments: [] });
      const seconds = (performance.now() - started) / 1000;
      if (result.kind !== 'returned' || result.value !== loopSum) {
        throw new Error('the program did not return the sum');
      }
      return Promise.resolve({ value: result.instructions / seconds });
    },
  },
];
