import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { decideHostKey, orderHostKeyAlgorithms } from './hostKeyPolicy.ts';
import type { StrictHostKeyChecking, TrustedHostKey } from './hostKeyPolicy.ts';
import { parseKnownHosts } from './knownHosts.ts';

const KEY = 'AAAAFirst';
const OTHER = 'AAAAOther';
const identity = { host: 'Host', port: 2222 };

function decide(knownHosts: string, trustedKeys: readonly string[], strict: StrictHostKeyChecking): string {
  const trusted = trustedKeys.map((key) => trust(key));
  const decision = decideHostKey({
    identity,
    presented: { keyType: 'ssh-ed25519', key: KEY },
    knownHosts: parseKnownHosts(knownHosts, 'known_hosts'),
    trusted,
    strict,
  });
  switch (decision.action) {
    case 'trust':
      return decision.remember ? 'trust and remember' : 'trust';
    case 'ask':
      return `ask: ${decision.question.known}`;
    case 'deny':
      return `deny: ${decision.cause}`;
  }
}

function trust(key: string, host = 'host', port = 2222, keyType = 'ssh-ed25519'): TrustedHostKey {
  return { host, port, keyType, key, acceptedAt: '2026-01-01T00:00:00Z' };
}

describe('host key policy', () => {
  const line = (key: string, type = 'ssh-ed25519', marker = ''): string => `${marker}[host]:2222 ${type} ${key}\n`;
  const table: readonly (readonly [name: string, knownHosts: string, trusted: readonly string[], expected: Record<StrictHostKeyChecking, string>])[] = [
    ['unknown', '', [], { ask: 'ask: nothing', yes: 'deny: unknown-and-strict', no: 'trust', 'accept-new': 'trust and remember' }],
    ['known', line(KEY), [], { ask: 'trust', yes: 'trust', no: 'trust', 'accept-new': 'trust' }],
    ['accepted here', '', [KEY], { ask: 'trust', yes: 'trust', no: 'trust', 'accept-new': 'trust' }],
    ['changed', line(OTHER), [], all('deny: changed')],
    ['changed since accepted here', '', [OTHER], all('deny: changed')],
    ['accepted here, but known_hosts has another', line(OTHER), [KEY], all('deny: changed')],
    ['corrected in known_hosts', line(KEY), [OTHER], all('trust')],
    ['revoked', line(KEY) + line(KEY, 'ssh-ed25519', '@revoked '), [KEY], all('deny: revoked')],
    ['other type', line(OTHER, 'ssh-rsa'), [], { ask: 'ask: other-key-types', yes: 'deny: unknown-and-strict', no: 'trust', 'accept-new': 'trust and remember' }],
    ['authority', line(OTHER, 'ssh-ed25519', '@cert-authority '), [], { ask: 'ask: nothing', yes: 'deny: certificate-only', no: 'trust', 'accept-new': 'trust and remember' }],
  ];
  for (const [name, knownHosts, trusted, expected] of table) {
    test(name, () => {
      const actual = Object.fromEntries((['ask', 'yes', 'no', 'accept-new'] as const).map((strict) => [strict, decide(knownHosts, trusted, strict)]));
      assert.deepEqual(actual, expected);
    });
  }

  test('algorithms of known keys come first, the others stay in their order', () => {
    const first = (knownHosts: string, trusted: readonly TrustedHostKey[] = []): string[] =>
      orderHostKeyAlgorithms(identity, parseKnownHosts(knownHosts, 'f'), trusted).slice(0, 3);
    assert.deepEqual(first(''), ['ssh-ed25519', 'ecdsa-sha2-nistp256', 'ecdsa-sha2-nistp384']);
    assert.deepEqual(first(line(KEY, 'ssh-rsa')), ['rsa-sha2-512', 'rsa-sha2-256', 'ssh-ed25519']);
    assert.deepEqual(first('', [trust(KEY, 'host', 2222, 'ecdsa-sha2-nistp521')]), ['ecdsa-sha2-nistp521', 'ssh-ed25519', 'ecdsa-sha2-nistp256']);
    assert.deepEqual(first('', [trust(KEY, 'elsewhere', 2222, 'ssh-rsa'), trust(KEY, 'host', 22, 'ssh-rsa')])[0], 'ssh-ed25519');
    assert.ok(!orderHostKeyAlgorithms(identity, [], []).some((name: string) => name === 'ssh-rsa' || name === 'ssh-dss'));
  });
});

function all(decision: string): Record<StrictHostKeyChecking, string> {
  return { ask: decision, yes: decision, no: decision, 'accept-new': decision };
}
