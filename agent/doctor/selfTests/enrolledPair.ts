import { openSocketPair } from '../../libbpf/loopbackSockets.ts';
import type { SocketPair } from '../../libbpf/loopbackSockets.ts';
import type { BpfObject } from '../../libbpf/bpfObject.ts';
import type { Libbpf } from '../../libbpf/library.ts';
import { lookupElement, updateElement } from '../../libbpf/maps.ts';
import { decodeRedirectedBytes, encodeStructure } from '../../protocol/datapath.ts';

/** Two connected sockets of this process which the loaded programs take for the two ends of a connection of a mesh. */
export interface EnrolledPair extends SocketPair {
  /** Puts the accepting socket into the sockhash: from now on messages of the connecting one may go straight to it. */
  readonly enrolAccepting: () => void;
  /** Has all further messages go through TCP, as they do when acceleration is turned off. */
  readonly stopRedirecting: () => void;
  /** Gives how many bytes were redirected. */
  readonly countRedirected: () => bigint;
}

const CONNECTING_COOKIE = 1n;
const ACCEPTING_COOKIE = 2n;

/**
 * Opens a pair and writes into the maps of `object` what its programs would write for a connection between pods, so that only sk_msg
 * decides, and nothing has to be attached to a cgroup. The connecting socket is in the sockhash, the accepting one not yet. Throws
 * KERNEL_UNSUITABLE or TIMED_OUT where sockets fail, INTERNAL where maps do.
 */
export function openEnrolledPair(libbpf: Libbpf, object: BpfObject): EnrolledPair {
  const { btf } = object;
  const pair = openSocketPair(libbpf);
  // Keys without addresses: the maps are of this object only, and hold nothing else.
  const key = encodeStructure(btf, 'connection_key', { source_port: 1n });
  const connectingKey = encodeStructure(btf, 'socket_key', { local_port: 1n });
  const acceptingKey = encodeStructure(btf, 'socket_key', { local_port: 2n });
  const descriptorKey = (fd: number): Uint8Array => new Uint8Array(Uint32Array.of(fd).buffer);
  let redirectedBefore = 0n;
  const readRedirected = (): bigint => {
    const { length } = encodeStructure(btf, 'connection', {});
    const value = lookupElement(libbpf, object.mapFd('connections'), key, length);
    return value === undefined ? 0n : decodeRedirectedBytes(btf, value);
  };
  const writeConnection = (flags: Readonly<Record<string, bigint>>): void => {
    const value = encodeStructure(btf, 'connection', {
      connecting_cookie: CONNECTING_COOKIE,
      accepting_cookie: ACCEPTING_COOKIE,
      is_connecting_enrolled: 1n,
      ...flags,
    });
    redirectedBefore += readRedirected();
    updateElement(libbpf, object.mapFd('connections'), key, value);
  };
  const enrol = (fd: number, socketKey: Uint8Array): void => {
    updateElement(libbpf, object.mapFd('sockets'), socketKey, new Uint8Array(BigUint64Array.of(BigInt(fd)).buffer));
  };
  const describe = (fd: number, peer: Uint8Array, cookie: bigint, isConnecting: boolean): void => {
    const state = encodeStructure(btf, 'socket_state', { connection: key, peer, cookie, is_connecting: isConnecting ? 1n : 0n });
    updateElement(libbpf, object.mapFd('socket_state'), descriptorKey(fd), state);
  };
  try {
    // What an earlier pair left there is not counted.
    writeConnection({});
    redirectedBefore = 0n;
    describe(pair.connecting, acceptingKey, CONNECTING_COOKIE, true);
    describe(pair.accepting, connectingKey, ACCEPTING_COOKIE, false);
    enrol(pair.connecting, connectingKey);
    return {
      ...pair,
      enrolAccepting: () => {
        enrol(pair.accepting, acceptingKey);
        writeConnection({ is_accepting_enrolled: 1n });
      },
      stopRedirecting: () => {
        writeConnection({ is_accepting_enrolled: 1n, is_switched_off: 1n });
      },
      countRedirected: () => redirectedBefore + readRedirected(),
    };
  } catch (error) {
    pair.close();
    throw error;
  }
}
