import assert from 'node:assert/strict';
import { test } from 'node:test';
import { describeStep, methodOf, planAuthentication } from './authentication.ts';
import { resolveRoute } from './route.ts';
import { formatDestination, parseDestination } from './destination.ts';
import type { HostConfig } from './sshConfig.ts';

const config: HostConfig = {
  alias: 'host',
  hostName: 'host',
  port: 22,
  user: 'me',
  identityFiles: [],
  identitiesOnly: false,
  identityAgent: null,
  userKnownHostsFiles: [],
  globalKnownHostsFiles: [],
  strictHostKeyChecking: 'ask',
  proxyJump: [],
  proxyCommand: null,
  connectTimeoutSeconds: null,
  hostKeyAlias: null,
  publicKeyAuthentication: true,
  keyboardInteractiveAuthentication: true,
  passwordAuthentication: true,
  passwordPrompts: 1,
};
const available = {
  agentKeys: ['SHA256:x', 'SHA256:b'],
  keyFiles: [
    { path: 'a', fingerprint: 'SHA256:a' },
    { path: 'b', fingerprint: 'SHA256:b' },
    { path: 'locked', fingerprint: undefined },
  ],
};

function plan(changes: Partial<HostConfig>): string[] {
  return planAuthentication({ ...config, ...changes }, available).map(describeStep);
}

test('keys in OpenSSH’s order, then questions, then passwords', () => {
  const rest = ['key a', 'key locked', 'questions of the server', 'password'];
  assert.deepEqual(plan({}), ['agent key SHA256:b', 'agent key SHA256:x', ...rest]);
  assert.deepEqual(plan({ identitiesOnly: true }), ['agent key SHA256:b', ...rest]);
  assert.deepEqual(plan({ publicKeyAuthentication: false }), ['questions of the server', 'password']);
  assert.deepEqual(plan({ publicKeyAuthentication: false, keyboardInteractiveAuthentication: false, passwordPrompts: 2 }), ['password', 'password']);
  assert.deepEqual(new Set(planAuthentication(config, available).map(methodOf)), new Set(['publickey', 'keyboard-interactive', 'password']));
});

test('hops come before the destination; only the first one’s own jump hosts count', async () => {
  const jumps: Record<string, readonly string[]> = { target: ['one', 'u@two:22'], one: ['zero'], 'u@two:22': ['never'] };
  const route = await resolveRoute(parseDestination('target'), async (destination) => {
    const name = formatDestination(destination);
    return Promise.resolve({ ...config, alias: name, proxyJump: jumps[name] ?? [] });
  });
  assert.deepEqual(route.map(({ alias }) => alias), ['zero', 'one', 'u@two:22', 'target']);
});
