import { checkKnownHosts, hostKeyFingerprint, knownKeyTypes } from './knownHosts.ts';
import type { HostIdentity, KnownHostsEntry, KnownHostsVerdict, PresentedKey } from './knownHosts.ts';

/** A host key that the user accepted in Meshpath. */
export interface TrustedHostKey {
  /** Lower-case host name or address that was asked for (HostKeyAlias where the configuration has one). */
  readonly host: string;
  readonly port: number;
  /** `ssh-ed25519`, `ecdsa-sha2-nistp256`, `ssh-rsa` … */
  readonly keyType: string;
  /** The public key blob (RFC 4253 §6.6), base64. */
  readonly key: string;
  /** ISO 8601. */
  readonly acceptedAt: string;
}

/** Where accepted host keys are kept: on this machine only, never synchronised, never the user's known_hosts. */
export interface HostKeyTrustStore {
  list(): readonly TrustedHostKey[];
  add(key: TrustedHostKey): Promise<void>;
  /** Forgets every key of this host and port; gives how many there were. */
  forget(host: string, port: number): Promise<number>;
}

/** What a person is asked about a host key that nobody knows yet. */
export interface HostKeyQuestion {
  readonly host: string;
  readonly port: number;
  readonly keyType: string;
  /** `SHA256:…` as `ssh-keygen -lf` prints it. */
  readonly fingerprint: string;
  /** Why it is asked: no key known at all, or only keys of other types. */
  readonly known: 'nothing' | 'other-key-types';
}

/** OpenSSH's StrictHostKeyChecking (ssh_config(5)). */
export type StrictHostKeyChecking = 'yes' | 'no' | 'ask' | 'accept-new';

/** Everything that decides about one host key. */
export interface HostKeyEvidence {
  readonly identity: HostIdentity;
  readonly presented: PresentedKey;
  readonly knownHosts: readonly KnownHostsEntry[];
  readonly trusted: readonly TrustedHostKey[];
  readonly strict: StrictHostKeyChecking;
}

/** What to do with a host key. */
export type HostKeyDecision =
  /** `remember`: the key is new and is to be added to the trust store. */
  | { readonly action: 'trust'; readonly remember: boolean }
  | { readonly action: 'ask'; readonly question: HostKeyQuestion }
  | { readonly action: 'deny'; readonly cause: 'revoked'; readonly where: string }
  /** `expected` is the fingerprint of the key that is known. */
  | { readonly action: 'deny'; readonly cause: 'changed'; readonly where: string; readonly expected: string }
  | { readonly action: 'deny'; readonly cause: 'unknown-and-strict' }
  | { readonly action: 'deny'; readonly cause: 'certificate-only'; readonly where: string };

const TRUST_STORE = 'Meshpath’s accepted host keys';

/**
 * Decides about a host key: a revoked or changed key is always refused, also where checking is off; a known one is
 * trusted; an unknown one follows StrictHostKeyChecking. Pure: it asks nobody and stores nothing.
 */
export function decideHostKey(evidence: HostKeyEvidence): HostKeyDecision {
  const { identity, presented, strict } = evidence;
  const verdicts: readonly KnownHostsVerdict[] = [
    checkKnownHosts(evidence.knownHosts, identity, presented),
    checkKnownHosts(trustedEntries(evidence.trusted, identity), identity, presented),
  ];
  const revoked = verdicts.find((verdict) => verdict.kind === 'revoked');
  if (revoked !== undefined) {
    return { action: 'deny', cause: 'revoked', where: describeEntry(revoked.entry) };
  }
  // The user's own known_hosts comes first: a key accepted here earlier must not outvote a corrected file.
  for (const verdict of verdicts) {
    if (verdict.kind === 'match') {
      return { action: 'trust', remember: false };
    }
    if (verdict.kind === 'mismatch') {
      return { action: 'deny', cause: 'changed', where: describeEntry(verdict.entry), expected: hostKeyFingerprint(verdict.entry.key) };
    }
  }
  if (strict === 'no') {
    return { action: 'trust', remember: false };
  }
  if (strict === 'yes') {
    const authority = verdicts.find((verdict) => verdict.kind === 'certificate-authority-only');
    return authority === undefined
      ? { action: 'deny', cause: 'unknown-and-strict' }
      : { action: 'deny', cause: 'certificate-only', where: describeEntry(authority.entry) };
  }
  if (strict === 'accept-new') {
    return { action: 'trust', remember: true };
  }
  return {
    action: 'ask',
    question: {
      host: identity.host,
      port: identity.port,
      keyType: presented.keyType,
      fingerprint: hostKeyFingerprint(presented.key),
      known: verdicts.some((verdict) => verdict.kind === 'other-key-types') ? 'other-key-types' : 'nothing',
    },
  };
}

/** The host key algorithms that are offered, best first; SHA-1 signatures are left out as OpenSSH does since 8.8. */
const HOST_KEY_ALGORITHMS = [
  'ssh-ed25519',
  'ecdsa-sha2-nistp256',
  'ecdsa-sha2-nistp384',
  'ecdsa-sha2-nistp521',
  'rsa-sha2-512',
  'rsa-sha2-256',
] as const;

export type HostKeyAlgorithm = (typeof HOST_KEY_ALGORITHMS)[number];

/**
 * Gives the host key algorithms to offer with those of known keys first. The client's order decides (RFC 4253 §7.1);
 * without this somebody in between could present a key of a type that is not known and so look like a new host.
 */
export function orderHostKeyAlgorithms(
  identity: HostIdentity,
  knownHosts: readonly KnownHostsEntry[],
  trusted: readonly TrustedHostKey[],
): HostKeyAlgorithm[] {
  const types = new Set(knownKeyTypes([...knownHosts, ...trustedEntries(trusted, identity)], identity));
  const isKnown = (algorithm: HostKeyAlgorithm): boolean => types.has(algorithm.startsWith('rsa-') ? 'ssh-rsa' : algorithm);
  return [...HOST_KEY_ALGORITHMS.filter(isKnown), ...HOST_KEY_ALGORITHMS.filter((algorithm) => !isKnown(algorithm))];
}

function trustedEntries(trusted: readonly TrustedHostKey[], identity: HostIdentity): KnownHostsEntry[] {
  return trusted
    .filter((key) => key.host === identity.host.toLowerCase() && key.port === identity.port)
    .map((key, index) => ({
      marker: 'none',
      patterns: identity.port === 22 ? key.host : `[${key.host}]:${key.port}`,
      keyType: key.keyType,
      key: key.key,
      source: { file: TRUST_STORE, line: index + 1 },
    }));
}

function describeEntry({ source }: KnownHostsEntry): string {
  return source.file === TRUST_STORE ? TRUST_STORE : `${source.file} line ${source.line}`;
}
