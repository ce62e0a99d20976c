import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { DECISION_HOOKS, DECISION_REASONS } from '../agent/protocol/acceleration.ts';
import { parseBtf, sizeOfType } from '../agent/protocol/btf.ts';
import type { BtfMember } from '../agent/protocol/btf.ts';
import { compileBpf, currentInputs, missingForBpf, prebuiltInputs, prebuiltObject, sourcesHash } from '../scripts/compileBpf.mjs';
import { parseElf } from '../simulator/bpf/elf.ts';

const object = parseElf(readFileSync(prebuiltObject));
const btf = parseBtf(section('.BTF'));

function section(name: string): Uint8Array {
  const found = object.sections.find((candidate) => candidate.name === name);
  assert.ok(found !== undefined, `the object has no section ${name}`);
  return found.bytes;
}

function sizeOf(name: string): number | undefined {
  const [id] = btf.idsByName(name);
  return id === undefined ? undefined : sizeOfType(btf, id);
}

function membersOf(name: string): readonly BtfMember[] {
  const type = btf.idsByName(name).map(btf.type).find(({ kind }) => kind === 'struct');
  assert.ok(type?.kind === 'struct', `BTF has no struct ${name}`);
  return type.members;
}

/** `DECISION_HOOK_SK_MSG` without its prefix, as the protocol writes it. */
function enumNames(name: string, prefix: string): string[] {
  const type = btf.idsByName(name).map(btf.type).find(({ kind }) => kind === 'enum');
  assert.ok(type?.kind === 'enum', `BTF has no enum ${name}`);
  return type.enumerators.map((enumerator, index) => {
    assert.equal(Number(enumerator.value), index, `${enumerator.name} is not in order`);
    return enumerator.name.slice(prefix.length).toLowerCase();
  });
}

test('the structures that are keys have no bytes that nobody sets', () => {
  for (const name of ['connection_key', 'socket_key', 'endpoint', 'decision_event', 'mesh_profile', 'question']) {
    const covered = membersOf(name).reduce((sum, member) => sum + (sizeOfType(btf, member.type) ?? 0), 0);
    assert.equal(covered, sizeOf(name), `struct ${name}`);
  }
});

test('hooks and reasons are numbered alike in the programs and in the protocol', () => {
  assert.deepEqual(enumNames('decision_hook', 'DECISION_HOOK_'), [...DECISION_HOOKS]);
  assert.deepEqual(enumNames('decision_reason', 'DECISION_'), [...DECISION_REASONS, 'events_lost']);
});

test('the object in the repository is of the sources beside it', async (context) => {
  const recorded = prebuiltInputs();
  assert.equal(sourcesHash(), recorded.sources, 'bpf/ changed: run `node scripts/compileBpf.mjs --prebuilt`');
  const missing = await missingForBpf();
  if (missing !== undefined) {
    context.diagnostic(`${missing}: the sources were compared by their hash only`);
    return;
  }
  const inputs = await currentInputs();
  if (inputs.compiler !== recorded.compiler || inputs.headers !== recorded.headers) {
    context.diagnostic(`compiled by ${recorded.compiler}, here is ${inputs.compiler}: the sources were compared by their hash only`);
    return;
  }
  const folder = mkdtempSync(join(tmpdir(), 'meshpath-bpf-'));
  try {
    await compileBpf(folder);
    assert.ok(readFileSync(join(folder, 'meshpath.bpf.o')).equals(readFileSync(prebuiltObject)), 'a fresh build gives other bytes');
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
