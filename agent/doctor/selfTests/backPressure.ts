import { constants } from 'node:os';
import { asExpected, breakage } from './selfTest.ts';
import type { SelfTest } from './selfTest.ts';

const MESSAGE_BYTES = 64 * 1024;
/** TCP's own buffers hold some megabytes (tcp_wmem, tcp_rmem); whatever takes so much has no bound. */
const MOST_MESSAGES = 1_024;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const MEBIBYTE = 1024 * 1024;

/**
 * Whether a writer is held up by a reader that never reads. The kernel has no bound for redirected bytes (net/core/skmsg.c); Meshpath
 * lets a direction go on over TCP beyond its own. Then all is read: no byte may be missing or out of order.
 */
export const backPressureTest: SelfTest = {
  id: 'back-pressure',
  needsRedirection: true,
  run: (pair) => {
    pair.enrolAccepting();
    let written = 0;
    let isHeld = false;
    for (let message = 0; message < MOST_MESSAGES && !isHeld; message += 1) {
      const bytes = Buffer.alloc(MESSAGE_BYTES, message % 251);
      const taken = pair.calls.send(pair.connecting, bytes, bytes.length, MSG_DONTWAIT | MSG_NOSIGNAL);
      isHeld = taken === -constants.errno.EAGAIN || (taken >= 0 && taken < bytes.length);
      written += Math.max(0, isHeld ? taken : pair.check('send', taken));
    }
    const redirected = pair.countRedirected();
    if (!isHeld) {
      return breakage(
        'A writer is not held up by a reader that does not read.',
        'With this kernel one slow reader could use up the memory of the node.',
        `${inMebibytes(written)} MiB were taken, ${inMebibytes(Number(redirected))} MiB of them redirected, and the kernel would have taken more.`,
      );
    }
    const wrongAt = findWrongByte(pair, written);
    return wrongAt === undefined
      ? asExpected(
          `A reader that never read held its writer up after ${inMebibytes(written)} MiB, of which ${inMebibytes(Number(redirected))} MiB were redirected; all could be read then.`,
        )
      : breakage(
          'Bytes are lost or out of order behind a slow reader.',
          'With this kernel acceleration would change the bytes of connections with slow readers.',
          `Of ${written} bytes, that at ${wrongAt} is missing or another.`,
        );
  },
};

/** Reads all; gives the place of the first byte that is not the one that was written there. */
function findWrongByte(pair: Parameters<SelfTest['run']>[0], bytes: number): number | undefined {
  const buffer = Buffer.alloc(MESSAGE_BYTES);
  let at = 0;
  while (at < bytes) {
    const received = pair.calls.recv(pair.accepting, buffer, buffer.length, 0);
    if (received <= 0) {
      return at;
    }
    for (let index = 0; index < received; ) {
      const message = Math.floor((at + index) / MESSAGE_BYTES);
      const end = Math.min(received, (message + 1) * MESSAGE_BYTES - at);
      if (!buffer.subarray(index, end).equals(Buffer.alloc(end - index, message % 251))) {
        return at + index;
      }
      index = end;
    }
    at += received;
  }
  return undefined;
}

function inMebibytes(bytes: number): string {
  return (bytes / MEBIBYTE).toFixed(1);
}
