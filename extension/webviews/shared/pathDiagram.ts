import type { NamespaceId } from '../../../agent/protocol/scalars.ts';
import type { Explanation, Hook, SocketEnd, Trace, TraceLeg } from '../../../agent/protocol/trace.ts';
import { changesOf, spellEndpoint, stepsOfLeg } from './traceText.ts';

/** Someone who holds sockets at one place of a path: the application or a sidecar. */
export type Actor = Pick<SocketEnd, 'description' | 'namespace' | 'uid'>;

/** A hook that the packets of a leg pass. */
export interface Station {
  readonly namespace: NamespaceId;
  readonly hook: Hook;
  /** How many rules were compared there. */
  readonly rules: number;
  /** What an address became there, where one changed. */
  readonly rewrite: string | null;
}

/** One leg of one path, between two actors. */
export interface DiagramLeg {
  readonly leg: number;
  readonly from: number;
  /** Null where nobody accepted. */
  readonly to: number | null;
  readonly data: TraceLeg['data'];
  /** Going down from the client, on the way, and going up to the server. */
  readonly down: readonly Station[];
  readonly transit: readonly Station[];
  readonly up: readonly Station[];
  /** The names of the programs that ran, each once, in order. */
  readonly programs: readonly string[];
  readonly label: string;
}

export interface PathDiagram {
  readonly actors: readonly Actor[];
  readonly iptables: readonly DiagramLeg[];
  readonly sockops: readonly DiagramLeg[];
}

function stationsOf(trace: Trace, leg: TraceLeg): readonly Station[] {
  const stations: { namespace: NamespaceId; hook: Hook; rules: number; rewrite: string | null }[] = [];
  for (const step of stepsOfLeg(trace, leg.index)) {
    const { place } = step;
    if (place.kind !== 'rule' && place.kind !== 'conntrack') {
      continue;
    }
    const last = stations.at(-1);
    const station =
      last?.hook === place.hook && last.namespace === place.namespace ? last : { namespace: place.namespace, hook: place.hook, rules: 0, rewrite: null };
    if (station !== last) {
      // The answer of the server comes back through the same hooks: one way is enough to draw.
      if (last?.hook === 'INPUT' && last.namespace === leg.server?.namespace) {
        break;
      }
      stations.push(station);
    }
    if (place.kind === 'rule' && place.rule !== null) {
      station.rules += 1;
    }
    const address = changesOf(step.before, step.after).find((change) => change.what === 'destination' || change.what === 'source');
    if (address !== undefined) {
      station.rewrite = address.after;
    }
  }
  return stations;
}

/** Two ends are the same actor by whose they are. Their descriptions are text from outside and may be equal or not. */
function isSame(left: Actor, right: Actor): boolean {
  return left.namespace === right.namespace && left.uid === right.uid;
}

/** A leg with its ends as places in a chain of actors. */
interface ChainLeg {
  readonly leg: TraceLeg;
  readonly from: number;
  readonly to: number | null;
}

/**
 * Gives who takes part in a path, in its order: whoever accepted one leg and opens the next stands there once, and whoever comes up
 * again later stands there again.
 */
function followLegs(trace: Trace): { readonly actors: readonly Actor[]; readonly legs: readonly ChainLeg[] } {
  const actors: Actor[] = [];
  // A copy each, so that everyone stands for one place only.
  const add = ({ description, namespace, uid }: SocketEnd): number => actors.push({ description, namespace, uid }) - 1;
  let previous: TraceLeg | undefined;
  const legs = trace.legs.map((leg): ChainLeg => {
    const goesOn = previous?.server !== undefined && previous.server !== null && isSame(previous.server, leg.client);
    const from = goesOn ? actors.length - 1 : add(leg.client);
    const to = leg.server === null ? null : add(leg.server);
    previous = leg;
    return { leg, from, to };
  });
  return { actors, legs };
}

/** Lays one chain of actors over another: gives all actors in an order that holds for both, and where those of each stand in it. */
function mergeChains(first: readonly Actor[], second: readonly Actor[]): { readonly actors: readonly Actor[]; readonly places: readonly [readonly number[], readonly number[]] } {
  const actors = [...first];
  let next = 0;
  const merged = second.map((actor) => {
    const found = actors.findIndex((candidate, index) => index >= next && isSame(candidate, actor));
    if (found < 0) {
      actors.splice(next, 0, actor);
    }
    const place = found < 0 ? next : found;
    next = place + 1;
    return actors[place];
  });
  const placesOf = (chain: readonly (Actor | undefined)[]): readonly number[] => chain.map((actor) => actors.findIndex((candidate) => candidate === actor));
  return { actors, places: [placesOf(first), placesOf(merged)] };
}

function describeLeg(trace: Trace, { leg, from, to }: ChainLeg, places: readonly number[]): DiagramLeg {
  const stations = stationsOf(trace, leg);
  const downEnd = stations.findIndex((station) => station.hook === 'PREROUTING' || station.hook === 'INPUT');
  const down = downEnd < 0 ? stations : stations.slice(0, downEnd);
  const rest = downEnd < 0 ? [] : stations.slice(downEnd);
  const home = leg.server?.namespace;
  const upStart = rest.findIndex((station) => station.namespace === home);
  const programs = stepsOfLeg(trace, leg.index).flatMap((step) => (step.place.kind === 'program' ? [step.place.program] : []));
  return {
    leg: leg.index,
    from: places[from] ?? 0,
    to: to === null ? null : (places[to] ?? 0),
    data: leg.data,
    down,
    transit: upStart < 0 ? rest : rest.slice(0, upStart),
    up: upStart < 0 ? [] : rest.slice(upStart),
    programs: [...new Set(programs)],
    label: leg.server === null ? `to ${spellEndpoint(leg.requested)}` : spellEndpoint(leg.server.address),
  };
}

/** Gives both paths of an explanation as actors with what lies between them. The legs of a path lead from left to right and never cross. */
export function drawPaths({ iptables, sockops }: Explanation): PathDiagram {
  const [below, above] = [followLegs(iptables), followLegs(sockops)];
  const { actors, places } = mergeChains(below.actors, above.actors);
  return {
    actors,
    iptables: below.legs.map((leg) => describeLeg(iptables, leg, places[0])),
    sockops: above.legs.map((leg) => describeLeg(sockops, leg, places[1])),
  };
}
