import type { PathKind } from '../../../agent/protocol/trace.ts';
import { fitEnd, fitMiddle } from './fitText.ts';
import type { DiagramLeg, PathDiagram, Station } from './pathDiagram.ts';

/** How a text of the picture is set. */
export interface TextStyle {
  readonly size: number;
  readonly weight: 400 | 600;
  readonly code: boolean;
}

export type TextRole = 'namespace' | 'actor-name' | 'actor-detail' | 'arc-label' | 'arc-detail' | 'station-name' | 'station-detail' | 'station-rewrite' | 'transit' | 'band-label';

/** The one place that knows how texts are set: they are drawn as they are measured. */
export const TEXT_STYLES: Readonly<Record<TextRole, TextStyle>> = {
  namespace: { size: 12, weight: 400, code: false },
  'actor-name': { size: 13, weight: 600, code: false },
  'actor-detail': { size: 11, weight: 400, code: false },
  'arc-label': { size: 12, weight: 600, code: false },
  'arc-detail': { size: 11, weight: 400, code: true },
  'station-name': { size: 10.5, weight: 600, code: false },
  'station-detail': { size: 10, weight: 400, code: false },
  'station-rewrite': { size: 9.5, weight: 400, code: true },
  transit: { size: 10, weight: 400, code: false },
  'band-label': { size: 10.5, weight: 400, code: false },
};

/** Gives the width of a text, in the units of the picture. */
export type MeasureStyledText = (text: string, style: TextStyle) => number;

/** A line of text, cut so that it fits. */
export interface Label {
  readonly role: TextRole;
  readonly text: string;
  /** All of it, where it had to be cut. */
  readonly full: string | null;
  /** The middle of the line, and its baseline. */
  readonly x: number;
  readonly y: number;
  readonly width: number;
}

export interface Rectangle {
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly height: number;
}

export interface PlacedStation extends Rectangle {
  readonly rewrites: boolean;
  readonly labels: readonly Label[];
}

/** A leg as it is drawn: a line, with what stands at it. */
export interface PlacedLeg {
  readonly path: PathKind;
  readonly leg: DiagramLeg;
  /** The line as an SVG path. */
  readonly route: string;
  /** Where the line ends without a server. */
  readonly cross: { readonly x: number; readonly y: number } | null;
  readonly stations: readonly PlacedStation[];
  readonly labels: readonly Label[];
}

export interface PathLayout {
  readonly width: number;
  readonly height: number;
  readonly namespaces: readonly (Rectangle & { readonly label: Label })[];
  readonly band: Rectangle & { readonly label: Label };
  readonly actors: readonly (Rectangle & { readonly title: string; readonly labels: readonly Label[] })[];
  readonly legs: readonly PlacedLeg[];
}

const ACTOR = { width: 164, height: 48, pitch: 264 } as const;
const STATION = { width: 112, height: 32, gap: 10 } as const;
/** How far left and right of an actor's middle its wires run, and its arcs start. */
const LIMB = 62;
const ARC_LIMB = 34;
/** From the middle of the outermost actors of a namespace to its border. */
const NAMESPACE_REACH = LIMB + STATION.width / 2 + 6;
const MARGIN = 10;
const ACTOR_TOP = 138;
const ACTOR_BOTTOM = ACTOR_TOP + ACTOR.height;
const NAMESPACE_TOP = ACTOR_TOP - 14;
const STACK_TOP = ACTOR_BOTTOM + 30;
const LINE = 13;
const TEXT_GAP = 8;
const MAX_ARC_LINES = 2;
/** Where the two kinds of arc have their first line of text; the arc itself stays below the last. */
const ARCS = { jump: { text: 18, control: 28 }, plain: { text: 54, control: 76 } } as const;

