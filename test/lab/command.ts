import { spawn } from 'node:child_process';

/** Runs a command to its end with `input` on its standard input and gives what it printed; an Error holds what it complained. */
export async function runCommand(command: string, args: readonly string[], input = ''): Promise<string> {
  const child = spawn(command, args, { stdio: ['pipe', 'pipe', 'pipe'] });
  let output = '';
  let complaint = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => (output += text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => (complaint += text));
  // A command that ends before it read its input closes the pipe: its exit code says what went wrong.
  child.stdin.on('error', () => undefined);
  child.stdin.end(input);
  const code = await new Promise<number | NodeJS.Signals | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (exitCode, signal) => {
      resolve(exitCode ?? signal);
    });
  });
  if (code !== 0) {
    throw new Error(`${[command, ...args].join(' ')} ended with ${String(code)}: ${complaint.trim()}`);
  }
  return output;
}
