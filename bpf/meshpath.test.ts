import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { LAYOUT, MAX_EXCLUDED_PORTS } from '../agent/accelerate/datapathLayout.ts';
import { EVENTS_LOST_COUNTER } from '../agent/accelerate/decisions.ts';
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

test('the agent knows every structure of the programs as the compiler laid it out', () => {
  for (const [name, { bytes, fields }] of Object.entries(LAYOUT)) {
    assert.equal(sizeOf(name), bytes, `size of struct ${name}`);
    for (const [field, offset] of Object.entries(fields)) {
      const member = membersOf(name).find((candidate) => candidate.name === field);
      assert.equal(member?.bitOffset, offset * 8, `offset of ${name}.${field}`);
    }
  }
  assert.equal(section('.rodata').length, LAYOUT.mesh_profile.bytes);
});

test('the structures that are keys have no bytes that nobody sets', () => {
  for (const name of ['connection_key', 'socket_key', 'endpoint', 'decision_event', 'mesh_profile']) {
    const covered = membersOf(name).reduce((sum, member) => sum + (sizeOfType(btf, member.type) ?? 0), 0);
    assert.equal(covered, sizeOf(name), `struct ${name}`);
  }
});

test('hooks and reasons are numbered alike in the programs and in the protocol', () => {
  assert.deepEqual(enumNames('decision_hook', 'DECISION_HOOK_'), [...DECISION_HOOKS]);
  assert.deepEqual(enumNames('decision_reason', 'DECISION_'), [...DECISION_REASONS, 'events_lost']);
  assert.equal(EVENTS_LOST_COUNTER, DECISION_REASONS.length);
});

test('there is room for as many excluded ports as the agent lets through', () => {
  const member = membersOf('mesh_profile').find(({ name }) => name === 'excluded_inbound_ports');
  assert.equal(sizeOfType(btf, member?.type ?? 0), MAX_EXCLUDED_PORTS * 2);
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
