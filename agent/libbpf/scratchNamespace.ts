import { MeshpathError } from '../protocol/errors.ts';
import { ipAddressBytes, isIpv4 } from '../protocol/ipAddress.ts';
import type { IpAddress } from '../protocol/scalars.ts';
import type { Libbpf } from './library.ts';
import { bindSocketCalls } from './socketCalls.ts';

const CLONE_NEWNET = 0x4000_0000;
const AF_INET = 2;
const AF_INET6 = 10;
const SOCK_DGRAM = 2;
const SOCK_CLOEXEC = 0o2000000;
/** netdevice(7) */
const SIOCSIFFLAGS = 0x8914;
const SIOCSIFADDR = 0x8916;
const IFF_UP_RUNNING = 0x41;
const IFREQ_BYTES = 40;
const NAME_BYTES = 16;
/** In a new namespace lo is the first device. */
const LOOPBACK_INDEX = 1;
const IPV6_BITS = 128;

/**
 * Moves this process into a network namespace of its own, which ends with it, and gives lo these addresses beside its own. An address
 * that the kernel does not take (IPv6 where it is off) is left out of the result. Throws CAPABILITY_MISSING or KERNEL_UNSUITABLE.
 */
export function enterScratchNamespace(libbpf: Libbpf, addresses: readonly IpAddress[]): readonly IpAddress[] {
  const calls = bindSocketCalls(libbpf);
  const check = (call: string, result: number): number => {
    if (result < 0) {
      throw new MeshpathError({
        code: call === 'unshare' ? 'CAPABILITY_MISSING' : 'KERNEL_UNSUITABLE',
        message: 'A network namespace for tests could not be made.',
        reason: `${call} failed with ${libbpf.describe(-result)}.`,
        remedy: 'Run as root with CAP_SYS_ADMIN and CAP_NET_ADMIN, outside of a sandbox that forbids new namespaces.',
      });
    }
    return result;
  };
  check('unshare', calls.unshare(CLONE_NEWNET));
  const socket = check('socket', calls.socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  // Without IPv6 there is no such socket.
  const socket6 = calls.socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  try {
    const flags = interfaceRequest('lo');
    new Uint16Array(flags.buffer)[NAME_BYTES / 2] = IFF_UP_RUNNING;
    check('ioctl SIOCSIFFLAGS', calls.ioctl(socket, SIOCSIFFLAGS, flags));
    return addresses.filter((address, index) => {
      if (!isIpv4(address)) {
        return socket6 >= 0 && calls.ioctl(socket6, SIOCSIFADDR, request6(address)) >= 0;
      }
      const request = interfaceRequest(`lo:${index + 1}`);
      new Uint16Array(request.buffer)[NAME_BYTES / 2] = AF_INET;
      request.set(ipAddressBytes(address), NAME_BYTES + 4);
      return check('ioctl SIOCSIFADDR', calls.ioctl(socket, SIOCSIFADDR, request)) >= 0;
    });
  } finally {
    calls.close(socket);
    if (socket6 >= 0) {
      calls.close(socket6);
    }
  }
}

/** struct ifreq with the name of a device, or of one more address of it. */
function interfaceRequest(name: string): Uint8Array {
  const request = new Uint8Array(IFREQ_BYTES);
  request.set(Buffer.from(name, 'latin1').subarray(0, NAME_BYTES - 1));
  return request;
}

/** struct in6_ifreq: the address, the bits of its prefix, the device. */
function request6(address: IpAddress): Uint8Array {
  const request = new Uint8Array(24);
  request.set(ipAddressBytes(address));
  new Uint32Array(request.buffer).set([IPV6_BITS, LOOPBACK_INDEX], 4);
  return request;
}
