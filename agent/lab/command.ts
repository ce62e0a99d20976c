import { spawn } from 'node:child_process';
import { cancelledError, MeshpathError } from '../protocol/errors.ts';
import { COMMAND_FOLDERS, requireCommand } from '../snapshot/command.ts';

const MAX_OUTPUT_CHARACTERS = 1024 * 1024;
const MAX_REASON_CHARACTERS = 600;

/**
 * Runs a system program to its end with `input` on its standard input, without a shell, and gives what it printed, at most one
 * million characters. Ends it when `signal` aborts. Throws NOT_SUPPORTED where it is not installed, CANCELLED, and LAB_FAILED with
 * what it complained.
 */
export async function runCommand(command: string, args: readonly string[], input = '', signal?: AbortSignal): Promise<string> {
  const path = requireCommand(command);
  const child = spawn(path, args, {
    stdio: ['pipe', 'pipe', 'pipe'],
    env: { PATH: COMMAND_FOLDERS.join(':'), LC_ALL: 'C' },
    killSignal: 'SIGKILL',
    ...(signal === undefined ? {} : { signal }),
  });
  let output = '';
  let complaint = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => (output = (output + text).slice(0, MAX_OUTPUT_CHARACTERS)));
  child.stderr.setEncoding('utf8').on('data', (text: string) => (complaint = (complaint + text).slice(0, MAX_OUTPUT_CHARACTERS)));
  // A command that ends before it read its input closes the pipe: its exit code says what went wrong.
  child.stdin.on('error', () => undefined);
  child.stdin.end(input);
  const outcome = await new Promise<number | NodeJS.Signals | Error | null>((resolve) => {
    child.once('error', resolve);
    child.once('close', (exitCode, endSignal) => {
      resolve(exitCode ?? endSignal);
    });
  });
  if (signal?.aborted === true) {
    throw cancelledError('Work on the lab');
  }
  if (outcome !== 0) {
    throw new MeshpathError({
      code: 'LAB_FAILED',
      message: `${[command, ...args].join(' ').slice(0, 200)} failed.`,
      reason: `It ended with ${outcome instanceof Error ? outcome.message : String(outcome)}: ${complaint.trim().slice(0, MAX_REASON_CHARACTERS)}`,
      remedy: 'Run it on the node as root to see why. What the lab had made by then is removed.',
    });
  }
  return output;
}
