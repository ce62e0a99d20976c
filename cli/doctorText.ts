import type { DoctorCheck, DoctorReport } from '../agent/protocol/doctor.ts';
import { escapeText } from './text/escape.ts';
import type { Style } from './text/style.ts';
import type { TableOptions } from './text/table.ts';
import { padText, textWidth, wrapText } from './text/width.ts';

const MAX_TEXT_WIDTH = 110;

const VERDICTS: Readonly<Record<DoctorReport['verdict'], { readonly text: string; readonly look: 'good' | 'warning' | 'bad' }>> = {
  safe: { text: 'safe', look: 'good' },
  'safe-with-limits': { text: 'safe with limits', look: 'warning' },
  'not-on-this-node': { text: 'not on this node', look: 'bad' },
};

const RESULTS: Readonly<Record<DoctorCheck['result'], { readonly text: string; readonly look: keyof Style }>> = {
  ok: { text: 'ok', look: 'good' },
  limited: { text: 'limited', look: 'warning' },
  failed: { text: 'FAILED', look: 'bad' },
  unknown: { text: 'unknown', look: 'warning' },
};
const RESULT_WIDTH = 7;

/** Gives the doctor's report as lines: the verdict, then every check with what was found and what to do. */
export function formatDoctorReport(report: DoctorReport, { width, style }: TableOptions): string[] {
  const verdict = VERDICTS[report.verdict];
  const titleWidth = Math.max(0, ...report.checks.map(({ title }) => textWidth(escapeText(title))));
  const indent = ' '.repeat(RESULT_WIDTH + titleWidth + 4);
  const textColumns = Math.max(20, Math.min(width, MAX_TEXT_WIDTH) - indent.length);
  const wrap = (text: string): string[] => text.split('\n').flatMap((line) => wrapText(escapeText(line), textColumns));
  const lines = report.checks.flatMap((check) => {
    const { text, look } = RESULTS[check.result];
    const head = `${style[look](padText(text, RESULT_WIDTH))}  ${padText(escapeText(check.title), titleWidth)}  `;
    const [found = '', ...more] = wrap(check.found);
    const problem = check.problem === null ? [] : [...wrap(check.problem.reason), ...wrap(`To do: ${check.problem.remedy}`)];
    return [`${head}${found}`.trimEnd(), ...[...more, ...problem].map((line) => indent + line)];
  });
  return [`${style.bold('Acceleration:')} ${style[verdict.look](verdict.text)}. ${escapeText(report.summary)}`, '', ...lines];
}
