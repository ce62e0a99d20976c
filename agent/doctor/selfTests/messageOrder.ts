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
  title: 'Order of messages',
  run: (pair) => {
    pair.send(pair.connecting, BEFORE);
    // It has to wait in the receive queue when the second one comes.
    pair.waitForBytes(pair.accepting);
    pair.enrolAccepting();
    pair.send(pair.connecting, AFTER);
    const received = receiveAll(pair, BEFORE.length + AFTER.length);
    if (received === BEFORE + AFTER) {
      return { result: 'ok', found: 'A message that was sent before its peer could be redirected to arrived before those sent after it.', problem: null };
    }
    const found = `Of '${BEFORE}${AFTER}' arrived '${received}'.`;
    return {
      result: 'failed',
      found: 'Messages do not arrive in the order in which they were sent.',
      problem: {
        code: 'KERNEL_UNSUITABLE',
        message: 'With this kernel acceleration would mix up the bytes of connections.',
        reason: found,
        remedy: 'Leave acceleration off on this node, and report what the doctor shows with the version of the kernel.',
      },
    };
  },
};

function receiveAll(pair: Parameters<SelfTest['run']>[0], bytes: number): string {
  let received = '';
  while (received.length < bytes) {
    const part = pair.receive(pair.accepting, bytes - received.length);
    if (part === '') {
      break;
    }
    received += part;
  }
  return received;
}
