import { EventLoop, READABLE, WRITABLE } from './eventLoop.ts';
import type { Watch } from './eventLoop.ts';
import {
  acceptSocket,
  closeSocket,
  listenOn,
  readLocalEnd,
  readOriginalEndpoint,
  readSocketError,
  receiveBytes,
  resetSocket,
  sendBytes,
  shutdownSocket,
  startConnecting,
  WOULD_BLOCK,
} from './rawSocket.ts';
import type { SidecarParams } from './reports.ts';

/**
 * A transparent proxy as Istio's sidecar is one, at the cost of a few system calls a connection. It asks for the original
 * destination and connects on to it; a half-close goes on as a half-close, a reset as a reset.
 */

const READ_BYTES = 65_536;

const params = JSON.parse(process.argv[2] ?? '') as SidecarParams;
const loop = new EventLoop();
const readBuffer = Buffer.alloc(READ_BYTES);

listen(params.outboundPort, undefined);
listen(params.inboundPort, params.passthroughSource);
console.log(JSON.stringify({ isReady: true }));
loop.start();

interface Side {
  readonly fd: number;
  readonly watch: Watch;
  /** Received here and not sent on yet. */
  pending: Buffer | null;
  hasEnded: boolean;
  hasShutDown: boolean;
}

function listen(port: number, source: string | undefined): void {
  const fd = listenOn({ address: '0.0.0.0', port });
  loop
    .watch(fd, () => {
      for (let accepted = acceptSocket(fd); accepted >= 0; accepted = acceptSocket(fd)) {
        connectOn(accepted, source);
      }
    })
    .want(READABLE);
}

function connectOn(downstream: number, source: string | undefined): void {
  const destination = readOriginalEndpoint(downstream);
  const local = readLocalEnd(downstream);
  if (typeof destination === 'number' || (destination.address === local.address && destination.port === local.port)) {
    // To connect on would mean to connect to oneself, for ever.
    console.log(JSON.stringify({ lost: destination }));
    resetSocket(downstream);
    return;
  }
  const upstream = startConnecting(destination, source === undefined ? {} : { local: { address: source, port: 0 } });
  if (upstream < 0) {
    console.log(JSON.stringify({ refused: upstream }));
    resetSocket(downstream);
    return;
  }
  const watch = loop.watch(upstream, () => {
    watch.end();
    const error = readSocketError(upstream);
    if (error === 0) {
      relay(downstream, upstream);
    } else {
      console.log(JSON.stringify({ refused: error }));
      resetSocket(downstream);
      closeSocket(upstream);
    }
  });
  watch.want(WRITABLE);
}

function relay(downstreamFd: number, upstreamFd: number): void {
  const makeSide = (fd: number): Side => ({ fd, watch: loop.watch(fd, step), pending: null, hasEnded: false, hasShutDown: false });
  const downstream: Side = makeSide(downstreamFd);
  const upstream: Side = makeSide(upstreamFd);
  let isOver = false;
  step();

  function step(): void {
    if (isOver) {
      return;
    }
    if (!pump(downstream, upstream) || !pump(upstream, downstream)) {
      finish(resetSocket);
    } else if (downstream.hasShutDown && upstream.hasShutDown) {
      finish(closeSocket);
    } else {
      for (const [side, other] of [
        [downstream, upstream],
        [upstream, downstream],
      ] as const) {
        side.watch.want((side.pending === null && !side.hasEnded ? READABLE : 0) | (other.pending === null ? 0 : WRITABLE));
      }
    }
  }

  function finish(close: (fd: number) => void): void {
    isOver = true;
    for (const { fd, watch } of [downstream, upstream]) {
      watch.end();
      close(fd);
    }
  }
}

/** Moves what there is from one side to the other; gives false where one of them failed. */
function pump(from: Side, to: Side): boolean {
  // A few pieces at a time: others want their turn too.
  for (let piece = 0; piece < 8; piece += 1) {
    if (from.pending === null && !from.hasEnded) {
      const count = receiveBytes(from.fd, readBuffer);
      if (count === WOULD_BLOCK) {
        return true;
      }
      if (count < 0) {
        return false;
      }
      from.hasEnded = count === 0;
      from.pending = count === 0 ? null : readBuffer.subarray(0, count);
    }
    if (from.pending !== null) {
      const count = sendBytes(to.fd, from.pending);
      if (count < 0 && count !== WOULD_BLOCK) {
        return false;
      }
      const rest = from.pending.subarray(Math.max(0, count));
      // The buffer is shared by all: what is left over needs a place of its own.
      from.pending = rest.length === 0 ? null : Buffer.from(rest);
      if (from.pending !== null) {
        return true;
      }
    }
    if (from.hasEnded) {
      if (!to.hasShutDown) {
        to.hasShutDown = true;
        shutdownSocket(to.fd);
      }
      return true;
    }
  }
  return true;
}
