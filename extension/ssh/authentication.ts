import type { HostConfig } from './sshConfig.ts';

/** One thing to try; the list of them is the plan. */
export type AuthenticationStep =
  | { readonly kind: 'agent-key'; readonly fingerprint: string }
  | { readonly kind: 'key-file'; readonly path: string }
  | { readonly kind: 'keyboard-interactive'; readonly attempt: number }
  | { readonly kind: 'password'; readonly attempt: number };

/** What is known of the user's keys before anything is tried. */
export interface AvailableKeys {
  /** Fingerprints of the agent's keys, in the agent's order. */
  readonly agentKeys: readonly string[];
  /** The configured identity files and, where it can be told, the fingerprint of their public key. */
  readonly keyFiles: readonly { readonly path: string; readonly fingerprint: string | undefined }[];
}

/** The method names of RFC 4252 and RFC 4256 that a server may list. */
export type ServerMethod = 'publickey' | 'keyboard-interactive' | 'password';

/**
 * Plans authentication in OpenSSH's order (sshconnect2.c, pubkey_prepare): keys that both the agent and the
 * configuration have, the agent's other keys unless IdentitiesOnly is set, the configured files that the agent does
 * not have; then keyboard-interactive, then passwords.
 */
export function planAuthentication(config: HostConfig, available: AvailableKeys): AuthenticationStep[] {
  const steps: AuthenticationStep[] = [];
  if (config.publicKeyAuthentication) {
    const agentKeys = new Set(available.agentKeys);
    const configured = new Set(available.keyFiles.map((file) => file.fingerprint));
    const inBoth = available.keyFiles.flatMap(({ fingerprint }) => (fingerprint !== undefined && agentKeys.has(fingerprint) ? [fingerprint] : []));
    const others = config.identitiesOnly ? [] : available.agentKeys.filter((fingerprint) => !configured.has(fingerprint));
    for (const fingerprint of new Set([...inBoth, ...others])) {
      steps.push({ kind: 'agent-key', fingerprint });
    }
    for (const { path, fingerprint } of available.keyFiles) {
      if (fingerprint === undefined || !agentKeys.has(fingerprint)) {
        steps.push({ kind: 'key-file', path });
      }
    }
  }
  const attempts = Array.from({ length: config.passwordPrompts }, (_, index) => index + 1);
  if (config.keyboardInteractiveAuthentication) {
    steps.push(...attempts.map((attempt) => ({ kind: 'keyboard-interactive', attempt }) as const));
  }
  if (config.passwordAuthentication) {
    steps.push(...attempts.map((attempt) => ({ kind: 'password', attempt }) as const));
  }
  return steps;
}

/** Gives the method that a step uses on the wire. */
export function methodOf(step: AuthenticationStep): ServerMethod {
  return step.kind === 'agent-key' || step.kind === 'key-file' ? 'publickey' : step.kind;
}

/** Says a step in words for a person: what was tried. */
export function describeStep(step: AuthenticationStep): string {
  switch (step.kind) {
    case 'agent-key':
      return `agent key ${step.fingerprint}`;
    case 'key-file':
      return `key ${step.path}`;
    case 'keyboard-interactive':
      return 'questions of the server';
    case 'password':
      return 'password';
  }
}
