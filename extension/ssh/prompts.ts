import type { HostKeyQuestion } from './hostKeyPolicy.ts';

/** Something secret (or, where `echo` is true, merely personal) that only the person at the keyboard knows. */
export interface SecretQuestion {
  readonly kind: 'key-passphrase' | 'ssh-password' | 'keyboard-interactive' | 'sudo-password';
  /** The host that it is for, as the person named it. */
  readonly host: string;
  /** One line that says what is asked for. Parts of it may come from the server: show it as text only. */
  readonly prompt: string;
  /** More words of the server (keyboard-interactive), empty where there are none. Text only. */
  readonly instructions: string;
  /** Show what is typed. Only servers that ask for something that is not secret want this. */
  readonly echo: boolean;
  /** 1 for the first time; above that the answer before was wrong. */
  readonly attempt: number;
}

/** What the SSH side asks a person. The user interface implements it; nothing here keeps an answer. */
export interface SshPrompts {
  /** Asks whether an unknown host key is the right one; false for no and for a dismissed question. */
  confirmHostKey(question: HostKeyQuestion, signal: AbortSignal): Promise<boolean>;
  /** Asks for a secret; undefined where the person declines. */
  askSecret(question: SecretQuestion, signal: AbortSignal): Promise<string | undefined>;
}
