import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { MeshpathError } from '../../agent/protocol/errors.ts';
import { createEnvironment, createPrompts } from '../../test/ssh/surroundings.ts';
import { createHostVerifier } from './hostKeyVerifier.ts';
import type { HostConfig } from './sshConfig.ts';

const config: HostConfig = {
  alias: 'host', hostName: 'host', port: 22, user: 'me', identityFiles: [], identitiesOnly: false, identityAgent: null,
  userKnownHostsFiles: [], globalKnownHostsFiles: [], strictHostKeyChecking: 'ask', proxyJump: [], proxyCommand: null,
  connectTimeoutSeconds: null, hostKeyAlias: null, publicKeyAuthentication: true, keyboardInteractiveAuthentication: true,
  passwordAuthentication: true, passwordPrompts: 3,
};

function blobOf(key: string): Buffer {
  return Buffer.concat([Buffer.from([0, 0, 0, 11]), Buffer.from('ssh-ed25519'), Buffer.from(key)]);
}

function createVerifier(acceptHostKey: boolean): {
  verify: (blob: Buffer) => Promise<boolean>;
  returned: unknown[];
  denials: MeshpathError[];
  questions: () => number;
} {
  const environment = createEnvironment('', createPrompts({ acceptHostKey }));
  const denials: MeshpathError[] = [];
  const verifier: (blob: Buffer, answer: (isRight: boolean) => void) => unknown = createHostVerifier({
    config,
    identity: { host: 'host', port: 22 },
    knownHosts: [],
    environment,
    waitForHuman: async (ask) => ask(new AbortController().signal),
    deny: (error) => {
      denials.push(error);
    },
  });
  const returned: unknown[] = [];
  const verify = async (blob: Buffer): Promise<boolean> =>
    new Promise((resolve) => {
      returned.push(verifier(blob, resolve));
    });
  return { verify, returned, denials, questions: () => environment.prompts.hostKeys.length };
}

// ssh2 takes whatever else a verifier returns, a promise too, for its answer, and a promise is truthy: every key would be right.
test('the verifier returns undefined, whatever the answer will be', async () => {
  for (const isRight of [true, false]) {
    const { verify, returned, denials } = createVerifier(isRight);
    assert.equal(await verify(blobOf('first')), isRight);
    assert.deepEqual(returned, [undefined]);
    assert.deepEqual(denials.map(({ code }) => code), isRight ? [] : ['HOST_KEY_UNKNOWN']);
  }
});

test('a later key exchange must present the same key, and nobody is asked again', async () => {
  const { verify, questions } = createVerifier(true);
  assert.deepEqual([await verify(blobOf('first')), await verify(blobOf('first')), await verify(blobOf('other'))], [true, true, false]);
  assert.equal(questions(), 1);
});

test('what is no key is refused without a question', async () => {
  const { verify, denials, questions } = createVerifier(true);
  assert.equal(await verify(Buffer.from('junk')), false);
  assert.deepEqual(denials.map(({ code }) => code), ['SSH_PROTOCOL_FAILED']);
  assert.equal(questions(), 0);
});
