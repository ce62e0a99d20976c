import type { MapEntry } from '../../../agent/protocol/mapEntries.ts';
import { createTableBuilder, selectRows, spellRow, type SortOrder, type TableBuilder } from '../shared/mapTable.ts';
import type { MapPanelContract, MapPanelState, MapPanelSubject } from '../shared/panels.ts';
import { html } from './dom.ts';
import { connectHost } from './host.ts';
import { createProblem } from './problem.ts';
import { createButton, createCheckbox, createProgressRing, createTextField } from './toolkit.ts';
import { createWindowedGrid } from './windowedGrid.ts';

/** The first page is small, so that something shows at once. */
const FIRST_PAGE = 500;
const PAGE = 5_000;
/** Reading goes on by itself up to here; further on a button asks for more. */
const ROWS_PER_READ = 100_000;

const host = connectHost<MapPanelContract, MapPanelState>({
  changed: () => {
    void open();
  },
});
const page = html('main', {});
document.body.append(page);

let filter = host.kept()?.filter ?? '';
let raw = host.kept()?.raw === true;
let order: SortOrder | null = null;
/** Raised by every new reading, so that an older one that is still going on stops. */
let reading = 0;
/** Reads the table that is shown again, in its place. */
let readAgain: ((mine: number) => Promise<void>) | undefined;

void open();

async function open(): Promise<void> {
  reading += 1;
  const mine = reading;
  if (page.childElementCount === 0) {
    page.append(html('div', { class: 'waiting' }, createProgressRing('Reading the map'), html('span', {}, 'Reading the map…')));
  }
  try {
    const subject = await host.requester.request('open', null);
    if (mine === reading) {
      readAgain ??= createTable(subject);
      await readAgain(mine);
    }
  } catch (thrown) {
    if (mine === reading) {
      showProblem(thrown);
    }
  }
}

function showProblem(thrown: unknown): void {
  readAgain = undefined;
  page.replaceChildren(
    createProblem(thrown, {
      retry: () => void open(),
      reconnect: () =>
        void host.requester.request('reconnect', null).then(open, (error: unknown) => {
          showProblem(error);
        }),
    }),
  );
}

/** Puts the table on the page; gives the function that reads its entries. */
function createTable(subject: MapPanelSubject): (mine: number) => Promise<void> {
  const { map } = subject;
  let entries: MapEntry[] = [];
  let builder: TableBuilder = createTableBuilder(map, raw ? 'raw' : 'decoded');
  let cursor: string | null = null;
  let status = '';
  const count = html('span', { class: 'quiet count', role: 'status' });
  const empty = html('p', { class: 'empty', hidden: true });
  const more = createButton('Read more', () => void readOn(reading).catch(showProblem), true);
  more.hidden = true;
  const grid = createWindowedGrid(`Entries of the map ${map.name}`, {
    sort: (next) => {
      order = next;
      show();
    },
    copyCell: (row, column) => void copy(row.cells.get(column.id)?.text ?? ''),
    copyRow: (row) => void copy(spellRow(row, builder.table.columns)),
  });

  const show = (): void => {
    const { columns, rows } = builder.table;
    const found = selectRows(builder.table, filter, order);
    grid.show({ columns, rows: found, order });
    const loaded = `${rows.length.toLocaleString('en')} of at most ${map.maxEntries.toLocaleString('en')} entries`;
    count.textContent = `${filter.trim() === '' ? '' : `${found.length.toLocaleString('en')} found in `}${loaded}${status}`;
    empty.hidden = found.length > 0;
    empty.textContent = rows.length === 0 ? 'This map is empty. Entries appear as programs or user space put them in.' : `No entry holds “${filter.trim()}”.`;
    grid.element.classList.toggle('without-rows', found.length === 0);
  };
  const copy = async (text: string): Promise<void> => {
    await host.requester.request('copy', { text });
    status = ' · copied';
    show();
    status = '';
  };
  const keep = (): void => {
    host.keep({ node: subject.node, mapId: map.id, mapName: map.name, filter, raw });
  };
  const rebuild = (): void => {
    builder = createTableBuilder(map, raw ? 'raw' : 'decoded');
    builder.add(entries);
    order = null;
    keep();
    show();
  };
  const readOn = async (mine: number): Promise<void> => {
    more.hidden = true;
    const end = (cursor === null ? 0 : entries.length) + ROWS_PER_READ;
    let changed = false;
    do {
      const next = await host.requester.request('readPage', { cursor, limit: cursor === null ? FIRST_PAGE : PAGE });
      if (mine !== reading) {
        return;
      }
      if (cursor === null) {
        entries = [];
        builder = createTableBuilder(map, raw ? 'raw' : 'decoded');
      }
      entries = entries.concat(next.entries);
      builder.add(next.entries);
      cursor = next.nextCursor;
      changed ||= next.changedDuringRead;
      status = cursor === null ? (changed ? ' · changed while it was read: some may be missing or twice' : '') : ' · reading…';
      show();
    } while (cursor !== null && entries.length < end);
    if (cursor !== null) {
      status = ' · there are more';
      more.hidden = false;
      show();
    }
    status = '';
  };

  const search = createTextField({
    label: 'Filter the entries',
    placeholder: 'Filter: address, port, any value…',
    input: (value) => {
      filter = value;
      keep();
      show();
    },
  });
  search.value = filter;
  const types = [
    map.type,
    `key ${map.keyType ?? `${map.keyBytes} bytes`}`,
    `value ${map.valueType ?? `${map.valueBytes} bytes`}`,
    `id ${map.id}`,
    subject.nodeLabel,
  ];
  const parts = [
    html('header', {}, html('h1', {}, map.name === '' ? `map ${map.id}` : map.name), html('p', { class: 'quiet' }, types.join(' · '))),
    html(
      'div',
      { class: 'toolbar' },
      search.element,
      createCheckbox('Raw bytes', raw, (checked) => {
        raw = checked;
        rebuild();
      }),
      createButton('Refresh', () => void open(), true),
      more,
      count,
    ),
    grid.element,
    empty,
    html('p', { class: 'quiet keys' }, 'Arrow keys move, Enter on a header sorts, Ctrl+C copies the cell, Ctrl+Shift+C the row. Padding that is zero is left out; Raw bytes shows all.'),
  ];
  page.replaceChildren(...parts);
  keep();
  return (mine) => {
    cursor = null;
    return readOn(mine);
  };
}
