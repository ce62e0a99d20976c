import type { Endpoint } from '../agent/protocol/scalars.ts';
import type { Condition, Decision, Explanation, PacketState, PathKind, Place, RulePlace, Trace, TraceLeg, TraceOutcome, TraceStep } from '../agent/protocol/trace.ts';
import { escapeText } from './text/escape.ts';
import { PLAIN_STYLE } from './text/style.ts';
import type { Style } from './text/style.ts';
import { formatTable } from './text/table.ts';
import type { TableOptions } from './text/table.ts';
import { padText, textWidth, wrapText } from './text/width.ts';

const MAX_TEXT_WIDTH = 120;

export interface ExplanationOptions extends TableOptions {
  readonly paths: readonly PathKind[];
  /** Shows every condition that was compared, and not only what cannot be known. */
  readonly details: boolean;
}

/** What of steps is shown. */
export interface StepOptions extends TableOptions {
  /** Shows every rule by itself and every condition. */
  readonly details: boolean;
  /** Shows the conditions of rules that decided something, all of them. */
  readonly deciding?: boolean;
}

/** Gives an explanation as lines: the flow, every wanted path leg by leg, what they cost and what differs. */
export function formatExplanation(explanation: Explanation, options: ExplanationOptions): string[] {
  const { source, destination } = explanation.flow;
  const origin = explanation.iptables.legs[0]?.client.description ?? `network namespace ${source.namespace}`;
  const traces = options.paths.map((path) => explanation[path]);
  const isBoth = traces.length > 1;
  return [
    options.style.bold(`From ${escapeText(origin)} (uid ${source.uid}, gid ${source.gid}) to ${formatEndpoint(destination)}`),
    `In force now: the ${explanation.current} path.`,
    ...traces.flatMap((trace) => ['', ...formatTrace(trace, options)]),
    '',
    ...formatCosts(traces, options),
    ...(isBoth ? formatList('What differs:', explanation.differences, options) : []),
    ...formatList('Taken to be so without having been seen:', [...new Set(traces.flatMap(({ assumptions }) => assumptions))], options),
  ];
}

/** Gives an address and port as text: `10.77.0.12:8080`, `[fd00::1]:8080`. */
export function formatEndpoint({ address, port }: Endpoint): string {
  const text = escapeText(address);
  return text.includes(':') ? `[${text}]:${port}` : `${text}:${port}`;
}

function formatTrace(trace: Trace, options: ExplanationOptions): string[] {
  const { style } = options;
  const title = trace.path === 'iptables' ? 'The iptables path' : 'The sockops path';
  return [
    `${style.bold(title)} ${style.dim(`(${trace.origin})`)}: ${formatOutcome(trace.outcome, style)}`,
    ...trace.legs.flatMap((leg) => ['', ...formatLeg(leg, options), ...formatSteps(trace.steps.filter((step) => step.leg === leg.index), options)]),
  ];
}

/** Gives an outcome as text: `delivered. …` */
export function formatOutcome(outcome: TraceOutcome, style: Style): string {
  const summary = escapeText(outcome.summary);
  switch (outcome.result) {
    case 'delivered':
      return `${style.good('delivered')}. ${summary}`;
    case 'refused':
      return `${style.bad('refused')} at step ${outcome.step}. ${summary}`;
    case 'depends':
      return `${style.warning('depends')} on ${outcome.dependsOn.map((what) => escapeText(what)).join('; ')}. ${summary}`;
  }
}

function formatLeg(leg: TraceLeg, { style, width }: ExplanationOptions): string[] {
  const columns = Math.max(30, Math.min(width, MAX_TEXT_WIDTH) - 4);
  const client = `${escapeText(leg.client.description)} (uid ${leg.client.uid}) ${formatEndpoint(leg.client.address)}`;
  const server =
    leg.server === null ? 'nobody' : `${escapeText(leg.server.description)} (uid ${leg.server.uid}) ${formatEndpoint(leg.server.address)}`;
  const seen = [
    `asked for ${formatEndpoint(leg.requested)}`,
    ...(leg.peerSeenByClient === null ? [] : [`sees its peer as ${formatEndpoint(leg.peerSeenByClient)}`]),
  ];
  const told = leg.originalDestination === null ? [] : [`server is told the original destination ${formatEndpoint(leg.originalDestination)}`];
  const data = { tcp: 'messages go through TCP', 'socket-to-socket': 'messages go from socket to socket', none: 'no messages' }[leg.data];
  return [
    `  ${style.bold(`Connection ${leg.index + 1}: ${escapeText(leg.title)}`)}`,
    ...wrapText(`${client} → ${server}`, columns).map((line) => `    ${line}`),
    ...wrapText(`client ${seen.join(', ')}; ${[...told, data].join('; ')}`, columns).map((line) => `    ${style.dim(line)}`),
  ];
}

