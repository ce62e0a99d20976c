import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { LEDGER } from './ledger.ts';

test('the ledger for people lists what the ledger of the judge does', () => {
  const text = readFileSync(join(import.meta.dirname, '../../docs/netfilterLedger.md'), 'utf8');
  const declared = text.split('## Declared differences')[1]?.split('## ')[0] ?? '';
  const listed = [...declared.matchAll(/^- \*\*([^*]+)\*\*: (.+)$/gm)].map(([, name, title]) => `${name ?? ''}: ${title ?? ''}`);
  assert.deepEqual(listed.toSorted(), LEDGER.map(({ name, title }) => `${name}: ${title}`).toSorted());
  assert.equal(/^None\.$/m.test(declared), LEDGER.length === 0);
});
