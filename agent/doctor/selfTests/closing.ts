import { constants } from 'node:os';
import type { EnrolledPair } from './enrolledPair.ts';
import { asExpected, breakage, limitation } from './selfTest.ts';
import type { SelfTest } from './selfTest.ts';

const REQUEST = 'the last request';
const ANSWER = 'the last answer';
const SHUT_WR = 1;
const SOL_SOCKET = 1;
const SO_LINGER = 13;
/** Time for the packets of a close to pass between two sockets of this machine. */
const SETTLE_MILLISECONDS = 20;

/**
 * Whether bytes that were redirected before a connection was closed can still be read: after the writer has closed, and also where the
 * reader had said before that it writes no more. Then its socket is closed for TCP, and kernels before 5.16 took it out of the sockhash
 * with all that waited in it (net/core/sock_map.c, sock_map_unhash).
 */
export const closingTest: SelfTest = {
  id: 'close',
  needsRedirection: true,
  run: (pair) => {
    pair.enrolAccepting();
    pair.check('shutdown', pair.calls.shutdown(pair.accepting, SHUT_WR));
    const end = pair.receiveAll(pair.connecting, 1);
    pair.send(pair.connecting, REQUEST);
    pair.closeEarly(pair.connecting);
    settle(pair);
    const received = readToEnd(pair, pair.accepting, REQUEST.length);
    return end === '' && received === REQUEST
      ? asExpected('Bytes that were redirected before both sides closed could all be read, and the end of the stream after them.')
      : breakage(
          'Bytes that nobody has read yet are lost when a connection is closed.',
          'With this kernel acceleration would cut off the end of answers.',
          `Of '${REQUEST}' arrived '${received}' after both sides had closed.`,
        );
  },
};

/** Whether bytes go on both ways round a half-close: the one side has sent its last byte, and gets its answer. */
export const halfClosingTest: SelfTest = {
  id: 'half-close',
  needsRedirection: true,
  run: (pair) => {
    pair.enrolAccepting();
    pair.send(pair.connecting, REQUEST);
    pair.check('shutdown', pair.calls.shutdown(pair.connecting, SHUT_WR));
    settle(pair);
    const request = readToEnd(pair, pair.accepting, REQUEST.length);
    pair.send(pair.accepting, ANSWER);
    pair.closeEarly(pair.accepting);
    const answer = readToEnd(pair, pair.connecting, ANSWER.length);
    return request === REQUEST && answer === ANSWER
      ? asExpected('After one side had closed for writing, what it had sent and the answer both arrived whole, each with its end.')
      : breakage(
          'Half-closed connections lose bytes.',
          'With this kernel acceleration would cut off requests or answers.',
          `Of '${REQUEST}' arrived '${request}', of the answer '${ANSWER}' arrived '${answer}'.`,
        );
  },
};

/** Whether a reset leaves what was sent before it to the reader, and is told, as with TCP on Linux (net/ipv4/tcp_input.c, tcp_reset). */
export const resetTest: SelfTest = {
  id: 'reset',
  needsRedirection: true,
  run: (pair) => {
    pair.enrolAccepting();
    pair.send(pair.connecting, REQUEST);
    // struct linger: on, no time: close() resets.
    pair.check('setsockopt', pair.calls.setsockopt(pair.connecting, SOL_SOCKET, SO_LINGER, new Uint8Array(Uint32Array.of(1, 0).buffer), 8));
    pair.closeEarly(pair.connecting);
    settle(pair);
    const buffer = Buffer.alloc(REQUEST.length * 2);
    const first = pair.calls.recv(pair.accepting, buffer, buffer.length, 0);
    const received = buffer.toString('utf8', 0, Math.max(0, first));
    const second = first > 0 ? pair.calls.recv(pair.accepting, buffer, buffer.length, 0) : first;
    const told = second === -constants.errno.ECONNRESET;
    const found = `After a reset '${received}' of '${REQUEST}' could be read, and the reset was ${told ? '' : 'not '}told.`;
    return received === REQUEST && told
      ? asExpected(found)
      : limitation(
          found,
          'A peer that resets accelerated connections is noticed in another way than with TCP.',
          'Nothing may be relied on after a reset; programs that log resets, or read what came before them, see a difference.',
          'Nothing needs to be done unless an application depends on it.',
        );
  },
};

/** Gives what comes, and notes where more comes than was sent or the end does not. */
function readToEnd(pair: EnrolledPair, fd: number, bytes: number): string {
  const received = pair.receiveAll(fd, bytes);
  if (received.length < bytes) {
    return received;
  }
  const buffer = Buffer.alloc(1);
  const more = pair.calls.recv(fd, buffer, 1, 0);
  return more === 0 ? received : `${received} (without an end)`;
}

function settle(pair: EnrolledPair): void {
  pair.calls.poll(new Uint8Array(0), 0, SETTLE_MILLISECONDS);
}