/** One or more steps that are shown as one. */
interface StepText {
  readonly index: string;
  readonly phase: string;
  readonly place: string;
  readonly decision: string;
  /** The decision as the terminal shows it: with colours. */
  readonly styledDecision: string;
  readonly details: readonly string[];
}

/** Gives steps as lines: where, what was decided, and why. */
export function formatSteps(steps: readonly TraceStep[], options: StepOptions): string[] {
  const texts = groupSteps(steps, options.details).map((group) => describeSteps(group, options));
  const indexWidth = Math.max(0, ...texts.map(({ index }) => index.length));
  const phaseWidth = Math.max(0, ...texts.map(({ phase }) => phase.length));
  const indent = ' '.repeat(indexWidth + phaseWidth + 8);
  const columns = Math.max(30, Math.min(options.width, MAX_TEXT_WIDTH) - indent.length);
  return texts.flatMap((text) => {
    const head = `    ${padText(text.index, indexWidth, 'right')}  ${options.style.dim(padText(text.phase, phaseWidth))}  `;
    const place = wrapText(text.place, columns);
    const fits = textWidth(place.at(-1) ?? '') + textWidth(text.decision) + 4 <= columns;
    const decision = `→ ${text.styledDecision}`;
    const [first = '', ...more] = place.map((line, number) => options.style.accent(line) + (fits && number === place.length - 1 ? `  ${decision}` : ''));
    const body = [...more, ...(fits ? [] : [`  ${decision}`]), ...text.details.flatMap((line) => wrapText(line, columns - 2)).map((line) => `  ${line}`)];
    return [head + first, ...body.map((line) => indent + line)];
  });
}

/** Puts rules of one chain that do not match and follow each other together, unless every detail is wanted. */
function groupSteps(steps: readonly TraceStep[], details: boolean): TraceStep[][] {
  const groups: TraceStep[][] = [];
  for (const step of steps) {
    const group = groups.at(-1);
    const last = group?.at(-1);
    if (!details && group !== undefined && last !== undefined && areRulesOfOneChain(last, step)) {
      group.push(step);
    } else {
      groups.push([step]);
    }
  }
  return groups;
}

function areRulesOfOneChain(first: TraceStep, second: TraceStep): boolean {
  return (
    isPassedRule(first) &&
    isPassedRule(second) &&
    first.place.kind === 'rule' &&
    second.place.kind === 'rule' &&
    first.place.hook === second.place.hook &&
    first.place.table === second.place.table &&
    first.place.chain === second.place.chain
  );
}

/** Says whether a step is a rule that certainly does not match. */
function isPassedRule(step: TraceStep): boolean {
  return step.place.kind === 'rule' && step.decision.kind === 'continue' && step.conditions.some(({ result }) => result === 'failed');
}

function describeSteps(group: readonly TraceStep[], options: StepOptions): StepText {
  const [step] = group;
  const last = group.at(-1);
  if (step === undefined || last === undefined) {
    throw new RangeError('a group of steps is never empty');
  }
  if (group.length > 1 && step.place.kind === 'rule' && last.place.kind === 'rule') {
    return {
      index: `${step.index}-${last.index}`,
      phase: step.phase,
      place: `${formatChain(step.place)} rules ${step.place.rule ?? ''} to ${last.place.rule ?? ''}`,
      decision: 'none matches',
      styledDecision: 'none matches',
      details: [],
    };
  }
  const change = formatChange(step.before, step.after);
  return {
    index: String(step.index),
    phase: step.phase,
    place: formatPlace(step.place),
    decision: formatDecision(step.decision, PLAIN_STYLE),
    styledDecision: formatDecision(step.decision, options.style),
    details: [...conditionLines(step, options), escapeText(step.reason), ...(change === '' ? [] : [change])],
  };
}

/** The conditions that a reader needs: those that did not match or cannot be known, or all of them. */
function conditionLines(step: TraceStep, options: StepOptions): string[] {
  const isDeciding = options.deciding === true && step.decision.kind !== 'continue';
  const shown = options.details || isDeciding ? step.conditions : step.conditions.filter(({ result }) => result === 'unknown');
  return shown.map((condition) => formatCondition(condition, options.style));
}

