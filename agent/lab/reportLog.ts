/** Reports in the order in which they came, and a way to wait for those that are still to come. */
export class ReportLog<Report> {
  readonly #reports: Report[] = [];
  readonly #waiting = new Set<() => void>();

  /** All reports so far. */
  get all(): readonly Report[] {
    return this.#reports;
  }

  add(report: Report): void {
    this.#reports.push(report);
    for (const check of [...this.#waiting]) {
      check();
    }
  }

  /** Resolves with the first report that `matches`, also one that came before; rejects with an Error after the time. */
  async waitFor(matches: (report: Report) => boolean = () => true, milliseconds = 10_000): Promise<Report> {
    const [first] = await this.#wait(() => this.#reports.filter(matches).slice(0, 1), 1, milliseconds);
    if (first === undefined) {
      throw new Error('a report was found and lost');
    }
    return first;
  }

  /** Resolves with all reports as soon as there are `count`; rejects with an Error after the time. */
  async waitForCount(count: number, milliseconds = 10_000): Promise<readonly Report[]> {
    return this.#wait(() => this.#reports, count, milliseconds);
  }

  #wait(find: () => readonly Report[], count: number, milliseconds: number): Promise<readonly Report[]> {
    return new Promise((resolve, reject) => {
      const check = (): void => {
        const found = find();
        if (found.length >= count) {
          clearTimeout(timer);
          this.#waiting.delete(check);
          resolve([...found]);
        }
      };
      const timer = setTimeout(() => {
        this.#waiting.delete(check);
        reject(new Error(`waited ${milliseconds} ms for ${count} reports; there were ${JSON.stringify(this.#reports)}`));
      }, milliseconds);
      this.#waiting.add(check);
      check();
    });
  }
}
