import { isIpv4 } from '../../agent/protocol/ipAddress.ts';
import { inputError } from '../../agent/protocol/errors.ts';
import type { Flow, FlowSource } from '../../agent/protocol/trace.ts';
import type { World, WorldNamespace } from '../world/world.ts';
import { isAtOrBelow } from './acceleratedPods.ts';

/** Throws INPUT_INVALID where the parts of a flow contradict each other. */
export function checkFlow(flow: Flow): void {
  const { source, destination } = flow;
  if (source.address !== null && isIpv4(source.address) !== isIpv4(destination.address)) {
    throw inputError('The source and the destination are of two families.', `The flow goes from ${source.address} to ${destination.address}.`, 'Give both as IPv4 or both as IPv6.');
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
