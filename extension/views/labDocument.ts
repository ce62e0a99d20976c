import type { LabRunReport } from '../../agent/protocol/lab.ts';
import { describeLabRun } from '../../agent/protocol/labText.ts';
import { escapeMarkdown } from './markdown.ts';

/** Gives what a run in a lab showed as a Markdown document. */
export function writeLabDocument(node: string, report: LabRunReport): string {
  return [
    `# Lab ${escapeMarkdown(report.lab)} at ${escapeMarkdown(node)}: traffic`,
    '',
    `From ${escapeMarkdown(report.from)} to ${escapeMarkdown(report.to)}\\.`,
    '',
    ...describeLabRun(report).flatMap(({ title, lines }) => [`## ${escapeMarkdown(title)}`, '', ...lines.map((line) => `- ${escapeMarkdown(line)}`), '']),
  ].join('\n');
}
