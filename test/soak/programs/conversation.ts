import { getSystemErrorName } from 'node:util';
import { REQUEST_HEADER_BYTES } from './byteStream.ts';
import type { ByteStream } from './byteStream.ts';
import { READABLE, WRITABLE } from './eventLoop.ts';
import type { EventLoop, Watch } from './eventLoop.ts';
import type { Plan } from './plan.ts';
import { createRandom } from './plan.ts';
import { closeSocket, receiveBytes, sendBytes, shutdownSocket, WOULD_BLOCK } from './rawSocket.ts';
import type { FailureKind } from './reports.ts';

/** Bytes of one recv(2), at most. */
const READ_BYTES = 131_072;
/** How much one connection may send or receive before others have their turn. */
const TURN_BYTES = 1_048_576;
/** Bytes of one send(2) of a greeting, at most. */
const GREETING_WRITE_BYTES = 16_384;
const readBuffer = Buffer.alloc(READ_BYTES);

/** How a conversation ended; null: as planned. */
export interface Outcome {
  readonly kind: FailureKind;
  readonly detail: string;
}

/** What one end knows from the start, or learns from the other end's header. */
export interface Script {
  readonly plan: Plan;
  /** What this end sends; null: nothing. */
  readonly outgoing: ByteStream | null;
  /** What the other end sends; null: nothing. */
  readonly incoming: ByteStream | null;
}

export interface ConversationOptions {
  readonly role: 'client' | 'server';
  readonly fd: number;
  readonly loop: EventLoop;
  /** Where it is known from the start. */
  readonly script: Script | null;
  /** What is sent before the script is known. */
  readonly greeting?: ByteStream | null;
  /** Where the other end's header is to be learned: its length, and what it means; a text says what is wrong with it. */
  readonly header: { readonly length: number; readonly read: (header: Buffer) => Script | string } | null;
  readonly onEnd: (conversation: Conversation, outcome: Outcome | null) => void;
}

/** One end of a connection: sends its stream in pieces of random sizes, and compares what comes with the other one. */
export class Conversation {
  readonly #options: ConversationOptions;
  readonly #watch: Watch;
  #script: Script | null;
  #header: Buffer | null = null;
  #random: (() => number) | null = null;
  #sentBytes = 0;
  #receivedBytes = 0;
  #hasShutDown = false;
  #hasEnded = false;
  #isPaused = false;
  #pauses = 0;
  #readSincePause = 0;
  #isOver = false;
  #progressAt = performance.now();

