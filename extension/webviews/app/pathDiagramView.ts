import type { PathKind } from '../../../agent/protocol/trace.ts';
import type { DiagramLeg, PathDiagram, Station } from '../shared/pathDiagram.ts';
import { svg } from './dom.ts';

const ACTOR = { width: 148, height: 48, pitch: 252 } as const;
const MARGIN = 34;
const LIMB = 60;
const STATION = { width: 104, height: 30, gap: 10 } as const;
const ARC_TOP = 30;
const ACTOR_TOP = 150;
const STACK_TOP = ACTOR_TOP + ACTOR.height + 34;
/** How far the wire between namespaces runs below their boxes; inside of one it stays above its border. */
const BELOW_NAMESPACE = 22;
const MAX_LABEL = 22;
const MAX_ARC_LINES = 2;
const MAX_ARC_LINE = 34;

function shorten(text: string, length = MAX_LABEL): string {
  return text.length <= length ? text : `${text.slice(0, length - 1)}…`;
}

interface Geometry {
  readonly width: number;
  readonly height: number;
  readonly wire: number;
  centre(actor: number): number;
}

function measure(diagram: PathDiagram): Geometry {
  const deepest = Math.max(1, ...diagram.iptables.flatMap((leg) => [leg.down.length, leg.up.length]));
  const transit = Math.max(0, ...diagram.iptables.map((leg) => leg.transit.length));
  const wire = STACK_TOP + deepest * (STATION.height + STATION.gap) + BELOW_NAMESPACE + 24;
  return {
    width: MARGIN * 2 + ACTOR.width + Math.max(0, diagram.actors.length - 1) * ACTOR.pitch,
    height: wire + 22 + (transit > 0 ? transit * 14 + 16 : 0) + 14,
    wire,
    centre: (actor) => MARGIN + ACTOR.width / 2 + actor * ACTOR.pitch,
  };
}

/** Gives the picture of both paths: above the actors data jumps from socket to socket, below them it crosses the stack. */
export function createPathDiagram(
  diagram: PathDiagram,
  namespaceName: (id: string) => string,
  summary: string,
  select: (path: PathKind, leg: number) => void,
): SVGSVGElement {
  const geometry = measure(diagram);
  return svg(
    'svg',
    { class: 'diagram', viewBox: `0 0 ${geometry.width} ${geometry.height}`, role: 'group', 'aria-label': summary, width: geometry.width, height: geometry.height },
    svg(
      'defs',
      {},
      ...(['jump', 'stack', 'plain'] as const).map((name) =>
        svg(
          'marker',
          { id: `arrow-${name}`, class: `arrow ${name}`, viewBox: '0 0 10 10', refX: 8, refY: 5, markerWidth: 7, markerHeight: 7, orient: 'auto-start-reverse', markerUnits: 'userSpaceOnUse' },
          svg('path', { d: 'M0 0 L10 5 L0 10 z' }),
        ),
      ),
    ),
    ...createNamespaces(diagram, geometry, namespaceName),
    svg('rect', { class: 'stack-band', x: MARGIN - 18, y: STACK_TOP - 16, width: geometry.width - (MARGIN - 18) * 2, height: geometry.wire - STACK_TOP + 32, rx: 6 }),
    svg('text', { class: 'band-label', x: MARGIN - 8, y: geometry.wire + 6 }, 'TCP/IP stack and netfilter'),
    ...diagram.iptables.map((leg) => createStackLeg(leg, isInside(diagram, leg), geometry, namespaceName, select)),
    ...diagram.sockops.map((leg) => createUpperLeg(leg, geometry, select)),
    ...diagram.actors.map((actor, index) =>
      svg(
        'g',
        { class: 'actor', transform: `translate(${geometry.centre(index) - ACTOR.width / 2} ${ACTOR_TOP})` },
        svg('title', {}, `${actor.description}, user ${actor.uid}`),
        svg('rect', { width: ACTOR.width, height: ACTOR.height, rx: 7 }),
        svg('text', { class: 'actor-name', x: ACTOR.width / 2, y: 20 }, shorten(actor.description)),
        svg('text', { class: 'actor-detail', x: ACTOR.width / 2, y: 37 }, `user ${actor.uid}`),
      ),
    ),
  );
}

function isInside(diagram: PathDiagram, leg: DiagramLeg): boolean {
  return leg.to !== null && diagram.actors[leg.from]?.namespace === diagram.actors[leg.to]?.namespace;
}

function createNamespaces(diagram: PathDiagram, geometry: Geometry, namespaceName: (id: string) => string): readonly SVGElement[] {
  const boxes: { namespace: string; first: number; last: number }[] = [];
  for (const [index, actor] of diagram.actors.entries()) {
    const last = boxes.at(-1);
    if (last?.namespace === actor.namespace) {
      last.last = index;
    } else {
      boxes.push({ namespace: actor.namespace, first: index, last: index });
    }
  }
  return boxes.map((box) => {
    const left = geometry.centre(box.first) - ACTOR.width / 2 - 22;
    const right = geometry.centre(box.last) + ACTOR.width / 2 + 22;
    return svg(
      'g',
      { class: 'namespace' },
      svg('rect', { x: left, y: ACTOR_TOP - 30, width: right - left, height: geometry.wire - BELOW_NAMESPACE - ACTOR_TOP + 30, rx: 10 }),
      svg('text', { x: left + 12, y: ACTOR_TOP - 13 }, shorten(namespaceName(box.namespace), 34)),
    );
  });
}

