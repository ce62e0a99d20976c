import { toPortNumber, toUint64Text } from '../../agent/protocol/scalars.ts';
import type { Endpoint } from '../../agent/protocol/scalars.ts';
import type { SocketInfo } from '../../agent/protocol/snapshot.ts';
import type { Address } from '../netfilter/address.ts';
import { Address as AddressOf } from '../netfilter/address.ts';
import type { PacketSocket } from '../netfilter/packet.ts';
import { PROTOCOL } from '../netfilter/protocolNumbers.ts';
import type { WorldNamespace } from './world.ts';

/** The options of a segment with timestamps: two of no operation before them (RFC 7323, appendix A). */
export const TIMESTAMP_OPTIONS: readonly number[] = [1, 1, 8];

/** An address with a port, ready to be compared. */
export interface SocketAddress {
  readonly address: Address;
  readonly port: number;
}

/** Where a TCP connection is for one of its ends; `datagram` for UDP and for ICMP sockets. */
export type SocketState = 'synSent' | 'synReceived' | 'established' | 'finWait' | 'closeWait' | 'lastAck' | 'closed' | 'datagram';

/** A socket that the simulation opened, or a connected one of the snapshot. Replaced, never changed. */
export interface OpenSocket {
  readonly protocol: number;
  readonly local: SocketAddress;
  readonly remote: SocketAddress;
  readonly state: SocketState;
  readonly owner: PacketSocket;
  readonly isTransparent: boolean | null;
  /** What a connect(2) or the next call on it fails with. */
  readonly error: string | null;
  readonly info: SocketInfo;
  readonly opened: boolean;
  /** Whether both SYNs offered timestamps: every later segment then has them. */
  readonly hasTimestamps?: boolean;
}

/** A socket that packets are looked up for: one that listens, or one that is connected. */
export type FoundSocket = { readonly kind: 'listener'; readonly info: SocketInfo } | { readonly kind: 'open'; readonly socket: OpenSocket };

/** The sockets of one namespace: those of the snapshot, and those that the simulation opened. */
export class SocketTable {
  readonly #listeners: ReadonlyMap<number, readonly SocketInfo[]>;
  readonly #open: Map<string, OpenSocket>;

  private constructor(listeners: ReadonlyMap<number, readonly SocketInfo[]>, open: ReadonlyMap<string, OpenSocket>) {
    this.#listeners = listeners;
    this.#open = new Map(open);
  }

  static of(namespace: WorldNamespace): SocketTable {
    const listeners = new Map<number, SocketInfo[]>();
    const open = new Map<string, OpenSocket>();
    for (const info of namespace.state.sockets) {
      const protocol = PROTOCOL[info.protocol];
      if (info.state === 'listen' || (info.protocol === 'udp' && info.remote.port === 0)) {
        const key = listenerKey(protocol, info.local.port);
        listeners.set(key, [...(listeners.get(key) ?? []), info]);
      } else if (info.remote.port !== 0) {
        const socket: OpenSocket = {
          protocol, local: socketAddress(info.local), remote: socketAddress(info.remote), state: info.protocol === 'udp' ? 'datagram' : 'established', owner: ownerOf(info),
          isTransparent: info.transparent ?? null, error: null, info, opened: false,
        };
        open.set(socketKey(protocol, socket.local, socket.remote), socket);
      }
    }
    return new SocketTable(listeners, open);
  }

