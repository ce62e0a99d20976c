import type { Socket } from 'node:net';
import { getSystemErrorName } from 'node:util';
import { formatIpAddress, isIpv4 } from '../protocol/ipAddress.ts';
import { toPortNumber } from '../protocol/scalars.ts';
import type { Endpoint } from '../protocol/scalars.ts';
import { loadKoffi } from './nativeKoffi.ts';

/**
 * Questions to the kernel about a socket. Node.js keeps the addresses that it once read and cannot ask for
 * SO_ORIGINAL_DST at all, so these call the C library, which Node.js has already loaded.
 */

const AF_INET = 2;
const AF_INET6 = 10;
const SOL_IP = 0;
const SOL_IPV6 = 41;
/** include/uapi/linux/netfilter_ipv4.h; IP6T_SO_ORIGINAL_DST of netfilter_ipv6/ip6_tables.h is the same number. */
const SO_ORIGINAL_DST = 80;
/** sizeof(struct sockaddr_in6), the longest that is read here. */
const SOCKADDR_BYTES = 28;

const koffi = loadKoffi();
const libc = koffi.load(null);
const getsocknameFunction = libc.func('int getsockname(int fd, _Out_ uint8_t *address, _Inout_ uint32_t *length)');
const getpeernameFunction = libc.func('int getpeername(int fd, _Out_ uint8_t *address, _Inout_ uint32_t *length)');
const getsockoptFunction = libc.func(
  'int getsockopt(int fd, int level, int option, _Out_ uint8_t *value, _Inout_ uint32_t *length)',
);

/** Gives the socket's own address (getsockname(2)); throws an Error whose `code` is the errno name. */
export function readLocalEndpoint(socket: Socket): Endpoint {
  return readEndpoint('getsockname', (address, length) => Number(getsocknameFunction(descriptorOf(socket), address, length)));
}

/** Gives the socket's peer (getpeername(2)); throws an Error whose `code` is the errno name. */
export function readPeerEndpoint(socket: Socket): Endpoint {
  return readEndpoint('getpeername', (address, length) => Number(getpeernameFunction(descriptorOf(socket), address, length)));
}

/**
 * Gives the destination that the client meant before it was redirected (getsockopt SO_ORIGINAL_DST, at
 * SOL_IP for a connection over IPv4 and at SOL_IPV6 for one over IPv6, whatever the socket is); throws an
 * Error with code ENOENT where conntrack knows of no redirection (getorigdst in net/netfilter/nf_conntrack_proto.c).
 */
export function readOriginalDestination(socket: Socket): Endpoint {
  const level = isIpv4(readLocalEndpoint(socket).address) ? SOL_IP : SOL_IPV6;
  return readEndpoint('getsockopt', (address, length) =>
    Number(getsockoptFunction(descriptorOf(socket), level, SO_ORIGINAL_DST, address, length)),
  );
}

function readEndpoint(call: string, read: (address: Uint8Array, length: [number]) => number): Endpoint {
  const address = new Uint8Array(SOCKADDR_BYTES);
  const length: [number] = [SOCKADDR_BYTES];
  if (read(address, length) !== 0) {
    const name = getSystemErrorName(-koffi.errno());
    throw Object.assign(new Error(`${call}: ${name}`), { code: name });
  }
  const view = new DataView(address.buffer);
  const family = new Uint16Array(address.buffer, 0, 1)[0];
  const port = toPortNumber(view.getUint16(2));
  if (family === AF_INET) {
    return { address: formatIpAddress(address.subarray(4, 8)), port };
  }
  if (family === AF_INET6) {
    return { address: formatIpAddress(address.subarray(8, 24)), port };
  }
  throw new Error(`${call} gave an address of family ${String(family)}`);
}

/** Node.js shows the descriptor of a socket only on its handle. */
function descriptorOf(socket: Socket): number {
  const handle = (socket as unknown as { readonly _handle: { readonly fd: number } | null })._handle;
  if (handle === null || handle.fd < 0) {
    throw Object.assign(new Error('the socket is closed'), { code: 'EBADF' });
  }
  return handle.fd;
}