function selectable(path: PathKind, leg: DiagramLeg, label: string, select: (path: PathKind, leg: number) => void, ...content: readonly SVGElement[]): SVGElement {
  const group = svg('g', { class: `leg ${path} ${leg.data}`, tabindex: 0, role: 'button', 'data-leg': leg.leg }, svg('text', { class: 'spoken' }, `Go to the steps of ${label}: `), ...content);
  group.addEventListener('click', () => {
    select(path, leg.leg);
  });
  group.addEventListener('keydown', (event) => {
    if (event.key === 'Enter' || event.key === ' ') {
      event.preventDefault();
      select(path, leg.leg);
    }
  });
  return group;
}

function createStation(station: Station, x: number, y: number): SVGElement {
  const detail = station.rewrite === null ? (station.rules === 0 ? 'no rules' : `${station.rules} ${station.rules === 1 ? 'rule' : 'rules'}`) : `→ ${station.rewrite}`;
  return svg(
    'g',
    { class: station.rewrite === null ? 'station' : 'station rewrites', transform: `translate(${x - STATION.width / 2} ${y})` },
    svg('rect', { width: STATION.width, height: STATION.height, rx: 5 }),
    svg('text', { class: 'station-name', x: STATION.width / 2, y: 13 }, station.hook),
    svg('text', { class: 'station-detail', x: STATION.width / 2, y: 24.5 }, shorten(detail, 19)),
  );
}

function createStackLeg(leg: DiagramLeg, inside: boolean, geometry: Geometry, namespaceName: (id: string) => string, select: (path: PathKind, leg: number) => void): SVGElement {
  const start = geometry.centre(leg.from) + LIMB;
  const bottom = ACTOR_TOP + ACTOR.height;
  const place = (index: number): number => STACK_TOP + index * (STATION.height + STATION.gap);
  const down = leg.down.map((station, index) => createStation(station, start, place(index)));
  if (leg.to === null || leg.data === 'none') {
    const end = place(leg.down.length) + 4;
    return selectable(
      'iptables',
      leg,
      `iptables, leg ${leg.leg + 1}: it ends before a server`,
      select,
      svg('path', { class: 'hit', d: `M${start} ${bottom} V${end}` }),
      svg('path', { class: 'wire', d: `M${start} ${bottom} V${end}` }),
      svg('path', { class: 'cross', d: `M${start - 7} ${end - 7} l14 14 m0 -14 l-14 14` }),
      ...down,
    );
  }
  const end = geometry.centre(leg.to) - LIMB;
  const wire = inside ? geometry.wire - BELOW_NAMESPACE - 14 : geometry.wire;
  const route = `M${start} ${bottom} V${wire - 10} q0 10 10 10 H${end - 10} q10 0 10 -10 V${bottom + 3}`;
  const up = [...leg.up].reverse().map((station, index) => createStation(station, end, place(index)));
  const middle = (start + end) / 2;
  const transit = leg.transit.map((station, index) =>
    svg(
      'text',
      { class: 'transit', x: middle, y: geometry.wire + 34 + index * 14 },
      shorten(`${namespaceName(station.namespace)} ${station.hook}${station.rewrite === null ? '' : ` → ${station.rewrite}`}`, 34),
    ),
  );
  return selectable(
    'iptables',
    leg,
    `iptables, leg ${leg.leg + 1} to ${leg.label}`,
    select,
    svg('path', { class: 'hit', d: route }),
    svg('path', { class: 'wire', d: route, 'marker-end': 'url(#arrow-stack)' }),
    svg('circle', { class: 'packet', r: 4 }, svg('animateMotion', { dur: '3.2s', repeatCount: 'indefinite', path: route })),
    ...down,
    ...up,
    ...transit,
  );
}

/** Puts the names of programs into as few lines as fit below an arc. */
function fillLines(names: readonly string[]): readonly string[] {
  const lines: string[] = [];
  for (const name of names) {
    const last = lines.at(-1);
    const longer = last === undefined ? undefined : `${last} · ${name}`;
    if (longer !== undefined && longer.length <= MAX_ARC_LINE) {
      lines[lines.length - 1] = longer;
    } else if (lines.length < MAX_ARC_LINES) {
      lines.push(shorten(name));
    }
  }
  return lines;
}

function createUpperLeg(leg: DiagramLeg, geometry: Geometry, select: (path: PathKind, leg: number) => void): SVGElement {
  const start = geometry.centre(leg.from) + LIMB / 2;
  const end = leg.to === null ? start + ACTOR.pitch - LIMB : geometry.centre(leg.to) - LIMB / 2;
  const middle = (start + end) / 2;
  const jumps = leg.data === 'socket-to-socket';
  const top = jumps ? ARC_TOP : ARC_TOP + 62;
  const route = `M${start} ${ACTOR_TOP} C${start + 18} ${top} ${end - 18} ${top} ${end} ${ACTOR_TOP - 3}`;
  const title = jumps ? 'socket to socket' : leg.data === 'tcp' ? 'plain TCP, as below' : 'no connection';
  return selectable(
    'sockops',
    leg,
    `sockops, leg ${leg.leg + 1} to ${leg.label}`,
    select,
    svg('path', { class: 'hit', d: route }),
    svg('path', { class: 'wire', d: route, 'marker-end': `url(#arrow-${jumps ? 'jump' : 'plain'})` }),
    ...(jumps ? [svg('circle', { class: 'packet', r: 5 }, svg('animateMotion', { dur: '1.1s', repeatCount: 'indefinite', path: route }))] : []),
    svg('text', { class: 'arc-label', x: middle, y: jumps ? 19 : 76 }, title),
    ...fillLines(leg.programs.map((name) => name.replace(/^meshpath_/, ''))).map((line, index) =>
      svg('text', { class: 'arc-detail', x: middle, y: (jumps ? 35 : 92) + index * 13 }, line),
    ),
  );
}
