import type { NamespaceId, PortNumber } from '../../agent/protocol/scalars.ts';
import { toPortNumber } from '../../agent/protocol/scalars.ts';
import { ConnectionTracker } from './conntrack.ts';
import type { World, WorldNamespace } from './world.ts';

/** The first source port that a simulated connect(2) gets; a kernel picks one at random. */
const FIRST_EPHEMERAL_PORT = 40_000;

/** What one simulated flow changes in a world: connection tracking and ports. The world itself stays as it is. */
export class Simulation {
  readonly world: World;
  /** What was taken to be so; sentences. */
  readonly assumptions = new Set<string>();
  readonly #trackers = new Map<NamespaceId, ConnectionTracker>();
  readonly #nextPorts = new Map<NamespaceId, number>();

  constructor(world: World) {
    this.world = world;
  }

  /** Gives the connection tracking table of a namespace. */
  trackerOf(namespace: WorldNamespace): ConnectionTracker {
    let tracker = this.#trackers.get(namespace.id);
    if (tracker === undefined) {
      tracker = new ConnectionTracker(namespace.state.conntrack);
      this.#trackers.set(namespace.id, tracker);
    }
    return tracker;
  }

  /** How many connection tracking entries the flow made, in all namespaces. */
  get conntrackEntries(): number {
    return [...this.#trackers.values()].reduce((sum, tracker) => sum + tracker.added, 0);
  }

  /** Gives a source port that nothing in the namespace uses. */
  takeEphemeralPort(namespace: WorldNamespace): PortNumber {
    const used = new Set<number>(namespace.state.sockets.map((socket) => socket.local.port));
    for (const entry of namespace.state.conntrack) {
      used.add(entry.original.source.port).add(entry.reply.destination.port);
    }
    let port = this.#nextPorts.get(namespace.id) ?? FIRST_EPHEMERAL_PORT;
    while (used.has(port)) {
      port += 1;
    }
    this.#nextPorts.set(namespace.id, port + 1);
    return toPortNumber(port);
  }
}
