import { asExpected, breakage } from './selfTest.ts';
import type { SelfTest } from './selfTest.ts';

const BEFORE = 'through TCP, ';
const AFTER = 'and after it';

/**
 * Whether bytes arrive in order where the peer comes into the sockhash only after the first message was sent, as when the last ACK of
 * a handshake is late. The kernel lets a reader have redirected bytes first (net/ipv4/tcp_bpf.c, tcp_bpf_recvmsg), so that all later
 * messages have to go through TCP too.
 */
export const messageOrderTest: SelfTest = {
  id: 'message-order',
  needsRedirection: false,
  run: (pair) => {
    pair.send(pair.connecting, BEFORE);
    // It has to wait in the receive queue when the second one comes.
    pair.waitForBytes(pair.accepting);
    pair.enrolAccepting();
    pair.send(pair.connecting, AFTER);
    const received = pair.receiveAll(pair.accepting, BEFORE.length + AFTER.length);
    return received === BEFORE + AFTER
      ? asExpected('A message that was sent before its peer could be redirected to arrived before those sent after it.')
      : breakage(
          'Messages do not arrive in the order in which they were sent.',
          'With this kernel acceleration would mix up the bytes of connections.',
          `Of '${BEFORE}${AFTER}' arrived '${received}'.`,
        );
  },
};
