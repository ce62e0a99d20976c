import type { Endpoint } from '../../agent/protocol/scalars.ts';
import type { SocketInfo } from '../../agent/protocol/snapshot.ts';
import type { WorldNamespace } from './world.ts';

/**
 * Finds the socket that a SYN to `destination` reaches in a namespace: one bound to the address before one bound to
 * 0.0.0.0, and that before one bound to :: for both families (net/ipv4/inet_hashtables.c, __inet_lookup_listener).
 */
export function findListener(namespace: WorldNamespace, destination: Endpoint): SocketInfo | undefined {
  const listeners = namespace.state.sockets.filter((socket) => socket.protocol === 'tcp' && socket.state === 'listen' && socket.local.port === destination.port);
  return (
    listeners.find((socket) => socket.local.address === destination.address) ??
    listeners.find((socket) => socket.local.address === '0.0.0.0') ??
    listeners.find((socket) => socket.local.address === '::' && socket.dualStack)
  );
}

/** Names a socket's owner for people: `envoy in pod-a`. The names are untrusted text. */
export function describeOwner(namespace: WorldNamespace, socket: Pick<SocketInfo, 'owner' | 'uid'>): string {
  return `${socket.owner?.command ?? `user ${socket.uid}`} in ${namespace.title}`;
}
