import assert from 'node:assert/strict';
import { chmodSync, mkdtempSync, readdirSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { SELF_TEST_IDS, toCheck } from '../../protocol/doctorChecks.ts';
import { readRecord, recordName, writeRecord } from './selfTestRecord.ts';

const checks = SELF_TEST_IDS.map((id) => toCheck(id, { result: 'ok', found: 'As it should be.', problem: null }));
const subject = { kernelRelease: '6.18.1', agentVersion: '1.0.0', object: Uint8Array.of(1, 2, 3), unreadLimit: 1_048_576n };

async function inFolder(use: (folder: string) => Promise<void>): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'meshpath-record-'));
  try {
    await use(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

test('results are for one boot, kernel, object and version', () => {
  const name = recordName(subject, 'boot-1');
  assert.match(name, /^self-tests-[0-9a-f]{32}\.json$/);
  assert.equal(recordName({ ...subject, object: Uint8Array.of(1, 2, 3) }, 'boot-1'), name);
  const others = [
    recordName(subject, 'boot-2'),
    recordName({ ...subject, kernelRelease: '6.18.2' }, 'boot-1'),
    recordName({ ...subject, object: Uint8Array.of(1, 2, 4) }, 'boot-1'),
    recordName({ ...subject, agentVersion: '1.0.1' }, 'boot-1'),
    recordName({ ...subject, unreadLimit: 0n }, 'boot-1'),
  ];
  assert.equal(new Set([name, ...others]).size, 6);
  assert.equal(recordName(subject), recordName(subject), 'of this boot');
});

test('what was kept is read again, and leaves no other file', async () => {
  await inFolder(async (folder) => {
    assert.equal(await readRecord('a.json', folder), undefined);
    await writeRecord('a.json', checks, join(folder, 'new'));
    assert.deepEqual(await readRecord('a.json', join(folder, 'new')), checks);
    assert.deepEqual(readdirSync(join(folder, 'new')), ['a.json']);
  });
});

test('a record that others may write, is cut off, lacks a test or has one that could not be made is none', async () => {
  await inFolder(async (folder) => {
    const write = (text: string): void => {
      writeFileSync(join(folder, 'a.json'), text, { mode: 0o644 });
    };
    const whole = JSON.stringify({ version: 1, checks });
    write(whole);
    assert.deepEqual(await readRecord('a.json', folder), checks);
    for (const mode of [0o666, 0o664]) {
      chmodSync(join(folder, 'a.json'), mode);
      assert.equal(await readRecord('a.json', folder), undefined, mode.toString(8));
    }
    chmodSync(join(folder, 'a.json'), 0o644);
    truncateSync(join(folder, 'a.json'), 100);
    assert.equal(await readRecord('a.json', folder), undefined);
    for (const text of ['', 'null', '[]', '{"version":2}', JSON.stringify({ version: 1, checks: checks.slice(1) }), whole.replace('"ok"', '"unknown"'), ' '.repeat(300_000) + whole]) {
      write(text);
      assert.equal(await readRecord('a.json', folder), undefined, text.slice(0, 60));
    }
  });
});

test('where nothing may be kept, nothing is', async () => {
  await inFolder(async (folder) => {
    writeFileSync(join(folder, 'file'), '');
    await writeRecord('a.json', checks, join(folder, 'file', 'below'));
    assert.equal(await readRecord('a.json', join(folder, 'file', 'below')), undefined);
  });
});
