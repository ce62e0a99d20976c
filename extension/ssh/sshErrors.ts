import { MeshpathError } from '../../agent/protocol/errors.ts';
import type { WireError } from '../../agent/protocol/errors.ts';
import type { HostKeyDecision } from './hostKeyPolicy.ts';
import { hostKeyFingerprint } from './knownHosts.ts';
import type { PresentedKey } from './knownHosts.ts';
import type { HostConfig } from './sshConfig.ts';

/** What is kept of a server's words for a message. */
const MAX_SERVER_WORDS = 500;

/** The error for a host that no connection could be made to. */
export function unreachable(config: HostConfig, reason: string): MeshpathError {
  return new MeshpathError({
    code: 'HOST_UNREACHABLE',
    message: `${config.alias} (${config.hostName}:${config.port}) cannot be reached.`,
    reason,
    remedy: `Check the name, the port and the network: \`ssh ${config.alias}\` in a terminal shows the same.`,
  });
}

/** The error for a server that does not complete the SSH handshake. */
export function protocolFailed(config: HostConfig, reason: string): MeshpathError {
  return new MeshpathError({
    code: 'SSH_PROTOCOL_FAILED',
    message: `${config.hostName}:${config.port} did not complete the SSH handshake.`,
    reason: clean(reason),
    remedy: `Check that an SSH server listens there: \`ssh -v ${config.alias}\` shows the handshake. Servers that allow only post-quantum key exchange are not supported.`,
  });
}

/** The error for a server that is silent in the handshake. */
export function handshakeTimedOut(config: HostConfig, timeoutMs: number): MeshpathError {
  return new MeshpathError({
    code: 'TIMED_OUT',
    message: `${config.alias} did not answer in time.`,
    reason: `The SSH server at ${config.hostName}:${config.port} was silent for ${timeoutMs / 1000} seconds.`,
    remedy: 'Try again, or raise ConnectTimeout for this host in your ssh configuration.',
  });
}

/** The error for a connection that ended without anybody asking. */
export function connectionLost(config: HostConfig, reason: string): MeshpathError {
  return new MeshpathError({
    code: 'SSH_CONNECTION_LOST',
    message: `The SSH connection to ${config.alias} was lost.`,
    reason: clean(reason),
    remedy: 'Reconnect to the node. The agent there ends by itself; established connections go on over plain TCP.',
  });
}

/** The error for a server that runs no program. */
export function execFailed(config: HostConfig, reason: string): MeshpathError {
  return new MeshpathError({
    code: 'SSH_PROTOCOL_FAILED',
    message: `${config.alias} does not let a program be run.`,
    reason: clean(reason),
    remedy: 'Check ForceCommand, MaxSessions and the login shell of this user on the host.',
  });
}

/** The error for a login that failed: what was tried, what the server accepts, and the reasons on the way. */
export function authenticationFailed(
  config: HostConfig,
  tried: readonly string[],
  offered: readonly string[],
  reasons: readonly string[],
): MeshpathError {
  const attempts = tried.length === 0 ? 'There was nothing to try.' : `Tried: ${tried.join(', ')}.`;
  const accepts = offered.length === 0 ? '' : `The server accepts: ${offered.join(', ')}.`;
  return new MeshpathError({
    code: 'SSH_AUTHENTICATION_FAILED',
    message: `${config.alias} did not let ${config.user} in.`,
    reason: [attempts, accepts, ...reasons].filter((part) => part !== '').join(' '),
    remedy: `Check the user and its keys: \`ssh ${config.user}@${config.alias}\` in a terminal must work. With many keys, set IdentityFile and IdentitiesOnly for this host.`,
  });
}

/** The error for a host key that may not be trusted, with both fingerprints where there are two. */
export function hostKeyDenied(config: HostConfig, presented: PresentedKey, decision: HostKeyDecision & { action: 'deny' }): MeshpathError {
  const fingerprint = hostKeyFingerprint(presented.key);
  const error = ((): WireError => {
    switch (decision.cause) {
      case 'revoked':
        return {
          code: 'HOST_KEY_REVOKED',
          message: `The host key of ${config.alias} is revoked.`,
          reason: `${decision.where} marks ${presented.keyType} ${fingerprint} as @revoked.`,
          remedy: 'Do not connect. Give the host a new key, and ask whoever revoked this one why.',
        };
      case 'changed':
        return {
          code: 'HOST_KEY_MISMATCH',
          message: `The host key of ${config.alias} is not the one that is known. Somebody may be in between.`,
          reason: `${decision.where} has ${decision.expected}, the server presented ${fingerprint} (${presented.keyType}).`,
          remedy:
            'Ask whoever runs the host whether its key changed. If it did, remove the old key: ' +
            `\`ssh-keygen -R ${config.port === 22 ? config.hostName : `[${config.hostName}]:${config.port}`}\`, and “Forget Host Key” in Meshpath.`,
        };
      case 'certificate-only':
        return {
          code: 'HOST_KEY_UNKNOWN',
          message: `The host key of ${config.alias} cannot be verified.`,
          reason: `${decision.where} knows only a certificate authority, and host certificates are not supported.`,
          remedy: `Add the host's plain key to your known_hosts: ${fingerprint}.`,
        };
      case 'unknown-and-strict':
        return {
          code: 'HOST_KEY_UNKNOWN',
          message: `The host key of ${config.alias} is not known.`,
          reason: `StrictHostKeyChecking is on, and no known_hosts file has ${presented.keyType} ${fingerprint}.`,
          remedy: 'Add the host to your known_hosts after comparing the fingerprint, or set StrictHostKeyChecking to ask.',
        };
    }
  })();
  return new MeshpathError(error);
}

/** Gives words of a server as one line of printable text. */
export function clean(text: string): string {
  return text.replaceAll(/[\p{Cc}\p{Cf}\s]+/gu, ' ').trim().slice(0, MAX_SERVER_WORDS);
}
