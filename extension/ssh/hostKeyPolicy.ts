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
