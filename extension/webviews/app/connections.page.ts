import { countVerdicts, tabulateConnections } from '../shared/connectionTable.ts';
import { selectRows, spellRow, type MapTable, type Row, type SortOrder } from '../shared/mapTable.ts';
import type { ConnectionPanelContent, ConnectionPanelContract, ConnectionPanelState } from '../shared/panels.ts';
import { html } from './dom.ts';
import { connectHost } from './host.ts';
import { createProblem } from './problem.ts';
import { createButton, createCheckbox, createProgressRing, createTextField } from './toolkit.ts';
import { createWindowedGrid } from './windowedGrid.ts';

const host = connectHost<ConnectionPanelContract, ConnectionPanelState>({
  changed: () => {
    void read();
  },
});
const page = html('main', {});
document.body.append(page);

let filter = host.kept()?.filter ?? '';
let all = host.kept()?.all === true;
let order: SortOrder | null = null;
/** Raised by every new reading, so that the answer to an older one is left alone. */
let reading = 0;
/** Shows what was read in the table that is there already. */
let show: ((content: ConnectionPanelContent) => void) | undefined;

void read();

async function read(): Promise<void> {
  reading += 1;
  const mine = reading;
  if (page.childElementCount === 0) {
    page.append(html('div', { class: 'waiting' }, createProgressRing('Reading the connections'), html('span', {}, 'Reading the connections…')));
  }
  try {
    const content = await host.requester.request('read', { all });
    if (mine === reading) {
      show ??= createTable();
      show(content);
    }
  } catch (thrown) {
    if (mine === reading) {
      showProblem(thrown);
    }
  }
}

function showProblem(thrown: unknown): void {
  show = undefined;
  page.replaceChildren(
    createProblem(thrown, {
      retry: () => void read(),
      reconnect: () =>
        void host.requester.request('reconnect', null).then(read, (error: unknown) => {
          showProblem(error);
        }),
    }),
  );
}

function createTable(): (content: ConnectionPanelContent) => void {
  let table: MapTable = tabulateConnections([]);
  let content: ConnectionPanelContent | undefined;
  let status = '';
  const count = html('span', { class: 'quiet count', role: 'status' });
  const empty = html('p', { class: 'empty', hidden: true });
  const subject = html('p', { class: 'quiet' });
  const verdicts = html('ul', { class: 'verdicts', 'aria-label': 'Connections by reason' });
  const decisions = html('p', { class: 'quiet' });
  const missing = html('p', { class: 'quiet' });

  const render = (): void => {
    const rows = selectRows(table, filter, order);
    grid.show({ columns: table.columns, rows, order });
    const found = filter.trim() === '' ? '' : `${rows.length.toLocaleString('en')} found in `;
    count.textContent = `${found}${table.rows.length.toLocaleString('en')} connections${status}`;
    empty.hidden = rows.length > 0;
    empty.textContent =
      table.rows.length > 0 ? `No connection holds “${filter.trim()}”.` : all ? 'There are no open TCP connections.' : 'There are no open connections of accelerated pods. Turn acceleration on for a pod, or show all.';
    grid.element.classList.toggle('without-rows', rows.length === 0);
  };
  const copy = async (text: string): Promise<void> => {
    await host.requester.request('copy', { text });
    status = ' · copied';
    render();
    status = '';
  };
  const keep = (): void => {
    if (content !== undefined) {
      host.keep({ node: content.node, filter, all });
    }
  };
  const explain = (row: Row): void => {
    const connection = content?.list.connections[row.index];
    if (connection !== undefined) {
      void host.requester.request('explain', { id: connection.id }).catch(showProblem);
    }
  };
  const grid = createWindowedGrid(
    'TCP connections',
    {
      sort: (next) => {
        order = next;
        render();
      },
      copyCell: (row, column) => void copy(row.cells.get(column.id)?.text ?? ''),
      copyRow: (row) => void copy(spellRow(row, table.columns)),
      open: explain,
    },
    { key: 'Verdict', value: 'Connection' },
  );
  const search = createTextField({
    label: 'Filter the connections',
    placeholder: 'Filter: pod, address, reason…',
    input: (value) => {
      filter = value;
      keep();
      render();
    },
  });
  search.value = filter;
  page.replaceChildren(
    html('header', {}, html('h1', {}, 'Connections'), subject),
    html(
      'div',
      { class: 'toolbar' },
      search.element,
      createCheckbox('All pods and the host', all, (checked) => {
        all = checked;
        void read();
      }),
      createButton('Refresh', () => void read(), true),
      count,
    ),
    verdicts,
    grid.element,
    empty,
    decisions,
    missing,
    html('p', { class: 'quiet keys' }, 'Enter or a double click on a row explains that connection. Arrow keys move, Enter on a header sorts, Ctrl+C copies the cell, Ctrl+Shift+C the row.'),
  );
  return (next) => {
    content = next;
    const { list } = next;
    table = tabulateConnections(list.connections);
    subject.textContent = `${next.nodeLabel} · read ${list.readAt}`;
    verdicts.replaceChildren(...countVerdicts(list.connections).map((text) => html('li', {}, text)));
    const counted = next.counters.map(({ reason, count: times }) => `${reason.replaceAll('_', ' ')} ${times}`).join(' · ');
    decisions.hidden = counted === '';
    decisions.textContent = `Decisions of the programs since they were loaded: ${counted}${list.lostDecisions === 0 ? '' : ` · ${list.lostDecisions} not seen`}`;
    missing.hidden = list.omissions.length === 0;
    missing.textContent = `Not read: ${list.omissions.map(({ what, reason }) => `${what} (${reason})`).join('; ')}`;
    keep();
    render();
  };
}
