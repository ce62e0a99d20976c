import type { AnyAuthMethod, Prompt } from 'ssh2';
import { toMeshpathError } from '../../agent/protocol/errors.ts';
import type { MeshpathError } from '../../agent/protocol/errors.ts';
import { describeStep, methodOf, planAuthentication } from './authentication.ts';
import type { AuthenticationStep } from './authentication.ts';
import type { SshEnvironment } from './environment.ts';
import { IdentityAgent, listAgentIdentities, readIdentityFile, readIdentityFingerprint } from './identities.ts';
import type { Identity } from './identities.ts';
import type { SecretQuestion } from './prompts.ts';
import type { HostConfig } from './sshConfig.ts';
import { authenticationFailed, clean, connectionLost } from './sshErrors.ts';

/** What logging in to one hop needs. */
export interface AuthenticatorContext {
  readonly config: HostConfig;
  readonly environment: SshEnvironment;
  readonly waitForHuman: <T>(ask: (signal: AbortSignal) => Promise<T>) => Promise<T>;
}

/** Tells ssh2 what to try next. */
export interface Authenticator {
  /** Gives what to try next; false where nothing is left. `methodsLeft` is null before the server was asked. */
  next(methodsLeft: readonly string[] | null): Promise<AnyAuthMethod | false>;
  isExhausted(): boolean;
  /** The error for a connection that ended while logging in; undefined where it had not begun. */
  explainEnd(error: (Error & { readonly level?: string }) | undefined): MeshpathError | undefined;
}

/** Makes the side that logs in to one hop by the plan of its configuration; it asks the person only when a step needs it. */
export function createAuthenticator({ config, environment, waitForHuman }: AuthenticatorContext): Authenticator {
  const username = config.user;
  const tried: string[] = [];
  const problems: MeshpathError[] = [];
  let agentIdentities: readonly Identity[] = [];
  let steps: AuthenticationStep[] | undefined;
  let offered: readonly string[] = [];
  let isExhausted = false;
  let hasBegun = false;

  const ask = async (question: Omit<SecretQuestion, 'host'>): Promise<string | undefined> =>
    waitForHuman(async (signal) => environment.prompts.askSecret({ host: config.alias, ...question }, signal));
  const askPassphrase = async (path: string, attempt: number): Promise<string | undefined> =>
    ask({ kind: 'key-passphrase', prompt: `Passphrase of ${path}`, instructions: '', echo: false, attempt });

  const plan = async (): Promise<AuthenticationStep[]> => {
    if (config.identityAgent !== null) {
      try {
        agentIdentities = await listAgentIdentities(config.identityAgent);
      } catch (error) {
        environment.log(`${config.alias}: no keys from the ssh agent ${config.identityAgent}: ${toMeshpathError(error).reason}`);
      }
    }
    const keyFiles = await Promise.all(
      config.identityFiles.map(async (path) => ({ path, fingerprint: await readIdentityFingerprint(path).catch(() => undefined) })),
    );
    return planAuthentication(config, { agentKeys: agentIdentities.map((key) => key.fingerprint), keyFiles });
  };

  /** Gives ssh2's method for a step; undefined where there is nothing to try: no such file, no answer. */
  const prepare = async (step: AuthenticationStep): Promise<AnyAuthMethod | undefined> => {
    switch (step.kind) {
      case 'agent-key': {
        const identity = agentIdentities.find((key) => key.fingerprint === step.fingerprint);
        return identity === undefined ? undefined : agentMethod(identity);
      }
      case 'key-file': {
        const identity = await readIdentityFile(step.path, askPassphrase);
        return identity === undefined ? undefined : agentMethod(identity);
      }
      case 'keyboard-interactive':
        return {
          type: 'keyboard-interactive',
          username,
          prompt: (name, instructions, _language, prompts, finish) => {
            answerPrompts(`${name} ${instructions}`, prompts, step.attempt).then(finish, (error: unknown) => {
              problems.push(toMeshpathError(error));
              finish([]);
            });
          },
        };
      case 'password': {
        const password = await ask({
          kind: 'ssh-password',
          prompt: `Password of ${username} on ${config.alias}`,
          instructions: '',
          echo: false,
          attempt: step.attempt,
        });
        return password === undefined ? undefined : { type: 'password', username, password };
      }
    }
  };

  const agentMethod = (identity: Identity): AnyAuthMethod => ({
    type: 'agent',
    username,
    agent: new IdentityAgent(identity, (error) => {
      problems.push(toMeshpathError(error));
    }),
  });

  const answerPrompts = async (instructions: string, prompts: readonly Prompt[], attempt: number): Promise<string[]> => {
    const answers: string[] = [];
    for (const { prompt, echo } of prompts) {
      const answer = await ask({
        kind: 'keyboard-interactive',
        prompt: clean(prompt),
        instructions: clean(instructions),
        echo: echo === true,
        attempt,
      });
      if (answer === undefined) {
        dropSteps('keyboard-interactive');
        return [];
      }
      answers.push(answer);
    }
    return answers;
  };

  /** A person who declines once is not asked the same again. */
  const dropSteps = (kind: AuthenticationStep['kind']): void => {
    steps = steps?.filter((step) => step.kind !== kind);
  };

  const failed = (reason: string): MeshpathError =>
    problems.length === 1 && tried.length <= 1 && problems[0] !== undefined
      ? problems[0]
      : authenticationFailed(config, tried, offered, [reason, ...problems.map((problem) => `${problem.message} ${problem.reason}`)]);

  return {
    isExhausted: () => isExhausted,
    explainEnd: (error) => {
      if (!hasBegun) {
        return undefined;
      }
      if (isExhausted) {
        return failed('');
      }
      // A server that has enough of it says so before it closes; one that was cut off cannot.
      return error === undefined || error.level === 'client-socket'
        ? connectionLost(config, `It was cut while logging in. ${error?.message ?? ''}`)
        : failed(`The server said: ${clean(error.message)}`);
    },
    next: async (methodsLeft) => {
      hasBegun = true;
      if (methodsLeft === null) {
        // Asks the server which methods it takes, as OpenSSH does.
        return { type: 'none', username };
      }
      offered = methodsLeft;
      steps ??= await plan();
      for (;;) {
        const step = steps.shift();
        if (step === undefined) {
          isExhausted = true;
          return false;
        }
        if (!methodsLeft.includes(methodOf(step))) {
          continue;
        }
        let method: AnyAuthMethod | undefined;
        try {
          method = await prepare(step);
        } catch (error) {
          // One key that cannot be used does not stop the others from being tried.
          const problem = toMeshpathError(error);
          problems.push(problem);
          environment.log(`${config.alias}: ${problem.message} ${problem.reason}`);
          continue;
        }
        if (method !== undefined) {
          tried.push(describeStep(step));
          return method;
        }
        if (step.kind === 'password') {
          dropSteps('password');
        }
      }
    },
  };
}
