import { AF_NETLINK, SOCK_RAW, bindSocket, closeSocket, openSocket, receiveBytes, sendBytes, setOption } from './kernelCalls.ts';

/** Netlink messages of netfilter (include/uapi/linux/netlink.h, netfilter/nfnetlink.h). Headers are in host order. */

const NETLINK_NETFILTER = 12;
const SOL_NETLINK = 270;
const NETLINK_ADD_MEMBERSHIP = 1;
const SOL_SOCKET = 1;
const SO_RCVBUFFORCE = 33;
const RECEIVE_BYTES = 32 * 1024 * 1024;
const MESSAGE_BYTES = 16;
const HEADER_BYTES = 20;
const BUFFER_BYTES = 256 * 1024;
const NLMSG_ERROR = 2;
const NLMSG_DONE = 3;
const TYPE_MASK = 0x3fff;
export const NLM_F_REQUEST = 1;
export const NLM_F_ACK = 4;
export const NLM_F_DUMP = 0x300;

/** The kernel refused a request. */
export class NetlinkError extends Error {
  readonly errno: number;

  constructor(errno: number) {
    super(`netlink: errno ${errno}`);
    this.errno = errno;
  }
}

/** One message: its type (subsystem << 8 | message), the family of its nfgenmsg and its attributes. */
export interface NetlinkMessage {
  readonly type: number;
  readonly family: number;
  readonly attributes: Attributes;
}

/** Attributes by number; of several of one number the last. */
export type Attributes = ReadonlyMap<number, Buffer>;

/** A socket of NETLINK_NETFILTER in the namespace of the calling thread. Never waits. */
export class NetlinkSocket {
  readonly #fd: number;
  readonly #buffer = Buffer.alloc(BUFFER_BYTES);
  readonly #address = Buffer.alloc(12);

  /** Listens to multicast groups (enum nfnetlink_groups). */
  constructor(groups: readonly number[] = []) {
    this.#fd = openSocket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER);
    this.#address.writeUInt16LE(AF_NETLINK, 0);
    if (bindSocket(this.#fd, this.#address) < 0) {
      throw new Error('a netlink socket cannot be bound');
    }
    setOption(this.#fd, SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BYTES);
    for (const group of groups) {
      setOption(this.#fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group);
    }
  }

  /** Gives the messages that are there now. Throws where the kernel had to drop some (ENOBUFS). */
  receive(): readonly NetlinkMessage[] {
    const messages: NetlinkMessage[] = [];
    for (;;) {
      const count = receiveBytes(this.#fd, this.#buffer);
      if (count < 0) {
        if (count !== -11) {
          throw new Error(`netlink: errno ${-count}`);
        }
        return messages;
      }
      messages.push(...readMessages(this.#buffer.subarray(0, count)));
    }
  }

  /** Sends one request and gives what it answers, errors as Errors. A dump is read to its end. */
  request(type: number, flags: number, family: number, attributes: Buffer, resource = 0): readonly NetlinkMessage[] {
    return this.exchange(encodeMessage(type, flags | NLM_F_REQUEST, family, attributes, resource), (flags & NLM_F_DUMP) === NLM_F_DUMP);
  }

  /** Sends messages in one go and reads until an acknowledgement (`isDump`: until the end of the list). */
  exchange(bytes: Buffer, isDump: boolean): readonly NetlinkMessage[] {
    const sent = sendBytes(this.#fd, bytes, this.#address);
    if (sent < 0) {
      throw new Error(`netlink: sending: errno ${-sent}`);
    }
    const messages: NetlinkMessage[] = [];
    for (;;) {
      const count = receiveBytes(this.#fd, this.#buffer);
      if (count < 0) {
        throw new Error(`netlink: no answer: errno ${-count}`);
      }
      for (const message of readMessages(this.#buffer.subarray(0, count))) {
        if (message.type === NLMSG_DONE) {
          return messages;
        }
        if (message.type === NLMSG_ERROR && !isDump) {
          return messages;
        }
        messages.push(message);
      }
    }
  }

  dispose(): void {
    closeSocket(this.#fd);
  }
}

/** Encodes one message with its nfgenmsg; `resource` in host order. */
export function encodeMessage(type: number, flags: number, family: number, attributes: Buffer, resource = 0): Buffer {
  const message = Buffer.alloc(HEADER_BYTES + attributes.length);
  message.writeUInt32LE(message.length, 0);
  message.writeUInt16LE(type, 4);
  message.writeUInt16LE(flags, 6);
  message[16] = family;
  message.writeUInt16BE(resource, 18);
  attributes.copy(message, HEADER_BYTES);
  return message;
}

/** Says that an attribute holds others. */
export const NLA_F_NESTED = 0x8000;

/** Encodes one attribute, padded. */
export function encodeAttribute(type: number, value: Buffer): Buffer {
  const length = 4 + value.length;
  const bytes = Buffer.alloc(align(length));
  bytes.writeUInt16LE(length, 0);
  bytes.writeUInt16LE(type, 2);
  value.copy(bytes, 4);
  return bytes;
}

/** Reads attributes, also those inside of a nested one. The values are copies. */
export function readAttributes(bytes: Buffer): Attributes {
  const attributes = new Map<number, Buffer>();
  for (let offset = 0; offset + 4 <= bytes.length; ) {
    const length = bytes.readUInt16LE(offset);
    if (length < 4) {
      break;
    }
    attributes.set(bytes.readUInt16LE(offset + 2) & TYPE_MASK, Buffer.from(bytes.subarray(offset + 4, offset + length)));
    offset += align(length);
  }
  return attributes;
}

/** A text attribute without its final NUL; '' where it is missing. */
export function readText(attributes: Attributes, type: number): string {
  const value = attributes.get(type);
  return value === undefined ? '' : value.toString('latin1').replace(/\0.*$/s, '');
}

/** A 32-bit number in network order; undefined where it is missing. */
export function readNumber(attributes: Attributes, type: number): number | undefined {
  return attributes.get(type)?.readUInt32BE(0);
}

function* readMessages(bytes: Buffer): Generator<NetlinkMessage> {
  for (let offset = 0; offset + MESSAGE_BYTES <= bytes.length; ) {
    const length = bytes.readUInt32LE(offset);
    const type = bytes.readUInt16LE(offset + 4);
    if (length < MESSAGE_BYTES) {
      throw new Error('netlink: a message without length');
    }
    if (type === NLMSG_ERROR) {
      const errno = bytes.readInt32LE(offset + MESSAGE_BYTES);
      if (errno !== 0) {
        throw new NetlinkError(-errno);
      }
    }
    const isNetfilter = type !== NLMSG_ERROR && type !== NLMSG_DONE && length >= HEADER_BYTES;
    yield {
      type,
      family: isNetfilter ? (bytes[offset + MESSAGE_BYTES] ?? 0) : 0,
      attributes: isNetfilter ? readAttributes(bytes.subarray(offset + HEADER_BYTES, offset + length)) : new Map(),
    };
    offset += align(length);
  }
}

function align(length: number): number {
  return (length + 3) & ~3;
}
