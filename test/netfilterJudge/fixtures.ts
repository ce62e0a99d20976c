import { mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createHash } from 'node:crypto';
import type { JudgeCase, Observation } from './judgeCase.ts';

/** Recorded cases: what was put before a kernel and what it did. They replay without root. */
export interface Fixture {
  /** What it is about, in a sentence. */
  readonly title: string;
  readonly judged: JudgeCase;
  readonly kernel: readonly Observation[];
}

/** Where the fixtures of the project are. */
export const FIXTURE_FOLDER = join(import.meta.dirname, '../fixtures/netfilter');

/** Reads all fixtures, by file name. */
export function readFixtures(folder = FIXTURE_FOLDER): ReadonlyMap<string, Fixture> {
  const names = readdirSync(folder).filter((name) => name.endsWith('.json')).toSorted();
  return new Map(names.map((name) => [name, JSON.parse(readFileSync(join(folder, name), 'utf8')) as Fixture]));
}

/** Writes a fixture under a name made of what it holds, and gives its path. */
export function writeFixture(fixture: Fixture, folder = FIXTURE_FOLDER): string {
  mkdirSync(folder, { recursive: true });
  const text = JSON.stringify(fixture);
  const path = join(folder, `${createHash('sha256').update(JSON.stringify(fixture.judged)).digest('hex').slice(0, 12)}.json`);
  writeFileSync(path, `${text}\n`);
  return path;
}
