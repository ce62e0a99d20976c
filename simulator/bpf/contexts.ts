import { ipAddressBytes, formatIpAddress, isIpv4, mappedAddressBytes } from '../../agent/protocol/ipAddress.ts';
import { toPortNumber } from '../../agent/protocol/scalars.ts';
import type { Endpoint, IpAddress, PortNumber } from '../../agent/protocol/scalars.ts';
import type { AddressSpace, Region } from './memory.ts';
import type { KernelSocket } from './sockets.ts';

/** Operations of sockops programs (include/uapi/linux/bpf.h, BPF_SOCK_OPS_*_CB). */
export const SOCK_OPS = { TCP_CONNECT: 3, ACTIVE_ESTABLISHED: 4, PASSIVE_ESTABLISHED: 5, STATE: 10, TCP_LISTEN: 11 } as const;
/** The bit of bpf_sock_ops_cb_flags that asks for SOCK_OPS.STATE. */
export const STATE_CALLBACK_FLAG = 1 << 2;

const AF_INET = 2;
const AF_INET6 = 10;
/** SOCK_STREAM with IPPROTO_TCP, SOCK_DGRAM with IPPROTO_UDP. */
const SOCKET_TYPES = { tcp: { type: 1, protocol: 6 }, udp: { type: 2, protocol: 17 } } as const;

/** The fields of struct bpf_sock_addr, bpf_sock_ops, sk_msg_md, bpf_sock and bpf_sockopt by their offsets. */
const SOCK_ADDR = { bytes: 72, userFamily: 0, userIp4: 4, userIp6: 8, userPort: 24, family: 28, type: 32, protocol: 36, sourceIp4: 40, sourceIp6: 44, socket: 64 } as const;
const SOCK_OPS_CONTEXT = {
  bytes: 224, op: 0, arguments: 4, family: 20, remoteIp4: 24, localIp4: 28, remoteIp6: 32, localIp6: 48, remotePort: 64, localPort: 68, isFullSocket: 72,
  callbackFlags: 84, state: 88, nextReceived: 100, nextSent: 104, socket: 184,
} as const;
const SK_MSG = { bytes: 80, data: 0, dataEnd: 8, family: 16, remoteIp4: 20, localIp4: 24, remoteIp6: 28, localIp6: 44, remotePort: 60, localPort: 64, size: 68, socket: 72 } as const;
const SOCK = { bytes: 80, boundDevice: 0, family: 4, type: 8, protocol: 12, mark: 16, priority: 20, sourceIp4: 24, sourceIp6: 28, sourcePort: 44, destinationPort: 48, destinationIp4: 52, destinationIp6: 56, state: 72, queue: 76 } as const;
const SOCKOPT = { bytes: 40, socket: 0, value: 8, valueEnd: 16, level: 24, name: 28, length: 32, result: 36 } as const;

/** A context in the memory of a run: where it is, and how to read back what the program wrote. */
export interface Context<Result> {
  readonly pointer: bigint;
  /** The socket that it is about. */
  readonly socket: KernelSocket;
  readonly read: () => Result;
}

/** Maps struct bpf_sock of a socket, read-only (net/core/filter.c, bpf_sock_convert_ctx_access), and gives its pointer. */
function mapSocket(memory: AddressSpace, socket: KernelSocket): bigint {
  const bytes = new Uint8Array(SOCK.bytes);
  writeSocket(bytes, socket);
  return memory.map({ name: 'struct bpf_sock', bytes, meaning: { kind: 'socket', socket }, writable: [], written: null });
}

/** Brings struct bpf_sock of a bpf_sock_addr context up to date: programs read the socket itself, which a helper has changed. */
export function refreshSocket(memory: AddressSpace, context: bigint): void {
  const { region, offset } = memory.resolve(context);
  const pointer = new DataView(region.bytes.buffer, region.bytes.byteOffset + offset).getBigUint64(SOCK_ADDR.socket, true);
  const socket = memory.resolve(pointer).region;
  if (socket.meaning.kind === 'socket') {
    writeSocket(socket.bytes, socket.meaning.socket);
  }
}

