/** How a connection ends. */
export type Ending =
  /** The client half-closes when it has sent all and goes on reading. */
  | 'client_ends'
  /** The server half-closes first; the client holds half of its bytes back until it has seen that. */
  | 'server_ends'
  /** The client closes right after its last byte; the server says nothing. */
  | 'client_leaves'
  /** Request and answer in turns, then as client_ends. */
  | 'rounds'
  /** The client closes without reading what the server sends: a reset. */
  | 'abort';

/** What both ends of a connection do, derived from its seed. */
export interface Plan {
  readonly seed: number;
  readonly ending: Ending;
  /** Bytes after the header of the client's stream. */
  readonly requestBytes: number;
  /** Bytes after the header of the server's stream. */
  readonly responseBytes: number;
  /** Turns of 'rounds'; else 1. */
  readonly rounds: number;
  readonly isServerFirst: boolean;
  readonly delaysAck: boolean;
  /** Of the client: after each `bytes` it does not read for a while, `count` times; null: reads as fast as it can. */
  readonly pauses: { readonly bytes: number; readonly milliseconds: number; readonly count: number } | null;
  /** Bytes of one send(2), at most. */
  readonly writeBytes: number;
}

/** The most that one direction of a plan has. */
export const MAX_BYTES = 4 * 1024 * 1024;

/** Gives numbers in [0, 1), always the same for a seed (a Weyl sequence through an integer hash). */
export function createRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x9e37_79b9) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 16), 0x21f0_aaad);
    mixed = Math.imul(mixed ^ (mixed >>> 15), 0x735a_2d97);
    return ((mixed ^ (mixed >>> 15)) >>> 0) / 0x1_0000_0000;
  };
}

/** Gives the plan of a seed (32 bits, not 0). */
export function planOf(seed: number): Plan {
  const random = createRandom(seed);
  const isServerFirst = random() < 0.15;
  const ending = isServerFirst ? 'client_ends' : chooseEnding(random());
  const requestBytes = chooseSize(random);
  const responseBytes = chooseSize(random);
  const rounds = ending === 'rounds' ? 1 + Math.floor(random() * 8) : 1;
  const delaysAck = random() < 0.2;
  const isSlow = random() < 0.05;
  const pauses = isSlow ? { bytes: 1 + Math.floor(random() * 65_536), milliseconds: 1 + Math.floor(random() * 20), count: 1 + Math.floor(random() * 8) } : null;
  const writeBytes = chooseWriteSize(random);
  return { seed, ending, requestBytes, responseBytes, rounds, isServerFirst, delaysAck, pauses, writeBytes: Math.max(writeBytes, requestBytes >> 8, responseBytes >> 8) };
}

function chooseEnding(value: number): Ending {
  if (value < 0.4) {
    return 'client_ends';
  }
  if (value < 0.6) {
    return 'server_ends';
  }
  if (value < 0.75) {
    return 'client_leaves';
  }
  return value < 0.97 ? 'rounds' : 'abort';
}

/** From one byte to 4 MiB, mostly small. */
function chooseSize(random: () => number): number {
  const kind = random();
  const most = kind < 0.15 ? 16 : kind < 0.75 ? 4_096 : kind < 0.96 ? 65_536 : kind < 0.997 ? 262_144 : MAX_BYTES;
  return 1 + Math.floor(random() * most);
}

function chooseWriteSize(random: () => number): number {
  const kind = random();
  return 1 + Math.floor(random() * (kind < 0.2 ? 100 : kind < 0.6 ? 2_000 : kind < 0.9 ? 20_000 : 262_144));
}
