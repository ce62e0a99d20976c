import { asExpected, limitation } from './selfTest.ts';
import type { SelfTest } from './selfTest.ts';

const MESSAGE = 'not copied'.repeat(1_000);
const SOL_SOCKET = 1;
const SO_ZEROCOPY = 60;
const MSG_ZEROCOPY = 0x400_0000;
const MSG_NOSIGNAL = 0x4000;
const POLLERR = 8;
const WAIT_MILLISECONDS = 200;

/** Whether the sender with MSG_ZEROCOPY is told when it may use its memory again (Documentation/networking/msg_zerocopy.rst). */
export const zeroCopyTest: SelfTest = {
  id: 'zerocopy',
  needsRedirection: true,
  run: (pair) => {
    pair.enrolAccepting();
    pair.check('setsockopt', pair.calls.setsockopt(pair.connecting, SOL_SOCKET, SO_ZEROCOPY, new Uint8Array(Uint32Array.of(1).buffer), 4));
    const bytes = Buffer.from(MESSAGE);
    const sent = pair.check('send', pair.calls.send(pair.connecting, bytes, bytes.length, MSG_ZEROCOPY | MSG_NOSIGNAL));
    const received = pair.receiveAll(pair.accepting, sent);
    const isCompleted = (pair.poll(pair.connecting, 0, WAIT_MILLISECONDS) & POLLERR) !== 0;
    const found = `${received === MESSAGE ? 'All' : 'Not all'} bytes sent with MSG_ZEROCOPY arrived; its completion was ${isCompleted ? '' : 'not '}told within ${WAIT_MILLISECONDS} ms.`;
    return isCompleted && received === MESSAGE
      ? asExpected(found)
      : limitation(
          found,
          'Programs that send with MSG_ZEROCOPY (few do, and only where they are told to) never learn on accelerated connections that their memory is free again.',
          'The kernel takes redirected messages before it notes that a completion is wanted.',
          'Turn MSG_ZEROCOPY off in them, or do not accelerate their pods.',
        );
  },
};
