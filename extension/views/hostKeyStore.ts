import type * as vscode from 'vscode';
import type { HostKeyTrustStore, TrustedHostKey } from '../ssh/hostKeyPolicy.ts';

const KEY = 'trustedHostKeys';

function isTrustedHostKey(value: unknown): value is TrustedHostKey {
  if (typeof value !== 'object' || value === null) {
    return false;
  }
  const { host, port, keyType, key, acceptedAt } = value as Partial<Record<keyof TrustedHostKey, unknown>>;
  return typeof host === 'string' && typeof port === 'number' && typeof keyType === 'string' && typeof key === 'string' && typeof acceptedAt === 'string';
}

/** Keeps accepted host keys in the extension's own state on this machine; it is never synchronised. */
export function createHostKeyStore(state: vscode.Memento): HostKeyTrustStore {
  const list = (): readonly TrustedHostKey[] => {
    const kept = state.get<unknown>(KEY);
    return Array.isArray(kept) ? kept.filter(isTrustedHostKey) : [];
  };
  return {
    list,
    add: async (key) => {
      const others = list().filter((known) => known.host !== key.host || known.port !== key.port || known.keyType !== key.keyType);
      await state.update(KEY, [...others, key]);
    },
    forget: async (host, port) => {
      const all = list();
      const others = all.filter((known) => known.host !== host || known.port !== port);
      await state.update(KEY, others);
      return all.length - others.length;
    },
  };
}
