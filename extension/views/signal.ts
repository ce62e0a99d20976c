/** Something that happens and can be listened to. */
export interface Signal<Value> {
  /** Calls `listener` every time until the returned function is called. */
  listen(listener: (value: Value) => void): () => void;
  fire(value: Value): void;
}

/** Gives a signal that nobody listens to yet. A listener that is added while it fires is not called for that time. */
export function createSignal<Value>(): Signal<Value> {
  const listeners = new Set<(value: Value) => void>();
  return {
    listen: (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    fire: (value) => {
      for (const listener of [...listeners]) {
        listener(value);
      }
    },
  };
}
