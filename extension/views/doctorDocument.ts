import type { DoctorCheck, DoctorReport } from '../../agent/protocol/doctor.ts';
import { escapeMarkdown } from './markdown.ts';

const VERDICTS: Readonly<Record<DoctorReport['verdict'], string>> = {
  safe: '✓ Safe',
  'safe-with-limits': '⚠ Safe, with limits',
  'not-on-this-node': '✗ Not on this node',
};
const RESULTS: Readonly<Record<DoctorCheck['result'], string>> = { ok: '✓ ok', limited: '⚠ limited', failed: '✗ failed', unknown: '? not known' };

/** Gives a doctor's report as a Markdown document. */
export function writeDoctorDocument(node: string, report: DoctorReport): string {
  const problems = report.checks.flatMap((check) => (check.problem === null ? [] : [{ title: check.title, problem: check.problem }]));
  return [
    `# Doctor: ${escapeMarkdown(node)}`,
    '',
    `## ${VERDICTS[report.verdict]}`,
    '',
    escapeMarkdown(report.summary),
    '',
    '| Checked | Result | Found |',
    '| --- | --- | --- |',
    ...report.checks.map((check) => `| ${escapeMarkdown(check.title)} | ${RESULTS[check.result]} | ${escapeMarkdown(check.found)} |`),
    '',
    ...problems.flatMap(({ title, problem }) => [
      `### ${escapeMarkdown(title)}`,
      '',
      escapeMarkdown(problem.message),
      '',
      `**Why:** ${escapeMarkdown(problem.reason)}`,
      '',
      `**What to do:** ${escapeMarkdown(problem.remedy)}`,
      '',
    ]),
    `Checked at ${escapeMarkdown(report.at)}.`,
    '',
  ].join('\n');
}
