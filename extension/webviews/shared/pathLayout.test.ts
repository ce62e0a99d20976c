import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { NamespaceId } from '../../../agent/protocol/scalars.ts';
import type { Actor, DiagramLeg, PathDiagram, Station } from './pathDiagram.ts';
import { TEXT_STYLES, layOutPaths, type Label, type MeasureStyledText, type PathLayout, type Rectangle } from './pathLayout.ts';

const POD_A = 'meshpath-lab-12650-daec49-a-very-long-name-for-a-test-pod-a';
const SHORT: MeasureStyledText = (text, style) => text.length * style.size * 0.62;
/** A font whose every character is as wide as it is high. */
const WIDE: MeasureStyledText = (text, style) => text.length * style.size;

const station = (namespace: string, hook: Station['hook'], rewrite: string | null = null): Station => ({ namespace: namespace as NamespaceId, hook, rules: 12, rewrite });

interface Shape {
  readonly legs: number;
  readonly actorsPerNamespace: number;
  readonly data: DiagramLeg['data'];
  readonly isRefused: boolean;
}

/** A picture with this many legs, everybody with the same long name. */
function draw({ legs, actorsPerNamespace, data, isRefused }: Shape): PathDiagram {
  const namespaceOf = (actor: number): string => `n${Math.floor(actor / actorsPerNamespace)}`;
  const actors: readonly Actor[] = Array.from({ length: isRefused ? legs : legs + 1 }, (_, index) => ({
    description: `a process with a very long name ${'x'.repeat(40)} in ${POD_A}`,
    namespace: namespaceOf(index) as NamespaceId,
    uid: 4_294_967_295,
  }));
  const legOf = (leg: number): DiagramLeg => {
    const to = isRefused && leg === legs - 1 ? null : leg + 1;
    return {
      leg,
      from: leg,
      to,
      data: to === null ? 'none' : data,
      down: [station(namespaceOf(leg), 'OUTPUT', '[2001:db8:ffff:ffff:ffff:ffff:ffff:ffff]:15001'), station(namespaceOf(leg), 'POSTROUTING')],
      transit: to === null ? [] : [station('host', 'PREROUTING'), station('host', 'FORWARD', '10.77.0.12:15006'), station('host', 'POSTROUTING')],
      up: to === null ? [] : [station(namespaceOf(leg + 1), 'PREROUTING', '10.77.0.12:15006'), station(namespaceOf(leg + 1), 'INPUT')],
      programs: ['meshpath_connect4', 'meshpath_sockops', 'meshpath_getsockopt', 'meshpath_getpeername4', 'meshpath_sk_msg', 'somebody_elses_program'],
      label: '10.77.0.12:8080',
    };
  };
  const all = Array.from({ length: legs }, (_, leg) => legOf(leg));
  return { actors, iptables: all.map((leg) => (leg.to === null ? leg : { ...leg, data: 'tcp' })), sockops: all };
}

function labelsOf(layout: PathLayout): readonly Label[] {
  return [
    layout.band.label,
    ...layout.namespaces.map((box) => box.label),
    ...layout.actors.flatMap((actor) => actor.labels),
    ...layout.legs.flatMap((leg) => [...leg.labels, ...leg.stations.flatMap((placed) => placed.labels)]),
  ];
}

/** What a line of text covers, from the height of its capitals to below its baseline. */
function coveredBy(label: Label): Rectangle {
  const { size } = TEXT_STYLES[label.role];
  return { x: label.x - label.width / 2, y: label.y - size * 0.78, width: label.width, height: size };
}

function overlaps(left: Rectangle, right: Rectangle): boolean {
  return left.x < right.x + right.width && right.x < left.x + left.width && left.y < right.y + right.height && right.y < left.y + left.height;
}

const shapes = [1, 2, 3, 4, 5].flatMap((legs) =>
  [1, 2].flatMap((actorsPerNamespace) =>
    (['socket-to-socket', 'tcp'] as const).flatMap((data) => [false, true].map((isRefused): Shape => ({ legs, actorsPerNamespace, data, isRefused }))),
  ),
);