/** Says where everything of the picture is: above the actors data jumps from socket to socket, below them it crosses the stack. */
export function layOutPaths(diagram: PathDiagram, namespaceName: (id: string) => string, measure: MeasureStyledText): PathLayout {
  const centre = (actor: number): number => MARGIN + NAMESPACE_REACH + actor * ACTOR.pitch;
  const place = (role: TextRole, text: string, x: number, y: number, room: number, fit = fitEnd): Label => {
    const style = TEXT_STYLES[role];
    const fitted = fit(text, room, (part) => measure(part, style));
    return { role, text: fitted, full: fitted === text ? null : text, x, y, width: measure(fitted, style) };
  };
  const isInside = (leg: DiagramLeg): boolean => leg.to !== null && diagram.actors[leg.from]?.namespace === diagram.actors[leg.to]?.namespace;

  const deepest = Math.max(1, ...diagram.iptables.flatMap((leg) => [leg.down.length, leg.up.length]));
  const stackBottom = STACK_TOP + deepest * (STATION.height + STATION.gap);
  const wireInside = stackBottom + 8;
  const namespaceBottom = wireInside + 30;
  const wireBetween = namespaceBottom + 18;
  const transits = Math.max(0, ...diagram.iptables.map((leg) => leg.transit.length));
  const bandBottom = wireBetween + 14 + transits * (LINE + 1) + 20;
  // A leg that nobody accepts takes the room of one more actor.
  const columns = Math.max(diagram.actors.length, ...[...diagram.iptables, ...diagram.sockops].map((leg) => (leg.to ?? leg.from + 1) + 1));
  const width = centre(columns - 1) + NAMESPACE_REACH + MARGIN;

  const placeStation = (station: Station, middle: number, row: number): PlacedStation => {
    const y = STACK_TOP + row * (STATION.height + STATION.gap);
    const room = STATION.width - TEXT_GAP;
    const rules = station.rules === 0 ? 'no rules' : `${station.rules} ${station.rules === 1 ? 'rule' : 'rules'}`;
    return {
      x: middle - STATION.width / 2,
      y,
      width: STATION.width,
      height: STATION.height,
      rewrites: station.rewrite !== null,
      labels: [
        place('station-name', station.hook, middle, y + 13, room),
        station.rewrite === null ? place('station-detail', rules, middle, y + 26, room) : place('station-rewrite', `→ ${station.rewrite}`, middle, y + 26, room, fitMiddle),
      ],
    };
  };

  const placeStackLeg = (leg: DiagramLeg): PlacedLeg => {
    const start = centre(leg.from) + LIMB;
    const down = leg.down.map((station, row) => placeStation(station, start, row));
    if (leg.to === null || leg.data === 'none') {
      const end = STACK_TOP + leg.down.length * (STATION.height + STATION.gap) + 4;
      return { path: 'iptables', leg, route: `M${start} ${ACTOR_BOTTOM} V${end}`, cross: { x: start, y: end }, stations: down, labels: [] };
    }
    const end = centre(leg.to) - LIMB;
    const wire = isInside(leg) ? wireInside : wireBetween;
    const up = [...leg.up].reverse().map((station, row) => placeStation(station, end, row));
    const room = (leg.to - leg.from) * ACTOR.pitch - TEXT_GAP * 2;
    return {
      path: 'iptables',
      leg,
      route: `M${start} ${ACTOR_BOTTOM} V${wire - 10} q0 10 10 10 H${end - 10} q10 0 10 -10 V${ACTOR_BOTTOM + 3}`,
      cross: null,
      stations: [...down, ...up],
      labels: leg.transit.map((station, row) =>
        place(
          'transit',
          `${namespaceName(station.namespace)} · ${station.hook}${station.rewrite === null ? '' : ` → ${station.rewrite}`}`,
          (start + end) / 2,
          wireBetween + 20 + row * (LINE + 1),
          room,
          fitMiddle,
        ),
      ),
    };
  };

  const placeArc = (leg: DiagramLeg): PlacedLeg => {
    const [start, end] = [centre(leg.from) + ARC_LIMB, centre(leg.to ?? leg.from + 1) - ARC_LIMB];
    const middle = (start + end) / 2;
    const room = ((leg.to ?? leg.from + 1) - leg.from) * ACTOR.pitch - TEXT_GAP * 2;
    const arc = leg.data === 'socket-to-socket' ? ARCS.jump : ARCS.plain;
    const title = { 'socket-to-socket': 'socket to socket', tcp: 'plain TCP, as below', none: 'no connection' }[leg.data];
    const names = leg.programs.map((name) => name.replace(/^meshpath_/, ''));
    const details = leg.data === 'none' ? [leg.label] : fillLines(names, room, (text) => measure(text, TEXT_STYLES['arc-detail']));
    return {
      path: 'sockops',
      leg,
      route: `M${start} ${ACTOR_TOP} C${start + 18} ${arc.control} ${end - 18} ${arc.control} ${end} ${ACTOR_TOP - 3}`,
      cross: leg.to === null ? { x: end, y: ACTOR_TOP - 3 } : null,
      stations: [],
      labels: [place('arc-label', title, middle, arc.text, room), ...details.map((line, index) => place('arc-detail', line, middle, arc.text + (index + 1) * LINE + 2, room))],
    };
  };

  const legs = [...diagram.iptables.map(placeStackLeg), ...diagram.sockops.map(placeArc)];
  const wiresBetween = diagram.iptables.flatMap((leg) => (leg.to === null || leg.data === 'none' || isInside(leg) ? [] : [centre(leg.from) + LIMB, centre(leg.to) - LIMB]));
  const namespaces = groupNamespaces(diagram).map((group) => {
    const left = centre(group.first) - NAMESPACE_REACH;
    const right = centre(group.last) + NAMESPACE_REACH;
    const gap = findWidestGap(left, right, wiresBetween);
    const label = place('namespace', namespaceName(group.namespace), (gap.left + gap.right) / 2, namespaceBottom - 10, gap.right - gap.left - TEXT_GAP * 2, fitMiddle);
    return { x: left, y: NAMESPACE_TOP, width: right - left, height: namespaceBottom - NAMESPACE_TOP, label };
  });
  const bandText = 'TCP/IP stack and netfilter';
  return {
    width,
    height: bandBottom + MARGIN,
    namespaces,
    band: {
      x: MARGIN / 2,
      y: STACK_TOP - 14,
      width: width - MARGIN,
      height: bandBottom - STACK_TOP + 14,
      label: place('band-label', bandText, MARGIN + TEXT_GAP + measure(bandText, TEXT_STYLES['band-label']) / 2, bandBottom - 7, width - MARGIN * 2),
    },
    actors: diagram.actors.map((actor, index) => {
      const middle = centre(index);
      const name = shortName(actor.description, namespaceName(actor.namespace));
      return {
        x: middle - ACTOR.width / 2,
        y: ACTOR_TOP,
        width: ACTOR.width,
        height: ACTOR.height,
        title: `${actor.description}, user ${actor.uid}`,
        labels: [place('actor-name', name, middle, ACTOR_TOP + 20, ACTOR.width - TEXT_GAP * 2), place('actor-detail', `user ${actor.uid}`, middle, ACTOR_TOP + 37, ACTOR.width - TEXT_GAP * 2)],
      };
    }),
    legs,
  };
}