  constructor(options: ConversationOptions) {
    this.#options = options;
    this.#script = options.script;
    this.#watch = options.loop.watch(options.fd, (events) => {
      this.#onEvents(events);
    });
  }

  get sentBytes(): number {
    return this.#sentBytes;
  }

  get receivedBytes(): number {
    return this.#receivedBytes;
  }

  /** Null until it is known. */
  get plan(): Plan | null {
    return this.#script?.plan ?? null;
  }

  /** Begins to send, without waiting for anything: the client right after connect(2). */
  start(): void {
    this.#onEvents(WRITABLE);
  }

  /** Ends it as hung if nothing moved for so long. */
  checkDeadline(milliseconds: number): void {
    if (performance.now() - this.#progressAt > milliseconds) {
      this.#fail('hung', 'nothing moved');
    }
  }

  #onEvents(events: number): void {
    if ((events & READABLE) !== 0 && !this.#isOver) {
      this.#read();
    }
    if (!this.#isOver) {
      this.#write();
    }
    if (!this.#isOver) {
      this.#watch.want((this.#isPaused || this.#hasEnded ? 0 : READABLE) | (this.#canSend() ? WRITABLE : 0));
    }
  }

  #read(): void {
    let turn = 0;
    while (!this.#isPaused && !this.#hasEnded && turn < TURN_BYTES) {
      const piece = readBuffer.subarray(0, this.#wantedBytes());
      const count = receiveBytes(this.#options.fd, piece);
      if (count === WOULD_BLOCK) {
        return;
      }
      if (count < 0) {
        this.#failWith('recv', count);
        return;
      }
      this.#progressAt = performance.now();
      if (count === 0) {
        this.#hasEnded = true;
        this.#onReadEnd();
        return;
      }
      turn += count;
      if (!this.#take(piece.subarray(0, count))) {
        return;
      }
      this.#pauseIfPlanned(count);
    }
  }

  /** Compares a piece; gives false where the conversation ended with it. */
  #take(piece: Buffer): boolean {
    const { header } = this.#options;
    const position = this.#receivedBytes;
    this.#receivedBytes += piece.length;
    if (header !== null && position < header.length) {
      this.#header = Buffer.concat([this.#header ?? Buffer.alloc(0), piece]);
      if (this.#receivedBytes < header.length) {
        return true;
      }
      const script = header.read(this.#header);
      if (typeof script === 'string') {
        this.#fail('corrupted', script);
        return false;
      }
      this.#script = script;
      return true;
    }
    const incoming = this.#script?.incoming ?? null;
    if (incoming === null) {
      this.#fail('corrupted', `${piece.length} bytes where none were to come`);
      return false;
    }
    const difference = incoming.findDifference(position, piece);
    if (difference >= 0) {
      this.#fail('corrupted', `byte ${difference} of ${incoming.length} is another (piece of ${piece.length} from ${position})`);
      return false;
    }
    return true;
  }

  #onReadEnd(): void {
    const plan = this.#script?.plan;
    const wanted = this.#script?.incoming?.length ?? 0;
    if (plan === undefined) {
      this.#fail('truncated', `ended after ${this.#receivedBytes} bytes of the header`);
    } else if (this.#receivedBytes < wanted && plan.ending !== 'abort') {
      this.#fail('truncated', `${this.#receivedBytes} of ${wanted} bytes`);
    } else {
      this.#closeIfDone();
    }
  }

  #write(): void {
    const outgoing = this.#outgoing;
    if (outgoing !== null) {
      let turn = 0;
      while (this.#canSend() && turn < TURN_BYTES) {
        const size = this.#nextWriteBytes(outgoing);
        const count = sendBytes(this.#options.fd, outgoing.slice(this.#sentBytes, Math.min(size, this.#allowedBytes() - this.#sentBytes)));
        if (count === WOULD_BLOCK) {
          return;
        }
        if (count < 0) {
          this.#failWith('send', count);
          return;
        }
        this.#progressAt = performance.now();
        this.#sentBytes += count;
        turn += count;
      }
    }
    this.#closeIfDone();
  }

  /** What to do once all is sent, or all is received. */
  #closeIfDone(): void {
    const script = this.#script;
    if (script === null || this.#isOver || this.#sentBytes < (script.outgoing?.length ?? 0)) {
      return;
    }
    const isClient = this.#options.role === 'client';
    const { ending } = script.plan;
    if (this.#hasEnded || (isClient && (ending === 'client_leaves' || ending === 'abort'))) {
      this.#finish(null);
      return;
    }
    const endsFirst = isClient ? ending === 'client_ends' || ending === 'rounds' : ending === 'server_ends';
    if (endsFirst && !this.#hasShutDown) {
      this.#hasShutDown = true;
      shutdownSocket(this.#options.fd);
    }
  }

  get #outgoing(): ByteStream | null {
    return this.#script === null ? (this.#options.greeting ?? null) : this.#script.outgoing;
  }

  #nextWriteBytes(outgoing: ByteStream): number {
    this.#random ??= createRandom(outgoing.length);
    const most = this.#script?.plan.writeBytes ?? GREETING_WRITE_BYTES;
    return 1 + Math.floor(this.#random() * most);
  }

  #canSend(): boolean {
    return this.#sentBytes < this.#allowedBytes();
  }

  /** How much of its stream this end may have sent by now. */
  #allowedBytes(): number {
    const script = this.#script;
    const length = this.#outgoing?.length ?? 0;
    if (script === null || length === 0) {
      return length;
    }
    const isClient = this.#options.role === 'client';
    if (script.plan.ending === 'server_ends' && isClient && !this.#hasEnded) {
      return Math.max(REQUEST_HEADER_BYTES, Math.ceil(length / 2));
    }
    if (script.plan.ending !== 'rounds' || script.incoming === null) {
      return length;
    }
    const { rounds } = script.plan;
    const answered = Math.min(rounds, Math.floor(this.#receivedBytes / Math.max(1, Math.ceil(script.incoming.length / rounds))));
    const isAllReceived = this.#receivedBytes === script.incoming.length;
    if (isAllReceived) {
      return length;
    }
    // The server answers nothing before it knows who asks.
    const first = isClient ? REQUEST_HEADER_BYTES : 0;
    return Math.min(length, Math.max(first, Math.ceil(length / rounds) * (answered + (isClient ? 1 : 0))));
  }

  #wantedBytes(): number {
    const headerBytes = this.#options.header?.length ?? 0;
    if (this.#receivedBytes < headerBytes) {
      return headerBytes - this.#receivedBytes;
    }
    const pauses = this.#options.role === 'client' ? (this.#script?.plan.pauses ?? null) : null;
    return pauses !== null && this.#pauses < pauses.count ? Math.max(1, Math.min(READ_BYTES, pauses.bytes - this.#readSincePause)) : READ_BYTES;
  }

  #pauseIfPlanned(count: number): void {
    const pauses = this.#options.role === 'client' ? (this.#script?.plan.pauses ?? null) : null;
    if (pauses === null || this.#pauses >= pauses.count) {
      return;
    }
    this.#readSincePause += count;
    if (this.#readSincePause >= pauses.bytes) {
      this.#readSincePause = 0;
      this.#pauses += 1;
      this.#isPaused = true;
      setTimeout(() => {
        this.#isPaused = false;
        if (!this.#isOver) {
          this.#onEvents(READABLE);
        }
      }, pauses.milliseconds);
    }
  }

  #failWith(call: string, error: number): void {
    const plan = this.#script?.plan;
    if (plan?.ending === 'abort') {
      this.#finish(null);
      return;
    }
    this.#fail('reset', `${call}: ${getSystemErrorName(error)} after ${this.#sentBytes} bytes sent and ${this.#receivedBytes} received`);
  }

  #fail(kind: FailureKind, detail: string): void {
    this.#finish({ kind, detail });
  }

  #finish(outcome: Outcome | null): void {
    if (this.#isOver) {
      return;
    }
    this.#isOver = true;
    this.#watch.end();
    closeSocket(this.#options.fd);
    this.#options.onEnd(this, outcome);
  }
}
