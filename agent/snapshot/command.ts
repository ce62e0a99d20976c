import { execFile } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { join } from 'node:path';

import { cancelledError, MeshpathError } from '../protocol/errors.ts';

/** The folders in which system programs are looked for, whatever PATH a login shell left. */
export const COMMAND_FOLDERS = ['/usr/sbin', '/usr/bin', '/sbin', '/bin', '/usr/local/sbin', '/usr/local/bin', '/run/current-system/sw/bin'];
const TIMEOUT_MILLISECONDS = 20_000;
const MAX_OUTPUT_BYTES = 32 * 1024 * 1024;
const MAX_REASON_CHARACTERS = 400;

/** The Debian and Ubuntu packages that bring the programs which are run. */
const PACKAGES: Readonly<Record<string, string>> = {
  ip: 'iproute2',
  ss: 'iproute2',
  conntrack: 'conntrack',
  nsenter: 'util-linux',
  'iptables-save': 'iptables',
  'ip6tables-save': 'iptables',
  'iptables-restore': 'iptables',
  setpriv: 'util-linux',
};

/** Gives the absolute path of a system program; undefined where it is not installed. */
export function findCommand(name: string): string | undefined {
  return COMMAND_FOLDERS.map((folder) => join(folder, name)).find((path) => {
    try {
      accessSync(path, constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

/** Like findCommand; throws NOT_SUPPORTED with the package to install. */
export function requireCommand(name: string): string {
  const path = findCommand(name);
  if (path === undefined) {
    throw new MeshpathError({
      code: 'NOT_SUPPORTED',
      message: `The program ${name} is not installed on this node.`,
      reason: `It is in none of ${COMMAND_FOLDERS.join(', ')}.`,
      remedy: `Install it: \`sudo apt-get install ${PACKAGES[name] ?? name}\` (or the package of your distribution), then try again.`,
    });
  }
  return path;
}

/**
 * Runs a program with these arguments, without a shell, and gives what it printed. Ends it after 20 s, above 32 MiB and when `signal` aborts.
 * `okCodes` are exit codes other than 0 that are no failure. Throws NOT_SUPPORTED, TIMED_OUT, LIMIT_EXCEEDED, CANCELLED, or KERNEL_UNSUITABLE
 * with what it wrote on standard error.
 */
export async function runCommand(path: string, args: readonly string[], signal: AbortSignal, okCodes: readonly number[] = []): Promise<string> {
  const name = [path, ...args].join(' ').slice(0, 200);
  return new Promise((resolve, reject) => {
    execFile(
      path,
      args,
      {
        encoding: 'utf8',
        timeout: TIMEOUT_MILLISECONDS,
        maxBuffer: MAX_OUTPUT_BYTES,
        killSignal: 'SIGKILL',
        signal,
        env: { PATH: COMMAND_FOLDERS.join(':'), LC_ALL: 'C' },
      },
      (error, stdout, stderr) => {
        if (error === null || (typeof error.code === 'number' && okCodes.includes(error.code))) {
          resolve(stdout);
        } else if (signal.aborted) {
          reject(cancelledError('Reading the node'));
        } else {
          reject(commandError(name, error, stderr));
        }
      },
    );
  });
}

function commandError(name: string, error: { readonly code?: unknown; readonly killed?: boolean; readonly message: string }, stderr: string): MeshpathError {
  const said = stderr.trim().slice(0, MAX_REASON_CHARACTERS);
  if (error.code === 'ERR_CHILD_PROCESS_STDIO_MAXBUFFER') {
    return new MeshpathError({
      code: 'LIMIT_EXCEEDED',
      message: 'A program printed more than Meshpath reads.',
      reason: `'${name}' printed more than ${MAX_OUTPUT_BYTES} bytes.`,
      remedy: 'Run it on the node and look at its output there.',
    });
  }
  if (error.killed === true) {
    return new MeshpathError({
      code: 'TIMED_OUT',
      message: 'A program did not end in time.',
      reason: `'${name}' ran for more than ${TIMEOUT_MILLISECONDS / 1_000} s and was ended.`,
      remedy: 'Run it on the node to see what it waits for (often a lock: /run/xtables.lock), then try again.',
    });
  }
  return new MeshpathError({
    code: 'KERNEL_UNSUITABLE',
    message: 'A program that reads the state of the node failed.',
    reason: `'${name}' ended with ${typeof error.code === 'number' || typeof error.code === 'string' ? error.code : error.message}${said === '' ? '' : `: ${said}`}`,
    remedy: 'Run it on the node as the same user to see why; without privileges use sudo.',
  });
}
