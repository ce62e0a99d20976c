import { createHash, createHmac, timingSafeEqual } from 'node:crypto';

/** Longer files are cut: OpenSSH's own tools take seconds at this size, and a person never has so many. */
export const MAX_KNOWN_HOSTS_LINES = 200_000;
/** Longer lines are skipped; an RSA key of 16384 bits takes 2800 characters. */
export const MAX_KNOWN_HOSTS_LINE_LENGTH = 16_384;

/** One line of a known_hosts file. */
export interface KnownHostsEntry {
  readonly marker: 'none' | 'revoked' | 'cert-authority';
  /** The first field as written: patterns with commas, or one hashed name. */
  readonly patterns: string;
  readonly keyType: string;
  /** The public key blob, base64. */
  readonly key: string;
  readonly source: { readonly file: string; readonly line: number };
}

/** What the known_hosts files say of one host key. */
export type KnownHostsVerdict =
  /** This key may not be used for this host, whatever other lines say. */
  | { readonly kind: 'revoked'; readonly entry: KnownHostsEntry }
  | { readonly kind: 'match'; readonly entry: KnownHostsEntry }
  /** Another key of the same type is known: the host key changed, or somebody sits in between. */
  | { readonly kind: 'mismatch'; readonly entry: KnownHostsEntry }
  /** The host is known, but only with keys of other types: nothing is said of this one. */
  | { readonly kind: 'other-key-types'; readonly keyTypes: readonly string[] }
  /** Only a certificate authority is known for the host; this client cannot check host certificates. */
  | { readonly kind: 'certificate-authority-only'; readonly entry: KnownHostsEntry }
  | { readonly kind: 'unknown' };

/** A host as known_hosts names it. */
export interface HostIdentity {
  /** Host name, address or HostKeyAlias. */
  readonly host: string;
  readonly port: number;
}

/** A host key as the server presents it. */
export interface PresentedKey {
  readonly keyType: string;
  /** The public key blob, base64. */
  readonly key: string;
}

const SSH_PORT = 22;
const HASH_PREFIX = '|1|';
const BASE64 = /^[A-Za-z0-9+/]+={0,2}$/;
const KEY_TYPE = /^[\w@.-]{1,64}$/;

/**
 * Reads a known_hosts file (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT). Lines that are not entries are left out, as
 * OpenSSH does; `file` is only remembered for messages.
 */
export function parseKnownHosts(text: string, file: string): KnownHostsEntry[] {
  const entries: KnownHostsEntry[] = [];
  const lines = text.split('\n', MAX_KNOWN_HOSTS_LINES);
  for (const [index, line] of lines.entries()) {
    const entry = line.length <= MAX_KNOWN_HOSTS_LINE_LENGTH ? parseLine(line.trim(), { file, line: index + 1 }) : undefined;
    if (entry !== undefined) {
      entries.push(entry);
    }
  }
  return entries;
}

function parseLine(line: string, source: KnownHostsEntry['source']): KnownHostsEntry | undefined {
  if (line === '' || line.startsWith('#')) {
    return undefined;
  }
  const fields = line.split(/[ \t]+/);
  const first = fields[0] ?? '';
  const marker = first === '@revoked' ? 'revoked' : first === '@cert-authority' ? 'cert-authority' : 'none';
  if (marker === 'none' && first.startsWith('@')) {
    return undefined;
  }
  const [patterns, keyType, key] = marker === 'none' ? fields : fields.slice(1);
  if (patterns === undefined || keyType === undefined || key === undefined || !KEY_TYPE.test(keyType) || !BASE64.test(key)) {
    return undefined;
  }
  return { marker, patterns, keyType, key, source };
}

/**
 * Says whether an entry's first field names this host. Hashed names are HMAC-SHA1 of the name with the salt that
 * stands before it; a pattern with `!` that fits vetoes the whole line (OpenSSH match.c, match_hostname).
 */
export function matchesHost(patterns: string, identity: HostIdentity): boolean {
  return matchesName(patterns, knownHostsName(identity));
}

/** Gives the name under which known_hosts keeps a host: `host` for port 22, else `[host]:port`; lower case. */
export function knownHostsName({ host, port }: HostIdentity): string {
  const name = host.toLowerCase();
  return port === SSH_PORT ? name : `[${name}]:${port}`;
}

function matchesName(patterns: string, name: string): boolean {
  if (patterns.startsWith(HASH_PREFIX)) {
    return matchesHash(patterns, name);
  }
  let matched = false;
  for (const pattern of patterns.toLowerCase().split(',')) {
    const negated = pattern.startsWith('!');
    if (matchesPattern(negated ? pattern.slice(1) : pattern, name)) {
      if (negated) {
        return false;
      }
      matched = true;
    }
  }
  return matched;
}

