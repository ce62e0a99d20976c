import type { Column, Row, SortOrder } from '../shared/mapTable.ts';
import { html } from './dom.ts';

const ROW_HEIGHT = 24;
/** Rows that are kept above and below what can be seen, so that scrolling does not show gaps. */
const OVERSCAN = 12;
/** How many rows are looked at for the width of a column. */
const MEASURED_ROWS = 200;
const MIN_WIDTH = 6;
/** Titles are set in a narrower font than cells. */
const TITLE_WIDTH = 0.85;
const MAX_WIDTH = 64;
/** The two header rows, which count in aria-rowindex. */
const HEADER_ROWS = 2;

export interface GridActions {
  readonly sort: (order: SortOrder | null) => void;
  readonly copyCell: (row: Row, column: Column) => void;
  readonly copyRow: (row: Row) => void;
  /** A row was chosen, by Enter or a double click. */
  readonly open?: (row: Row) => void;
}

export interface GridContent {
  readonly columns: readonly Column[];
  readonly rows: readonly Row[];
  readonly order: SortOrder | null;
}

/** A table that has elements only for the rows that can be seen, so that it is as quick with 100,000 of them as with ten. */
export interface WindowedGrid {
  readonly element: HTMLElement;
  show(content: GridContent): void;
}

/** Gives an empty grid. One cell at a time can be reached with Tab; the arrow keys move on from it. */
export function createWindowedGrid(label: string, actions: GridActions, groupTitles: Readonly<Record<Column['part'], string>> = { key: 'Key', value: 'Value' }): WindowedGrid {
  const head = html('div', { class: 'head', role: 'rowgroup' });
  const body = html('div', { class: 'body', role: 'rowgroup' });
  const content = html('div', { class: 'content', role: 'presentation' }, head, body);
  const grid = html('div', { class: 'grid', role: 'grid', 'aria-label': label, 'aria-readonly': 'true', tabindex: -1 }, content);
  let shown: GridContent = { columns: [], rows: [], order: null };
  // -1 is the header row.
  let active = { row: 0, column: 0 };
  let template = '';

  const place = (row: HTMLElement): void => {
    row.style.gridTemplateColumns = template;
  };

  const measure = (): void => {
    const sample = shown.rows.slice(0, MEASURED_ROWS);
    const widths = shown.columns.map((column) => {
      const longest = sample.reduce((most, row) => Math.max(most, row.cells.get(column.id)?.text.length ?? 0), Math.ceil(column.title.length * TITLE_WIDTH) + 2);
      return `calc(${Math.min(Math.max(longest, MIN_WIDTH), MAX_WIDTH)}ch + 24px)`;
    });
    template = [...widths, '1fr'].join(' ');
  };

  const firstValue = (): number => shown.columns.findIndex((column) => column.part === 'value');

  const renderHead = (): void => {
    const keys = shown.columns.filter((column) => column.part === 'key').length;
    const groups = html('div', { class: 'row groups', role: 'row', 'aria-rowindex': 1 });
    for (const [part, span, start] of [
      ['key', keys, 1],
      ['value', shown.columns.length - keys, keys + 1],
    ] as const) {
      if (span > 0) {
        const cell = html('div', { class: `cell${part === 'value' ? ' first-value' : ''}`, role: 'columnheader', 'aria-colspan': span, 'aria-colindex': start }, groupTitles[part]);
        cell.style.gridColumn = `${start} / span ${span}`;
        groups.append(cell);
      }
    }
    const titles = html('div', { class: 'row', role: 'row', 'aria-rowindex': 2 });
    const first = firstValue();
    for (const [index, column] of shown.columns.entries()) {
      const sorted = shown.order?.column === column.id ? (shown.order.descending ? 'descending' : 'ascending') : 'none';
      const mark = { none: '', ascending: ' ▲', descending: ' ▼' }[sorted];
      titles.append(
        html(
          'div',
          {
            class: `cell ${column.kind}${index === first ? ' first-value' : ''}`,
            role: 'columnheader',
            'aria-sort': sorted,
            'aria-colindex': index + 1,
            'data-row': -1,
            'data-column': index,
            tabindex: active.row === -1 && active.column === index ? 0 : -1,
            title: `Sort by ${column.part} ${column.title}`,
          },
          column.title,
          html('span', { 'aria-hidden': true }, mark),
        ),
      );
    }
    place(groups);
    place(titles);
    head.replaceChildren(groups, titles);
  };

  const renderRows = (): void => {
    const first = Math.max(0, Math.floor((grid.scrollTop - head.offsetHeight) / ROW_HEIGHT) - OVERSCAN);
    const last = Math.min(shown.rows.length, Math.ceil((grid.scrollTop + grid.clientHeight) / ROW_HEIGHT) + OVERSCAN);
    const indexes = Array.from({ length: Math.max(0, last - first) }, (_, offset) => first + offset);
    // The row that has the focus stays, or the keyboard would fall out of the grid when it is scrolled away.
    if (active.row >= 0 && active.row < shown.rows.length && (active.row < first || active.row >= last)) {
      indexes.push(active.row);
    }
    const focused = grid.contains(document.activeElement) && body.contains(document.activeElement);
    const value = firstValue();
    body.replaceChildren(
      ...indexes.flatMap((index) => {
        const row = shown.rows[index];
        if (row === undefined) {
          return [];
        }
        const element = html('div', { class: 'row', role: 'row', 'aria-rowindex': index + 1 + HEADER_ROWS });
        element.style.top = `${index * ROW_HEIGHT}px`;
        place(element);
        for (const [column, description] of shown.columns.entries()) {
          const cell = row.cells.get(description.id);
          element.append(
            html(
              'div',
              {
                class: `cell ${cell?.kind ?? 'text'}${column === value ? ' first-value' : ''}`,
                role: 'gridcell',
                'aria-colindex': column + 1,
                'data-row': index,
                'data-column': column,
                tabindex: active.row === index && active.column === column ? 0 : -1,
              },
              cell?.text ?? '',
            ),
          );
        }
        return [element];
      }),
    );
    if (focused) {
      activeCell()?.focus({ preventScroll: true });
    }
  };

  const activeCell = (): HTMLElement | null => grid.querySelector<HTMLElement>(`[data-row="${active.row}"][data-column="${active.column}"]`);

  const focusCell = (row: number, column: number): void => {
    active = {
      row: Math.min(Math.max(row, -1), shown.rows.length - 1),
      column: Math.min(Math.max(column, 0), Math.max(0, shown.columns.length - 1)),
    };
    if (active.row >= 0) {
      const top = active.row * ROW_HEIGHT;
      const visible = grid.clientHeight - head.offsetHeight;
      if (top < grid.scrollTop) {
        grid.scrollTop = top;
      } else if (top + ROW_HEIGHT > grid.scrollTop + visible) {
        grid.scrollTop = top + ROW_HEIGHT - visible;
      }
    }
    renderHead();
    renderRows();
    const cell = activeCell();
    cell?.focus({ preventScroll: true });
    cell?.scrollIntoView({ block: 'nearest', inline: 'nearest' });
  };

  const sortBy = (index: number): void => {
    const column = shown.columns[index];
    if (column === undefined) {
      return;
    }
    const current = shown.order?.column === column.id ? shown.order : null;
    // Three presses come back to the order of reading.
    actions.sort(current === null ? { column: column.id, descending: false } : current.descending ? null : { column: column.id, descending: true });
  };

  const cellOf = (event: Event): { row: number; column: number } | undefined => {
    const cell = event.target instanceof Element ? event.target.closest<HTMLElement>('[data-row]') : null;
    return cell === null ? undefined : { row: Number(cell.dataset['row']), column: Number(cell.dataset['column']) };
  };

  grid.addEventListener('scroll', () => {
    renderRows();
  });
  grid.addEventListener('click', (event) => {
    const cell = cellOf(event);
    if (cell === undefined) {
      return;
    }
    if (cell.row === -1) {
      sortBy(cell.column);
    }
    focusCell(cell.row, cell.column);
    const row = shown.rows[cell.row];
    // The first click drew the row anew, so that the browser tells of no double click on it.
    if (event.detail === 2 && row !== undefined) {
      actions.open?.(row);
    }
  });
  grid.addEventListener('keydown', (event) => {
    const control = event.ctrlKey || event.metaKey;
    const page = Math.max(1, Math.floor(grid.clientHeight / ROW_HEIGHT) - HEADER_ROWS - 1);
    const { row, column } = active;
    const lastColumn = shown.columns.length - 1;
    const moves: Readonly<Record<string, () => void>> = {
      ArrowDown: () => focusCell(row + 1, column),
      ArrowUp: () => focusCell(row - 1, column),
      ArrowRight: () => focusCell(row, column + 1),
      ArrowLeft: () => focusCell(row, column - 1),
      PageDown: () => focusCell(row + page, column),
      PageUp: () => focusCell(Math.max(0, row - page), column),
      Home: () => focusCell(control ? 0 : row, 0),
      End: () => focusCell(control ? shown.rows.length - 1 : row, lastColumn),
    };
    const move = moves[event.key];
    const activeRow = shown.rows[row];
    if (move !== undefined) {
      event.preventDefault();
      move();
    } else if (row === -1 && (event.key === 'Enter' || event.key === ' ')) {
      event.preventDefault();
      sortBy(column);
    } else if (event.key === 'Enter' && activeRow !== undefined) {
      actions.open?.(activeRow);
    } else if (control && event.key.toLowerCase() === 'c' && activeRow !== undefined) {
      const description = shown.columns[column];
      if (event.shiftKey) {
        event.preventDefault();
        actions.copyRow(activeRow);
      } else if (description !== undefined && document.getSelection()?.isCollapsed !== false) {
        event.preventDefault();
        actions.copyCell(activeRow, description);
      }
    }
  });
  new ResizeObserver(() => {
    renderRows();
  }).observe(grid);

  return {
    element: grid,
    show: (next) => {
      shown = next;
      active = { row: Math.min(active.row, Math.max(0, next.rows.length - 1)), column: Math.min(active.column, Math.max(0, next.columns.length - 1)) };
      grid.setAttribute('aria-rowcount', String(next.rows.length + HEADER_ROWS));
      grid.setAttribute('aria-colcount', String(next.columns.length));
      body.style.height = `${next.rows.length * ROW_HEIGHT}px`;
      measure();
      const focusedHead = head.contains(document.activeElement);
      renderHead();
      renderRows();
      if (focusedHead) {
        activeCell()?.focus({ preventScroll: true });
      }
    },
  };
}