function writeSocket(bytes: Uint8Array, socket: KernelSocket): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const { type, protocol } = SOCKET_TYPES[socket.protocol];
  view.setUint32(SOCK.boundDevice, socket.boundDevice, true);
  view.setUint32(SOCK.family, socket.family, true);
  view.setUint32(SOCK.type, type, true);
  view.setUint32(SOCK.protocol, protocol, true);
  view.setUint32(SOCK.mark, socket.mark, true);
  view.setUint32(SOCK.priority, socket.priority, true);
  writeAddress(bytes, socket.local.address, socket.family, SOCK.sourceIp4, SOCK.sourceIp6);
  view.setUint32(SOCK.sourcePort, socket.local.port, true);
  view.setUint16(SOCK.destinationPort, socket.remote.port, false);
  writeAddress(bytes, socket.remote.address, socket.family, SOCK.destinationIp4, SOCK.destinationIp6);
  view.setUint32(SOCK.state, socket.state, true);
  view.setInt32(SOCK.queue, -1, true);
}

/** What a sock_create program left in the socket. */
export type SocketSettings = Pick<KernelSocket, 'boundDevice' | 'mark' | 'priority'>;

/**
 * Maps struct bpf_sock as the context of cgroup/sock_create (net/core/filter.c, sock_filter_is_valid_access): the program may set
 * the device, the mark and the priority, and addresses are not there yet.
 */
export function mapNewSocket(memory: AddressSpace, socket: KernelSocket): Context<SocketSettings> {
  const { bytes, view } = allocate(SOCK.bytes);
  writeSocket(bytes, socket);
  return {
    pointer: mapContext(memory, 'struct bpf_sock', bytes, [[SOCK.boundDevice, SOCK.family], [SOCK.mark, SOCK.sourceIp4]]),
    socket,
    read: () => ({
      boundDevice: view.getUint32(SOCK.boundDevice, true),
      mark: view.getUint32(SOCK.mark, true),
      priority: view.getUint32(SOCK.priority, true),
    }),
  };
}

/** What programs of a hook with an address left: the address, and what a datagram comes from (null: what routing picks). */
export interface AddressResult {
  readonly address: IpAddress;
  readonly port: PortNumber;
  readonly source: IpAddress | null;
}

/**
 * Maps struct bpf_sock_addr with this address, which the program may replace (net/core/filter.c, sock_addr_is_valid_access).
 * `family` is that of the hook: an IPv4 address is mapped into IPv6 at the hooks of IPv6. user_ip4 and user_ip6 are in network
 * order, user_port in network order in its low 16 bits. `source` is what a datagram is sent from (msg_src_ip4, msg_src_ip6).
 */
export function mapSockAddr(memory: AddressSpace, socket: KernelSocket, address: Endpoint, family: 2 | 10, source: IpAddress | null): Context<AddressResult> {
  const { bytes, view } = allocate(SOCK_ADDR.bytes);
  const { type, protocol } = SOCKET_TYPES[socket.protocol];
  view.setUint32(SOCK_ADDR.userFamily, family, true);
  if (family === AF_INET) {
    bytes.set(ipAddressBytes(address.address), SOCK_ADDR.userIp4);
  } else {
    bytes.set(mappedAddressBytes(address.address), SOCK_ADDR.userIp6);
  }
  view.setUint16(SOCK_ADDR.userPort, address.port, false);
  view.setUint32(SOCK_ADDR.family, socket.family, true);
  view.setUint32(SOCK_ADDR.type, type, true);
  view.setUint32(SOCK_ADDR.protocol, protocol, true);
  if (source !== null) {
    bytes.set(family === AF_INET ? ipAddressBytes(source) : mappedAddressBytes(source), family === AF_INET ? SOCK_ADDR.sourceIp4 : SOCK_ADDR.sourceIp6);
  }
  view.setBigUint64(SOCK_ADDR.socket, mapSocket(memory, socket), true);
  const writable: Region['writable'] = [[SOCK_ADDR.userIp4, SOCK_ADDR.family], [SOCK_ADDR.sourceIp4, SOCK_ADDR.socket]];
  return {
    pointer: mapContext(memory, 'struct bpf_sock_addr', bytes, writable),
    socket,
    read: () => {
      const sourceBytes = family === AF_INET ? bytes.subarray(SOCK_ADDR.sourceIp4, SOCK_ADDR.sourceIp4 + 4) : bytes.subarray(SOCK_ADDR.sourceIp6, SOCK_ADDR.sourceIp6 + 16);
      return {
        address: readAddress(bytes, family, SOCK_ADDR.userIp4, SOCK_ADDR.userIp6),
        port: toPortNumber(view.getUint16(SOCK_ADDR.userPort, false)),
        source: sourceBytes.every((byte) => byte === 0) ? null : formatIpAddress(sourceBytes),
      };
    },
  };
}

