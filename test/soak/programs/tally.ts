import { writeSync } from 'node:fs';
import type { Conversation, Outcome } from './conversation.ts';
import type { EndReport, Failure, FailureKind } from './reports.ts';

const MAX_EXAMPLES = 20;

/** Counts what an end sees, and prints it. */
export class Tally {
  readonly #open = new Set<Conversation>();
  readonly #failures: Record<FailureKind, number> = { corrupted: 0, truncated: 0, refused: 0, reset: 0, hung: 0 };
  readonly #examples: Failure[] = [];
  #started = 0;
  #ended = 0;
  #aborted = 0;
  #anonymous = 0;
  #sentBytes = 0;
  #receivedBytes = 0;
  #printed = '';

  get openConversations(): number {
    return this.#open.size;
  }

  get ended(): number {
    return this.#ended;
  }

  begin(conversation: Conversation): void {
    this.#started += 1;
    this.#open.add(conversation);
  }

  /** Takes a connection that never came to be. */
  refuse(seed: number, detail: string): void {
    this.#started += 1;
    this.#ended += 1;
    this.#fail({ kind: 'refused', seed, detail });
  }

  end(conversation: Conversation, outcome: Outcome | null): void {
    this.#open.delete(conversation);
    this.#ended += 1;
    this.#sentBytes += conversation.sentBytes;
    this.#receivedBytes += conversation.receivedBytes;
    const { plan } = conversation;
    if (outcome === null) {
      this.#aborted += plan?.ending === 'abort' ? 1 : 0;
    } else if (plan === null && outcome.kind === 'reset') {
      this.#anonymous += 1;
    } else {
      this.#fail({ ...outcome, seed: plan?.seed ?? null });
    }
  }

  checkDeadlines(milliseconds: number): void {
    for (const conversation of this.#open) {
      conversation.checkDeadline(milliseconds);
    }
  }

  /** Prints a report if it is another than the last. */
  print(isLast = false, seconds = 0): void {
    const report: EndReport = {
      started: this.#started,
      ended: this.#ended,
      aborted: this.#aborted,
      anonymous: this.#anonymous,
      sentBytes: this.#sentBytes,
      receivedBytes: this.#receivedBytes,
      failures: this.#failures,
      examples: this.#examples,
      seconds,
      isLast,
    };
    const line = JSON.stringify(report);
    if (line !== this.#printed) {
      this.#printed = line;
      writeSync(process.stdout.fd, `${line}\n`);
    }
  }

  #fail(failure: Failure): void {
    this.#failures[failure.kind] += 1;
    if (this.#examples.length < MAX_EXAMPLES) {
      this.#examples.push(failure);
    }
  }
}
