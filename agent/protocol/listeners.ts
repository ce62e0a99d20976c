import type { NotificationName, Notifications } from './methods.ts';

type Listener<N extends NotificationName> = (value: Notifications[N]) => void;
type ListenerSets = { readonly [N in NotificationName]: Set<Listener<N>> };

/** Who listens to the notifications of one node. */
export interface NotificationListeners {
  /** Calls `listener` for every notification of this name until the returned function is called. */
  listen<N extends NotificationName>(name: N, listener: Listener<N>): () => void;
  /** Calls the listeners of this name; one that is added meanwhile waits for the next notification. */
  notify<N extends NotificationName>(name: N, value: Notifications[N]): void;
}

/** Gives the bookkeeping of listeners that every kind of Node needs. */
export function createNotificationListeners(): NotificationListeners {
  const sets: ListenerSets = { decisions: new Set(), changed: new Set(), labProgress: new Set(), notice: new Set() };
  return {
    listen: (name, listener) => {
      const set: Set<typeof listener> = sets[name];
      set.add(listener);
      return () => {
        set.delete(listener);
      };
    },
    notify: (name, value) => {
      for (const listener of [...sets[name]]) {
        listener(value);
      }
    },
  };
}
