import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { MeshpathError } from '../../agent/protocol/errors.ts';
import { formatDestination, parseDestination } from './destination.ts';

test('reads the forms that ssh reads', () => {
  const cases = {
    'host': { host: 'host', user: null, port: null },
    ' user@host ': { host: 'host', user: 'user', port: null },
    'user@host:2222': { host: 'host', user: 'user', port: 2222 },
    'ssh://user@host:2222/': { host: 'host', user: 'user', port: 2222 },
    'first@domain@host': { host: 'host', user: 'first@domain', port: null },
    '[::1]:2222': { host: '::1', user: null, port: 2222 },
    'fe80::1%eth0': { host: 'fe80::1%eth0', user: null, port: null },
  };
  assert.deepEqual(Object.fromEntries(Object.keys(cases).map((text) => [text, parseDestination(text)])), cases);
});

test('refuses what could be an option, a command or no host', () => {
  for (const text of ['', '-oProxyCommand=id', 'user@-x', '-u@host', 'a b', 'host;id', 'host`id`', '$(id)', 'us er@host', "u'@host", 'host:0', 'host:65536', 'host:x', '[:]', '[host:22]', '@host', 'h'.repeat(600)]) {
    assert.throws(() => parseDestination(text), (error) => MeshpathError.is(error, 'INPUT_INVALID'), text);
  }
});

test('what it reads, it writes and reads again', () => {
  fc.assert(
    fc.property(fc.string({ unit: fc.constantFrom('a', '1', '.', ':', '@', '-', '[', ']', '_'), maxLength: 15 }), (text) => {
      let destination;
      try {
        destination = parseDestination(text);
      } catch {
        return;
      }
      assert.deepEqual(parseDestination(formatDestination(destination)), destination);
    }),
  );
});
