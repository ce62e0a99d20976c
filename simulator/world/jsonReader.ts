import { inputError } from '../../agent/protocol/errors.ts';
import type { MeshpathError } from '../../agent/protocol/errors.ts';

/** How many items a list of a document may have. */
const MAX_ITEMS = 10_000;

/** A value in a JSON document that somebody wrote, with its place in it for errors. Every reader throws INPUT_INVALID. */
export class JsonValue {
  readonly #value: unknown;
  readonly #place: string;

  constructor(value: unknown, place: string) {
    this.#value = value;
    this.#place = place;
  }

  /** Says that the value is not what was expected. */
  wrong(expected: string): MeshpathError {
    const shown = this.#value === undefined ? 'nothing' : JSON.stringify(this.#value);
    const cut = shown.length > 80 ? `${shown.slice(0, 80)}…` : shown;
    return inputError('The world cannot be used.', `${this.#place}: ${cut} is not ${expected}.`, 'Change it in the file; docs/commandLine.md describes the world file.');
  }

  /** Gives the members of an object, which has none but the named ones. */
  members<Name extends string>(names: readonly Name[]): Readonly<Record<Name, JsonValue>> {
    const value = this.#value;
    if (typeof value !== 'object' || value === null || Array.isArray(value)) {
      throw this.wrong('an object');
    }
    const unknown = Object.keys(value).find((key) => !(names as readonly string[]).includes(key));
    if (unknown !== undefined) {
      throw new JsonValue(unknown, this.#place).wrong(`one of its members, which are ${names.join(', ')}`);
    }
    const entries = names.map((name) => [name, new JsonValue(Object.hasOwn(value, name) ? (value as Record<string, unknown>)[name] : undefined, this.#member(name))] as const);
    return Object.fromEntries(entries) as Record<Name, JsonValue>;
  }

  /** Gives the members of an object with any names. */
  entries(): readonly (readonly [string, JsonValue])[] {
    if (this.#value === undefined) {
      return [];
    }
    if (typeof this.#value !== 'object' || this.#value === null || Array.isArray(this.#value)) {
      throw this.wrong('an object');
    }
    return Object.entries(this.#value).map(([name, value]) => [name, new JsonValue(value, this.#member(name))] as const);
  }

  /** Gives the items of a list; none where it is left out. */
  items(): readonly JsonValue[] {
    if (this.#value === undefined) {
      return [];
    }
    if (!Array.isArray(this.#value) || this.#value.length > MAX_ITEMS) {
      throw this.wrong(`a list of at most ${MAX_ITEMS} items`);
    }
    return this.#value.map((item: unknown, index) => new JsonValue(item, `${this.#place}[${index}]`));
  }

  /** Gives a text, or what it is where it is left out. */
  text(fallback?: string): string {
    if (this.#value === undefined && fallback !== undefined) {
      return fallback;
    }
    if (typeof this.#value !== 'string') {
      throw this.wrong('a text');
    }
    return this.#value;
  }

  flag(fallback: boolean): boolean {
    if (this.#value === undefined) {
      return fallback;
    }
    if (typeof this.#value !== 'boolean') {
      throw this.wrong('true or false');
    }
    return this.#value;
  }

  /** Gives a whole number from `min` to `max`. */
  number(min: number, max: number, fallback?: number): number {
    if (this.#value === undefined && fallback !== undefined) {
      return fallback;
    }
    if (typeof this.#value !== 'number' || !Number.isInteger(this.#value) || this.#value < min || this.#value > max) {
      throw this.wrong(`a whole number from ${min} to ${max}`);
    }
    return this.#value;
  }

  isMissing(): boolean {
    return this.#value === undefined;
  }

  isNumber(): boolean {
    return typeof this.#value === 'number';
  }

  #member(name: string): string {
    return this.#place === '' ? name : `${this.#place}.${name}`;
  }
}
