import type { EnrolledPair } from './enrolledPair.ts';
import { asExpected, breakage } from './selfTest.ts';
import type { SelfTest } from './selfTest.ts';

const MESSAGE = 'wake up';
const POLLIN = 1;
const EPOLL_CTL_ADD = 1;
const EPOLL_CLOEXEC = 0o2000000;
const EPOLLET = 0x8000_0000;
const WAIT_MILLISECONDS = 1_000;
const ROUNDS = 3;
/** struct epoll_event is packed on x86-64 only (epoll_ctl(2)). */
const EVENT_BYTES = process.arch === 'x64' ? 12 : 16;

/**
 * Whether a reader that waits is told of a redirected message, by poll(2) and by both kinds of epoll(7). An epoll instance learns of
 * bytes that come later only by the wake-up, so that one that is lost shows.
 */
export const wakeUpTest: SelfTest = {
  id: 'wake-up',
  needsRedirection: true,
  run: (pair) => {
    pair.enrolAccepting();
    const waiters = [
      ['epoll', addWaiter(pair, POLLIN)],
      ['edge-triggered epoll', addWaiter(pair, POLLIN | EPOLLET)],
    ] as const;
    const missed = new Set<string>();
    for (let round = 0; round < ROUNDS; round += 1) {
      for (const [, epoll] of waiters) {
        wait(pair, epoll, 0);
      }
      pair.send(pair.connecting, MESSAGE);
      for (const [name, epoll] of waiters) {
        if (wait(pair, epoll, WAIT_MILLISECONDS) === 0) {
          missed.add(name);
        }
      }
      if ((pair.poll(pair.accepting, POLLIN, WAIT_MILLISECONDS) & POLLIN) === 0) {
        missed.add('poll');
      }
      pair.receiveAll(pair.accepting, MESSAGE.length);
    }
    return missed.size === 0
      ? asExpected(`Waiting readers (poll, epoll, edge-triggered epoll) were told of each of ${ROUNDS} redirected messages.`)
      : breakage(
          'Waiting readers are not told of redirected messages.',
          'With this kernel accelerated connections would hang.',
          `After a redirected message nothing came within ${WAIT_MILLISECONDS} ms from: ${[...missed].join(', ')}.`,
        );
  },
};

function addWaiter(pair: EnrolledPair, events: number): number {
  const epoll = pair.keep('epoll_create1', pair.calls.epoll_create1(EPOLL_CLOEXEC));
  const event = new Uint8Array(EVENT_BYTES);
  new DataView(event.buffer).setUint32(0, events >>> 0, true);
  pair.check('epoll_ctl', pair.calls.epoll_ctl(epoll, EPOLL_CTL_ADD, pair.accepting, event));
  return epoll;
}

function wait(pair: EnrolledPair, epoll: number, milliseconds: number): number {
  return pair.check('epoll_wait', pair.calls.epoll_wait(epoll, new Uint8Array(EVENT_BYTES), 1, milliseconds));
}
