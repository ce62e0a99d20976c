import { connect } from 'node:net';
import type { Socket } from 'node:net';
import type { Endpoint } from '../../protocol/scalars.ts';
import { errorName } from './program.ts';

export interface RelayOptions {
  readonly destination: Endpoint;
  /** Bound to before connecting; null: what the kernel chooses. */
  readonly source: string | null;
  /** Called once the other side is connected, before any byte is moved. */
  readonly onConnected?: () => void;
  /** Called when both sides are closed, with the errno name of what broke them; null where they closed in good order. */
  readonly onEnded: (bytesToUpstream: number, bytesToDownstream: number, error: string | null) => void;
}

/** Connects on from a paused connection and moves bytes both ways; a half-close goes on as a half-close, a reset as a reset. */
export function relay(downstream: Socket, { destination, source, onConnected, onEnded }: RelayOptions): void {
  const upstream = connect({
    host: destination.address,
    port: destination.port,
    allowHalfOpen: true,
    noDelay: true,
    ...(source === null ? {} : { localAddress: source }),
  });
  let error: string | null = null;
  let open = 2;
  const resetBoth = (cause: Error): void => {
    error ??= errorName(cause);
    downstream.resetAndDestroy();
    upstream.resetAndDestroy();
  };
  const closeOne = (): void => {
    open--;
    if (open === 0) {
      onEnded(upstream.bytesWritten, downstream.bytesWritten, error);
    }
  };
  for (const socket of [downstream, upstream]) {
    socket.on('error', resetBoth);
    socket.on('close', closeOne);
  }
  upstream.once('connect', () => {
    onConnected?.();
    // pipe() ends the other side where one has ended.
    downstream.pipe(upstream);
    upstream.pipe(downstream);
  });
}
