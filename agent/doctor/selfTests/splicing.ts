import { constants } from 'node:os';
import type { EnrolledPair } from './enrolledPair.ts';
import { asExpected, limitation } from './selfTest.ts';
import type { SelfTest } from './selfTest.ts';

const MESSAGE = 'spliced';
const SPLICE_F_NONBLOCK = 2;
const O_CLOEXEC = 0o2000000;
const FIONBIO = 0x5421;

/**
 * Whether splice(2) moves bytes out of an accelerated socket. The kernel's splice_read of TCP looks into the receive queue only
 * (net/ipv4/tcp.c, tcp_splice_read), where redirected bytes never are: the caller waits for ever.
 */
export const splicingTest: SelfTest = {
  id: 'splice',
  needsRedirection: true,
  run: (pair) => {
    pair.enrolAccepting();
    // SPLICE_F_NONBLOCK is for the pipe only.
    pair.check('ioctl', pair.calls.ioctl(pair.accepting, FIONBIO, Uint32Array.of(1)));
    const redirected = spliceAfter(pair);
    if (redirected !== MESSAGE.length) {
      // They are still there for those who read.
      pair.receiveAll(pair.accepting, MESSAGE.length - Math.max(0, redirected));
    }
    pair.stopRedirecting();
    const passed = spliceAfter(pair);
    const found = `Of ${MESSAGE.length} bytes, splice moves ${tell(redirected)} where they were redirected and ${tell(passed)} where they came through TCP.`;
    return redirected === MESSAGE.length && passed === MESSAGE.length
      ? asExpected(found)
      : limitation(
          found,
          'Programs that take bytes from connections with splice(2) (Go proxies that use io.Copy, HAProxy with option splice-auto) wait for ever on accelerated ones.',
          'The kernel looks for bytes to splice where redirected ones never are.',
          'Do not accelerate pods whose programs splice. HAProxy does not without its option; Envoy, nginx and linkerd2-proxy do not at all.',
        );
  },
};

/** Gives how many bytes were moved; a negative errno where none were. */
function spliceAfter(pair: EnrolledPair): number {
  pair.send(pair.connecting, MESSAGE);
  pair.waitForBytes(pair.accepting);
  const ends = new Int32Array(2);
  pair.check('pipe2', pair.calls.pipe2(ends, O_CLOEXEC));
  const [output, input] = [ends[0] ?? -1, ends[1] ?? -1];
  pair.keep('pipe2', output);
  pair.keep('pipe2', input);
  return pair.calls.splice(pair.accepting, null, input, null, MESSAGE.length, SPLICE_F_NONBLOCK);
}

function tell(moved: number): string {
  return moved >= 0 ? String(moved) : moved === -constants.errno.EAGAIN ? 'none (EAGAIN)' : `none (errno ${-moved})`;
}
