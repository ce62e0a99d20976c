import type { MeshpathError } from '../../agent/protocol/errors.ts';
import { COMMANDS, type CommandId } from '../contributions.ts';

/** How an error is told: in one text, with buttons that help. */
export interface ErrorNotice {
  readonly severity: 'error' | 'warning';
  readonly text: string;
  readonly buttons: readonly { readonly title: string; readonly command: CommandId | 'retry' }[];
}

/** Gives the notice for an error; undefined for what nobody needs to be told, as they did it themselves. */
export function describeError(error: MeshpathError, canRetry: boolean): ErrorNotice | undefined {
  if (error.code === 'CANCELLED') {
    return undefined;
  }
  const sentences = [error.message, error.reason, error.remedy]
    .map((part) => part.trim())
    .filter((part) => part !== '')
    // Reasons may be the words of a system, which end without a full stop.
    .map((part) => (/[.!?]$/.test(part) ? part : `${part}.`));
  const isWarning = error.code === 'INPUT_INVALID' || error.code === 'NOT_SUPPORTED' || error.code === 'SUDO_UNAVAILABLE';
  const hostKey = error.code === 'HOST_KEY_MISMATCH';
  return {
    severity: isWarning ? 'warning' : 'error',
    text: sentences.join(' '),
    buttons: [
      ...(canRetry && !hostKey ? [{ title: 'Retry', command: 'retry' } as const] : []),
      ...(hostKey ? [{ title: 'Forget Host Key…', command: COMMANDS.forgetHostKey }] : []),
      ...(error.code === 'CAPABILITY_MISSING' || error.code === 'KERNEL_UNSUITABLE' || error.code === 'KERNEL_TOO_OLD' ? [{ title: 'Run Doctor', command: COMMANDS.runDoctor }] : []),
      { title: 'Show Log', command: COMMANDS.showLog },
    ],
  };
}
