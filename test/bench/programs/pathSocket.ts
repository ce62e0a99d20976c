import { receiveBytes, sendBytes } from '../../soak/programs/rawSocket.ts';

/** Sends all; throws where the connection fails. */
export function sendAll(fd: number, bytes: Uint8Array): void {
  for (let sent = 0; sent < bytes.length; ) {
    const count = sendBytes(fd, sent === 0 ? bytes : bytes.subarray(sent));
    if (count < 0) {
      throw new Error(`send: errno ${-count}`);
    }
    sent += count;
  }
}

/** Receives as many bytes as `buffer` has room for; gives false where the connection ended before; throws where it fails. */
export function receiveAll(fd: number, buffer: Uint8Array): boolean {
  for (let received = 0; received < buffer.length; ) {
    const count = receiveBytes(fd, received === 0 ? buffer : buffer.subarray(received));
    if (count < 0) {
      throw new Error(`recv: errno ${-count}`);
    }
    if (count === 0) {
      return false;
    }
    received += count;
  }
  return true;
}
