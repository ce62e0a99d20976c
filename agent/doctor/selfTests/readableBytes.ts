import type { EnrolledPair } from './enrolledPair.ts';
import { asExpected, limitation } from './selfTest.ts';
import type { SelfTest } from './selfTest.ts';

const MESSAGE = 'meshpath';

/**
 * Whether ioctl(FIONREAD) tells of the bytes that wait: those that were redirected, and those that came through TCP to a socket in a
 * sockhash. Since upstream commit 929e30f93125 ("bpf, sockmap: Fix FIONREAD for sockmap") the kernel counts the former only.
 */
export const readableBytesTest: SelfTest = {
  id: 'fionread',
  needsRedirection: true,
  run: (pair) => {
    pair.enrolAccepting();
    const redirected = countAfter(pair, pair.connecting, pair.accepting);
    const expected = MESSAGE.length;
    pair.stopRedirecting();
    const passed = countAfter(pair, pair.connecting, pair.accepting);
    const found = `Of ${expected} bytes that wait, FIONREAD tells ${redirected} where they were redirected and ${passed} where they came through TCP.`;
    return redirected === expected && passed === expected
      ? asExpected(found)
      : limitation(
          found,
          'Programs that ask how much they can read (ioctl FIONREAD: nginx from 1.17.5 on, Java, .NET) are told a wrong number on accelerated connections.',
          'The kernel counts only some of the bytes that wait at a socket in a sockhash (upstream commit 929e30f93125, which stable kernels took over).',
          'Do not accelerate pods whose programs ask for it. A newer kernel of the same series may have it mended: run the doctor again after an update.',
        );
  },
};

function countAfter(pair: EnrolledPair, from: number, to: number): number {
  pair.send(from, MESSAGE);
  const count = pair.countReadable(to);
  pair.receive(to, MESSAGE.length);
  return count;
}