/**
 * Maps struct bpf_sock_ops of an operation (net/core/filter.c, sock_ops_convert_ctx_access). remote_port is in the high
 * 16 bits in network order, local_port in host order. `read` gives the reply.
 */
export function mapSockOps(memory: AddressSpace, socket: KernelSocket, op: number, operationArguments: readonly number[] = []): Context<number> {
  const { bytes, view } = allocate(SOCK_OPS_CONTEXT.bytes);
  view.setUint32(SOCK_OPS_CONTEXT.op, op, true);
  operationArguments.slice(0, 4).forEach((argument, index) => {
    view.setUint32(SOCK_OPS_CONTEXT.arguments + index * 4, argument, true);
  });
  view.setUint32(SOCK_OPS_CONTEXT.family, socket.family, true);
  writeTuple(bytes, view, socket, SOCK_OPS_CONTEXT);
  view.setUint32(SOCK_OPS_CONTEXT.isFullSocket, 1, true);
  view.setUint32(SOCK_OPS_CONTEXT.callbackFlags, socket.callbacks, true);
  view.setUint32(SOCK_OPS_CONTEXT.state, socket.state, true);
  view.setUint32(SOCK_OPS_CONTEXT.nextReceived, socket.nextReceived, true);
  view.setUint32(SOCK_OPS_CONTEXT.nextSent, socket.nextSent, true);
  view.setBigUint64(SOCK_OPS_CONTEXT.socket, mapSocket(memory, socket), true);
  return {
    pointer: mapContext(memory, 'struct bpf_sock_ops', bytes, [[SOCK_OPS_CONTEXT.arguments, SOCK_OPS_CONTEXT.family]]),
    socket,
    read: () => view.getUint32(SOCK_OPS_CONTEXT.arguments, true),
  };
}

/**
 * Maps struct sk_msg_md of a message of `size` bytes (net/core/filter.c, sk_msg_convert_ctx_access). The data of sendmsg is
 * not pulled in, as the kernel does for a message whose first element may be shared: data equals data_end.
 */
export function mapMessage(memory: AddressSpace, socket: KernelSocket, size: number): Context<null> {
  const { bytes, view } = allocate(SK_MSG.bytes);
  const data = memory.map({ name: 'the data of the message', bytes: new Uint8Array(0), meaning: { kind: 'bytes' }, writable: [], written: null });
  view.setBigUint64(SK_MSG.data, data, true);
  view.setBigUint64(SK_MSG.dataEnd, data, true);
  view.setUint32(SK_MSG.family, socket.family, true);
  writeTuple(bytes, view, socket, SK_MSG);
  view.setUint32(SK_MSG.size, size, true);
  view.setBigUint64(SK_MSG.socket, mapSocket(memory, socket), true);
  return { pointer: mapContext(memory, 'struct sk_msg_md', bytes, []), socket, read: () => null };
}

/** What a getsockopt program left: the bytes for the caller, how many of them count, and the result of the call. */
export interface OptionAnswer {
  readonly value: Uint8Array;
  readonly length: number;
  readonly result: number;
}

/**
 * Maps struct bpf_sockopt for getsockopt after the kernel's own handler ran (kernel/bpf/cgroup.c,
 * __cgroup_bpf_run_filter_getsockopt): `value` is the caller's buffer as the kernel left it, `result` its return value.
 */
