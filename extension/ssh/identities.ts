import { readFile } from 'node:fs/promises';
import ssh2 from 'ssh2';
import type { IdentityCallback, ParsedKey, SignCallback, SigningRequestOptions } from 'ssh2';
import { MeshpathError } from '../../agent/protocol/errors.ts';
import { hostKeyFingerprint } from './knownHosts.ts';

/** Private keys are a few kilobytes; a longer file is something else. */
const MAX_KEY_FILE_BYTES = 64 * 1024;
const MAX_AGENT_KEYS = 64;
const OPENSSH_KEY_MAGIC = 'openssh-key-v1\0';

/** A key that can prove who the user is. What is secret of it is loaded only once a server wants a signature. */
export interface Identity {
  /** `agent` or the path of its file, for messages. */
  readonly source: string;
  /** `SHA256:…`. */
  readonly fingerprint: string;
  readonly publicKey: ParsedKey;
  sign(data: Buffer, options: SigningRequestOptions): Promise<Buffer>;
}

/** Asks for the passphrase of a key file; undefined where the person declines. `attempt` counts from 1. */
export type AskPassphrase = (path: string, attempt: number) => Promise<string | undefined>;

/** Lists the keys of an ssh agent; keys that ssh2 cannot use (security keys, certificates) are left out. Throws where no agent answers. */
export async function listAgentIdentities(socketPath: string): Promise<Identity[]> {
  const agent = new ssh2.OpenSSHAgent(socketPath);
  const keys = await new Promise<readonly ParsedKey[]>((resolve, reject) => {
    agent.getIdentities((error, found) => {
      if (error !== undefined && error !== null) {
        reject(error);
      } else {
        resolve((found ?? []).flatMap((key) => (isParsedKey(key) ? [key] : [])));
      }
    });
  });
  return keys.slice(0, MAX_AGENT_KEYS).map((key) => ({
    source: 'agent',
    fingerprint: fingerprintOf(key),
    publicKey: key,
    sign: async (data, options) =>
      new Promise<Buffer>((resolve, reject) => {
        agent.sign(key, data, options, (error, signature) => {
          if (signature === undefined) {
            reject(error ?? new Error('The ssh agent gave no signature.'));
          } else {
            resolve(signature);
          }
        });
      }),
  }));
}

/**
 * Reads a private key file; undefined where there is none of that name. The passphrase of an encrypted one is asked
 * for only when a server accepts its public key, as OpenSSH does; where the public key cannot be told without it (old
 * PEM files with no `.pub` beside them), at once. SSH_KEY_UNREADABLE where it is there and cannot be used.
 */
export async function readIdentityFile(path: string, askPassphrase: AskPassphrase): Promise<Identity | undefined> {
  const text = await readKeyFile(path);
  if (text === undefined) {
    return undefined;
  }
  const plain = parsePrivateKey(text);
  if (!(plain instanceof Error)) {
    return fileIdentity(path, plain, () => Promise.resolve(plain));
  }
  const unlock = async (): Promise<ParsedKey> => unlockKey(path, text, askPassphrase);
  if (!isEncrypted(text)) {
    throw unreadableKey(path, plain.message, 'Use a key in OpenSSH or PEM form: `ssh-keygen -p -f FILE` rewrites it.');
  }
  const publicKey = await readPublicPart(path, text);
  if (publicKey !== undefined) {
    return fileIdentity(path, publicKey, unlock);
  }
  const unlocked = await unlock();
  return fileIdentity(path, unlocked, () => Promise.resolve(unlocked));
}

/** Gives the fingerprint of the public key of an identity file (`FILE` or `FILE.pub`), without any passphrase; undefined where it cannot be told. */
export async function readIdentityFingerprint(path: string): Promise<string | undefined> {
  const text = await readKeyFile(path);
  const plain = text === undefined ? undefined : parsePrivateKey(text);
  if (plain !== undefined && !(plain instanceof Error)) {
    return fingerprintOf(plain);
  }
  const publicKey = await readPublicPart(path, text ?? '');
  return publicKey === undefined ? undefined : fingerprintOf(publicKey);
}

/** An ssh2 agent that holds one identity: it lets a signature wait for a person, which ssh2's own key method does not. */
export class IdentityAgent extends ssh2.BaseAgent<ParsedKey> {
  readonly #identity: Identity;
  readonly #onSigningFailed: (error: unknown) => void;

  constructor(identity: Identity, onSigningFailed: (error: unknown) => void) {
    super();
    this.#identity = identity;
    this.#onSigningFailed = onSigningFailed;
  }