for (const [name, measure] of [['usual', SHORT], ['very wide', WIDE]] as const) {
  test(`no text of a picture overlaps another or leaves it, with 1 to 5 legs, long names and a ${name} font`, () => {
    for (const shape of shapes) {
      const layout = layOutPaths(draw(shape), () => POD_A, measure);
      const labels = labelsOf(layout);
      for (const [index, label] of labels.entries()) {
        const covered = coveredBy(label);
        assert.ok(covered.x >= 0 && covered.x + covered.width <= layout.width && covered.y >= 0 && covered.y + covered.height <= layout.height, `'${label.text}' leaves the picture of ${JSON.stringify(shape)}`);
        const other = labels.slice(index + 1).find((candidate) => overlaps(covered, coveredBy(candidate)));
        assert.equal(other, undefined, `'${label.text}' and '${other?.text ?? ''}' overlap in ${JSON.stringify(shape)}`);
      }
    }
  });
}

test('an arc stays below its text', () => {
  for (const data of ['socket-to-socket', 'tcp', 'none'] as const) {
    const layout = layOutPaths(draw({ legs: 2, actorsPerNamespace: 1, data, isRefused: data === 'none' }), () => POD_A, SHORT);
    for (const arc of layout.legs.filter((leg) => leg.path === 'sockops')) {
      const [, end, control] = (/^M\S+ (\S+) C\S+ (\S+) /.exec(arc.route) ?? assert.fail()).map(Number);
      // The middle of a cubic curve whose two inner points are at the same height.
      const apex = ((end ?? Number.NaN) + 3 * (control ?? Number.NaN)) / 4;
      assert.ok(arc.labels.every((label) => label.y + TEXT_STYLES[label.role].size * 0.25 < apex));
    }
  }
});

test('boxes hold their texts, and boxes of one kind stay apart', () => {
  for (const shape of shapes) {
    const layout = layOutPaths(draw(shape), () => POD_A, WIDE);
    const stations = layout.legs.flatMap((leg) => leg.stations);
    for (const box of [...layout.actors, ...stations]) {
      for (const label of box.labels) {
        assert.ok(label.width <= box.width, `'${label.text}' is wider than its box`);
      }
    }
    for (const boxes of [layout.actors, layout.namespaces, stations] as const) {
      for (const [index, box] of boxes.entries()) {
        assert.ok(!boxes.slice(index + 1).some((other) => overlaps(box, other)), `boxes overlap in ${JSON.stringify(shape)}`);
      }
    }
  }
});

test('a text that was cut is there in full, a name loses what its namespace says already, and what has no room is counted', () => {
  const layout = layOutPaths(draw({ legs: 3, actorsPerNamespace: 2, data: 'socket-to-socket', isRefused: false }), () => POD_A, SHORT);
  const actor = layout.actors[0] ?? assert.fail();
  assert.match(actor.labels[0]?.text ?? '', /^a process with.*…$/);
  assert.equal(actor.labels[0]?.full, `a process with a very long name ${'x'.repeat(40)}`);
  assert.match(actor.title, new RegExp(`in ${POD_A}, user 4294967295$`));
  assert.match(layout.namespaces.map((box) => box.label.text).join(), /^meshpath.*….*pod-a,meshpath.*….*pod-a$/);
  const lines = layout.legs.filter((leg) => leg.path === 'sockops').map((leg) => leg.labels.map((label) => label.text).join(' '));
  assert.equal(lines.length, 3);
  for (const line of lines) {
    assert.match(line, /^socket to socket connect4 .* \+\d$/);
  }
});

test('a leg that nobody accepts ends with a cross and no arrow', () => {
  const layout = layOutPaths(draw({ legs: 1, actorsPerNamespace: 1, data: 'none', isRefused: true }), () => POD_A, SHORT);
  assert.deepEqual(layout.legs.map((leg) => [leg.path, leg.cross !== null]), [['iptables', true], ['sockops', true]]);
  assert.deepEqual(layout.legs[1]?.labels.map((label) => label.text), ['no connection', '10.77.0.12:8080']);
});
