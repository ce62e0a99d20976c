import * as vscode from 'vscode';
import type { SshPrompts } from '../ssh/prompts.ts';

/** Gives a token that is cancelled with `signal`. */
function tokenOf(signal: AbortSignal): vscode.CancellationTokenSource {
  const source = new vscode.CancellationTokenSource();
  if (signal.aborted) {
    source.cancel();
  } else {
    signal.addEventListener('abort', () => source.cancel(), { once: true });
  }
  return source;
}

/** Asks in the window what the SSH side has to know of a person. Nothing that is typed is kept or logged. */
export function createSshPrompts(): SshPrompts {
  return {
    confirmHostKey: async (question, signal) => {
      const where = question.port === 22 ? question.host : `${question.host}, port ${question.port}`;
      const answer = await vscode.window.showWarningMessage(
        `Is this the key of ${where}?`,
        {
          modal: true,
          detail: [
            question.keyType,
            question.fingerprint,
            '',
            question.known === 'nothing'
              ? 'No key of this host is known yet. Compare it with what the host itself says: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub'
              : 'Other keys of this host are known, but none of this type. Compare it with what the host itself says before you accept.',
          ].join('\n'),
        },
        'Accept and Connect',
      );
      return answer === 'Accept and Connect' && !signal.aborted;
    },
    askSecret: async (question, signal) => {
      const token = tokenOf(signal);
      try {
        return await vscode.window.showInputBox(
          {
            title: question.attempt > 1 ? `${question.host} (that was not right, attempt ${question.attempt})` : question.host,
            prompt: [question.instructions, question.prompt].filter((text) => text.trim() !== '').join('\n'),
            password: !question.echo,
            ignoreFocusOut: true,
          },
          token.token,
        );
      } finally {
        token.dispose();
      }
    },
  };
}
