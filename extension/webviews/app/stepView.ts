import type { Condition, TraceStep } from '../../../agent/protocol/trace.ts';
import { LAYER_NAMES, changesOf, describeDecision, describePlace, isEffective, layerOf, spellEndpoint } from '../shared/traceText.ts';
import { html } from './dom.ts';

const RESULT_MARKS: Readonly<Record<Condition['result'], { readonly mark: string; readonly name: string }>> = {
  matched: { mark: '✓', name: 'matched' },
  failed: { mark: '✗', name: 'did not match' },
  unknown: { mark: '?', name: 'not known' },
};

/** Gives one step as a row that opens to what was compared. */
export function createStep(step: TraceStep): HTMLElement {
  const place = describePlace(step.place);
  const layer = layerOf(step.place);
  const decision = describeDecision(step.decision);
  const changes = changesOf(step.before, step.after);
  const effective = isEffective(step);
  return html(
    'li',
    { class: `step layer-${layer} ${effective ? 'effective' : 'passing'}` },
    html(
      'details',
      {},
      html(
        'summary',
        {},
        html('span', { class: 'layer' }, LAYER_NAMES[layer]),
        html('span', { class: 'place' }, place.title),
        html('span', { class: `decision ${decision.tone}` }, decision.label),
        place.code === null ? null : html('code', {}, place.code),
        html('span', { class: 'reason' }, step.reason),
        ...changes.map((change) =>
          html(
            'span',
            { class: 'change' },
            html('span', { class: 'what' }, change.what),
            ' ',
            change.before === '–' ? '–' : html('del', {}, change.before),
            html('span', { class: 'becomes', 'aria-label': 'becomes' }, ' → '),
            html('ins', {}, change.after),
          ),
        ),
      ),
      createDetails(step),
    ),
  );
}

function createDetails(step: TraceStep): HTMLElement {
  const { before } = step;
  const facts: readonly (readonly [string, string])[] = [
    ['tuple', `${spellEndpoint(before.source)} → ${spellEndpoint(before.destination)}`],
    ...(before.inInterface === null ? [] : [['in', before.inInterface] as const]),
    ...(before.outInterface === null ? [] : [['out', before.outInterface] as const]),
    ...(before.mark === 0 ? [] : [['mark', `0x${before.mark.toString(16)}`] as const]),
    ...(before.connection === null ? [] : [['conntrack', before.connection] as const]),
    ...(step.place.kind === 'program' ? [['instructions', String(step.place.instructions)] as const] : []),
    ...(step.decision.kind === 'unknown' ? [['depends on', step.decision.dependsOn] as const] : []),
  ];
  return html(
    'div',
    { class: 'inside' },
    html('dl', {}, ...facts.flatMap(([name, value]) => [html('dt', {}, name), html('dd', {}, value)])),
    step.conditions.length === 0
      ? html('p', { class: 'quiet' }, 'Nothing had to match here.')
      : html(
          'table',
          { class: 'conditions' },
          html('thead', {}, html('tr', {}, html('td', {}), ...['compared', 'wanted', 'actual'].map((title) => html('th', { scope: 'col' }, title)))),
          html('tbody', {}, ...step.conditions.map(createCondition)),
        ),
  );
}

function createCondition(condition: Condition): HTMLElement {
  const { mark, name } = RESULT_MARKS[condition.result];
  return html(
    'tr',
    { class: condition.result },
    html('td', { class: 'mark' }, html('span', { role: 'img', 'aria-label': name, title: name }, mark)),
    html('td', {}, condition.what),
    html('td', {}, html('code', {}, condition.wanted)),
    html('td', {}, html('code', {}, condition.actual)),
  );
}
