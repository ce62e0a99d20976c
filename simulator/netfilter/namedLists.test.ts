import assert from 'node:assert/strict';
import { test } from 'node:test';
import { findNamedLists } from './namedLists.ts';
import { readRuleSet } from './readRuleSet.ts';

const RULES = `*filter
:FORWARD ACCEPT [0:0]
:LATER - [0:0]
:EARLIER - [0:0]
-A LATER -m recent --rcheck --name one --mask 255.0.0.0
-A EARLIER -m recent --rcheck --name one --mask 255.255.0.0
-A FORWARD -m recent --set --name two
COMMIT
`;

test('the first rule in the order of a backend makes the list that others name', () => {
  const maskOf = (backend: 'nft' | 'legacy'): string | null | undefined =>
    findNamedLists(readRuleSet(RULES).tables, backend).makers.get('recent one')?.options.find(({ name }) => name === 'mask')?.text;
  assert.equal(maskOf('nft'), '255.0.0.0');
  assert.equal(maskOf('legacy'), '255.255.0.0');
});
