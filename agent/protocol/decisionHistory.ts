import type { DecisionEvent, DecisionEvents } from './acceleration.ts';
import type { PassReason } from './connections.ts';
import type { Uint64Text } from './scalars.ts';

const MAX_DECISIONS = 65_536;

/** The last decision about a socket that left it to TCP, or that let it in (null). */
export interface RememberedDecision {
  readonly reason: PassReason | null;
  readonly errno: number;
}

/** What a list of connections asks of the past. */
export interface DecisionRecord {
  /** The decision about the socket with this cookie; undefined where none is known. */
  find(cookie: Uint64Text): RememberedDecision | undefined;
  /** Whether the socket was open when programs were attached to its cgroup. */
  wasOpenBefore(cookie: Uint64Text): boolean;
  /** Decisions that were lost or dropped. */
  readonly lost: number;
}

/**
 * Remembers why sockets are not accelerated: connections that the programs leave alone are in no map. Bounded: the oldest
 * decisions are dropped and counted as lost. Cookies are never given twice, so nothing is mistaken for another.
 */
export class DecisionHistory implements DecisionRecord {
  readonly #decisions = new Map<Uint64Text, RememberedDecision & { readonly generation: number }>();
  readonly #openBefore = new Map<Uint64Text, number>();
  readonly #limit: number;
  #generation = 0;
  #lost = 0;

  constructor(limit: number = MAX_DECISIONS) {
    this.#limit = limit;
  }

  get lost(): number {
    return this.#lost;
  }

  /** Takes a batch of events. */
  note({ events, lost }: DecisionEvents): void {
    this.#lost += lost;
    for (const event of events) {
      this.#noteEvent(event);
    }
    while (this.#decisions.size > this.#limit) {
      const oldest = this.#decisions.keys().next().value;
      if (oldest !== undefined) {
        this.#decisions.delete(oldest);
        this.#lost += 1;
      }
    }
  }

  /** Programs are about to be attached to more cgroups. Gives what to call with the cookies of their sockets once they are. */
  beginTurnOn(): (cookies: Iterable<Uint64Text>) => void {
    this.#generation += 1;
    const generation = this.#generation;
    return (cookies) => {
      for (const cookie of cookies) {
        this.#openBefore.set(cookie, generation);
      }
      while (this.#openBefore.size > this.#limit) {
        const oldest = this.#openBefore.keys().next().value;
        if (oldest !== undefined) {
          this.#openBefore.delete(oldest);
        }
      }
    };
  }

  find(cookie: Uint64Text): RememberedDecision | undefined {
    const decision = this.#decisions.get(cookie);
    return decision !== undefined && decision.generation >= (this.#openBefore.get(cookie) ?? 0) ? decision : undefined;
  }

  wasOpenBefore(cookie: Uint64Text): boolean {
    return this.#openBefore.has(cookie);
  }

  #noteEvent({ hook, reason, socketCookie, errno }: DecisionEvent): void {
    if (reason === 'connection_closed') {
      this.#decisions.delete(socketCookie);
      return;
    }
    const generation = this.#generation;
    if (isPass(reason)) {
      // Datagrams are no connections.
      if (!reason.startsWith('message_') && !hook.startsWith('sendmsg')) {
        this.#decisions.set(socketCookie, { reason, errno, generation });
      }
    } else if (hook.startsWith('connect')) {
      this.#decisions.set(socketCookie, { reason: null, errno, generation });
    }
  }
}

function isPass(reason: DecisionEvent['reason']): reason is PassReason {
  return reason.startsWith('passed_') || reason.startsWith('message_passed_') || reason === 'failed_storage' || reason === 'enrol_failed' || reason === 'connections_full';
}
