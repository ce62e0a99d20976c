/**
 * What matches remember from packet to packet in one network namespace: lists of `-m recent`, tokens of `-m limit`. Values
 * are replaced and never changed, so that a copy is cheap. A value that is not known is poisoned.
 */
export class MatchState {
  readonly #values: Map<string, unknown>;

  constructor(values: ReadonlyMap<string, unknown> = new Map()) {
    this.#values = new Map(values);
  }

  get(key: string): unknown {
    return this.#values.get(key);
  }

  set(key: string, value: unknown): void {
    this.#values.set(key, value);
  }

  /** Gives a copy that changes apart. */
  fork(): MatchState {
    return new MatchState(this.#values);
  }

  /** Takes over what another state has; where the two are not the same, the value is not known from now on. Says whether any was not. */
  merge(other: MatchState): boolean {
    let differs = false;
    for (const key of new Set([...this.#values.keys(), ...other.#values.keys()])) {
      if (JSON.stringify(this.#values.get(key)) !== JSON.stringify(other.#values.get(key))) {
        this.#values.set(key, POISONED);
        differs = true;
      }
    }
    return differs;
  }

  /** Makes this state what another is. */
  become(other: MatchState): void {
    this.#values.clear();
    for (const [key, value] of other.#values) {
      this.#values.set(key, value);
    }
  }
}

/** Stands for a value that is not known any more. */
export const POISONED = 'not known';