function formatCondition(condition: Condition, style: Style): string {
  const result = { matched: style.good('matched'), failed: style.bad('did not match'), unknown: style.warning('cannot be known') }[condition.result];
  const compared = condition.wanted === '' ? escapeText(condition.actual) : `wanted ${escapeText(condition.wanted)}, is ${escapeText(condition.actual)}`;
  return `${escapeText(condition.what)}: ${compared}: ${result}`;
}

function formatPlace(place: Place): string {
  switch (place.kind) {
    case 'socket':
      return `socket ${escapeText(place.description)}`;
    case 'routing':
      return `routing${place.table === null ? '' : ` table ${place.table}`}${place.route === null ? '' : `: ${escapeText(place.route)}`}`;
    case 'device':
      return `device ${escapeText(place.device)}`;
    case 'conntrack':
      return `conntrack at ${place.hook}`;
    case 'rule':
      return `${formatChain(place)} ${place.rule === null ? 'policy' : `rule ${place.rule}: ${escapeText(place.text)}`}`;
    case 'program': {
      const line = place.source === null ? '' : ` at ${escapeText(place.source.file)}:${place.source.line}: ${escapeText(place.source.text.trim())}`;
      return `program ${escapeText(place.program)} (${escapeText(place.attachType)}, ${place.instructions} instructions)${line}`;
    }
  }
}

/** A table and chain, with the hook where the chain is not named after it. */
function formatChain({ table, hook, chain }: RulePlace): string {
  return chain === hook ? `${table} ${hook}` : `${table} ${hook} ${escapeText(chain)}`;
}

function formatDecision(decision: Decision, { good, bad, warning }: Style): string {
  switch (decision.kind) {
    case 'continue':
      return 'next';
    case 'jump':
      return `${decision.goto ? 'goto' : 'jump'} ${escapeText(decision.chain)}`;
    case 'return':
      return 'return';
    case 'verdict':
      return decision.verdict === 'DROP' || decision.verdict === 'REJECT' ? bad(decision.verdict) : good(decision.verdict);
    case 'rewrite':
      return warning(`rewrite: ${escapeText(decision.target)}`);
    case 'note':
      return escapeText(decision.target);
    case 'route':
      return decision.local ? `deliver here by ${escapeText(decision.device)}` : `send by ${escapeText(decision.device)}`;
    case 'deliver':
      return good(`deliver to ${escapeText(decision.socket)}`);
    case 'enrol':
      return good('put into the sockhash');
    case 'redirect':
      return good(`straight to ${escapeText(decision.socket)}`);
    case 'answer':
      return `answer ${formatEndpoint(decision.endpoint)}`;
    case 'refuse':
      return bad(`refuse with ${escapeText(decision.errno)}`);
    case 'unknown':
      return warning(`depends on ${escapeText(decision.dependsOn)}`);
  }
}

function formatChange(before: PacketState, after: PacketState): string {
  const source = changed(formatEndpoint(before.source), formatEndpoint(after.source), 'source');
  const destination = changed(formatEndpoint(before.destination), formatEndpoint(after.destination), 'destination');
  const mark = changed(formatMark(before.mark), formatMark(after.mark), 'mark');
  return [source, destination, mark].filter((text) => text !== '').join('; ');
}

function changed(before: string, after: string, what: string): string {
  return before === after ? '' : `${what} ${before} becomes ${after}`;
}

function formatMark(mark: number): string {
  return `0x${mark.toString(16)}`;
}

function formatCosts(traces: readonly Trace[], options: ExplanationOptions): string[] {
  const rows: readonly (readonly [string, keyof Trace['cost']])[] = [
    ['TCP connections', 'tcpConnections'],
    ['tables asked, all connections', 'tablesVisited'],
    ['rules compared, all connections', 'rulesCompared'],
    ['conntrack entries', 'conntrackEntries'],
    ['BPF instructions, all connections', 'bpfInstructions'],
    ['netfilter hooks a message', 'hooksPerMessage'],
    ['trips through the TCP/IP stack a message', 'stackTraversalsPerMessage'],
  ];
  return formatTable(
    [{ title: 'Cost' }, ...traces.map(({ path }) => ({ title: path, align: 'right' as const }))],
    rows.map(([title, name]) => [title, ...traces.map(({ cost }) => String(cost[name]))]),
    options,
  );
}

/** Gives a list of sentences under a title; nothing where it is empty. */
export function formatList(title: string, items: readonly string[], options: TableOptions): string[] {
  const columns = Math.max(30, Math.min(options.width, MAX_TEXT_WIDTH) - 4);
  const lines = items.flatMap((item) => wrapText(escapeText(item), columns).map((line, index) => `${index === 0 ? '  - ' : '    '}${line}`));
  return lines.length === 0 ? [] : ['', options.style.bold(title), ...lines];
}
