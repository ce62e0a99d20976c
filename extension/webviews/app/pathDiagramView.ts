import type { PathKind } from '../../../agent/protocol/trace.ts';
import type { PathDiagram } from '../shared/pathDiagram.ts';
import { TEXT_STYLES, layOutPaths, type Label, type MeasureStyledText, type PlacedLeg, type PlacedStation, type Rectangle } from '../shared/pathLayout.ts';
import { svg, type Attributes } from './dom.ts';

/** Below this share of its size the texts of the picture could not be read any more: it scrolls instead. */
const SMALLEST_SCALE = 0.8;

/** Gives the function that knows how wide texts are in the fonts of the page. */
function createMeasure(): MeasureStyledText {
  const context = document.createElement('canvas').getContext('2d');
  if (context === null) {
    throw new Error('this browser draws no text');
  }
  const styles = getComputedStyle(document.body);
  const families = { text: styles.fontFamily, code: styles.getPropertyValue('--code') || 'monospace' };
  return (text, style) => {
    context.font = `${style.weight} ${style.size}px ${style.code ? families.code : families.text}`;
    return context.measureText(text).width;
  };
}

/** Gives the picture of both paths. `select` is called with a leg that somebody chose. */
export function createPathDiagram(
  diagram: PathDiagram,
  namespaceName: (id: string) => string,
  summary: string,
  select: (path: PathKind, leg: number) => void,
): SVGSVGElement {
  const { width, height, namespaces, band, actors, legs } = layOutPaths(diagram, namespaceName, createMeasure());
  const picture = svg(
    'svg',
    { class: 'diagram', viewBox: `0 0 ${width} ${height}`, role: 'group', 'aria-label': summary, width, height },
    svg('defs', {}, ...(['jump', 'stack', 'plain'] as const).map(createArrow)),
    svg('rect', { class: 'stack-band', ...edgesOf(band), rx: 6 }),
    ...namespaces.map((box) => svg('g', { class: 'namespace' }, svg('rect', { ...edgesOf(box), rx: 10 }), createLabel(box.label))),
    createLabel(band.label),
    ...legs.map((leg) => createLeg(leg, select)),
    ...actors.map((actor) => svg('g', { class: 'actor' }, svg('title', {}, actor.title), svg('rect', { ...edgesOf(actor), rx: 7 }), ...actor.labels.map(createLabel))),
  );
  picture.style.minWidth = `${Math.round(width * SMALLEST_SCALE)}px`;
  return picture;
}

function edgesOf({ x, y, width, height }: Rectangle): Attributes {
  return { x, y, width, height };
}

function createArrow(name: string): SVGElement {
  return svg(
    'marker',
    { id: `arrow-${name}`, class: `arrow ${name}`, viewBox: '0 0 10 10', refX: 8, refY: 5, markerWidth: 7, markerHeight: 7, orient: 'auto-start-reverse', markerUnits: 'userSpaceOnUse' },
    svg('path', { d: 'M0 0 L10 5 L0 10 z' }),
  );
}

function createLabel(label: Label): SVGElement {
  const { size, weight, code } = TEXT_STYLES[label.role];
  return svg(
    'text',
    { class: `${label.role}${code ? ' code' : ''}`, x: label.x, y: label.y, 'font-size': size, 'font-weight': weight },
    label.full === null ? null : svg('title', {}, label.full),
    label.text,
  );
}

function createStation(station: PlacedStation): SVGElement {
  return svg('g', { class: station.rewrites ? 'station rewrites' : 'station' }, svg('rect', { ...edgesOf(station), rx: 5 }), ...station.labels.map(createLabel));
}

function describe({ path, leg }: PlacedLeg): string {
  return leg.to === null ? `${path}, leg ${leg.leg + 1} ${leg.label}: nobody accepts it` : `${path}, leg ${leg.leg + 1} to ${leg.label}`;
}

function createLeg(placed: PlacedLeg, select: (path: PathKind, leg: number) => void): SVGElement {
  const { path, leg, route, cross } = placed;
  const jumps = path === 'sockops' && leg.data === 'socket-to-socket';
  const arrow = path === 'iptables' ? 'stack' : jumps ? 'jump' : 'plain';
  const moves = cross === null && (path === 'iptables' || jumps);
  const group = svg(
    'g',
    { class: `leg ${path} ${leg.data}`, tabindex: 0, role: 'button', 'data-leg': leg.leg },
    svg('text', { class: 'spoken' }, `Go to the steps of ${describe(placed)}: `),
    svg('path', { class: 'hit', d: route }),
    svg('path', { class: 'wire', d: route, ...(cross === null ? { 'marker-end': `url(#arrow-${arrow})` } : {}) }),
    moves ? svg('circle', { class: 'packet', r: jumps ? 5 : 4 }, svg('animateMotion', { dur: jumps ? '1.1s' : '3.2s', repeatCount: 'indefinite', path: route })) : null,
    cross === null ? null : svg('path', { class: 'cross', d: `M${cross.x - 7} ${cross.y - 7} l14 14 m0 -14 l-14 14` }),
    ...placed.stations.map(createStation),
    ...placed.labels.map(createLabel),
  );
  const choose = (): void => {
    select(path, leg.leg);
  };
  group.addEventListener('click', choose);
  group.addEventListener('keydown', (event) => {
    if (event.key === 'Enter' || event.key === ' ') {
      event.preventDefault();
      choose();
    }
  });
  return group;
}