  /** Gives a table that changes apart from this one. */
  fork(): SocketTable {
    return new SocketTable(this.#listeners, this.#open);
  }

  /** Puts a socket in, or in the place of the one with the same addresses. */
  put(socket: OpenSocket): void {
    this.#open.set(socketKey(socket.protocol, socket.local, socket.remote), socket);
  }

  /** Takes a socket out. */
  remove(socket: OpenSocket): void {
    this.#open.delete(socketKey(socket.protocol, socket.local, socket.remote));
  }

  /** Takes out what the simulation opened without a word to the other end; half-open connections of listeners stay where `keepsHalfOpen`. */
  forgetOpened(keepsHalfOpen: boolean): void {
    for (const [key, socket] of this.#open) {
      if (socket.opened && !(keepsHalfOpen && socket.state === 'synReceived')) {
        this.#open.delete(key);
      }
    }
  }

  /** Gives the socket with these two ends, or undefined. */
  connected(protocol: number, local: SocketAddress, remote: SocketAddress): OpenSocket | undefined {
    return this.#open.size === 0 ? undefined : this.#open.get(socketKey(protocol, local, remote));
  }

  /** Like connected, for a packet that came by a device: a socket that is bound to another does not get it (inet_match). */
  connectedBy(device: string | null, protocol: number, local: SocketAddress, remote: SocketAddress): OpenSocket | undefined {
    const socket = this.connected(protocol, local, remote);
    return socket === undefined || socket.owner.device === null || socket.owner.device === device ? socket : undefined;
  }

  /**
   * Gives the socket that listens for an address: one bound to the address before one bound to all of its family, and that
   * before one bound to :: for both families (net/ipv4/inet_hashtables.c, __inet_lookup_listener; net/ipv4/udp.c).
   */
  listener(protocol: number, local: SocketAddress): SocketInfo | undefined {
    const candidates = this.#listeners.get(listenerKey(protocol, local.port));
    if (candidates === undefined) {
      return undefined;
    }
    const any = local.address.isIpv4 ? '0.0.0.0' : '::';
    return (
      candidates.find((socket) => socket.local.address === local.address.text) ??
      candidates.find((socket) => socket.local.address === any) ??
      (local.address.isIpv4 ? candidates.find((socket) => socket.local.address === '::' && socket.dualStack) : undefined)
    );
  }

  /** Says whether a local port is in use by any socket. */
  isPortUsed(port: number): boolean {
    return (
      this.#listeners.has(listenerKey(PROTOCOL.tcp, port)) || this.#listeners.has(listenerKey(PROTOCOL.udp, port)) || [...this.#open.values()].some((socket) => socket.local.port === port)
    );
  }
}

/** Says whether sockets of a protocol are connected to a peer, by whose packets they are found. */
export function hasConnections(protocol: number): boolean {
  return protocol === PROTOCOL.tcp || protocol === PROTOCOL.udp;
}

/** Names a socket's owner for people: `envoy in pod-a`. The names are untrusted text. */
export function describeOwner(namespace: WorldNamespace, socket: Pick<SocketInfo, 'owner' | 'uid'>): string {
  return `${socket.owner?.command ?? `user ${socket.uid}`} in ${namespace.title}`;
}

/** Finds the UDP socket of the snapshot that a datagram to `destination` from somebody unknown reaches in a namespace. */
export function findDatagramSocket(namespace: WorldNamespace, destination: Endpoint): SocketInfo | undefined {
  return SocketTable.of(namespace).listener(PROTOCOL.udp, socketAddress(destination));
}

/** A socket of the snapshot as the sender of packets. */
export function ownerOf(info: SocketInfo): PacketSocket {
  return { uid: info.uid, gid: info.owner?.gid ?? null, hasFile: true, mark: 0, cgroup: info.owner?.cgroup ?? null, device: null };
}

/** The kernel's own sockets, which send RST and ICMP: they have no file, so that nobody owns their packets. */
export const KERNEL_SOCKET: PacketSocket = { uid: 0, gid: 0, hasFile: false, mark: 0, cgroup: null, device: null };

/** Describes a socket that the simulation opened. */
export function openedInfo(protocol: 'tcp' | 'udp', owner: PacketSocket, local: SocketAddress, remote: SocketAddress): SocketInfo {
  return {
    protocol, state: 'established', local: endpoint(local), remote: endpoint(remote), dualStack: false, uid: owner.uid, inode: toUint64Text(0n), cookie: null, owner: null,
  };
}

function endpoint({ address, port }: SocketAddress): SocketInfo['local'] {
  return { address: address.text, port: toPortNumber(port) };
}

function socketAddress({ address, port }: SocketInfo['local']): SocketAddress {
  return { address: AddressOf.of(address), port };
}

function listenerKey(protocol: number, port: number): number {
  return protocol * 65_536 + port;
}

/** Ping sockets take answers of anybody: their peer does not count (net/ipv4/ping.c, ping_lookup). */
function socketKey(protocol: number, local: SocketAddress, remote: SocketAddress): string {
  if (protocol === PROTOCOL.icmp || protocol === PROTOCOL.icmpv6) {
    return `${protocol} ${local.address.text} ${local.port}`;
  }
  if (local.address.isIpv4) {
    return String.fromCharCode(protocol, local.address.w0 >>> 16, local.address.w0 & 0xffff, local.port, remote.address.w0 >>> 16, remote.address.w0 & 0xffff, remote.port);
  }
  return `${protocol} ${local.address.text} ${local.port} ${remote.address.text} ${remote.port}`;
}
