import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { test } from 'node:test';
import fc from 'fast-check';
import { parseHexText } from '../../agent/protocol/scalars.ts';
import { decodeInstructions } from './instructions.ts';
import type { Helper, RunResult } from './machine.ts';
import { runProgram } from './machine.ts';
import { AddressSpace } from './memory.ts';

interface Vector {
  readonly name: string;
  readonly mem: string;
  readonly insns: string;
  readonly result: string;
}

const VECTORS = new URL('../../../shared/data/bpf_conformance/vectors.jsonl', import.meta.url);

function run(instructions: Uint8Array, memory: Uint8Array, helpers: ReadonlyMap<number, Helper> = new Map(), instructionLimit = 100_000): RunResult {
  const space = new AddressSpace();
  const pointer = space.map({ name: 'the input', bytes: memory, meaning: { kind: 'bytes' }, writable: [[0, memory.length]], written: null });
  return runProgram({ instructions: decodeInstructions(instructions), memory: space, helpers, arguments: [pointer, BigInt(memory.length)], instructionLimit });
}

function fault(hex: string): string {
  const result = run(parseHexText(hex), new Uint8Array(8));
  return result.kind === 'fault' ? result.fault.kind : `returned ${result.value}`;
}

test('every conformance vector gives the result that it asks for', { skip: existsSync(VECTORS) ? false : 'needs the conformance vectors (../shared/data/bpf_conformance)' }, () => {
  const vectors = readFileSync(VECTORS, 'utf8').trim().split('\n').map((line) => JSON.parse(line) as Vector);
  assert.equal(vectors.length, 225);
  // The vectors call helper 5 and expect that nothing unwinds.
  const helpers = new Map<number, Helper>([[5, (_memory, first) => first]]);
  const wrong = vectors.flatMap((vector) => {
    const result = run(parseHexText(vector.insns), parseHexText(vector.mem), helpers);
    const given = result.kind === 'returned' ? `0x${result.value.toString(16)}` : JSON.stringify(result.fault);
    return given === `0x${BigInt(vector.result).toString(16)}` ? [] : [`${vector.name}: wanted ${vector.result}, got ${given}`];
  });
  assert.deepEqual(wrong, []);
});

test('random instructions end with a value or an explained fault', () => {
  const opcode = fc.oneof(fc.integer({ min: 0, max: 255 }), fc.constantFrom(0x07, 0xb7, 0xbf, 0x61, 0x63, 0x7b, 0x79, 0x85, 0x95, 0x15, 0x05, 0x18, 0xdb, 0xc3));
  const instruction = fc.tuple(opcode, fc.integer({ min: 0, max: 255 }), fc.integer({ min: -20, max: 20 }), fc.oneof(fc.integer(), fc.integer({ min: -9, max: 300 })));
  fc.assert(
    fc.property(fc.array(instruction, { minLength: 1, maxLength: 30 }), (program) => {
      const bytes = new Uint8Array(program.length * 8);
      const view = new DataView(bytes.buffer);
      program.forEach(([code, registers, offset, immediate], index) => {
        view.setUint8(index * 8, code);
        view.setUint8(index * 8 + 1, registers);
        view.setInt16(index * 8 + 2, offset, true);
        view.setInt32(index * 8 + 4, immediate, true);
      });
      const result = run(bytes, new Uint8Array(16), new Map(), 2_000);
      assert.ok(result.instructions <= 2_000);
      if (result.kind === 'fault') {
        assert.notEqual(result.fault.message, '');
      }
    }),
    { numRuns: 3_000 },
  );
});

test('what the verifier would refuse is a fault of its own kind', () => {
  assert.equal(fault('b700000000000000' + '6101000000000000' + '9500000000000000'), 'null-pointer');
  assert.equal(fault('b701000000100000' + '6110000000000000' + '9500000000000000'), 'not-a-pointer');
  assert.equal(fault('6110080000000000' + '9500000000000000'), 'out-of-bounds');
  assert.equal(fault('6110ffff00000000' + '9500000000000000'), 'out-of-bounds');
  assert.equal(fault('79a0f8ff00000000' + '9500000000000000'), 'uninitialised-stack');
  assert.equal(fault('bf60000000000000' + '9500000000000000'), 'uninitialised-register');
  assert.equal(fault('b70a000000000000' + '9500000000000000'), 'instruction-invalid');
  assert.equal(fault('8500000001000000' + '9500000000000000'), 'helper-unknown');
  assert.equal(fault('0500ffff00000000'), 'too-many-instructions');
  assert.equal(fault('b700000000000000'), 'jump-invalid');
  assert.equal(fault('85100000ffffffff'), 'call-too-deep');
});

test('arguments are unknown after a helper and kept registers survive a call', () => {
  const helpers = new Map<number, Helper>([[1, () => 7n]]);
  const result = run(parseHexText('8500000001000000' + 'bf10000000000000' + '9500000000000000'), new Uint8Array(8), helpers);
  assert.deepEqual(result, {
    kind: 'fault',
    fault: { kind: 'uninitialised-register', message: 'read of R1, which holds nothing yet', instruction: 1 },
    instructions: 2,
  });
});
