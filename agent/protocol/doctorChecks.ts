import type { AccelerationRequest } from './acceleration.ts';
import type { AcceptedFinding, DoctorCheck, DoctorReport, FindingEffect } from './doctor.ts';
import { MeshpathError } from './errors.ts';

/** What the doctor knows of one of its checks. */
interface CheckEntry {
  readonly title: string;
  /** What each result other than `ok` does. */
  readonly effects: Readonly<Record<Exclude<DoctorCheck['result'], 'ok'>, FindingEffect>>;
}

/** Nothing works without it. */
const NEEDED = { limited: 'told', failed: 'refused', unknown: 'refused' } as const;
/** Bytes would be lost or changed, or everybody's connections break. */
const VITAL = { limited: 'asked', failed: 'refused', unknown: 'asked' } as const;
/** Programs that many people run would notice. */
const COMMON = { limited: 'asked', failed: 'refused', unknown: 'asked' } as const;
/** Hardly any program would notice, or nothing but speed is lost. */
const RARE = { limited: 'told', failed: 'refused', unknown: 'told' } as const;
/** What a look at the node finds beside the kernel: turning on meets it itself where it matters. */
const BESIDE = { limited: 'told', failed: 'refused', unknown: 'told' } as const;
/** Has nothing to do with acceleration. */
const UNRELATED = { limited: 'none', failed: 'none', unknown: 'none' } as const;

/**
 * Every check of the doctor, in the order of its report. Verdicts are taken from this table and from nothing else.
 */
export const DOCTOR_CHECKS = {
  'kernel-version': { title: 'Kernel version', effects: NEEDED },
  btf: { title: 'Type information of the kernel (BTF)', effects: NEEDED },
  cgroup2: { title: 'cgroup2 hierarchy', effects: NEEDED },
  'capability-bpf': { title: 'Privileges of the agent', effects: NEEDED },
  libbpf: { title: 'libbpf', effects: NEEDED },
  'hook-owners': { title: 'Other owners of the hooks', effects: BESIDE },
  'socket-map-users': { title: 'Other users of socket maps', effects: BESIDE },
  leftovers: { title: 'Leftovers of Meshpath', effects: BESIDE },
  tools: { title: 'Programs that snapshots are taken with', effects: UNRELATED },
  'message-order': { title: 'Order of messages', effects: VITAL },
  'wake-up': { title: 'Readers that wait', effects: VITAL },
  peek: { title: 'Looking at bytes before reading them (MSG_PEEK)', effects: VITAL },
  'back-pressure': { title: 'Writers behind slow readers', effects: VITAL },
  close: { title: 'Unread bytes at a close', effects: VITAL },
  'half-close': { title: 'Half-closed connections', effects: VITAL },
  reset: { title: 'Connections that are reset', effects: RARE },
  fionread: { title: 'Asking how much can be read (FIONREAD)', effects: COMMON },
  splice: { title: 'Taking bytes with splice', effects: COMMON },
  zerocopy: { title: 'Sending with MSG_ZEROCOPY', effects: RARE },
  oob: { title: 'Urgent data (MSG_OOB)', effects: RARE },
  ktls: { title: 'TLS in the kernel', effects: RARE },
  enrolment: { title: 'Messages from socket to socket', effects: RARE },
  'original-destination': { title: 'Original destination for sidecars', effects: VITAL },
  'peer-name': { title: 'Peer that applications see', effects: COMMON },
  'socket-owner': { title: 'Who made a socket', effects: VITAL },
  'reused-addresses': { title: 'Addresses and ports used again', effects: VITAL },
} as const satisfies Readonly<Record<string, CheckEntry>>;

export type DoctorCheckId = keyof typeof DOCTOR_CHECKS;

/** The checks that try how the programs behave on sockets, in the order of the report. */
export const SELF_TEST_IDS: readonly DoctorCheckId[] = (Object.keys(DOCTOR_CHECKS) as DoctorCheckId[]).slice(Object.keys(DOCTOR_CHECKS).indexOf('message-order'));

/** What every program needs of a node before it can be loaded. */
const NEEDED_IDS: readonly DoctorCheckId[] = ['kernel-version', 'btf', 'cgroup2', 'capability-bpf', 'libbpf'];
const DECIDING_IDS: ReadonlySet<string> = new Set([...NEEDED_IDS, ...SELF_TEST_IDS]);

/** Says whether a check is one of those that decide whether acceleration may be turned on: others are met when it is. */
export function decidesAcceleration({ id }: Pick<DoctorCheck, 'id'>): boolean {
  return DECIDING_IDS.has(id);
}

/** Gives a check with its title. */
export function toCheck(id: DoctorCheckId, outcome: Pick<DoctorCheck, 'result' | 'found' | 'problem'>): DoctorCheck {
  return { id, title: DOCTOR_CHECKS[id].title, result: outcome.result, found: outcome.found, problem: outcome.problem };
}

