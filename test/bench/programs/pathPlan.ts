/** What the programs of a path agree on: the first bytes of each connection say what is to be done on it. */
export type Exercise =
  /** `count` times: the client sends `bytes`, the server sends as many back. */
  | 'round-trips'
  /** The client sends `count` times `bytes`; the server answers one byte once it has all. */
  | 'stream';

export interface PathPlan {
  readonly exercise: Exercise;
  readonly bytes: number;
  readonly count: number;
}

export const PLAN_BYTES = 12;
const EXERCISES: readonly Exercise[] = ['round-trips', 'stream'];

export function encodePlan({ exercise, bytes, count }: PathPlan): Uint8Array {
  return new Uint8Array(Uint32Array.of(EXERCISES.indexOf(exercise), bytes, count).buffer);
}

/** Throws a RangeError where the bytes are no plan. */
export function decodePlan(encoded: Uint8Array): PathPlan {
  const [index = -1, bytes = 0, count = 0] = new Uint32Array(encoded.slice(0, PLAN_BYTES).buffer);
  const exercise = EXERCISES[index];
  if (exercise === undefined) {
    throw new RangeError(`no exercise has the number ${index}`);
  }
  return { exercise, bytes, count };
}

/** What the client is to measure; `connections` of them, each `rounds` times. */
export interface PathClientParams {
  readonly address: string;
  readonly port: number;
  readonly plan: PathPlan;
  /** Connections, one after the other. */
  readonly connections: number;
  /** Round trips, or streams, that are made before any is counted. */
  readonly warmUp: number;
}

/** Nanoseconds: of each round trip, of each stream, or of each connection from connect(2) to close(2) where there are several. */
export interface PathReport {
  readonly nanoseconds: readonly number[];
}
