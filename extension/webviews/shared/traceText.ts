import type { Endpoint, NamespaceId } from '../../../agent/protocol/scalars.ts';
import type { Decision, PacketState, Place, Trace, TraceCost, TraceStep } from '../../../agent/protocol/trace.ts';

/** Gives an endpoint as people write it: `10.0.0.1:80`, `[::1]:80`. */
export function spellEndpoint(endpoint: Endpoint): string {
  return endpoint.address.includes(':') ? `[${endpoint.address}]:${endpoint.port}` : `${endpoint.address}:${endpoint.port}`;
}

/** What kind of machinery acts at a place; each has its own mark and colour. */
export type Layer = 'socket' | 'program' | 'netfilter' | 'routing' | 'device';

export function layerOf(place: Place): Layer {
  switch (place.kind) {
    case 'rule':
    case 'conntrack':
      return 'netfilter';
    default:
      return place.kind;
  }
}

export const LAYER_NAMES: Readonly<Record<Layer, string>> = {
  socket: 'Socket',
  program: 'eBPF',
  netfilter: 'Netfilter',
  routing: 'Routing',
  device: 'Device',
};

/** A place in words: what it is, and the rule, line or route itself, which is code. */
export interface PlaceText {
  readonly title: string;
  readonly code: string | null;
}

export function describePlace(place: Place): PlaceText {
  switch (place.kind) {
    case 'rule': {
      const which = place.rule === null ? 'policy' : `rule ${place.rule}`;
      return { title: `${place.hook} · ${place.table} · ${place.chain} · ${which}`, code: place.text === '' ? null : place.text };
    }
    case 'conntrack':
      return { title: `${place.hook} · conntrack`, code: null };
    case 'program': {
      const { source } = place;
      return {
        title: `${place.attachType} · ${place.program}${source === null ? '' : ` · ${source.file.replace(/^\.\//, '')}:${source.line}`}`,
        code: source === null || source.text.trim() === '' ? null : source.text.trim(),
      };
    }
    case 'routing':
      return { title: place.table === null ? 'Routing' : `Routing · table ${place.table}`, code: place.route };
    case 'device':
      return { title: `Device ${place.device}`, code: null };
    case 'socket':
      return { title: `Socket · ${place.description}`, code: null };
  }
}

/** `stop`: the connection ends here; `change`: something is now different; `jump`: data leaves the stack; `pass`: it goes on. */
export type Tone = 'pass' | 'change' | 'jump' | 'accept' | 'stop' | 'unknown';

export interface DecisionText {
  readonly label: string;
  readonly tone: Tone;
}

/** A decision as a badge. */
export function describeDecision(decision: Decision): DecisionText {
  switch (decision.kind) {
    case 'continue':
      return { label: 'next', tone: 'pass' };
    case 'jump':
      return { label: `${decision.goto ? 'goto' : 'jump'} ${decision.chain}`, tone: 'pass' };
    case 'return':
      return { label: 'return', tone: 'pass' };
    case 'verdict':
      return { label: decision.verdict, tone: decision.verdict === 'ACCEPT' ? 'accept' : 'stop' };
    case 'rewrite':
      return { label: decision.target, tone: 'change' };
    case 'note':
      return { label: decision.target, tone: 'pass' };
    case 'route':
      return { label: decision.local ? 'local' : `via ${decision.device}`, tone: 'pass' };
    case 'deliver':
      return { label: 'deliver', tone: 'accept' };
    case 'enrol':
      return { label: 'enrol', tone: 'change' };
    case 'redirect':
      return { label: 'socket to socket', tone: 'jump' };
    case 'answer':
      return { label: `answer ${spellEndpoint(decision.endpoint)}`, tone: 'change' };
    case 'refuse':
      return { label: decision.errno, tone: 'stop' };
    case 'unknown':
      return { label: 'depends', tone: 'unknown' };
  }
}

export interface Change {
  readonly what: string;
  readonly before: string;
  readonly after: string;
}

/** What of a packet is different after a step, in the order in which a tuple is read. */
export function changesOf(before: PacketState, after: PacketState): readonly Change[] {
  const fields: readonly (readonly [string, (state: PacketState) => string])[] = [
    ['source', (state) => spellEndpoint(state.source)],
    ['destination', (state) => spellEndpoint(state.destination)],
    ['in', (state) => state.inInterface ?? '–'],
    ['out', (state) => state.outInterface ?? '–'],
    ['mark', (state) => `0x${state.mark.toString(16)}`],
    ['state', (state) => state.connection ?? '–'],
  ];
  return fields.flatMap(([what, spell]) => (spell(before) === spell(after) ? [] : [{ what, before: spell(before), after: spell(after) }]));
}

/** Says whether a step did something: changed the packet, took or ended its path, answered, enrolled or redirected. */
export function isEffective(step: TraceStep): boolean {
  const { tone } = describeDecision(step.decision);
  return tone === 'change' || tone === 'jump' || tone === 'stop' || tone === 'unknown' || step.decision.kind === 'deliver' || changesOf(step.before, step.after).length > 0;
}

/** All words of a step, for search. */
export function searchText(step: TraceStep): string {
  const place = describePlace(step.place);
  return [
    place.title,
    place.code ?? '',
    LAYER_NAMES[layerOf(step.place)],
    step.reason,
    describeDecision(step.decision).label,
    spellEndpoint(step.before.source),
    spellEndpoint(step.before.destination),
    spellEndpoint(step.after.source),
    spellEndpoint(step.after.destination),
    ...step.conditions.flatMap((condition) => [condition.what, condition.wanted, condition.actual]),
  ]
    .join('\n')
    .toLowerCase();
}

/** The figures of a cost in the order in which they matter, with their names. */
export const COST_NAMES: readonly (readonly [keyof TraceCost, string, 'connection' | 'message'])[] = [
  ['stackTraversalsPerMessage', 'Trips through the TCP/IP stack', 'message'],
  ['hooksPerMessage', 'Netfilter hooks met', 'message'],
  ['tcpConnections', 'TCP connections', 'connection'],
  ['tablesVisited', 'Tables visited', 'connection'],
  ['rulesCompared', 'Rules compared', 'connection'],
  ['conntrackEntries', 'Conntrack entries', 'connection'],
  ['bpfInstructions', 'BPF instructions run', 'connection'],
];

/** The steps of one leg. */
export function stepsOfLeg(trace: Trace, leg: number): readonly TraceStep[] {
  return trace.steps.filter((step) => step.leg === leg);
}

/** Puts steps that follow each other in the same network namespace together, so that it has to be named once. */
export function groupByNamespace(steps: readonly TraceStep[]): readonly { readonly namespace: NamespaceId; readonly steps: readonly TraceStep[] }[] {
  const groups: { namespace: NamespaceId; steps: TraceStep[] }[] = [];
  for (const step of steps) {
    const last = groups.at(-1);
    if (last?.namespace === step.place.namespace) {
      last.steps.push(step);
    } else {
      groups.push({ namespace: step.place.namespace, steps: [step] });
    }
  }
  return groups;
}
