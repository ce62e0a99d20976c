import type { Explanation, PathKind, Trace, TraceLeg, TraceStep } from '../../../agent/protocol/trace.ts';
import type { ExplainPanelContent, ExplainPanelContract, ExplainPanelState } from '../shared/panels.ts';
import { drawPaths } from '../shared/pathDiagram.ts';
import { COST_NAMES, groupByNamespace, isEffective, searchText, spellEndpoint, stepsOfLeg } from '../shared/traceText.ts';
import { html } from './dom.ts';
import { connectHost } from './host.ts';
import { createPathDiagram } from './pathDiagramView.ts';
import { createProblem } from './problem.ts';
import { createStep } from './stepView.ts';
import { createButton, createCheckbox, createDropdown, createProgressRing, createTextField } from './toolkit.ts';

const PATHS: readonly PathKind[] = ['iptables', 'sockops'];
const PATH_TITLES: Readonly<Record<PathKind, string>> = { iptables: 'iptables', sockops: 'sockops (eBPF)' };

const host = connectHost<ExplainPanelContract, ExplainPanelState>({
  changed: () => {
    if (shown === undefined) {
      void load(() => host.requester.request('open', null));
    } else {
      stale.hidden = false;
    }
  },
});
const page = html('main', {});
const stale = html('p', { class: 'stale', role: 'status', hidden: true }, 'Something changed on the node since this was explained. Explain again to see it.');
let shown: ExplainPanelContent | undefined;
let changesOnly = host.kept()?.changesOnly === true;

document.body.append(page);
void load(() => host.requester.request('open', null));

async function load(ask: () => Promise<ExplainPanelContent>): Promise<void> {
  page.setAttribute('aria-busy', 'true');
  if (shown === undefined) {
    page.replaceChildren(html('div', { class: 'waiting' }, createProgressRing('Explaining'), html('span', {}, 'Following the connection…')));
  }
  try {
    const content = await ask();
    shown = content;
    stale.hidden = true;
    show(content);
  } catch (thrown) {
    const problem = createProblem(thrown, {
      retry: () => void load(ask),
      reconnect: () => void load(() => host.requester.request('reconnect', null).then(ask)),
    });
    page.querySelector('.problem')?.remove();
    if (shown === undefined) {
      page.replaceChildren(problem);
    } else {
      page.querySelector('.question')?.after(problem);
    }
  } finally {
    page.removeAttribute('aria-busy');
  }
}

function keep(content: ExplainPanelContent): void {
  host.keep({ node: content.node, choice: content.choice, changesOnly });
}

function show(content: ExplainPanelContent): void {
  keep(content);
  const { explanation } = content;
  const nameOf = (namespace: string): string => content.namespaceNames[namespace] ?? `netns ${namespace}`;
  const steps = createSteps(content, nameOf);
  page.replaceChildren(
    createHeader(content),
    stale,
    html('div', { class: 'outcomes' }, ...PATHS.map((path) => createOutcome(explanation, path))),
    html(
      'section',
      { class: 'picture', 'aria-labelledby': 'picture-title' },
      html('h2', { id: 'picture-title' }, 'Where the data goes'),
      html(
        'div',
        { class: 'scroller', tabindex: 0, role: 'region', 'aria-label': 'Diagram of both paths' },
        createPathDiagram(drawPaths(explanation), nameOf, describePicture(explanation), (path, leg) => {
          steps.go(path, leg);
        }),
      ),
      html(
        'p',
        { class: 'legend' },
        html('span', {}, html('span', { class: 'key jump', 'aria-hidden': true }), 'sockops: messages jump from socket to socket (its handshake still crosses the stack)'),
        html('span', {}, html('span', { class: 'key stack', 'aria-hidden': true }), 'iptables: every message crosses the stack and these hooks'),
      ),
    ),
    html('div', { class: 'summary' }, createCosts(explanation), createDifferences(explanation)),
    steps.element,
    ...createAssumptions(explanation),
  );
}

function createHeader(content: ExplainPanelContent): HTMLElement {
  const { flow } = content.explanation;
  const source = content.sources.find((choice) => choice.id === content.choice.source);
  const dropdown = createDropdown('Who connects', content.sources.map((choice) => ({ value: choice.id, label: `${choice.label} (${choice.detail})` })), content.choice.source);
  const options = html('datalist', { id: 'destinations' }, ...content.destinations.map((choice) => html('option', { value: choice.value, label: choice.label })));
  const field = createTextField({
    label: 'Where to, address:port',
    placeholder: '10.0.0.2:8080',
    list: 'destinations',
    enter: () => {
      again();
    },
  });
  field.value = content.choice.destination;
  const again = (): void => {
    void load(() => host.requester.request('explain', { source: dropdown.value, destination: field.value }));
  };
  return html(
    'header',
    {},
    html(
      'div',
      { class: 'title' },
      html('h1', {}, html('span', { class: 'end' }, source?.label ?? `user ${flow.source.uid}`), html('span', { class: 'to', 'aria-label': 'to' }, '→'), html('span', { class: 'end' }, spellEndpoint(flow.destination))),
      html('p', { class: 'quiet' }, `${content.nodeLabel} · snapshot of ${new Date(content.takenAt).toLocaleTimeString()} · ${content.explanation.iptables.origin}`),
    ),
    html('div', { class: 'question' }, dropdown.element, html('span', { 'aria-hidden': true }, '→'), field.element, options, createButton('Explain', again)),
  );
}