export function mapSocketOption(memory: AddressSpace, socket: KernelSocket, option: { readonly level: number; readonly name: number } & OptionAnswer): Context<OptionAnswer> {
  const { bytes, view } = allocate(SOCKOPT.bytes);
  const value = option.value.slice();
  const pointer = memory.map({ name: 'the option value', bytes: value, meaning: { kind: 'bytes' }, writable: [[0, value.length]], written: null });
  view.setBigUint64(SOCKOPT.socket, mapSocket(memory, socket), true);
  view.setBigUint64(SOCKOPT.value, pointer, true);
  view.setBigUint64(SOCKOPT.valueEnd, pointer + BigInt(value.length), true);
  view.setInt32(SOCKOPT.level, option.level, true);
  view.setInt32(SOCKOPT.name, option.name, true);
  view.setInt32(SOCKOPT.length, option.length, true);
  view.setInt32(SOCKOPT.result, option.result, true);
  return {
    pointer: mapContext(memory, 'struct bpf_sockopt', bytes, [[SOCKOPT.length, SOCKOPT.bytes]]),
    socket,
    read: () => ({ value, length: view.getInt32(SOCKOPT.length, true), result: view.getInt32(SOCKOPT.result, true) }),
  };
}

/** Bytes of struct sockaddr_in and of struct sockaddr_in6. */
export const SOCKET_ADDRESS_BYTES = { 2: 16, 10: 28 } as const;

/** Reads struct sockaddr_in or sockaddr_in6; undefined where the bytes are neither. */
export function readSocketAddress(bytes: Uint8Array): Endpoint | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const family = bytes.length < 2 ? 0 : view.getUint16(0, true);
  if (family === AF_INET && bytes.length >= SOCKET_ADDRESS_BYTES[AF_INET]) {
    return { address: formatIpAddress(bytes.subarray(4, 8)), port: view.getUint16(2, false) as PortNumber };
  }
  if (family === AF_INET6 && bytes.length >= SOCKET_ADDRESS_BYTES[AF_INET6]) {
    return { address: formatIpAddress(bytes.subarray(8, 24)), port: view.getUint16(2, false) as PortNumber };
  }
  return undefined;
}

/** Writes struct sockaddr_in or sockaddr_in6, by the family. */
export function writeSocketAddress(endpoint: Endpoint, family: 2 | 10): Uint8Array {
  const bytes = new Uint8Array(SOCKET_ADDRESS_BYTES[family]);
  const view = new DataView(bytes.buffer);
  view.setUint16(0, family, true);
  view.setUint16(2, endpoint.port, false);
  bytes.set(family === AF_INET ? ipAddressBytes(endpoint.address) : mappedAddressBytes(endpoint.address), family === AF_INET ? 4 : 8);
  return bytes;
}

function allocate(length: number): { readonly bytes: Uint8Array; readonly view: DataView } {
  const bytes = new Uint8Array(length);
  return { bytes, view: new DataView(bytes.buffer) };
}

function mapContext(memory: AddressSpace, name: string, bytes: Uint8Array, writable: Region['writable']): bigint {
  return memory.map({ name, bytes, meaning: { kind: 'context' }, writable, written: null });
}

/** An IPv6 socket with an IPv4 peer shows the address in both forms: inet_daddr is set, sk_v6_daddr is the mapped one. */
function writeAddress(bytes: Uint8Array, address: IpAddress, family: number, ip4: number, ip6: number): void {
  if (isIpv4(address)) {
    bytes.set(ipAddressBytes(address), ip4);
  }
  if (family === AF_INET6) {
    bytes.set(mappedAddressBytes(address), ip6);
  }
}

function readAddress(bytes: Uint8Array, family: number, ip4: number, ip6: number): IpAddress {
  return formatIpAddress(family === AF_INET ? bytes.subarray(ip4, ip4 + 4) : bytes.subarray(ip6, ip6 + 16));
}

interface TupleLayout {
  readonly remoteIp4: number;
  readonly localIp4: number;
  readonly remoteIp6: number;
  readonly localIp6: number;
  readonly remotePort: number;
  readonly localPort: number;
}

function writeTuple(bytes: Uint8Array, view: DataView, socket: KernelSocket, layout: TupleLayout): void {
  writeAddress(bytes, socket.remote.address, socket.family, layout.remoteIp4, layout.remoteIp6);
  writeAddress(bytes, socket.local.address, socket.family, layout.localIp4, layout.localIp6);
  // A 16-bit port in network order, shifted up by 16: in memory it is the last two of the four bytes.
  view.setUint16(layout.remotePort + 2, socket.remote.port, false);
  view.setUint32(layout.localPort, socket.local.port, true);
}
