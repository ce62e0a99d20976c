import { once } from 'node:events';
import { createServer } from 'node:net';
import type { Socket } from 'node:net';
import { formatIpAddress, toIpAddress } from '../../protocol/ipAddress.ts';
import { toPortNumber } from '../../protocol/scalars.ts';
import type { Endpoint } from '../../protocol/scalars.ts';
import type { CommandHandlers } from './program.ts';
import { relay } from './relay.ts';
import type { SocksParams } from './reports.ts';

/**
 * The smallest server of SOCKS version 5 (RFC 1928) that a redirecting proxy needs behind it: no authentication, CONNECT to IPv4
 * addresses, on loopback only.
 */

const VERSION = 5;
const NO_AUTHENTICATION = 0;
const CONNECT = 1;
const IPV4 = 1;
const SUCCEEDED = 0;
const REFUSED = 5;
const GREETING_HEADER_BYTES = 2;
const REQUEST_BYTES = 10;
const ADDRESS_OFFSET = 4;
const PORT_OFFSET = 8;

/** Serves SOCKS at two ports: what comes by the inbound one is connected on from the passthrough source. Resolves once it listens. */
export async function serveSocks({ outboundPort, inboundPort, passthroughSource, applicationAddress }: SocksParams): Promise<CommandHandlers> {
  for (const [port, source, host] of [
    [outboundPort, null, null],
    [inboundPort, passthroughSource, applicationAddress],
  ] as const) {
    const server = createServer({ allowHalfOpen: true, noDelay: true }, (socket) => {
      socket.on('error', () => undefined);
      serve(socket, source, host).catch(() => socket.resetAndDestroy());
    });
    server.listen(port, '127.0.0.1');
    await once(server, 'listening');
  }
  return {};
}

/** Connects on to `host` where one is given, at the port that is asked for. */
async function serve(socket: Socket, source: string | null, host: string | null): Promise<void> {
  const [version, methods = 0] = await readBytes(socket, GREETING_HEADER_BYTES);
  const offered = await readBytes(socket, methods);
  if (version !== VERSION || !offered.includes(NO_AUTHENTICATION)) {
    throw new Error('not a greeting of SOCKS version 5 without authentication');
  }
  socket.write(Uint8Array.of(VERSION, NO_AUTHENTICATION));
  const request = await readBytes(socket, REQUEST_BYTES);
  if (request[0] !== VERSION || request[1] !== CONNECT || request[3] !== IPV4) {
    throw new Error('not a request to connect to an IPv4 address');
  }
  const destination: Endpoint = {
    address: host === null ? formatIpAddress(request.subarray(ADDRESS_OFFSET, PORT_OFFSET)) : toIpAddress(host),
    port: toPortNumber(request.readUInt16BE(PORT_OFFSET)),
  };
  const reply = (code: number): Uint8Array => Uint8Array.of(VERSION, code, 0, IPV4, 0, 0, 0, 0, 0, 0);
  let connected = false;
  relay(socket, {
    destination,
    source,
    onConnected: () => {
      connected = true;
      socket.write(reply(SUCCEEDED));
    },
    onEnded: () => {
      if (!connected) {
        socket.end(reply(REFUSED));
      }
    },
  });
}

/** Gives the next `count` bytes; rejects where the stream ends before. */
async function readBytes(socket: Socket, count: number): Promise<Buffer> {
  if (count === 0) {
    return Buffer.alloc(0);
  }
  for (;;) {
    const bytes = socket.read(count) as Buffer | null;
    if (bytes?.length === count) {
      return bytes;
    }
    if (bytes !== null || socket.readableEnded || socket.destroyed) {
      throw new Error('the stream ended early');
    }
    await Promise.race([once(socket, 'readable'), once(socket, 'close')]);
  }
}
