import type { SshEnvironment, SshPhase } from '../../extension/ssh/environment.ts';
import type { HostKeyQuestion, HostKeyTrustStore, TrustedHostKey } from '../../extension/ssh/hostKeyPolicy.ts';
import type { SecretQuestion, SshPrompts } from '../../extension/ssh/prompts.ts';

/** A trust store in memory. */
export function createTrustStore(keys: TrustedHostKey[] = []): HostKeyTrustStore {
  return {
    list: () => keys,
    add: async (key) => {
      keys.push(key);
      return Promise.resolve();
    },
    forget: async (host, port) => {
      const kept = keys.filter((key) => key.host !== host || key.port !== port);
      const count = keys.length - kept.length;
      keys.splice(0, keys.length, ...kept);
      return Promise.resolve(count);
    },
  };
}

/** Prompts that answer as told and remember what was asked. */
export interface RecordedPrompts extends SshPrompts {
  readonly hostKeys: HostKeyQuestion[];
  readonly secrets: SecretQuestion[];
}

/** Answers one question after the other: `secrets` in their order, declining when they are used up. */
export function createPrompts(answers: { readonly acceptHostKey?: boolean; readonly secrets?: readonly string[] } = {}): RecordedPrompts {
  const left = [...(answers.secrets ?? [])];
  const hostKeys: HostKeyQuestion[] = [];
  const secrets: SecretQuestion[] = [];
  return {
    hostKeys,
    secrets,
    confirmHostKey: async (question) => {
      hostKeys.push(question);
      return Promise.resolve(answers.acceptHostKey ?? false);
    },
    askSecret: async (question) => {
      secrets.push(question);
      return Promise.resolve(left.shift());
    },
  };
}

/** What connectSsh needs, with everything that it did recorded. */
export interface RecordedEnvironment extends SshEnvironment {
  readonly prompts: RecordedPrompts;
  readonly phases: SshPhase[];
  readonly lines: string[];
}

export function createEnvironment(configFile: string, prompts: RecordedPrompts = createPrompts(), trustStore = createTrustStore()): RecordedEnvironment {
  const phases: SshPhase[] = [];
  const lines: string[] = [];
  return {
    prompts,
    trustStore,
    configFile,
    phases,
    lines,
    onPhase: (phase) => {
      phases.push(phase);
    },
    log: (line) => {
      lines.push(line);
    },
  };
}
