import { readFile } from 'node:fs/promises';
import { MeshpathError, toMeshpathError } from '../../agent/protocol/errors.ts';
import type { SshEnvironment } from './environment.ts';
import { decideHostKey } from './hostKeyPolicy.ts';
import { hostKeyFingerprint, keyTypeOfBlob, parseKnownHosts } from './knownHosts.ts';
import type { HostIdentity, KnownHostsEntry, PresentedKey } from './knownHosts.ts';
import type { HostConfig } from './sshConfig.ts';
import { hostKeyDenied, protocolFailed } from './sshErrors.ts';

/** What verifying the host key of one hop needs. */
export interface VerifierContext {
  readonly config: HostConfig;
  readonly identity: HostIdentity;
  readonly knownHosts: readonly KnownHostsEntry[];
  readonly environment: SshEnvironment;
  /** Runs what waits for a person with the network's clock stopped. */
  readonly waitForHuman: <T>(ask: (signal: AbortSignal) => Promise<T>) => Promise<T>;
  readonly deny: (error: MeshpathError) => void;
}

/**
 * Gives ssh2's host verifier. It must stay a plain function that returns undefined: ssh2 takes any other value,
 * a promise too, as the answer, and a promise is truthy. It is also called for every later key exchange, where only
 * the key that was accepted first is right.
 */
export function createHostVerifier(context: VerifierContext): (blob: Buffer, answer: (isRight: boolean) => void) => void {
  let accepted: string | undefined;
  return (blob, answer) => {
    const key = blob.toString('base64');
    if (accepted !== undefined) {
      answer(accepted === key);
      return;
    }
    const keyType = keyTypeOfBlob(blob);
    if (keyType === undefined) {
      context.deny(protocolFailed(context.config, 'The server presented a host key that is none.'));
      answer(false);
      return;
    }
    verifyHostKey({ keyType, key }, context).then(
      () => {
        accepted = key;
        answer(true);
      },
      (error: unknown) => {
        context.deny(toMeshpathError(error));
        answer(false);
      },
    );
  };
}

/** Resolves where the key is to be trusted; rejects with the reason otherwise. */
async function verifyHostKey(presented: PresentedKey, context: VerifierContext): Promise<void> {
  const { config, identity, environment } = context;
  environment.onPhase('verifyingHost', `Verifying the host key of ${config.alias}`);
  const decision = decideHostKey({
    identity,
    presented,
    knownHosts: context.knownHosts,
    trusted: environment.trustStore.list(),
    strict: config.strictHostKeyChecking,
  });
  const fingerprint = hostKeyFingerprint(presented.key);
  if (decision.action === 'deny') {
    throw hostKeyDenied(config, presented, decision);
  }
  if (decision.action === 'ask') {
    const isRight = await context.waitForHuman(async (signal) => environment.prompts.confirmHostKey(decision.question, signal));
    if (!isRight) {
      throw new MeshpathError({
        code: 'HOST_KEY_UNKNOWN',
        message: `The host key of ${config.alias} was not accepted.`,
        reason: `Nobody knows this ${presented.keyType} key yet: ${fingerprint}.`,
        remedy: 'Compare it with the output of `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on the host, then connect again.',
      });
    }
  }
  if (decision.action === 'ask' || decision.remember) {
    await environment.trustStore.add({
      host: identity.host.toLowerCase(),
      port: identity.port,
      keyType: presented.keyType,
      key: presented.key,
      acceptedAt: new Date().toISOString(),
    });
  }
  environment.log(`${config.alias}: host key ${presented.keyType} ${fingerprint}`);
}

/** Reads every known_hosts file of a host; one that is not there counts as empty, one that cannot be read is SSH_CONFIG_INVALID. */
export async function readKnownHosts(config: HostConfig): Promise<KnownHostsEntry[]> {
  const entries: KnownHostsEntry[] = [];
  for (const file of [...config.userKnownHostsFiles, ...config.globalKnownHostsFiles]) {
    try {
      entries.push(...parseKnownHosts(await readFile(file, 'utf8'), file));
    } catch (error) {
      const code = error instanceof Error && 'code' in error ? error.code : undefined;
      if (code !== 'ENOENT' && code !== 'ENOTDIR') {
        // A revocation may stand in it: going on without it could trust a key that must not be.
        throw new MeshpathError(
          {
            code: 'SSH_CONFIG_INVALID',
            message: `The file of known hosts ${file} cannot be read.`,
            reason: error instanceof Error ? error.message : String(error),
            remedy: 'Make the file readable for you, or take it out of UserKnownHostsFile or GlobalKnownHostsFile.',
          },
          { cause: error },
        );
      }
    }
  }
  return entries;
}
