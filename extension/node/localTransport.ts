import { spawn } from 'node:child_process';
import { MeshpathError } from '../../agent/protocol/errors.ts';
import type { NodeProcess, ProcessExit, Transport } from './transport.ts';

/** Gives a transport that runs programs on this machine through /bin/sh. Closing it ends those that still run. */
export function createLocalTransport(): Transport {
  const running = new Set<NodeProcess>();
  let settleClosed: (error: MeshpathError | null) => void = () => undefined;
  const closed = new Promise<MeshpathError | null>((resolve) => {
    settleClosed = resolve;
  });
  return {
    closed,
    start: async (command) => {
      const started = await startProcess(command);
      running.add(started);
      void started.exited.then(() => running.delete(started));
      return started;
    },
    close: async () => {
      const exits = [...running].map(async (started) => {
        started.kill();
        await started.exited;
      });
      await Promise.all(exits);
      settleClosed(null);
    },
  };
}

async function startProcess(command: string): Promise<NodeProcess> {
  const child = spawn('/bin/sh', ['-c', command], { stdio: 'pipe' });
  const exited = new Promise<ProcessExit>((resolve) => {
    child.once('close', (code, signal) => {
      resolve({ code, signal, lost: null });
    });
  });
  // What is written after it ended has nobody to report to; `exited` says it.
  child.stdin.on('error', () => undefined);
  await new Promise<void>((resolve, reject) => {
    child.once('spawn', resolve);
    child.once('error', (error) => {
      reject(
        new MeshpathError(
          {
            code: 'AGENT_START_FAILED',
            message: 'No program can be run on this machine.',
            reason: error.message,
            remedy: 'Check that /bin/sh is there and may be run.',
          },
          { cause: error },
        ),
      );
    });
  });
  return {
    stdin: child.stdin,
    stdout: child.stdout,
    stderr: child.stderr,
    exited,
    kill: () => {
      // A program under sudo cannot be sent a signal, but ends with its input.
      child.stdin.destroy();
      child.kill();
    },
  };
}
