import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { rm, writeFile } from 'node:fs/promises';
import { promisify } from 'node:util';

const runFile = promisify(execFile);

/** A user of the machine that lives as long as a test. */
export interface TemporaryUser {
  readonly name: string;
  /** For sudo; random. */
  readonly password: string;
  /** Lets the user run anything as root by sudo, after its password or at once. */
  allowSudo(how: 'with-password' | 'at-once'): Promise<void>;
  remove(): Promise<void>;
}

/** Makes a user without special rights, with its home in `home`. Needs root. */
export async function createTemporaryUser(home: string): Promise<TemporaryUser> {
  const name = `mp${process.pid.toString(36)}${randomBytes(3).toString('hex')}`;
  const password = randomBytes(12).toString('hex');
  const { stdout: hash } = await runFile('openssl', ['passwd', '-6', password]);
  await runFile('useradd', ['--no-create-home', '--home-dir', home, '--shell', '/bin/sh', '--password', hash.trim(), name]);
  const rules = `/etc/sudoers.d/${name}`;
  return {
    name,
    password,
    allowSudo: async (how) => {
      await writeFile(rules, `${name} ALL=(ALL) ${how === 'at-once' ? 'NOPASSWD: ' : ''}ALL\n`, { mode: 0o440 });
    },
    remove: async () => {
      await rm(rules, { force: true });
      await runFile('userdel', ['--force', name]).catch((error: unknown) => {
        // userdel complains about processes of the user that are about to end, after it has removed the user.
        if (!(error instanceof Error && 'code' in error && error.code === 12)) {
          throw error;
        }
      });
    },
  };
}
