import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { checkKnownHosts, hostKeyFingerprint, keyTypeOfBlob, knownKeyTypes, matchesHost, matchesPattern, parseKnownHosts } from './knownHosts.ts';

const KEY = 'AAAAC3NzaC1lZDI1NTE5AAAAIFirst';
const OTHER = 'AAAAC3NzaC1lZDI1NTE5AAAAIOther';
const presented = { keyType: 'ssh-ed25519', key: KEY };

function verdict(text: string, host = 'host', port = 22): string {
  return checkKnownHosts(parseKnownHosts(text, 'file'), { host, port }, presented).kind;
}

function hashed(name: string): string {
  const salt = Buffer.from('12345678901234567890');
  return `|1|${salt.toString('base64')}|${createHmac('sha1', salt).update(name).digest('base64')}`;
}

describe('known_hosts', () => {
  test('verdicts', () => {
    const cases: Record<string, string> = {
      [`host ssh-ed25519 ${KEY}`]: 'match',
      [`HOST ssh-ed25519 ${KEY} a comment`]: 'match',
      [`other,host ssh-ed25519 ${KEY}`]: 'match',
      [`ho?t ssh-ed25519 ${KEY}`]: 'match',
      [`*,!host ssh-ed25519 ${KEY}`]: 'unknown',
      [`!host,* ssh-ed25519 ${KEY}`]: 'unknown',
      [`${hashed('host')} ssh-ed25519 ${KEY}`]: 'match',
      [`${hashed('tsoh')} ssh-ed25519 ${KEY}`]: 'unknown',
      [`|1|broken ssh-ed25519 ${KEY}`]: 'unknown',
      [`host ssh-ed25519 ${OTHER}`]: 'mismatch',
      [`host ssh-ed25519 ${OTHER}\nhost ssh-ed25519 ${KEY}`]: 'match',
      [`host ssh-rsa ${OTHER}`]: 'other-key-types',
      [`host ssh-ed25519 ${KEY}\n@revoked * ssh-ed25519 ${KEY}`]: 'revoked',
      [`@revoked host ssh-ed25519 ${OTHER}`]: 'unknown',
      [`@cert-authority host ssh-ed25519 ${KEY}`]: 'certificate-authority-only',
      [`@unheard-of host ssh-ed25519 ${KEY}`]: 'unknown',
      [`[host]:22 ssh-ed25519 ${KEY}`]: 'unknown',
      [`# host ssh-ed25519 ${KEY}`]: 'unknown',
      [`host ssh-ed25519`]: 'unknown',
      [`host ssh-ed25519 not+base64!`]: 'unknown',
      '': 'unknown',
    };
    assert.deepEqual(Object.fromEntries(Object.keys(cases).map((text) => [text, verdict(text)])), cases);
  });

  test('another port has its own entries; the plain name only helps with the very same key', () => {
    assert.equal(verdict(`[host]:2222 ssh-ed25519 ${KEY}`, 'host', 2222), 'match');
    assert.equal(verdict(`[host]:2223 ssh-ed25519 ${KEY}`, 'host', 2222), 'unknown');
    assert.equal(verdict(`host ssh-ed25519 ${KEY}`, 'host', 2222), 'match');
    assert.equal(verdict(`host ssh-ed25519 ${OTHER}`, 'host', 2222), 'unknown');
    assert.equal(verdict(`[host]:2222 ssh-ed25519 ${OTHER}\nhost ssh-ed25519 ${KEY}`, 'host', 2222), 'mismatch');
    assert.equal(verdict(`@revoked host ssh-ed25519 ${KEY}`, 'host', 2222), 'revoked');
    assert.equal(verdict(`${hashed('[host]:2222')} ssh-ed25519 ${KEY}`, 'host', 2222), 'match');
  });

  test('an entry remembers its file and line', () => {
    const [entry] = parseKnownHosts(`# first\n\n@revoked host ssh-rsa ${KEY} comment`, '/known');
    assert.deepEqual(entry, { marker: 'revoked', patterns: 'host', keyType: 'ssh-rsa', key: KEY, source: { file: '/known', line: 3 } });
  });

  test('lists the types of known keys once', () => {
    const entries = parseKnownHosts(`host ssh-rsa ${KEY}\nhost ssh-rsa ${OTHER}\n@revoked host ssh-dss ${KEY}\nhost ssh-ed25519 ${KEY}`, 'f');
    assert.deepEqual(knownKeyTypes(entries, { host: 'host', port: 22 }), ['ssh-rsa', 'ssh-ed25519']);
  });

  test('patterns agree with their meaning as a regular expression', () => {
    const word = fc.string({ unit: fc.constantFrom('a', 'b', '.'), maxLength: 12 });
    const pattern = fc.string({ unit: fc.constantFrom('a', 'b', '.', '*', '?'), maxLength: 8 });
    fc.assert(
      fc.property(pattern, word, (wanted, text) => {
        const expression = wanted.replaceAll('.', '\\.').replaceAll('*', '.*').replaceAll('?', '.');
        assert.equal(matchesPattern(wanted, text), new RegExp(`^${expression}$`).test(text));
      }),
    );
  });

  test('takes any text without failing', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 300 }), (text) => {
        for (const entry of parseKnownHosts(text, 'f')) {
          matchesHost(entry.patterns, { host: 'host', port: 22 });
        }
      }),
    );
  });

  test('a pattern made to take long does not', () => {
    assert.equal(matchesPattern(`${'*a'.repeat(2000)}b`, 'a'.repeat(4000)), false);
  });

  test('fingerprints and key types of blobs', () => {
    const blob = Buffer.concat([Buffer.from([0, 0, 0, 11]), Buffer.from('ssh-ed25519'), Buffer.from([0, 0, 0, 0])]);
    assert.equal(keyTypeOfBlob(blob), 'ssh-ed25519');
    assert.equal(keyTypeOfBlob(Buffer.from([0, 0, 1, 0, 65])), undefined);
    assert.equal(keyTypeOfBlob(Buffer.alloc(2)), undefined);
    // printf '' | sha256sum
    assert.equal(hostKeyFingerprint(''), 'SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU');
  });
});
