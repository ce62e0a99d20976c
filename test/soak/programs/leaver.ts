import { writeSync } from 'node:fs';
import { getSystemErrorName } from 'node:util';
import { EventLoop, WRITABLE } from './eventLoop.ts';
import { closeSocket, readSocketError, sendBytes, startConnecting } from './rawSocket.ts';
import type { LeaverParams } from './reports.ts';

/**
 * A client that connects, prints `connected` and waits; when it gets SIGUSR2 it sends its text in one send(2), closes and
 * ends. Until then the last ACK of its handshake may be still to come.
 */

const params = JSON.parse(process.argv[2] ?? '') as LeaverParams;
const loop = new EventLoop();
const fd = startConnecting({ address: params.address, port: params.port }, { delaysAck: params.delaysAck });
if (fd < 0) {
  throw new Error(`connect: ${getSystemErrorName(fd)}`);
}
const watch = loop.watch(fd, () => {
  watch.end();
  const error = readSocketError(fd);
  if (error !== 0) {
    throw new Error(`connect: ${getSystemErrorName(error)}`);
  }
  process.once('SIGUSR2', () => {
    const sent = sendBytes(fd, Buffer.from(params.text));
    closeSocket(fd);
    process.exit(sent === Buffer.byteLength(params.text) ? 0 : 1);
  });
  writeSync(process.stdout.fd, 'connected\n');
});
watch.want(WRITABLE);
loop.start();
