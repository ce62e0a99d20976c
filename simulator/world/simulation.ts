import type { NamespaceId, PortNumber } from '../../agent/protocol/scalars.ts';
import { toPortNumber } from '../../agent/protocol/scalars.ts';
import type { TableName } from '../../agent/protocol/trace.ts';
import type { CompiledTable } from '../netfilter/compileTable.ts';
import { MatchState } from '../netfilter/matchState.ts';
import type { RuleCounters } from '../netfilter/traverseTable.ts';
import { ConnectionTracker } from './conntrack.ts';
import { SocketTable } from './sockets.ts';
import type { FamilyName, World, WorldNamespace } from './world.ts';

/** The first source port that a simulated connect(2) gets; a kernel picks one at random. */
const FIRST_EPHEMERAL_PORT = 40_000;
const LAST_EPHEMERAL_PORT = 60_999;

export interface SimulationOptions {
  /** Seconds since 1970; the time of the snapshot where it is not given. */
  readonly now?: number;
  /** What random choices of the kernel (source ports) are made of here. */
  readonly seed?: number;
}

/** How often a rule matched, in packets and bytes of the simulation. */
export interface RuleHits {
  readonly table: TableName;
  readonly chain: string;
  /** From 1. */
  readonly position: number;
  readonly packets: number;
  readonly bytes: number;
}

/**
 * What packets change in a world: connection tracking, sockets, ports, what matches remember, counters. The world itself
 * stays as it is. A fork is cheap and changes apart.
 */
export class Simulation {
  readonly world: World;
  /** What was taken to be so; sentences. */
  readonly assumptions = new Set<string>();
  /** Seconds since 1970. It goes on only where the caller sets it. */
  now: number;
  /** The number of the next packet that is sent. */
  nextPacket = 0;
  readonly #namespaces = new Map<NamespaceId, NamespaceState>();
  #random: number;

  constructor(world: World, options: SimulationOptions = {}) {
    this.world = world;
    const taken = Date.parse(world.snapshot.takenAt);
    this.now = options.now ?? (Number.isNaN(taken) ? 0 : taken / 1000);
    this.#random = (options.seed ?? 1) >>> 0;
  }

  /** Gives a simulation that begins with what this one has; neither sees what the other changes then. */
  fork(): Simulation {
    const fork = new Simulation(this.world, { now: this.now, seed: this.#random });
    fork.nextPacket = this.nextPacket;
    for (const assumption of this.assumptions) {
      fork.assumptions.add(assumption);
    }
    for (const [id, state] of this.#namespaces) {
      fork.#namespaces.set(id, state.fork());
    }
    return fork;
  }

  /** Gives what packets have changed in a namespace. */
  stateOf(namespace: WorldNamespace): NamespaceState {
    let state = this.#namespaces.get(namespace.id);
    if (state === undefined) {
      state = NamespaceState.of(namespace);
      this.#namespaces.set(namespace.id, state);
    }
    return state;
  }

  /** Gives the connection tracking table of a namespace. */
  trackerOf(namespace: WorldNamespace): ConnectionTracker {
    return this.stateOf(namespace).tracker;
  }

  /** How many connection tracking entries the simulation made, in all namespaces. */
  get conntrackEntries(): number {
    return [...this.#namespaces.values()].reduce((sum, { tracker }) => sum + tracker.added, 0);
  }

  /** How often each rule of a namespace matched, in the order of tables, chains and rules; rules that never did are left out. */
  ruleHits(namespace: WorldNamespace, family: FamilyName): readonly RuleHits[] {
    const state = this.stateOf(namespace);
    return [...namespace[family].tables].flatMap(([table, compiled]) =>
      compiled.flatMap((one) => {
        const counters = state.countersOf(one);
        return [...one.table.chains.values()].flatMap((chain) => chain.rules.map((rule) => ({ chain: chain.name, rule }))).flatMap(({ chain }, id) => {
          const packets = counters.packets[id] ?? 0;
          return packets === 0 ? [] : [{ table, chain, position: one.rules[id]?.position ?? 0, packets, bytes: counters.bytes[id] ?? 0 }];
        });
      }),
    );
  }

  /** Gives a source port that nothing in the namespace uses. */
  takeEphemeralPort(namespace: WorldNamespace): PortNumber {
    return this.stateOf(namespace).takePort(namespace);
  }

  /** Gives a number from 0 to 65535 that the seed decides. */
  readonly random16 = (): number => {
    // xorshift32 (Marsaglia 2003); a state of 0 would stay 0.
    let value = this.#random === 0 ? 0x9e37_79b9 : this.#random;
    value ^= value << 13;
    value ^= value >>> 17;
    value ^= value << 5;
    this.#random = value >>> 0;
    return this.#random & 0xffff;
  };
}

/** What packets changed in one namespace. */
export class NamespaceState {
  readonly tracker: ConnectionTracker;
  readonly sockets: SocketTable;
  readonly matches: MatchState;
  readonly #counters: Map<CompiledTable, RuleCounters>;
  #nextPort: number;
  /** Ports that connections of the snapshot come from. */
  #trackedPorts: ReadonlySet<number> | null = null;

  private constructor(tracker: ConnectionTracker, sockets: SocketTable, matches: MatchState, counters: Map<CompiledTable, RuleCounters>, nextPort: number) {
    this.tracker = tracker;
    this.sockets = sockets;
    this.matches = matches;
    this.#counters = counters;
    this.#nextPort = nextPort;
  }

  static of(namespace: WorldNamespace): NamespaceState {
    return new NamespaceState(new ConnectionTracker(namespace.state.conntrack), SocketTable.of(namespace), new MatchState(), new Map(), FIRST_EPHEMERAL_PORT);
  }

  fork(): NamespaceState {
    const counters = new Map([...this.#counters].map(([table, { packets, bytes }]) => [table, { packets: packets.slice(), bytes: bytes.slice() }] as const));
    return new NamespaceState(this.tracker.fork(), this.sockets.fork(), this.matches.fork(), counters, this.#nextPort);
  }

  countersOf(table: CompiledTable): RuleCounters {
    let counters = this.#counters.get(table);
    if (counters === undefined) {
      counters = { packets: new Float64Array(table.rules.length), bytes: new Float64Array(table.rules.length) };
      this.#counters.set(table, counters);
    }
    return counters;
  }

  takePort(namespace: WorldNamespace): PortNumber {
    const used = this.#trackedPorts ?? trackedPorts(namespace);
    this.#trackedPorts = used;
    for (let tries = 0; tries <= LAST_EPHEMERAL_PORT - FIRST_EPHEMERAL_PORT; tries += 1) {
      const port = this.#nextPort;
      this.#nextPort = port >= LAST_EPHEMERAL_PORT ? FIRST_EPHEMERAL_PORT : port + 1;
      if (!used.has(port) && !this.sockets.isPortUsed(port)) {
        return toPortNumber(port);
      }
    }
    return toPortNumber(this.#nextPort);
  }
}

function trackedPorts(namespace: WorldNamespace): ReadonlySet<number> {
  const used = new Set<number>();
  for (const { original, reply } of namespace.state.conntrack) {
    used.add(original.source.port).add(reply.destination.port);
  }
  return used;
}
