import { asExpected, breakage } from './selfTest.ts';
import type { SelfTest } from './selfTest.ts';

const MESSAGES = ['seen ', 'twice'] as const;
const TEXT = MESSAGES.join('');
const MSG_PEEK = 2;

/** Whether recv(MSG_PEEK) shows redirected bytes and leaves them, as servers that tell protocols apart rely on. */
export const peekingTest: SelfTest = {
  id: 'peek',
  needsRedirection: true,
  run: (pair) => {
    pair.enrolAccepting();
    for (const message of MESSAGES) {
      pair.send(pair.connecting, message);
    }
    pair.waitForBytes(pair.accepting);
    const buffer = Buffer.alloc(TEXT.length);
    const peeked = pair.check('recv', pair.calls.recv(pair.accepting, buffer, buffer.length, MSG_PEEK));
    const seen = buffer.toString('utf8', 0, peeked);
    const received = pair.receiveAll(pair.accepting, TEXT.length);
    return seen !== '' && TEXT.startsWith(seen) && received === TEXT
      ? asExpected(`MSG_PEEK showed ${peeked} redirected bytes, and all ${TEXT.length} could be read after it.`)
      : breakage(
          'Looking at redirected bytes (MSG_PEEK) changes them.',
          'With this kernel programs that look at bytes before they read them would lose some.',
          `Of '${TEXT}', MSG_PEEK showed '${seen}', and '${received}' could be read after it.`,
        );
  },
};
