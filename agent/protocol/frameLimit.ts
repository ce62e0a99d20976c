/** The longest header of a frame, bytes: two lines are usual. */
const MAX_HEADER_BYTES = 4096;
const CARRIAGE_RETURN = 13;
const LINE_FEED = 10;

/**
 * Watches a stream of JSON-RPC frames (`Content-Length: N`, an empty line, N bytes) and throws a RangeError at the
 * first header that announces a frame of more than `maxBytes`, that is no header, or that does not end: before
 * anybody collects what it announces.
 */
export class FrameLimit {
  readonly #maxBytes: number;
  #header = '';
  #bodyLeft = 0;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  /** Takes the next bytes of the stream, in any pieces. */
  accept(chunk: Uint8Array): void {
    let offset = 0;
    while (offset < chunk.length) {
      if (this.#bodyLeft > 0) {
        const taken = Math.min(this.#bodyLeft, chunk.length - offset);
        this.#bodyLeft -= taken;
        offset += taken;
      } else {
        offset = this.#acceptHeader(chunk, offset);
      }
    }
  }

  #acceptHeader(chunk: Uint8Array, start: number): number {
    for (let offset = start; offset < chunk.length; offset += 1) {
      const byte = chunk[offset] ?? 0;
      this.#header += String.fromCharCode(byte);
      if (byte === LINE_FEED && this.#header.endsWith('\r\n\r\n')) {
        this.#bodyLeft = this.#readLength();
        this.#header = '';
        return offset + 1;
      }
      if (this.#header.length > MAX_HEADER_BYTES || (byte !== CARRIAGE_RETURN && byte !== LINE_FEED && (byte < 32 || byte > 126))) {
        throw new RangeError('what arrived is not the header of a frame');
      }
    }
    return chunk.length;
  }

  #readLength(): number {
    const digits = /^content-length:[ \t]*(\d{1,15})[ \t]*$/im.exec(this.#header.replaceAll('\r\n', '\n'))?.[1];
    if (digits === undefined) {
      throw new RangeError('the header of a frame has no Content-Length');
    }
    const length = Number(digits);
    if (length > this.#maxBytes) {
      throw new RangeError(`a frame of ${length} bytes is longer than the ${this.#maxBytes} that are allowed`);
    }
    return length;
  }
}