  override getIdentities(callback: IdentityCallback<ParsedKey>): void {
    callback(undefined, [this.#identity.publicKey]);
  }

  override sign(_key: ParsedKey, data: Buffer, options: SigningRequestOptions | SignCallback, callback?: SignCallback): void {
    const [signing, done] = typeof options === 'function' ? [{}, options] : [options, callback];
    this.#identity.sign(data, signing).then(
      (signature) => done?.(undefined, signature),
      (error: unknown) => {
        this.#onSigningFailed(error);
        done?.(error instanceof Error ? error : new Error(String(error)));
      },
    );
  }
}

function fileIdentity(path: string, publicKey: ParsedKey, load: () => Promise<ParsedKey>): Identity {
  return {
    source: path,
    fingerprint: fingerprintOf(publicKey),
    publicKey,
    sign: async (data, options) => {
      const key = await load();
      const signature: unknown = key.sign(data, options.hash);
      if (!Buffer.isBuffer(signature)) {
        throw unreadableKey(path, signature instanceof Error ? signature.message : 'It gave no signature.', 'Try the key with `ssh-keygen -y -f FILE`.');
      }
      return signature;
    },
  };
}

async function unlockKey(path: string, text: string, askPassphrase: AskPassphrase): Promise<ParsedKey> {
  const MAX_ATTEMPTS = 3;
  let reason = 'No passphrase was given.';
  for (let attempt = 1; attempt <= MAX_ATTEMPTS; attempt += 1) {
    const passphrase = await askPassphrase(path, attempt);
    if (passphrase === undefined) {
      break;
    }
    const key = parsePrivateKey(text, passphrase);
    if (!(key instanceof Error)) {
      return key;
    }
    reason = 'The passphrase is wrong.';
  }
  throw unreadableKey(path, reason, 'Connect again with the right passphrase, or add the key to your ssh agent with `ssh-add`.');
}

async function readKeyFile(path: string): Promise<string | undefined> {
  try {
    const bytes = await readFile(path);
    if (bytes.length > MAX_KEY_FILE_BYTES) {
      throw unreadableKey(path, `It has ${bytes.length} bytes, more than any private key.`, 'Point IdentityFile at a private key.');
    }
    return bytes.toString('utf8');
  } catch (error) {
    if (error instanceof MeshpathError) {
      throw error;
    }
    const code = error instanceof Error && 'code' in error ? error.code : undefined;
    if (code === 'ENOENT' || code === 'ENOTDIR') {
      return undefined;
    }
    throw unreadableKey(path, error instanceof Error ? error.message : String(error), `Make the file readable for you: chmod 600 and the right owner.`);
  }
}

function parsePrivateKey(text: string, passphrase?: string): ParsedKey | Error {
  const parsed: unknown = passphrase === undefined ? ssh2.utils.parseKey(text) : ssh2.utils.parseKey(text, passphrase);
  const key: unknown = Array.isArray(parsed) ? parsed[0] : parsed;
  if (key instanceof Error) {
    return key;
  }
  return isParsedKey(key) && key.isPrivateKey() ? key : new Error('It holds no private key.');
}

function isParsedKey(value: unknown): value is ParsedKey {
  return typeof value === 'object' && value !== null && 'getPublicSSH' in value;
}

function isEncrypted(text: string): boolean {
  return /Proc-Type: 4,ENCRYPTED|BEGIN ENCRYPTED PRIVATE KEY|BEGIN OPENSSH PRIVATE KEY|PuTTY-User-Key-File/.test(text);
}

async function readPublicPart(path: string, privateText: string): Promise<ParsedKey | undefined> {
  const blob = publicBlobOfOpenSshKey(privateText);
  const fromPrivate = blob === undefined ? undefined : parsePublicKey(blob);
  if (fromPrivate !== undefined) {
    return fromPrivate;
  }
  const text = await readKeyFile(path.endsWith('.pub') ? path : `${path}.pub`);
  return text === undefined ? undefined : parsePublicKey(text);
}

function parsePublicKey(data: Buffer | string): ParsedKey | undefined {
  const key: unknown = ssh2.utils.parseKey(data);
  return isParsedKey(key) ? key : undefined;
}

/** OpenSSH's own format keeps the public key in the clear before the encrypted part (PROTOCOL.key §1). */
function publicBlobOfOpenSshKey(text: string): Buffer | undefined {
  const body = /-----BEGIN OPENSSH PRIVATE KEY-----([\sA-Za-z0-9+/=]+)-----END/.exec(text)?.[1];
  if (body === undefined) {
    return undefined;
  }
  const bytes = Buffer.from(body, 'base64');
  if (bytes.toString('latin1', 0, OPENSSH_KEY_MAGIC.length) !== OPENSSH_KEY_MAGIC) {
    return undefined;
  }
  let offset = OPENSSH_KEY_MAGIC.length;
  const readString = (): Buffer | undefined => {
    if (offset + 4 > bytes.length) {
      return undefined;
    }
    const end = offset + 4 + bytes.readUInt32BE(offset);
    const value = end <= bytes.length ? bytes.subarray(offset + 4, end) : undefined;
    offset = end;
    return value;
  };
  const cipher = readString();
  const kdf = readString();
  const kdfOptions = readString();
  const keyCountEnd = offset + 4;
  offset = keyCountEnd;
  return cipher === undefined || kdf === undefined || kdfOptions === undefined ? undefined : readString();
}

function fingerprintOf(key: ParsedKey): string {
  return hostKeyFingerprint(key.getPublicSSH().toString('base64'));
}

function unreadableKey(path: string, reason: string, remedy: string): MeshpathError {
  return new MeshpathError({ code: 'SSH_KEY_UNREADABLE', message: `The private key ${path} cannot be used.`, reason, remedy });
}
