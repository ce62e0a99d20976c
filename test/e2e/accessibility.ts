import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import type { AxeResults, RunOptions } from 'axe-core';
import type { Frame } from 'playwright-core';

const source = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const levels = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa'];

/** Examines a page by the rules of WCAG, levels A and AA, and gives what violates them, one line for each element. */
export async function listViolations(frame: Frame): Promise<readonly string[]> {
  await frame.evaluate(source);
  const { violations } = await frame.evaluate(async (tags): Promise<Pick<AxeResults, 'violations'>> => {
    const { axe } = globalThis as unknown as { axe: { run(context: Document, options: RunOptions): Promise<AxeResults> } };
    const results = await axe.run(document, { runOnly: { type: 'tag', values: tags }, resultTypes: ['violations'] });
    return { violations: results.violations };
  }, levels);
  return violations.flatMap((violation) => violation.nodes.map((node) => `${violation.id}: ${node.html.slice(0, 160)} ${(node.failureSummary ?? '').replaceAll('\n', ' ')}`));
}
