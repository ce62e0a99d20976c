import {
  acceptSocket,
  closeSocket,
  listenOn,
  readOriginalEndpoint,
  receiveBytes,
  shutdownSocket,
  startConnecting,
  waitForAnyReadable,
} from '../../soak/programs/rawSocket.ts';
import { sendAll } from './pathSocket.ts';

/** A sidecar of a path that is measured: as little work between two sockets as there can be. Arguments: port, source ('' for none). */

const READ_BYTES = 65_536;

const [, , port = '', source = ''] = process.argv;
const listener = listenOn({ address: '0.0.0.0', port: Number(port) }, { blocks: true });
const buffer = new Uint8Array(READ_BYTES);
console.log('ready');
for (;;) {
  const downstream = acceptSocket(listener, { blocks: true });
  const destination = readOriginalEndpoint(downstream);
  if (typeof destination === 'number') {
    throw new Error(`SO_ORIGINAL_DST: errno ${-destination}`);
  }
  const upstream = startConnecting(destination, { blocks: true, ...(source === '' ? {} : { local: { address: source, port: 0 } }) });
  if (upstream < 0) {
    throw new Error(`connect: errno ${-upstream}`);
  }
  relay(downstream, upstream);
  closeSocket(downstream);
  closeSocket(upstream);
}

function relay(downstream: number, upstream: number): void {
  const ways = [
    { from: downstream, to: upstream, isOpen: true },
    { from: upstream, to: downstream, isOpen: true },
  ];
  while (ways.some(({ isOpen }) => isOpen)) {
    const open = ways.filter(({ isOpen }) => isOpen);
    const readable = waitForAnyReadable(open.map(({ from }) => from));
    open.forEach((way, index) => {
      if (readable[index] !== true) {
        return;
      }
      const count = receiveBytes(way.from, buffer);
      if (count > 0) {
        sendAll(way.to, buffer.subarray(0, count));
      } else {
        way.isOpen = false;
        shutdownSocket(way.to);
      }
    });
  }
}
