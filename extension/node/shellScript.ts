import { randomBytes } from 'node:crypto';
import type { Readable } from 'node:stream';
import { MeshpathError, cancelledError } from '../../agent/protocol/errors.ts';
import type { NodeProcess, Transport } from './transport.ts';

/** What a script may print, bytes; more is an error. */
const MAX_OUTPUT_BYTES = 1024 * 1024;
const MAX_ERROR_BYTES = 16 * 1024;
/** A login shell may give a short PATH, or none: the system's folders come after whatever it has. */
const PATH_SUFFIX = '/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin';

/** What a script did. */
export interface ScriptResult {
  readonly code: number;
  /** What the script itself printed, without what a login shell printed around it. */
  readonly output: string;
  /** Everything on the error stream, cut at 16 KiB. */
  readonly errors: string;
}

export interface ScriptOptions {
  readonly signal: AbortSignal;
  readonly timeoutMs: number;
  /** Given to the script as its input, piece by piece. */
  readonly input?: Iterable<Uint8Array> | undefined;
  /** What runs it, for messages: `Looking at the node`. */
  readonly what: string;
}

/**
 * Quotes a word for a POSIX shell script. NUL cannot be in a word; it throws a RangeError for it.
 */
export function quoteForShell(word: string): string {
  if (word.includes('\0')) {
    throw new RangeError('a shell word cannot hold a NUL character');
  }
  return `'${word.replaceAll("'", `'\\''`)}'`;
}

/**
 * Gives the command line that runs a script under /bin/sh whatever the login shell is (fish, csh, nologin wrappers):
 * only plain words, single quotes and base64 reach the login shell. The script's input stays free.
 */
export function toCommandLine(script: string): string {
  const encoded = Buffer.from(script, 'utf8').toString('base64');
  return `/bin/sh -c 'PATH=$PATH:${PATH_SUFFIX}; export PATH; eval "$(printf %s ${encoded} | base64 -d)"'`;
}

/**
 * Runs a script and gives what it printed between two lines with a random word, so that neither a message of the day
 * nor a noisy profile is mistaken for it. Rejects with the transport's error where that is lost, CANCELLED, TIMED_OUT,
 * or SSH_PROTOCOL_FAILED where the script never ran; nothing of it runs on afterwards.
 */
export async function runScript(transport: Transport, script: string, options: ScriptOptions): Promise<ScriptResult> {
  const nonce = randomBytes(12).toString('hex');
  const wrapped = `printf '\\n%s\\n' ${nonce}:begin\n(\n${script}\n)\nprintf '\\n%s %s\\n' ${nonce}:end "$?"\n`;
  options.signal.throwIfAborted();
  const running = await transport.start(toCommandLine(wrapped));
  const stop = stopEarly(running, options);
  try {
    const outputs = Promise.all([collect(running.stdout, MAX_OUTPUT_BYTES), collect(running.stderr, MAX_ERROR_BYTES)]);
    feed(running, options.input ?? []);
    const [[output, errors], exit] = await Promise.race([Promise.all([outputs, running.exited]), stop.reason]);
    if (exit.lost !== null) {
      throw exit.lost;
    }
    return cutOut(output, errors, nonce, options.what);
  } finally {
    stop.clear();
  }
}

function feed(running: NodeProcess, input: Iterable<Uint8Array>): void {
  for (const piece of input) {
    running.stdin.write(piece);
  }
  running.stdin.end();
}

/** Rejects and ends the program when it is cancelled or takes too long. */
function stopEarly(running: NodeProcess, { signal, timeoutMs, what }: ScriptOptions): { reason: Promise<never>; clear: () => void } {
  let clear: () => void = () => undefined;
  const reason = new Promise<never>((_, reject) => {
    const end = (error: MeshpathError): void => {
      running.kill();
      reject(error);
    };
    const onAbort = (): void => {
      end(cancelledError(what));
    };
    const timer = setTimeout(() => {
      end(
        new MeshpathError({
          code: 'TIMED_OUT',
          message: `${what} took too long.`,
          reason: `The node did not answer within ${timeoutMs / 1000} seconds.`,
          remedy: 'Try again when the node is less busy.',
        }),
      );
    }, timeoutMs);
    signal.addEventListener('abort', onAbort, { once: true });
    clear = () => {
      clearTimeout(timer);
      signal.removeEventListener('abort', onAbort);
    };
  });
  return { reason, clear };
}

async function collect(stream: Readable, maxBytes: number): Promise<string> {
  return new Promise((resolve) => {
    const pieces: Buffer[] = [];
    let length = 0;
    stream.on('data', (piece: Buffer) => {
      if (length < maxBytes) {
        pieces.push(piece.subarray(0, maxBytes - length));
      }
      length += piece.length;
    });
    const done = (): void => {
      resolve(Buffer.concat(pieces).toString('utf8'));
    };
    stream.once('end', done);
    stream.once('close', done);
  });
}

function cutOut(output: string, errors: string, nonce: string, what: string): ScriptResult {
  const begin = output.indexOf(`${nonce}:begin\n`);
  const end = output.lastIndexOf(`\n${nonce}:end `);
  const code = end < 0 ? Number.NaN : Number.parseInt(output.slice(end + nonce.length + 6), 10);
  if (begin < 0 || end < begin || Number.isNaN(code)) {
    throw new MeshpathError({
      code: 'SSH_PROTOCOL_FAILED',
      message: `${what} failed: the node did not run the script to its end.`,
      reason: printable(`${output.slice(0, 300)} ${errors.slice(0, 300)}`) || 'It printed nothing at all.',
      remedy: 'The user needs a login shell on the node, with /bin/sh and base64; check ForceCommand and the shell of this user.',
    });
  }
  return { code, output: output.slice(begin + nonce.length + 7, end), errors };
}

/** Gives what a program printed as one line of printable text, for a reason. */
export function printable(text: string): string {
  return text.replaceAll(/[\p{Cc}\p{Cf}\s]+/gu, ' ').trim();
}
