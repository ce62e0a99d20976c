import { MeshpathError } from '../protocol/errors.ts';
import type { Libbpf } from './library.ts';

/** How long records may gather before they are handed on, so that a busy ring is read in few steps. */
const GATHER_MILLISECONDS = 20;
/** Records that are taken in one step; the event loop runs between steps. */
const MAX_RECORDS_PER_STEP = 4_096;
/** What a callback gives to stop ring_buffer__consume after its record: any negative number. */
const STOP = -1;

/** A ring buffer that is being read. */
export interface RingBufferReader {
  /** Hands on at once what is there. */
  readonly drain: () => void;
  /** Stops reading; records that are still there are handed on first. Safe to call more than once. */
  readonly close: () => void;
}

/**
 * Reads a BPF_MAP_TYPE_RINGBUF while the event loop runs, without blocking it and without keeping it alive. `onRecords` is
 * given copies of the records in order, never an empty list, and must not throw.
 * Throws INTERNAL where libbpf cannot map the buffer.
 */
export function readRingBuffer(libbpf: Libbpf, mapFd: number, onRecords: (records: readonly Uint8Array[]) => void): RingBufferReader {
  const { functions, koffi } = libbpf;
  let records: Uint8Array[] = [];
  const take = (_context: bigint | null, data: bigint, size: bigint | number): number => {
    records.push(koffi.decode(data, 'uint8_t', Number(size)) as Uint8Array);
    return records.length < MAX_RECORDS_PER_STEP ? 0 : STOP;
  };
  const callback = koffi.register(take, koffi.pointer(koffi.proto('int', ['void *', 'void *', 'size_t'])));
  const buffer = functions.ring_buffer__new(mapFd, callback, null, null);
  if (buffer === null) {
    const errno = libbpf.lastErrno();
    koffi.unregister(callback);
    throw new MeshpathError({
      code: 'INTERNAL',
      message: 'The events of the programs cannot be read.',
      reason: `ring_buffer__new failed with ${libbpf.describe(errno)}. ${libbpf.takeMessages()}`.trim(),
      remedy: 'Turn acceleration off and on again; report what the Meshpath output channel shows.',
    });
  }

  const step = (): boolean => {
    functions.ring_buffer__consume(buffer);
    const taken = records;
    records = [];
    if (taken.length > 0) {
      onRecords(taken);
    }
    return taken.length >= MAX_RECORDS_PER_STEP;
  };
  const drain = (): void => {
    while (step());
  };

  let timer: NodeJS.Timeout | undefined;
  const poll = koffi.node.poll(functions.ring_buffer__epoll_fd(buffer), { readable: true }, () => undefined);
  poll.stop();
  poll.unref();
  const listen = (): void => {
    poll.start({ readable: true }, () => {
      poll.stop();
      timer = setTimeout(() => {
        step();
        listen();
      }, GATHER_MILLISECONDS);
      timer.unref();
    });
  };
  listen();

  let open = true;
  return {
    drain,
    close: () => {
      if (!open) {
        return;
      }
      open = false;
      clearTimeout(timer);
      poll.close();
      drain();
      functions.ring_buffer__free(buffer);
      koffi.unregister(callback);
    },
  };
}
