import { acceptSocket, closeSocket, listenOn, receiveBytes } from '../../soak/programs/rawSocket.ts';
import { decodePlan, PLAN_BYTES } from './pathPlan.ts';
import { receiveAll, sendAll } from './pathSocket.ts';

/** The server's end of a path that is measured: one connection after the other, in system calls that wait. */

const READ_BYTES = 262_144;

const listener = listenOn({ address: '0.0.0.0', port: Number(process.argv[2]) }, { blocks: true });
const buffer = new Uint8Array(READ_BYTES);
console.log('ready');
for (;;) {
  const fd = acceptSocket(listener, { blocks: true });
  const plan = new Uint8Array(PLAN_BYTES);
  while (receiveAll(fd, plan)) {
    const { exercise, bytes, count } = decodePlan(plan);
    if (exercise === 'round-trips') {
      const message = buffer.subarray(0, bytes);
      for (let round = 0; round < count && receiveAll(fd, message); round += 1) {
        sendAll(fd, message);
      }
    } else {
      for (let rest = bytes * count; rest > 0; ) {
        const received = receiveBytes(fd, buffer.subarray(0, Math.min(buffer.length, rest)));
        if (received <= 0) {
          break;
        }
        rest -= received;
      }
      sendAll(fd, Uint8Array.of(1));
    }
  }
  closeSocket(fd);
}
