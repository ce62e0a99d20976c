import { AF_INET, AF_INET6, AF_NETLINK, SOCK_RAW, closeSocket, openSocket, receiveBytes, sendBytes } from './kernelCalls.ts';

/**
 * Half-open connections of listeners, by sock_diag (include/uapi/linux/inet_diag.h). Nothing else ends them at once: the
 * kernel keeps one for a second even when its listener is closed.
 */

const NETLINK_SOCK_DIAG = 4;
const SOCK_DIAG_BY_FAMILY = 20;
const SOCK_DESTROY = 21;
const NLM_F_REQUEST = 1;
const NLM_F_ACK = 4;
const NLM_F_DUMP = 0x300;
const NLMSG_ERROR = 2;
const NLMSG_DONE = 3;
const IPPROTO_TCP = 6;
/** TCP_SYN_RECV, and TCP_TIME_WAIT, which keeps a tuple for a minute. */
const ENDED_STATES = (1 << 3) | (1 << 6);
const HEADER_BYTES = 16;
/** struct inet_diag_req_v2: family, protocol, extensions, padding, states, and struct inet_diag_sockid. */
const REQUEST_BYTES = 56;
const ID_IN_REQUEST = 8;
/** struct inet_diag_msg: family, state, timer, retransmits, and the id. */
const ID_IN_MESSAGE = 4;
const ID_BYTES = 48;
const BUFFER_BYTES = 64 * 1024;

/** Ends every TCP connection of the namespace that the calling thread is in that is half open or closed already, without a packet. */
export function destroyHalfOpenConnections(): void {
  const fd = openSocket(AF_NETLINK, SOCK_RAW, NETLINK_SOCK_DIAG);
  try {
    for (const family of [AF_INET, AF_INET6]) {
      for (const id of request(fd, SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, family, Buffer.alloc(ID_BYTES))) {
        request(fd, SOCK_DESTROY, NLM_F_ACK, family, id);
      }
    }
  } finally {
    closeSocket(fd);
  }
}

/** Sends a request and gives the ids of the sockets in its answer, which ends with DONE or an acknowledgement. */
function request(fd: number, type: number, flags: number, family: number, id: Buffer): readonly Buffer[] {
  const message = Buffer.alloc(HEADER_BYTES + REQUEST_BYTES);
  message.writeUInt32LE(message.length, 0);
  message.writeUInt16LE(type, 4);
  message.writeUInt16LE(flags | NLM_F_REQUEST, 6);
  message[HEADER_BYTES] = family;
  message[HEADER_BYTES + 1] = IPPROTO_TCP;
  message.writeUInt32LE(ENDED_STATES, HEADER_BYTES + 4);
  id.copy(message, HEADER_BYTES + ID_IN_REQUEST);
  const kernel = Buffer.alloc(12);
  kernel.writeUInt16LE(AF_NETLINK, 0);
  const sent = sendBytes(fd, message, kernel);
  if (sent < 0) {
    throw new Error(`sock_diag: sending: errno ${-sent}`);
  }
  const ids: Buffer[] = [];
  const buffer = Buffer.alloc(BUFFER_BYTES);
  for (;;) {
    const count = receiveBytes(fd, buffer);
    if (count < 0) {
      throw new Error(`sock_diag: no answer: errno ${-count}`);
    }
    for (let offset = 0; offset + HEADER_BYTES <= count; ) {
      const answer = buffer.readUInt16LE(offset + 4);
      if (answer === NLMSG_DONE || answer === NLMSG_ERROR) {
        // One that is gone by itself (ENOENT) is as good as destroyed.
        return ids;
      }
      const start = offset + HEADER_BYTES + ID_IN_MESSAGE;
      ids.push(Buffer.from(buffer.subarray(start, start + ID_BYTES)));
      offset += (buffer.readUInt32LE(offset) + 3) & ~3;
    }
  }
}
