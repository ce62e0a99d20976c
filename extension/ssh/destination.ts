import { inputError } from '../../agent/protocol/errors.ts';

/** A host as a person writes it: an alias of the ssh configuration, or `user@host:port`. */
export interface Destination {
  readonly host: string;
  readonly user: string | null;
  readonly port: number | null;
}

const MAX_TEXT_LENGTH = 512;
/** What a host may hold; it may not begin with `-`, which ssh would take for an option. */
const HOST = /^[A-Za-z0-9_.:%][A-Za-z0-9_.:%-]{0,254}$/;
/** What a user may hold: no white space, nothing that a shell takes apart, not `-` first. */
const USER = /^[A-Za-z0-9_.+\\@][A-Za-z0-9_.+\\@-]{0,127}$/;

/**
 * Reads `host`, `user@host`, `host:port`, `[address]:port` or `ssh://user@host:port`. An IPv6 address with a port
 * needs the brackets. Throws INPUT_INVALID for anything else.
 */
export function parseDestination(text: string): Destination {
  const trimmed = text.trim();
  if (trimmed.length > MAX_TEXT_LENGTH) {
    throw destinationError(trimmed.slice(0, 40), `It is longer than ${MAX_TEXT_LENGTH} characters.`);
  }
  const bare = trimmed.replace(/^ssh:\/\//i, '').replace(/\/$/, '');
  const at = bare.lastIndexOf('@');
  const user = at < 0 ? null : bare.slice(0, at);
  const { host, port } = splitPort(bare.slice(at + 1));
  if (!HOST.test(host)) {
    throw destinationError(trimmed, 'A host has letters, digits and . _ : % -, and does not begin with -.');
  }
  // Without brackets it would be a host and a port.
  if (/^[^:]*:[^:]*$/.test(host)) {
    throw destinationError(trimmed, 'Only IPv6 addresses have colons, and those have two at least.');
  }
  if (user !== null && !USER.test(user)) {
    throw destinationError(trimmed, 'A user has letters, digits and . _ + \\ @ -, and does not begin with -.');
  }
  if (port !== null && (!/^\d{1,5}$/.test(port) || Number(port) < 1 || Number(port) > 65_535)) {
    throw destinationError(trimmed, `'${port}' is not a port from 1 to 65535.`);
  }
  return { host, user, port: port === null ? null : Number(port) };
}

/** Gives a destination as text, so that `parseDestination` reads the same again. */
export function formatDestination({ host, user, port }: Destination): string {
  const name = port === null ? host : `${host.includes(':') ? `[${host}]` : host}:${port}`;
  return user === null ? name : `${user}@${name}`;
}

function splitPort(text: string): { host: string; port: string | null } {
  const bracketed = /^\[([^\]]*)\](?::(.*))?$/.exec(text);
  if (bracketed !== null) {
    return { host: bracketed[1] ?? '', port: bracketed[2] ?? null };
  }
  const colon = text.indexOf(':');
  const isPlainAddress6 = colon !== text.lastIndexOf(':');
  return colon < 0 || isPlainAddress6
    ? { host: text, port: null }
    : { host: text.slice(0, colon), port: text.slice(colon + 1) };
}

function destinationError(text: string, reason: string): Error {
  return inputError(`'${text}' is not a host to connect to.`, reason, 'Write an alias of your ssh configuration, or user@host:port.');
}
