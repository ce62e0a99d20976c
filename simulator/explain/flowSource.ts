import { isIpv4 } from '../../agent/protocol/ipAddress.ts';
import { inputError, MeshpathError } from '../../agent/protocol/errors.ts';
import type { Flow, FlowSource } from '../../agent/protocol/trace.ts';
import type { World, WorldNamespace } from '../world/world.ts';
import { isAtOrBelow } from './acceleratedPods.ts';

/** Throws NOT_SUPPORTED where a flow is not TCP over IPv4, and INPUT_INVALID where its parts contradict each other. */
export function checkFlow(flow: Flow): void {
  const { source, destination } = flow;
  if (!isIpv4(destination.address) || (source.address !== null && !isIpv4(source.address))) {
    throw new MeshpathError({
      code: 'NOT_SUPPORTED',
      message: 'Connections over IPv6 cannot be explained yet.',
      reason: `The flow goes to ${destination.address}; the simulated kernel knows TCP over IPv4.`,
      remedy: 'Explain the connection to an IPv4 address of the same server.',
    });
  }
  if (destination.port === 0) {
    throw inputError('A connection needs a port.', 'The destination port is 0.', 'Give a destination port from 1 to 65535.');
  }
}

/** Gives the namespace of a flow's process; throws INPUT_INVALID where the snapshot has no such namespace. */
export function findSourceNamespace(world: World, source: FlowSource): WorldNamespace {
  const namespace = world.namespaces.get(source.namespace);
  if (namespace === undefined) {
    throw inputError(
      'The process of the flow lives in a network namespace that the snapshot does not have.',
      `The snapshot has ${world.namespaces.size} namespace(s), and none with id ${source.namespace}.`,
      'Take a new snapshot while the process runs, or choose another process.',
    );
  }
  return namespace;
}

/**
 * Names the process of a flow: by the sockets of the same cgroup (or one below it) and user, where the snapshot has such
 * and they all belong to the same program; else by its user. Untrusted text.
 */
export function describeSource(namespace: WorldNamespace, source: FlowSource): string {
  const { cgroup, uid } = source;
  const owners = namespace.state.sockets.flatMap((socket) => (socket.uid === uid && socket.owner !== null ? [socket.owner] : []));
  const same = owners.filter((owner) => cgroup === null || (owner.cgroup !== null && isAtOrBelow(owner.cgroup, cgroup)));
  const commands = new Set(same.map((owner) => owner.command));
  const [command] = commands;
  return `${commands.size === 1 && command !== undefined ? command : `process of user ${uid}`} in ${namespace.title}`;
}