function createOutcome(explanation: Explanation, path: PathKind): HTMLElement {
  const { outcome, cost } = explanation[path];
  const mark = { delivered: '✓', refused: '✗', depends: '?' }[outcome.result];
  const inForce = explanation.current === path;
  return html(
    'section',
    { class: `outcome ${path} ${outcome.result}${inForce ? ' current' : ''}` },
    html('h2', {}, PATH_TITLES[path], inForce ? html('span', { class: 'pill' }, 'in force now') : null),
    html('p', { class: 'result' }, html('span', { class: 'mark', 'aria-hidden': true }, mark), html('span', {}, outcome.summary)),
    outcome.result === 'depends' ? html('ul', {}, ...outcome.dependsOn.map((item) => html('li', {}, item))) : null,
    html(
      'p',
      { class: 'figures' },
      html('strong', {}, String(cost.stackTraversalsPerMessage)),
      ` ${cost.stackTraversalsPerMessage === 1 ? 'trip' : 'trips'} through the stack and `,
      html('strong', {}, String(cost.hooksPerMessage)),
      ` netfilter ${cost.hooksPerMessage === 1 ? 'hook' : 'hooks'} per message`,
    ),
  );
}

function describePicture(explanation: Explanation): string {
  const describe = (trace: Trace): string =>
    trace.legs.map((leg) => `${leg.title}: ${leg.data === 'socket-to-socket' ? 'socket to socket' : leg.data === 'tcp' ? 'through the TCP/IP stack' : 'no data'}`).join('; ');
  return `iptables: ${describe(explanation.iptables)}. sockops: ${describe(explanation.sockops)}.`;
}

function createCosts(explanation: Explanation): HTMLElement {
  const { iptables, sockops } = explanation;
  return html(
    'section',
    { class: 'costs' },
    html('h2', {}, 'What it costs'),
    html(
      'table',
      {},
      html(
        'thead',
        {},
        html('tr', {}, html('th', { scope: 'col' }, 'Counted, not timed'), html('th', { scope: 'col', class: 'number' }, 'iptables'), html('th', { scope: 'col', class: 'number' }, 'sockops'), html('td', {})),
      ),
      html(
        'tbody',
        {},
        ...COST_NAMES.map(([key, name, unit]) => {
          const [left, right] = [iptables.cost[key], sockops.cost[key]];
          const most = Math.max(left, right, 1);
          return html(
            'tr',
            {},
            html('th', { scope: 'row' }, name, html('span', { class: 'quiet' }, ` per ${unit}`)),
            html('td', { class: 'number' }, String(left)),
            html('td', { class: `number${right < left ? ' better' : ''}` }, String(right)),
            html('td', { class: 'bars', 'aria-hidden': true }, createMeter('iptables', left / most), createMeter('sockops', right / most)),
          );
        }),
      ),
    ),
  );
}

function createMeter(path: PathKind, share: number): HTMLElement {
  const bar = html('span', { class: `bar ${path}` });
  bar.style.width = `${(share * 100).toFixed(1)}%`;
  return bar;
}

function createDifferences(explanation: Explanation): HTMLElement {
  return html(
    'section',
    { class: 'differences' },
    html('h2', {}, 'What differs'),
    explanation.differences.length === 0
      ? html('p', { class: 'quiet' }, 'Nothing: the two paths do the same.')
      : html('ul', {}, ...explanation.differences.map((difference) => html('li', {}, difference))),
  );
}

function createAssumptions(explanation: Explanation): readonly HTMLElement[] {
  const assumptions = [...new Set(PATHS.flatMap((path) => explanation[path].assumptions))];
  return assumptions.length === 0
    ? []
    : [html('section', { class: 'assumptions' }, html('h2', {}, 'Taken to be so'), html('ul', {}, ...assumptions.map((text) => html('li', {}, text))))];
}

interface ShownStep {
  readonly step: TraceStep;
  readonly element: HTMLElement;
  readonly text: string;
}