/** Leaves the namespace out of a name where it stands at its end: the box around it says so already. */
function shortName(description: string, namespace: string): string {
  const ending = ` in ${namespace}`;
  return description.endsWith(ending) && description.length > ending.length ? description.slice(0, -ending.length) : description;
}

function groupNamespaces(diagram: PathDiagram): readonly { readonly namespace: string; readonly first: number; readonly last: number }[] {
  const groups: { namespace: string; first: number; last: number }[] = [];
  for (const [index, actor] of diagram.actors.entries()) {
    const last = groups.at(-1);
    if (last?.namespace === actor.namespace) {
      last.last = index;
    } else {
      groups.push({ namespace: actor.namespace, first: index, last: index });
    }
  }
  return groups;
}

function findWidestGap(left: number, right: number, obstacles: readonly number[]): { readonly left: number; readonly right: number } {
  const edges = [left, ...obstacles.filter((x) => x > left && x < right).sort((a, b) => a - b), right];
  return edges
    .slice(1)
    .map((edge, index) => ({ left: edges[index] ?? left, right: edge }))
    .reduce((widest, gap) => (gap.right - gap.left > widest.right - widest.left ? gap : widest));
}

/** Puts the names of programs into as few lines as they need, and says how many have no room any more. */
function fillLines(names: readonly string[], room: number, measure: (text: string) => number): readonly string[] {
  const lines: string[] = [];
  for (const [index, name] of names.entries()) {
    const last = lines.at(-1);
    const longer = last === undefined ? undefined : `${last} · ${name}`;
    if (longer !== undefined && measure(longer) <= room) {
      lines[lines.length - 1] = longer;
    } else if (lines.length < MAX_ARC_LINES) {
      lines.push(name);
    } else {
      lines[lines.length - 1] = `${last ?? ''} +${names.length - index}`;
      break;
    }
  }
  return lines;
}