/** Says what a check does to acceleration; a check of another version that is not ok is treated with care. */
export function effectOf({ id, result }: Pick<DoctorCheck, 'id' | 'result'>): FindingEffect {
  if (result === 'ok') {
    return 'none';
  }
  const entry: CheckEntry | undefined = Object.hasOwn(DOCTOR_CHECKS, id) ? DOCTOR_CHECKS[id as DoctorCheckId] : undefined;
  return entry?.effects[result] ?? (result === 'failed' ? 'refused' : 'asked');
}

/** Gives the verdict of checks, by what each does: one that is refused rules acceleration out, others limit it. */
export function judge(checks: readonly DoctorCheck[]): Pick<DoctorReport, 'verdict' | 'summary'> {
  const effects = checks.map((check) => ({ check, effect: effectOf(check) }));
  const refused = effects.filter(({ effect }) => effect === 'refused');
  if (refused[0] !== undefined) {
    return { verdict: 'not-on-this-node', summary: `Acceleration is not possible here: ${lowerFirst(refused[0].check.found)}${refused.length > 1 ? ` (${refused.length - 1} more)` : ''}` };
  }
  const titles = (wanted: FindingEffect): string[] => effects.filter(({ effect }) => effect === wanted).map(({ check }) => lowerFirst(check.title));
  const [asked, told] = [titles('asked'), titles('told')];
  if (asked.length + told.length === 0) {
    return { verdict: 'safe', summary: 'Everything that was looked at is as acceleration needs it.' };
  }
  return {
    verdict: 'safe-with-limits',
    summary: `Acceleration is possible, with limits: ${[...asked, ...told].join(', ')}.`,
  };
}

/** Gives what a finding means for applications, one sentence. */
export function meaningOf(check: DoctorCheck): string {
  return check.problem?.message ?? check.found;
}

/**
 * Decides whether acceleration may be turned on with what was found, and gives what it is then on in spite of. Where the request
 * says nothing of limits, they are told and not asked for. Throws the error of the finding that refuses it, or LIMITS_NOT_ACCEPTED.
 */
export function passGate(checks: readonly DoctorCheck[], request: Pick<AccelerationRequest, 'acceptedLimits' | 'overriddenFindings'>): readonly AcceptedFinding[] {
  const overridden = new Set(request.overriddenFindings ?? []);
  const accepted = request.acceptedLimits === undefined ? null : new Set(request.acceptedLimits);
  const findings = checks.map((check) => ({ check, effect: effectOf(check) })).filter(({ effect }) => effect !== 'none');
  const refused = findings.filter(({ check, effect }) => effect === 'refused' && !overridden.has(check.id)).map(({ check }) => check);
  if (refused.length > 0) {
    throw refusalError(refused);
  }
  const open = findings.filter(({ check, effect }) => effect === 'asked' && accepted?.has(check.id) === false && !overridden.has(check.id)).map(({ check }) => check);
  if (open.length > 0) {
    throw limitsError(open);
  }
  return findings.map(({ check, effect }) => ({
    id: check.id,
    title: check.title,
    meaning: meaningOf(check),
    answer: effect === 'refused' ? 'overridden' : effect === 'asked' && accepted?.has(check.id) === true ? 'accepted' : 'told',
  }));
}

function refusalError(refused: readonly DoctorCheck[]): MeshpathError {
  const first = refused.find(({ problem }) => problem !== null);
  const ids = refused.map(({ id }) => id).join(', ');
  return new MeshpathError({
    code: first?.problem?.code ?? 'KERNEL_UNSUITABLE',
    message: `Acceleration is refused on this node: ${lowerFirst(first?.problem?.message ?? refused[0]?.found ?? '')}`,
    reason: refused.map((check) => `${check.title} (${check.id}): ${check.problem?.reason ?? check.found}`).join(' '),
    remedy: `${first?.problem?.remedy ?? 'Run the doctor.'} To turn it on all the same, override it by name (meshpath accelerate --override-doctor): ${ids}.`,
  });
}

function limitsError(open: readonly DoctorCheck[]): MeshpathError {
  return new MeshpathError({
    code: 'LIMITS_NOT_ACCEPTED',
    message: 'Acceleration has limits on this node that nobody has accepted yet.',
    reason: open.map((check) => `${check.title} (${check.id}): ${meaningOf(check)}`).join(' '),
    remedy: `Accept them where your applications are not affected (meshpath accelerate without --refuse-limits): ${open.map(({ id }) => id).join(', ')}.`,
  });
}

function lowerFirst(text: string): string {
  // Names and abbreviations keep their capitals.
  return /^[A-Z][a-z ]/.test(text) ? `${text[0]?.toLowerCase() ?? ''}${text.slice(1)}` : text;
}
