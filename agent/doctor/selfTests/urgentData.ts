import { asExpected, limitation } from './selfTest.ts';
import type { SelfTest } from './selfTest.ts';

const URGENT = '!';
const MSG_OOB = 1;
const MSG_NOSIGNAL = 0x4000;
const POLLPRI = 2;
const WAIT_MILLISECONDS = 200;

/** Whether urgent data (send with MSG_OOB) is told as such, and is not among the other bytes. */
export const urgentDataTest: SelfTest = {
  id: 'oob',
  needsRedirection: false,
  run: (pair) => {
    pair.enrolAccepting();
    const bytes = Buffer.from(URGENT);
    pair.check('send', pair.calls.send(pair.connecting, bytes, 1, MSG_OOB | MSG_NOSIGNAL));
    const isTold = (pair.poll(pair.accepting, POLLPRI, WAIT_MILLISECONDS) & POLLPRI) !== 0;
    const buffer = Buffer.alloc(1);
    const isApart = isTold && pair.calls.recv(pair.accepting, buffer, 1, MSG_OOB) === 1 && buffer.toString() === URGENT;
    const found = isApart ? 'Urgent data (MSG_OOB) was told as urgent and came apart from other bytes.' : `Urgent data (MSG_OOB) was ${isTold ? '' : 'not '}told as urgent, and came among other bytes.`;
    return isApart
      ? asExpected(found)
      : limitation(
          found,
          'Urgent data (MSG_OOB: telnet, FTP, rlogin) comes among the other bytes of accelerated connections.',
          'Redirected messages have no mark for it.',
          'Do not accelerate pods whose programs use it; protocols of the last thirty years do not.',
        );
  },
};