function createSteps(content: ExplainPanelContent, nameOf: (namespace: string) => string): { element: HTMLElement; go: (path: PathKind, leg: number) => void } {
  const { explanation } = content;
  const all: ShownStep[] = [];
  const cells = new Map<string, HTMLElement>();
  const count = html('span', { class: 'quiet', role: 'status' });
  let wanted = '';
  const filter = (): void => {
    let visible = 0;
    for (const item of all) {
      const show = (!changesOnly || isEffective(item.step)) && item.text.includes(wanted);
      item.element.hidden = !show;
      visible += Number(show);
    }
    count.textContent = `${visible} of ${all.length} steps`;
    for (const cell of cells.values()) {
      cell.classList.toggle('nothing', cell.querySelectorAll('.step').length > 0 && cell.querySelector('.step:not([hidden])') === null);
    }
  };
  const createCell = (path: PathKind, leg: number): HTMLElement => {
    const trace = explanation[path];
    const description = trace.legs.find((candidate) => candidate.index === leg);
    const list = html('ol', { class: 'steps' });
    for (const { namespace, steps } of groupByNamespace(stepsOfLeg(trace, leg))) {
      const name = nameOf(namespace);
      const elements = steps.map((step) => {
        const element = createStep(step);
        all.push({ step, element, text: `${searchText(step)}\n${name.toLowerCase()}` });
        return element;
      });
      list.append(html('li', { class: 'where' }, html('p', { class: 'namespace' }, `in ${name}`), html('ol', {}, ...elements)));
    }
    const cell = html(
      'div',
      { class: `cell ${path}`, id: `${path}-${leg}`, tabindex: -1, role: 'group', 'aria-label': `${PATH_TITLES[path]}, leg ${leg + 1}` },
      html('p', { class: 'path-name' }, PATH_TITLES[path]),
      description === undefined ? html('p', { class: 'quiet' }, 'There is no such leg on this path.') : createLegFacts(description),
      list,
      html('p', { class: 'quiet none' }, 'No step here fits what is asked for.'),
    );
    cells.set(cell.id, cell);
    return cell;
  };
  const legs = [...new Set(PATHS.flatMap((path) => explanation[path].legs.map((leg) => leg.index)))].sort((left, right) => left - right);
  const sections = legs.map((leg) => {
    const title = PATHS.map((path) => explanation[path].legs.find((candidate) => candidate.index === leg)?.title).find((text) => text !== undefined) ?? '';
    return html(
      'section',
      { class: 'leg', 'aria-labelledby': `leg-${leg}` },
      html('h3', { id: `leg-${leg}` }, html('span', { class: 'ordinal' }, `Leg ${leg + 1}`), title),
      html('div', { class: 'sides' }, ...PATHS.map((path) => createCell(path, leg))),
    );
  });
  const search = createTextField({
    label: 'Search in the steps',
    placeholder: 'Search in the steps: chain, address, reason…',
    input: (value) => {
      wanted = value.trim().toLowerCase();
      filter();
    },
  });
  const element = html(
    'section',
    { class: 'traces', 'aria-labelledby': 'steps-title' },
    html(
      'div',
      { class: 'toolbar' },
      html('h2', { id: 'steps-title' }, 'Step by step'),
      search.element,
      createCheckbox('Only steps that changed something', changesOnly, (checked) => {
        changesOnly = checked;
        keep(content);
        filter();
      }),
      count,
    ),
    ...sections,
  );
  element.addEventListener('keydown', moveBetweenSteps);
  filter();
  return {
    element,
    go: (path, leg) => {
      const cell = cells.get(`${path}-${leg}`);
      cell?.scrollIntoView({ block: 'start' });
      cell?.focus({ preventScroll: true });
    },
  };
}

function createLegFacts(leg: TraceLeg): HTMLElement {
  const facts: readonly (readonly [string, string | null])[] = [
    ['client', `${leg.client.description}, ${spellEndpoint(leg.client.address)}`],
    ['asked for', spellEndpoint(leg.requested)],
    ['server', leg.server === null ? 'nobody' : `${leg.server.description}, ${spellEndpoint(leg.server.address)}`],
    ['told as original', leg.originalDestination === null ? null : spellEndpoint(leg.originalDestination)],
    ['peer seen', leg.peerSeenByClient === null ? null : spellEndpoint(leg.peerSeenByClient)],
  ];
  const data = { tcp: 'through TCP', 'socket-to-socket': 'socket to socket', none: 'none' }[leg.data];
  return html(
    'dl',
    { class: 'facts' },
    ...facts.flatMap(([name, value]) => (value === null ? [] : [html('dt', {}, name), html('dd', {}, value)])),
    html('dt', {}, 'messages'),
    html('dd', { class: `data ${leg.data}` }, data),
  );
}

/** Up and down go from step to step, left and right to the same leg of the other path. */
function moveBetweenSteps(event: KeyboardEvent): void {
  const focused = document.activeElement;
  if (focused?.tagName !== 'SUMMARY' || !['ArrowDown', 'ArrowUp', 'ArrowLeft', 'ArrowRight'].includes(event.key)) {
    return;
  }
  const cell = focused.closest('.cell');
  const ofCell = (container: Element | null | undefined): HTMLElement[] => [...(container?.querySelectorAll<HTMLElement>('.step:not([hidden]) summary') ?? [])];
  const horizontal = event.key === 'ArrowLeft' || event.key === 'ArrowRight';
  const own = ofCell(cell);
  const place = own.findIndex((summary) => summary === focused);
  const other = event.key === 'ArrowLeft' ? cell?.previousElementSibling : cell?.nextElementSibling;
  const targets = horizontal ? ofCell(other) : ofCell(page);
  const target = horizontal
    ? targets[Math.min(place, targets.length - 1)]
    : targets[targets.findIndex((summary) => summary === focused) + (event.key === 'ArrowDown' ? 1 : -1)];
  if (target !== undefined) {
    event.preventDefault();
    target.focus();
  }
}