function matchesHash(field: string, name: string): boolean {
  const [salt, hash] = field.slice(HASH_PREFIX.length).split('|');
  if (salt === undefined || hash === undefined) {
    return false;
  }
  const wanted = Buffer.from(hash, 'base64');
  const actual = createHmac('sha1', Buffer.from(salt, 'base64')).update(name).digest();
  return wanted.length === actual.length && timingSafeEqual(wanted, actual);
}

/**
 * Matches OpenSSH's patterns: `*` for any characters, `?` for one. Takes time proportional to the product of both
 * lengths at worst, so that no line can make it hang.
 */
export function matchesPattern(pattern: string, text: string): boolean {
  let patternAt = 0;
  let textAt = 0;
  let starAt = -1;
  let retryAt = 0;
  while (textAt < text.length) {
    const wanted = pattern[patternAt];
    if (wanted === '*') {
      starAt = patternAt;
      retryAt = textAt;
      patternAt += 1;
    } else if (wanted === '?' || (wanted !== undefined && wanted === text[textAt])) {
      patternAt += 1;
      textAt += 1;
    } else if (starAt >= 0) {
      patternAt = starAt + 1;
      retryAt += 1;
      textAt = retryAt;
    } else {
      return false;
    }
  }
  while (pattern[patternAt] === '*') {
    patternAt += 1;
  }
  return patternAt === pattern.length;
}

/**
 * Says what the entries know of the key that a host presents. Revocation is looked at first and on its own, so that
 * the order of lines never matters. A host on another port than 22 that is unknown as `[host]:port` is accepted where
 * its plain name has the very same key, as OpenSSH does (sshconnect.c, "checking without port identifier").
 */
export function checkKnownHosts(
  entries: readonly KnownHostsEntry[],
  identity: HostIdentity,
  presented: PresentedKey,
): KnownHostsVerdict {
  const verdict = checkName(entries, knownHostsName(identity), presented);
  if (identity.port === SSH_PORT || verdict.kind === 'revoked' || verdict.kind === 'match' || verdict.kind === 'mismatch') {
    return verdict;
  }
  const plain = checkName(entries, knownHostsName({ host: identity.host, port: SSH_PORT }), presented);
  return plain.kind === 'match' || plain.kind === 'revoked' ? plain : verdict;
}

function checkName(entries: readonly KnownHostsEntry[], name: string, presented: PresentedKey): KnownHostsVerdict {
  const mine = entries.filter((entry) => matchesName(entry.patterns, name));
  const isSameKey = (entry: KnownHostsEntry): boolean => entry.keyType === presented.keyType && entry.key === presented.key;

  const revoked = mine.find((entry) => entry.marker === 'revoked' && isSameKey(entry));
  if (revoked !== undefined) {
    return { kind: 'revoked', entry: revoked };
  }
  const plain = mine.filter((entry) => entry.marker === 'none');
  const match = plain.find(isSameKey);
  if (match !== undefined) {
    return { kind: 'match', entry: match };
  }
  const mismatch = plain.find((entry) => entry.keyType === presented.keyType);
  if (mismatch !== undefined) {
    return { kind: 'mismatch', entry: mismatch };
  }
  if (plain.length > 0) {
    return { kind: 'other-key-types', keyTypes: [...new Set(plain.map((entry) => entry.keyType))] };
  }
  const authority = mine.find((entry) => entry.marker === 'cert-authority');
  return authority === undefined ? { kind: 'unknown' } : { kind: 'certificate-authority-only', entry: authority };
}

/** Gives the types of the keys that are known for a host, each once, in the order of the entries. */
export function knownKeyTypes(entries: readonly KnownHostsEntry[], identity: HostIdentity): string[] {
  const names = new Set([knownHostsName(identity), knownHostsName({ host: identity.host, port: SSH_PORT })]);
  const types = entries
    .filter((entry) => entry.marker === 'none' && [...names].some((name) => matchesName(entry.patterns, name)))
    .map((entry) => entry.keyType);
  return [...new Set(types)];
}

/** Gives a key's fingerprint as `ssh-keygen -lf` prints it: `SHA256:` and base64 without padding. */
export function hostKeyFingerprint(keyBase64: string): string {
  const digest = createHash('sha256').update(Buffer.from(keyBase64, 'base64')).digest('base64');
  return `SHA256:${digest.replace(/=+$/, '')}`;
}

/** Reads the key type from a public key blob (RFC 4253 §6.6: a string first); undefined where it is not one. */
export function keyTypeOfBlob(blob: Uint8Array): string | undefined {
  const view = Buffer.from(blob.buffer, blob.byteOffset, blob.byteLength);
  if (view.length < 4) {
    return undefined;
  }
  const length = view.readUInt32BE(0);
  const type = length <= 64 && view.length >= 4 + length ? view.toString('latin1', 4, 4 + length) : '';
  return KEY_TYPE.test(type) ? type : undefined;
}
