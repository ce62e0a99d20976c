import { MeshpathError } from '../../agent/protocol/errors.ts';
import type { WireError } from '../../agent/protocol/errors.ts';
import type { Findings } from './preflight.ts';
import { printable, quoteForShell } from './shellScript.ts';

/** How the agent can get the rights that it needs. */
export type Privilege =
  | { readonly kind: 'root' }
  /** sudo asks nothing. */
  | { readonly kind: 'sudo' }
  /** sudo wants a password, if it lets this user do anything at all. */
  | { readonly kind: 'sudo-with-password' }
  /** Only what an ordinary user may; `notice` says why and what to do. */
  | { readonly kind: 'none'; readonly notice: WireError };

/** How often sudo asks for a password by default (sudoers(5), passwd_tries). */
const MAX_PASSWORD_ATTEMPTS = 3;

/** The part of the preflight script that looks at rights. */
export const PRIVILEGE_SCRIPT = `
say uid "$(id -u)"
say user "$(id -un)"
if [ "$(id -u)" != 0 ]; then
  if ! command -v sudo >/dev/null 2>&1; then say sudo missing
  elif sudo -n true >/dev/null 2>&1; then say sudo free
  else say sudo password
  fi
fi
`;

/** Says how the agent gets its rights, from what the preflight script found. */
export function choosePrivilege(findings: Findings): Privilege {
  if (findings.get('uid')?.[0] === '0') {
    return { kind: 'root' };
  }
  switch (findings.get('sudo')?.[0]) {
    case 'free':
      return { kind: 'sudo' };
    case 'password':
      return { kind: 'sudo-with-password' };
    default:
      return { kind: 'none', notice: sudoUnavailable('sudo is not installed on the node.') };
  }
}

/** The notice that the agent runs without privilege, with the reason. */
export function sudoUnavailable(reason: string): WireError {
  return {
    code: 'SUDO_UNAVAILABLE',
    message: 'The agent runs without root’s rights: it can look at less and change nothing.',
    reason,
    remedy: 'Connect as root, or let this user use sudo on the node, and connect again.',
  };
}

/**
 * Gives the script that runs the agent with these rights. `prompt` is what sudo prints on the error stream when it
 * wants a password: an answer is sent only after it, so that a password never ends up in the agent's input.
 */
export function buildStartScript(
  privilege: Privilege,
  command: readonly string[],
  environment: Readonly<Record<string, string>>,
  prompt: string,
): string {
  const variables = Object.entries(environment).map(([name, value]) => `${name}=${value}`);
  // sudo clears the environment: env sets it again on its inner side.
  const words = variables.length === 0 ? command : ['env', ...variables, ...command];
  // A profile may have printed something without ending the line: the agent's ready line must stand alone on its own.
  const program = words.map(quoteForShell).join(' ');
  switch (privilege.kind) {
    case 'root':
    case 'none':
      return `echo; exec ${program}`;
    case 'sudo':
      return `echo; exec sudo -n -- ${program}`;
    case 'sudo-with-password':
      return `LC_ALL=C; export LC_ALL; echo; exec sudo -S -p ${quoteForShell(prompt)} -- ${program}`;
  }
}

/** What a conversation with sudo came to. */
export interface SudoDialogResult {
  /** How often sudo asked. */
  readonly asked: number;
  readonly isDeclined: boolean;
  /** The last words on the error stream besides the prompts. */
  readonly words: string;
}

/** Answers sudo's questions for a password. */
export interface SudoDialog {
  /** Takes what came on the error stream. */
  accept(text: string): void;
  readonly result: SudoDialogResult;
}

/**
 * Makes the side that answers sudo: whenever `prompt` comes, it asks the person and gives the answer to `write`, or
 * calls `decline` where there is none. The answer is kept nowhere.
 */
export function createSudoDialog(options: {
  readonly prompt: string;
  readonly ask: (attempt: number) => Promise<string | undefined>;
  readonly write: (line: string) => void;
  readonly decline: () => void;
}): SudoDialog {
  const MAX_WORDS = 1000;
  let asked = 0;
  let isDeclined = false;
  let pending = '';
  const decline = (): void => {
    isDeclined = true;
    options.decline();
  };
  return {
    accept: (text) => {
      pending = (pending + text).slice(-MAX_WORDS - options.prompt.length);
      const at = pending.indexOf(options.prompt);
      if (at < 0 || isDeclined) {
        return;
      }
      pending = pending.slice(0, at) + pending.slice(at + options.prompt.length);
      asked += 1;
      options.ask(asked).then((password) => {
        if (password === undefined || /[\r\n\0]/.test(password)) {
          decline();
        } else {
          options.write(`${password}\n`);
        }
      }, decline);
    },
    get result() {
      return { asked, isDeclined, words: printable(pending) };
    },
  };
}

/**
 * Says what a start that failed under sudo means: the notice to go on without rights, or undefined where sudo was not
 * what failed. Throws SUDO_PASSWORD_WRONG where the password was wrong too often.
 */
export function explainSudoFailure({ asked, isDeclined, words }: SudoDialogResult): WireError | undefined {
  if (isDeclined) {
    return sudoUnavailable('No password for sudo was given.');
  }
  if (asked >= MAX_PASSWORD_ATTEMPTS) {
    throw new MeshpathError({
      code: 'SUDO_PASSWORD_WRONG',
      message: 'sudo on the node did not accept the password.',
      reason: words || 'It was wrong each time.',
      remedy: 'Connect again with the right password, or decline it to look without root’s rights.',
    });
  }
  return asked === 0 ? undefined : sudoUnavailable(words || 'sudo refused to run the agent for this user.');
}
