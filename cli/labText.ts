import { describeLabRun, describeLabSetting } from '../agent/protocol/labText.ts';
import type { LabInfo, LabRunReport } from '../agent/protocol/lab.ts';
import { formatDecision } from './decisionText.ts';
import { escapeText } from './text/escape.ts';
import type { Style } from './text/style.ts';
import { formatTable } from './text/table.ts';
import type { TableOptions } from './text/table.ts';

const STATES: Readonly<Record<LabInfo['state'], { readonly text: string; readonly look: keyof Style }>> = {
  up: { text: 'up', look: 'good' },
  'being-made': { text: 'held by a process', look: 'warning' },
  left: { text: 'left over', look: 'bad' },
};

/** Gives labs as lines: what each was made for, its pods and their processes, and what is wrong. */
export function formatLabs(labs: readonly LabInfo[], options: TableOptions): string[] {
  return labs.length === 0 ? ['There is no lab on this node.'] : labs.flatMap((lab, index) => [...(index === 0 ? [] : ['']), ...formatLab(lab, options)]);
}

/** Gives one lab as lines. */
export function formatLab(lab: LabInfo, options: TableOptions): string[] {
  const { style } = options;
  const { text, look } = STATES[lab.state];
  const rows = lab.pods.map(({ name, address, server, cgroup, namespaceName, processes }) => [
    name,
    `${address}:${server.port}`,
    processes.map(({ role, pid, running }) => `${role} ${running ? pid : 'ended'}`).join(', '),
    cgroup,
    namespaceName,
  ]);
  return [
    `${style.bold(`Lab ${escapeText(lab.name)}`)}: ${style[look](text)}${lab.since === null ? '' : ` since ${lab.since}`}. ${escapeText(describeLabSetting(lab))}`,
    ...(rows.length === 0 ? [] : formatTable([{ title: 'POD' }, { title: 'SERVER' }, { title: 'PROCESSES' }, { title: 'CGROUP' }, { title: 'NAMESPACE' }], rows, options)),
    ...lab.problems.map((problem) => style.warning(escapeText(problem))),
  ];
}

/** Gives what a run showed as lines; with `events`, each decision of the programs too. */
export function formatLabRun(report: LabRunReport, style: Style, events: boolean): string[] {
  const findings = describeLabRun(report).flatMap(({ title, lines }) => [style.bold(escapeText(title)), ...lines.map((line) => `  ${escapeText(line)}`)]);
  return [...findings, ...(events ? report.events.map((event) => formatDecision(event, new Map(), style)) : [])];
}
