import type { NamespaceId } from '../../../agent/protocol/scalars.ts';
import type { Explanation, Hook, SocketEnd, Trace, TraceLeg } from '../../../agent/protocol/trace.ts';
import { changesOf, spellEndpoint, stepsOfLeg } from './traceText.ts';

/** Someone who holds sockets: the application or a sidecar. */
export interface Actor {
  readonly description: string;
  readonly namespace: NamespaceId;
  readonly uid: number;
}

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

function indexOfActor(actors: Actor[], end: SocketEnd): number {
  const found = actors.findIndex((actor) => actor.namespace === end.namespace && actor.description === end.description);
  return found >= 0 ? found : actors.push({ description: end.description, namespace: end.namespace, uid: end.uid }) - 1;
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

function legOf(trace: Trace, leg: TraceLeg, actors: Actor[]): DiagramLeg {
  const stations = stationsOf(trace, leg);
  const downEnd = stations.findIndex((station) => station.hook === 'PREROUTING' || station.hook === 'INPUT');
  const down = downEnd < 0 ? stations : stations.slice(0, downEnd);
  const rest = downEnd < 0 ? [] : stations.slice(downEnd);
  const home = leg.server?.namespace;
  const upStart = rest.findIndex((station) => station.namespace === home);
  const programs = stepsOfLeg(trace, leg.index).flatMap((step) => (step.place.kind === 'program' ? [step.place.program] : []));
  return {
    leg: leg.index,
    from: indexOfActor(actors, leg.client),
    to: leg.server === null ? null : indexOfActor(actors, leg.server),
    data: leg.data,
    down,
    transit: upStart < 0 ? rest : rest.slice(0, upStart),
    up: upStart < 0 ? [] : rest.slice(upStart),
    programs: [...new Set(programs)],
    label: leg.server === null ? `to ${spellEndpoint(leg.requested)}` : spellEndpoint(leg.server.address),
  };
}

/** Gives both paths of an explanation as actors with what lies between them. */
export function drawPaths(explanation: Explanation): PathDiagram {
  const actors: Actor[] = [];
  const iptables = explanation.iptables.legs.map((leg) => legOf(explanation.iptables, leg, actors));
  const sockops = explanation.sockops.legs.map((leg) => legOf(explanation.sockops, leg, actors));
  return { actors, iptables, sockops };
}
