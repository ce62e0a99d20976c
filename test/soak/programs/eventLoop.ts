import koffi from 'koffi';

/** Events of epoll(7). An error (READABLE with it) is always told of. */
export const READABLE = 0x1;
export const WRITABLE = 0x4;
const EPOLLERR = 0x8;
const EPOLLHUP = 0x10;

const EPOLL_CTL_ADD = 1;
const EPOLL_CTL_DEL = 2;
const EPOLL_CTL_MOD = 3;
const MAX_EVENTS = 256;
/** How long Node.js waits for its timers at most. */
const WAIT_MILLISECONDS = 5;
/** struct epoll_event is packed on x86-64 only (include/uapi/linux/eventpoll.h). */
const DATA_OFFSET = process.arch === 'x64' ? 4 : 8;
const EVENT_BYTES = DATA_OFFSET + 8;

const libc = koffi.load(null);
const createFunction = libc.func('int epoll_create1(int flags)') as unknown as (flags: number) => number;
const controlFunction = libc.func('int epoll_ctl(int epoll, int operation, int fd, void *event)') as unknown as (
  epoll: number,
  operation: number,
  fd: number,
  event: Uint8Array,
) => number;
const waitFunction = libc.func('int epoll_wait(int epoll, void *events, int count, int milliseconds)') as unknown as (
  epoll: number,
  events: Uint8Array,
  count: number,
  milliseconds: number,
) => number;

/** Takes READABLE, WRITABLE or both; an error or a hang-up comes as both. */
export type EventHandler = (events: number) => void;

/** A descriptor that is watched. */
export class Watch {
  readonly #loop: EventLoop;
  readonly #fd: number;
  readonly #serial: number;
  #events = 0;

  constructor(loop: EventLoop, fd: number, serial: number) {
    this.#loop = loop;
    this.#fd = fd;
    this.#serial = serial;
  }

  /** Says what to wait for; 0: nothing, not even errors. */
  want(events: number): void {
    if (events === this.#events) {
      return;
    }
    this.#loop.control(events === 0 ? EPOLL_CTL_DEL : this.#events === 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, this.#fd, events, this.#serial);
    this.#events = events;
  }

  /** Ends it; before the descriptor is closed. */
  end(): void {
    this.want(0);
    this.#loop.forget(this.#serial);
  }
}

/** Waits for many sockets with epoll(7), level-triggered, and lets Node.js run its timers between. */
export class EventLoop {
  readonly #epoll = createFunction(0);
  readonly #events = Buffer.alloc(MAX_EVENTS * EVENT_BYTES);
  /** By a number of their own: a descriptor may be closed and given to another socket while its events wait. */
  readonly #handlers = new Map<number, EventHandler>();
  #serial = 0;
  #isStopped = false;

  watch(fd: number, handler: EventHandler): Watch {
    const serial = ++this.#serial;
    this.#handlers.set(serial, handler);
    return new Watch(this, fd, serial);
  }

  start(): void {
    setImmediate(() => {
      this.#turn();
    });
  }

  stop(): void {
    this.#isStopped = true;
  }

  /** For Watch: epoll_ctl(2). */
  control(operation: number, fd: number, events: number, serial: number): void {
    const event = Buffer.alloc(EVENT_BYTES);
    event.writeUInt32LE(events, 0);
    event.writeUInt32LE(serial, DATA_OFFSET);
    if (controlFunction(this.#epoll, operation, fd, event) < 0) {
      throw new Error(`epoll_ctl(${operation}): errno ${koffi.errno()}`);
    }
  }

  /** For Watch. */
  forget(serial: number): void {
    this.#handlers.delete(serial);
  }

  #turn(): void {
    const count = waitFunction(this.#epoll, this.#events, MAX_EVENTS, WAIT_MILLISECONDS);
    for (let index = 0; index < count; index += 1) {
      const events = this.#events.readUInt32LE(index * EVENT_BYTES);
      const handler = this.#handlers.get(this.#events.readUInt32LE(index * EVENT_BYTES + DATA_OFFSET));
      handler?.((events & (EPOLLERR | EPOLLHUP)) === 0 ? events : events | READABLE | WRITABLE);
    }
    if (!this.#isStopped) {
      this.start();
    }
  }
}
