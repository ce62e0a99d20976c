import * as vscode from 'vscode';
import { INITIAL_CONTEXT, type ContextKey, type ContextKeys } from '../contributions.ts';

/** The context keys of Meshpath: typed, and told to VS Code only when they change. */
export interface ContextKeyStore {
  set<K extends ContextKey>(key: K, value: ContextKeys[K]): void;
}

/** Gives the store and tells VS Code what every key is at first. */
export function createContextKeys(): ContextKeyStore {
  const current: Partial<ContextKeys> = {};
  const set = <K extends ContextKey>(key: K, value: ContextKeys[K]): void => {
    if (current[key] !== value) {
      current[key] = value;
      void vscode.commands.executeCommand('setContext', key, value);
    }
  };
  for (const [key, value] of Object.entries(INITIAL_CONTEXT) as [ContextKey, ContextKeys[ContextKey]][]) {
    set(key, value);
  }
  return { set };
}
